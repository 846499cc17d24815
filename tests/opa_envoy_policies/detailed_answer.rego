# An object tells Envoy more than yes or no.
package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if http_request.headers["x-plan"] == "gold"

tenant := http_request.headers["x-tenant"]

headers["x-plan-checked"] := "true" if allow

headers["x-tenant-id"] := tenant if allow

headers["retry-after"] := "60" if not allow

status_code := 200 if allow

status_code := 401 if {
	not allow
	not http_request.headers["x-plan"]
}

status_code := 402 if {
	not allow
	http_request.headers["x-plan"]
}

body := sprintf("%s costs more", [http_request.headers["x-plan"]]) if status_code == 402

body := "who are you?" if status_code == 401

result["allowed"] := allow

result["headers"] := headers

result["response_headers_to_add"] := [{"x-answered-by": "rego"}, {"x-answered-by": "opa"}]

result["request_headers_to_remove"] := ["x-internal", "X-Debug"]

result["query_parameters_to_set"] := {"tenant": urlquery.encode(tenant), "v": ["1", "2"]}

result["query_parameters_to_remove"] := ["debug"]

result["body"] := body

result["http_status"] := status_code

result["dynamic_metadata"] := {"plan": http_request.headers["x-plan"], "rules": ["plan"]}
