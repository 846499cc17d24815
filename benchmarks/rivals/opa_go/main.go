// Command opa-go is an ext_authz server on OPA's own engine. It does for a check what
// opa-envoy-plugin does, step by step and with the same libraries: the plugin itself
// cannot be had as a module.
//
//	opa-go SOCKET DATA
//
// It listens on the unix socket SOCKET, and decides by policy.rego over the JSON document
// of file DATA. What the plugin does only if it is configured is left out: decision log,
// metrics, traces, bundles, bodies. So it is no slower than the plugin.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"log"
	"net"
	"os"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"google.golang.org/grpc"
)

//go:embed policy.rego
var policy string

// prepare returns the query and the store that it reads.
func prepare(ctx context.Context, dataFile string) (rego.PreparedEvalQuery, storage.Store, error) {
	text, err := os.ReadFile(dataFile)
	if err != nil {
		return rego.PreparedEvalQuery{}, nil, err
	}
	var data map[string]any
	if err := json.Unmarshal(text, &data); err != nil {
		return rego.PreparedEvalQuery{}, nil, err
	}
	// As `opa run --optimize-store-for-read-performance`: what a server under load is
	// started with.
	store := inmem.NewFromObjectWithOpts(data,
		inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	query, err := rego.New(
		rego.Query("data.envoy.authz.allow"),
		rego.Module("policy.rego", policy),
		rego.Store(store),
	).PrepareForEval(ctx)
	return query, store, err
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: opa-go SOCKET DATA")
	}
	query, store, err := prepare(context.Background(), os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &authorizer{query: query, store: store})
	log.Fatal(server.Serve(listener))
}
