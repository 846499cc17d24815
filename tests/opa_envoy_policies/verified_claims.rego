# Envoy's own jwt_authn filter has verified the token; its claims come as metadata.
package envoy.authz

default allow := false

claims := input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].verified

allow if {
	claims.iss == "https://idp.example"
	"reports" in claims.scopes
	input.parsed_path[0] == "reports"
}

allow if claims.level >= 3
