# A signed token tells who calls; its times, the caller's role and the path decide. Who
# adds an entry must not add one for themselves.
package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
	is_token_current
	is_action_allowed
}

token := {"valid": valid, "payload": payload} if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[valid, _, payload] := io.jwt.decode_verify(encoded, {"secret": "not-a-secret"})
}

is_token_current if {
	token.valid
	now := time.now_ns() / 1000000000
	token.payload.nbf <= now
	now < token.payload.exp
}

is_action_allowed if {
	http_request.method == "GET"
	token.payload.role == "visitor"
	glob.match("/staff*", [], http_request.path)
}

is_action_allowed if {
	http_request.method == "GET"
	token.payload.role == "manager"
	glob.match("/staff*", [], http_request.path)
}

is_action_allowed if {
	http_request.method == "POST"
	token.payload.role == "manager"
	glob.match("/staff", [], http_request.path)
	lower(input.parsed_body.name) != base64url.decode(token.payload.sub)
}
