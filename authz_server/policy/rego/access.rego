# METADATA
# title: Access policy library
# description: |
#   Answers from the access policy: which groups the caller is in, and which of the
#   policy's roles give it an operation. A policy of your own imports it with
#   `import data.authz.access`.
#
#   It reads `data.access`, the index that authz-server compiles from the policy file.
#   Every answer is a lookup: none walks the subjects, models or grants. What stays to
#   be walked is short and does not grow with the plant: the caller's own groups, the
#   distinct shapes of wildcard patterns of its trust domain, and the distinct lengths
#   of model prefixes.
package authz.access

# METADATA
# scope: document
# title: The decision of the access policy alone
# description: |
#   Deny, unless some role of the caller's groups gives the operation and no denial
#   takes it. Where several do, the role reported is the first by name, so that equal
#   requests get equal answers.
default decision := {"allow": false, "reason": "not_granted", "role": ""}

decision := {"allow": true, "reason": "granted", "role": min(roles)} if {
	count(roles) > 0
} else := {"allow": false, "reason": "explicitly_denied", "role": min(denials)} if {
	count(_granted(input.operation)) > 0
	denials := denials_for(input.operation)
	count(denials) > 0
} else := {"allow": false, "reason": "principal_unknown", "role": ""} if {
	count(groups) == 0
}

# METADATA
# scope: document
# title: Names of all groups that the caller is in, as a workload or as a user
groups contains group if some group in principal_groups

groups contains group if some group in user_groups

# METADATA
# scope: document
# title: Groups of the calling workload, by its SPIFFE ID
principal_groups contains group if {
	some group in data.access.exact[input.principal.id]
}

principal_groups contains group if {
	shapes := data.access.patterns[input.principal.trust_domain].fixed
	some shape in shapes[count(input.principal.path)]
	some group in shape.groups[_literals(shape)]
}

# `/**` stands for one or more further segments, hence `>`.
principal_groups contains group if {
	some shape in data.access.patterns[input.principal.trust_domain].rest
	count(input.principal.path) > shape.segments
	some group in shape.groups[_literals(shape)]
}

# METADATA
# title: Groups of the user on whose behalf the workload calls, by its token's claims
# description: |
#   A claim may be one string or a list. A user counts only behind a verified workload.
user_groups contains group if {
	input.principal.id != ""
	some claim, groups_by_value in data.access.users[input.user.issuer]
	some value in _values(input.user.claims[claim])
	some group in groups_by_value[value]
}

# METADATA
# title: Names of the roles that give the caller this request's operation
roles := roles_for(input.operation)

# METADATA
# title: Names of the roles that would give the caller `operation`
# description: |
#   `operation` has the form of `input.operation`, so that a policy can also ask about
#   an operation other than the one at hand. None, if a denial takes it.
roles_for(operation) := _granted(operation) if {
	count(denials_for(operation)) == 0
} else := set()

# METADATA
# title: Names of the roles by which `operation` is denied to the caller, whoever gives it
denials_for(operation) := {role |
	some group in groups
	some item in data.access.denials[group][operation.upstream][operation.action]
	_holds(item["if"])
	some role in _touching(item.permitted, operation)
}

_granted(operation) := union({
	{role |
		some group in groups
		some role in _matching(data.access.grants[group][operation.upstream][operation.action], operation)
	},
	{role |
		some group in groups
		some item in data.access.conditional[group][operation.upstream][operation.action]
		_holds(item["if"])
		some role in _matching(item.permitted, operation)
	},
})

# A condition has the parts that must be true; a part that is absent is. Nothing but
# that absence is told by `not`, so what is undefined holds nowhere.
_holds(condition) if {
	_users_hold(condition)
	_namespaces_hold(condition)
	_workloads_hold(condition)
	_time_holds(condition)
}

_users_hold(condition) if not condition.users

_users_hold(condition) if {
	some group in user_groups
	condition.users[group]
}

_namespaces_hold(condition) if not condition.namespaces

_namespaces_hold(condition) if condition.namespaces[_namespace]

_workloads_hold(condition) if not condition.workloads

_workloads_hold(condition) if condition.workloads[input.principal.id]

_time_holds(condition) if not condition.time

_time_holds(condition) if condition.time in input.time.open

# Istio's form of an ID. Other trust domains have namespaces of their own.
_namespace := input.principal.path[1] if {
	input.principal.trust_domain == data.access.policy.trust_domain
	count(input.principal.path) == 4
	input.principal.path[0] == "ns"
	input.principal.path[2] == "sa"
}

# Server-wide health and metadata name no model, nor does the beginning of a call whose
# messages are judged one by one: any permission of that action will do.
_matching(permissions, operation) := {permissions.server} if operation.scope == "server"

# What touches or discloses every model takes a permission on all of them, in every
# version.
_matching(permissions, operation) := {permissions.all.any} if operation.scope == "every-model"

_matching(permissions, operation) := {permissions.datasets[operation.dataset]} if operation.scope == "dataset"

_matching(permissions, operation) := matching if {
	operation.scope == "model"
	operation.model != ""
	matching := {role |
		some limits in _limits(permissions, operation.model)
		some role in _limited_roles(limits, operation)
	}
}

_limits(permissions, model) := array.flatten([
	[limits | limits := permissions.all],
	[limits | limits := permissions.exact[model]],
	[limits |
		some length in permissions.prefix_lengths
		count(model) >= length
		limits := permissions.prefix[substring(model, 0, length)]
	],
])

# An empty version is the latest, which can be any. `limits.only` has no empty key, so
# a permission limited to versions does not cover it; nor does one limited to adapters
# cover the model without any.
_limited_roles(limits, operation) := union({
	{role | role := limits.any},
	{role | role := limits.only[operation.version]},
	{role | role := limits.adapters[operation.adapter]},
})

# What a denial takes: everything that could touch what it names. A call without a
# version could run each of them, and one on every model touches each.
_touching(permissions, operation) := _leaves(permissions) if operation.scope == "every-model"

_touching(permissions, operation) := {permissions.datasets[operation.dataset]} if operation.scope == "dataset"

_touching(permissions, operation) := touching if {
	operation.scope == "model"
	touching := {role |
		some limits in _limits(permissions, operation.model)
		some role in union({
			_limited_roles(limits, operation),
			{role | operation.version == ""; some role in limits.only},
		})
	}
}

# The server itself, or the beginning of a call whose messages are judged one by one: a
# denial on some models leaves the others.
_touching(permissions, operation) := {permissions.all.any} if operation.scope == "server"

_touching(permissions, operation) := {permissions.bare} if {
	operation.scope == "server"
	not permissions.all.any
}

# The roles of a permission on models.
_leaves(permissions) := {role |
	some limits in array.flatten([
		[limits | limits := permissions.all],
		[limits | some limits in permissions.exact],
		[limits | some limits in permissions.prefix],
	])
	some role in union({
		{role | role := limits.any},
		{role | some role in limits.only},
		{role | some role in limits.adapters},
	})
}

_literals(shape) := concat("/", [segment |
	some position in shape.literals
	segment := input.principal.path[position]
])

_values(claim) := [claim] if is_string(claim)

_values(claim) := claim if is_array(claim)
