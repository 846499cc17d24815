// Asks a Check service as grpc-go asks: one JSON object a call, on standard output.
//
//	grpc_client TARGET < CheckRequest
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const check = "/envoy.service.auth.v3.Authorization/Check"

// raw passes messages as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }
func (raw) Name() string                    { return "proto" }

// outcome is what came of one call.
type outcome struct {
	Name     string              `json:"name"`
	Code     string              `json:"code"`
	Message  string              `json:"message"`
	Answer   []byte              `json:"answer"`
	Statuses []string            `json:"statuses"`
	Headers  map[string][]string `json:"headers"`
	Trailers map[string][]string `json:"trailers"`
}

func tell(out outcome, err error, headers, trailers metadata.MD) {
	out.Code, out.Message = status.Code(err).String(), status.Convert(err).Message()
	out.Headers, out.Trailers = headers, trailers
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}

func ask(ctx context.Context, conn *grpc.ClientConn, name, method string, message []byte, options ...grpc.CallOption) {
	var answer []byte
	var headers, trailers metadata.MD
	options = append(options, grpc.ForceCodec(raw{}), grpc.Header(&headers), grpc.Trailer(&trailers))
	err := conn.Invoke(ctx, method, &message, &answer, options...)
	tell(outcome{Name: name, Answer: answer}, err, headers, trailers)
}

func ofHealth(ctx context.Context, client health.HealthClient, name, service string) {
	var headers, trailers metadata.MD
	response, err := client.Check(ctx, &health.HealthCheckRequest{Service: service},
		grpc.Header(&headers), grpc.Trailer(&trailers))
	out := outcome{Name: name}
	if err == nil {
		out.Statuses = []string{response.Status.String()}
	}
	tell(out, err, headers, trailers)
}

func watch(ctx context.Context, client health.HealthClient, name, service string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: service})
	if err != nil {
		tell(outcome{Name: name}, err, nil, nil)
		return
	}
	response, err := stream.Recv()
	headers, _ := stream.Header()
	out := outcome{Name: name}
	if err == nil {
		out.Statuses = []string{response.Status.String()}
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	tell(out, err, headers, stream.Trailer())
}

func main() {
	request, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := health.NewHealthClient(conn)
	ask(ctx, conn, "miss", check, request)
	ask(ctx, conn, "hit", check, request)
	ask(ctx, conn, "unknown", "/no.Service/Method", request)
	ask(ctx, conn, "compressed", check, request, grpc.UseCompressor("gzip"))
	ask(ctx, conn, "long", check, make([]byte, 2<<20))
	ofHealth(ctx, client, "health", "")
	ofHealth(ctx, client, "health of nothing", "other")
	watch(ctx, client, "watch", "")
	watch(ctx, client, "watch of nothing", "other")
}
