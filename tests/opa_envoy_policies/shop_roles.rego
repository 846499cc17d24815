# Istio: the user of basic authentication has roles, and roles have permissions.
package istio.authz

import input.attributes.request.http as http_request
import input.parsed_path

default allow := false

allow if {
	parsed_path[0] == "ready"
	http_request.method == "GET"
}

allow if {
	some role in roles_of_user
	some permission in permissions[role]
	permission.method == http_request.method
	permission.path == http_request.path
}

roles_of_user contains role if some role in users[user_name]

user_name := name if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[name, _] := split(base64url.decode(encoded), ":")
}

users := {"carol": ["reader"], "dave": ["writer", "reader"]}

permissions := {
	"reader": [{"method": "GET", "path": "/catalogue"}],
	"writer": [
		{"method": "PUT", "path": "/catalogue"},
		{"method": "POST", "path": "/catalogue/entries"},
	],
}
