# A gateway has verified the token already: only its payload is read.
package istio.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
	startswith(http_request.headers.authorization, "Bearer ")
	[_, payload, _] := io.jwt.decode(substring(http_request.headers.authorization, 7, -1))
	payload.team == input.parsed_path[1]
	input.parsed_path[0] == "teams"
}
