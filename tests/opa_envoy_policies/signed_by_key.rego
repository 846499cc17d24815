# A token that is signed with a key pair, for one audience.
package envoy.authz

default allow := {"allowed": false, "http_status": 401, "headers": {"WWW-Authenticate": "Bearer"}}

allow := {"allowed": true, "headers": {"x-subject": payload.sub}} if {
	encoded := trim_prefix(input.attributes.request.http.headers.authorization, "Bearer ")
	[true, _, payload] = io.jwt.decode_verify(encoded, {
		"cert": data.keys,
		"iss": "https://idp.example",
		"aud": "shop",
	})
}
