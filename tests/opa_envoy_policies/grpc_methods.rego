# gRPC: service and method are the two segments of the path.
package envoy.authz

default allow := false

allow if input.parsed_path == ["kitchen.Kitchen", "Ring"]

allow if {
	input.parsed_path == ["kitchen.Kitchen", "Order"]
	input.attributes.request.http.headers["content-type"] == "application/grpc"
	input.parsed_body == null
	input.version.ext_authz == "v3"
}
