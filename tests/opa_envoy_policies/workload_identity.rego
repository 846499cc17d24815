# Mutual TLS: who the peer is, and where it is.
package envoy.authz

default allow := false

allow if {
	input.source_principal == "spiffe://factory.example/ns/line1/sa/camera"
	net.cidr_contains("10.1.0.0/16", input.attributes.source.address.socketAddress.address)
}

allow if {
	["spiffe:", "", "factory.example", "ns", namespace, "sa", _] = split(input.attributes.source.principal, "/")
	namespace == input.attributes.contextExtensions.namespace
}
