# The access policy's answers for inference, as a team would write them for
# opa-envoy-plugin: rules on its input over the roles in data.access, which is what
# authz-server compiles from the same policy file.
#
# Leaner than authz-server's own library on purpose, so that no more is asked of OPA than
# the benchmark's questions need: no users, conditions, denials, nor other actions.
package envoy.authz

default allow := false

# POST /v2/models/NAME/versions/VERSION/infer
allow if {
	["v2", "models", model, "versions", version, "infer"] = input.parsed_path
	input.attributes.request.http.method == "POST"
	some group in groups
	covers(data.access.grants[group].triton.inference, model, version)
}

# POST /v2/models/NAME/infer: the latest version, which can be any.
allow if {
	["v2", "models", model, "infer"] = input.parsed_path
	input.attributes.request.http.method == "POST"
	some group in groups
	covers(data.access.grants[group].triton.inference, model, "")
}

groups contains group if some group in data.access.exact[input.source_principal]

# A pattern such as spiffe://factory.example/ns/line2/sa/*.
groups contains group if {
	parts := split(input.source_principal, "/") # scheme, empty, trust domain, path
	path := array.slice(parts, 3, count(parts))
	some shape in data.access.patterns[parts[2]].fixed[count(path)]
	key := concat("/", [path[position] | some position in shape.literals])
	some group in shape.groups[key]
}

covers(permitted, _, _) if permitted.all.any

covers(permitted, _, version) if permitted.all.only[version]

covers(permitted, model, _) if permitted.exact[model].any

covers(permitted, model, version) if permitted.exact[model].only[version]
