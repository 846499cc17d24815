package main

import (
	"context"
	"fmt"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/uuid"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

type authorizer struct {
	auth.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
	store storage.Store
}

// Check answers as the plugin does: a decision id, a read transaction, the request as
// input, one evaluation, a response with the id as metadata.
func (a *authorizer) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	decisionID := uuid.NewString()
	timers := metrics.New()
	timers.Timer(metrics.ServerHandler).Start()
	defer timers.Timer(metrics.ServerHandler).Stop()

	transaction, err := a.store.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	defer a.store.Abort(ctx, transaction)

	input, err := requestToInput(request)
	if err != nil {
		return nil, err
	}
	value, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, err
	}
	results, err := a.query.Eval(ctx,
		rego.EvalParsedInput(value),
		rego.EvalTransaction(transaction),
		rego.EvalMetrics(timers),
	)
	if err != nil {
		return nil, err
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("%d results", len(results))
	}
	allowed, ok := results[0].Expressions[0].Value.(bool)
	if !ok {
		return nil, fmt.Errorf("illegal value for policy evaluation result")
	}
	verdict := code.Code_PERMISSION_DENIED
	if allowed {
		verdict = code.Code_OK
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(verdict)},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"decision_id": structpb.NewStringValue(decisionID),
		}},
	}, nil
}
