# What the body says counts: JSON, forms, and whether all of it came.
package envoy.authz

default allow := false

allow if {
	not input.truncated_body
	not forbidden
	input.attributes.request.http.method == "POST"
	is_acceptable
}

is_acceptable if every item in input.parsed_body.items {
	item.quantity <= 10
}

is_acceptable if input.parsed_body.consent == ["yes"]

forbidden if input.parsed_body.coupon

forbidden if walk(input.parsed_body, [_, "DROP TABLE"])
