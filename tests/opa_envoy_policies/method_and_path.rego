# The simplest: a method, a path, and a parameter of the query.
package envoy.authz

import input.attributes.request.http

default allow := false

allow if {
	http.method == "GET"
	http.path == "/"
}

allow if {
	http.method == "GET"
	input.parsed_path == ["orders", "export"]
	input.parsed_query.format[_] == "csv"
	count(input.parsed_query.format) == 1
}

# Written as one did before Rego 1.0 took `if` and `contains` for granted.
allow if {
	input.parsed_path = ["orders", id]
	regex.match(`^[0-9]+$`, id)
	is_reading
}

is_reading if http.method in {"GET", "HEAD"}
