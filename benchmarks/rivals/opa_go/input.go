package main

import (
	"net/url"
	"strings"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

var version = ast.NewObject(
	[2]*ast.Term{ast.StringTerm("ext_authz"), ast.StringTerm("v3")},
	[2]*ast.Term{ast.StringTerm("encoding"), ast.StringTerm("protojson")},
)

// requestToInput returns what opa-envoy-plugin gives its policies as `input`: the whole
// request, found out by reflection, and the path and query parsed. Calls of the benchmark
// have no body.
func requestToInput(request *auth.CheckRequest) (map[string]any, error) {
	input := messageToMap(request.ProtoReflect())
	path, query, err := parsePath(request.GetAttributes().GetRequest().GetHttp().GetPath())
	if err != nil {
		return nil, err
	}
	input["version"] = version
	input["parsed_path"] = path
	input["parsed_query"] = query
	input["parsed_body"] = nil
	input["truncated_body"] = false
	if principal := request.GetAttributes().GetSource().GetPrincipal(); principal != "" {
		input["source_principal"] = principal
	}
	return input, nil
}

func parsePath(path string) ([]string, map[string]any, error) {
	rawPath, rawQuery, _ := strings.Cut(path, "?")
	decoded, err := url.PathUnescape(rawPath)
	if err != nil {
		return nil, nil, err
	}
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, nil, err
	}
	query := make(map[string]any, len(values))
	for name, of := range values {
		query[name] = of
	}
	return strings.Split(strings.TrimLeft(decoded, "/"), "/"), query, nil
}

func messageToMap(message protoreflect.Message) map[string]any {
	if fields, ok := message.Interface().(*structpb.Struct); ok {
		return fields.AsMap()
	}
	result := make(map[string]any, message.Descriptor().Fields().Len())
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		result[field.JSONName()] = fieldToAny(field, value)
		return true
	})
	return result
}

func fieldToAny(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch {
	case field.IsMap():
		result := make(map[string]any, value.Map().Len())
		value.Map().Range(func(key protoreflect.MapKey, of protoreflect.Value) bool {
			result[key.String()] = valueToAny(field.MapValue(), of)
			return true
		})
		return result
	case field.IsList():
		list := value.List()
		result := make([]any, list.Len())
		for i := range result {
			result[i] = valueToAny(field, list.Get(i))
		}
		return result
	default:
		return valueToAny(field, value)
	}
}

func valueToAny(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	if field.Kind() == protoreflect.MessageKind {
		return messageToMap(value.Message())
	}
	return value.Interface()
}
