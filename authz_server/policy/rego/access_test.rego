package authz.access_test

import data.authz.access

_index := {
	"exact": {
		"spiffe://a.example/ns/x/sa/one": ["exact"],
		"spiffe://a.example/ns/x/sa/both": ["exact", "second"],
	},
	"patterns": {"a.example": {
		"fixed": [[], [], [], [], [
			{"literals": [0, 1, 2], "groups": {"ns/y/sa": ["fixed"]}},
			{"literals": [0, 2, 3], "groups": {"ns/sa/z": ["other-shape"]}},
		]],
		"rest": [
			{"literals": [0], "segments": 1, "groups": {"tree": ["rest"]}},
			{"literals": [], "segments": 5, "groups": {"": ["deep"]}},
		],
	}},
	"users": {"https://idp.example": {
		"groups": {"ml": ["people"]},
		"sub": {"ann": ["ann"]},
	}},
	"grants": {
		"exact": {"triton": {
			"inference": {
				"exact": {"m": {"any": "exact-role"}, "v": {"only": {"1": "one", "2": "two"}}, "a": {"adapters": {"sql": "adapted"}}},
				"prefix": {"pre-": {"any": "prefix-role"}, "pre-x": {"only": {"7": "a-seven"}}},
				"prefix_lengths": [4, 5],
			},
			"health": {"server": "health-role", "exact": {"m": {"any": "health-role"}}},
		}},
		"second": {"triton": {"inference": {"exact": {"m": {"any": "a-first"}}}}},
		"fixed": {"triton": {
			"inference": {"all": {"any": "all-role", "only": {"3": "a-three"}}},
			"model-list": {"all": {"any": "all-role"}},
			"metrics": {"all": {"only": {"1": "all-role"}}},
		}},
		"people": {"data": {"dataset-read": {"datasets": {"images": "reader"}}}},
	},
}

_caller(path) := {"id": concat("/", array.concat(["spiffe://a.example"], path)), "trust_domain": "a.example", "path": path}

_one := _caller(["ns", "x", "sa", "one"])

_op(action, scope, model, version) := {"action": action, "scope": scope, "model": model, "version": version, "adapter": "", "upstream": "triton", "dataset": ""}

_infer(model, version) := _op("inference", "model", model, version)

_groups(principal, user) := result if {
	result := access.groups with data.access as _index
		with input as {"principal": principal, "user": user}
}

_roles(principal, operation) := result if {
	result := access.roles with data.access as _index
		with input as {"principal": principal, "user": null, "operation": operation}
}

_decision(principal, operation) := result if {
	result := access.decision with data.access as _index
		with input as {"principal": principal, "user": null, "operation": operation}
}

_user(claims) := {"issuer": "https://idp.example", "subject": "s", "claims": claims}

test_an_exact_id_is_in_its_groups if {
	_groups(_caller(["ns", "x", "sa", "both"]), null) == {"exact", "second"}
}

test_a_wildcard_is_one_segment if {
	_groups(_caller(["ns", "y", "sa", "any"]), null) == {"fixed"}
	_groups(_caller(["ns", "y", "sa"]), null) == set()
	_groups(_caller(["ns", "y", "sa", "a", "b"]), null) == set()
}

test_patterns_of_two_shapes_can_match_one_id if {
	_groups(_caller(["ns", "y", "sa", "z"]), null) == {"fixed", "other-shape"}
}

test_rest_is_one_segment_or_more if {
	_groups(_caller(["tree", "a"]), null) == {"rest"}
	_groups(_caller(["tree", "a", "b"]), null) == {"rest"}
	_groups(_caller(["tree"]), null) == set()
}

test_rest_alone_matches_every_deep_path if {
	_groups(_caller(["a", "b", "c", "d", "e", "f"]), null) == {"deep"}
}

test_a_trust_domain_has_its_own_patterns if {
	principal := {"id": "spiffe://b.example/ns/y/sa/any", "trust_domain": "b.example", "path": ["ns", "y", "sa", "any"]}
	_groups(principal, null) == set()
}

test_a_user_is_in_the_groups_of_a_claim if {
	_groups(_caller(["u"]), _user({"groups": "ml"})) == {"people"}
	_groups(_caller(["u"]), _user({"groups": ["x", "ml"], "sub": "ann"})) == {"people", "ann"}
}

test_claims_of_other_types_and_issuers_count_for_nothing if {
	_groups(_caller(["u"]), _user({"groups": {"ml": true}})) == set()
	_groups(_caller(["u"]), _user({"groups": [["ml"], 1, null]})) == set()
	_groups(_caller(["u"]), {"issuer": "https://other.example", "claims": {"groups": "ml"}}) == set()
}

test_a_user_without_a_workload_is_in_no_group if {
	_groups({"id": "", "trust_domain": "", "path": []}, _user({"groups": "ml"})) == set()
	groups := access.groups with data.access as _index with input as {"user": _user({"groups": "ml"})}
	groups == set()
}

test_groups_of_workload_and_user_are_united if {
	_groups(_one, _user({"groups": "ml"})) == {"exact", "people"}
}

test_a_model_is_matched_by_its_name if {
	_roles(_one, _infer("m", "")) == {"exact-role"}
	_roles(_one, _infer("m", "5")) == {"exact-role"}
	_roles(_one, _infer("mm", "")) == set()
}

test_a_permission_on_versions_covers_these_alone if {
	_roles(_one, _infer("v", "1")) == {"one"}
	_roles(_one, _infer("v", "3")) == set()
	_roles(_one, _infer("v", "")) == set()
}

test_a_permission_on_adapters_covers_these_alone if {
	_roles(_one, object.union(_infer("a", ""), {"adapter": "sql"})) == {"adapted"}
	_roles(_one, object.union(_infer("a", ""), {"adapter": "law"})) == set()
	_roles(_one, _infer("a", "")) == set()
	_roles(_one, object.union(_infer("m", ""), {"adapter": "sql"})) == {"exact-role"}
	_roles(_one, object.union(_infer("v", ""), {"adapter": "1"})) == set()
}

test_a_model_is_matched_by_prefix if {
	_roles(_one, _infer("pre-", "")) == {"prefix-role"}
	_roles(_one, _infer("pre-x", "7")) == {"prefix-role", "a-seven"}
	_roles(_one, _infer("pre", "7")) == set()
}

test_a_permission_on_all_models_covers_each if {
	_roles(_caller(["ns", "y", "sa", "q"]), _infer("whatever", "")) == {"all-role"}
	_roles(_caller(["ns", "y", "sa", "q"]), _infer("whatever", "3")) == {"all-role", "a-three"}
}

test_a_model_call_needs_a_model if {
	_roles(_caller(["ns", "y", "sa", "q"]), _infer("", "")) == set()
}

test_every_model_needs_all_models_and_versions if {
	_roles(_caller(["ns", "y", "sa", "q"]), _op("model-list", "every-model", "", "")) == {"all-role"}
	_roles(_caller(["ns", "y", "sa", "q"]), _op("metrics", "every-model", "", "")) == set()
	_roles(_one, _op("inference", "every-model", "", "")) == set()
}

test_the_server_itself_needs_any_permission_of_the_action if {
	_roles(_one, _op("health", "server", "", "")) == {"health-role"}
	_roles(_one, _op("inference", "server", "", "")) == set()
}

test_an_unknown_scope_matches_nothing if {
	_roles(_one, _op("inference", "", "m", "")) == set()
}

test_another_upstream_or_action_matches_nothing if {
	_roles(_one, object.union(_infer("m", ""), {"upstream": "triton-2"})) == set()
	_roles(_one, object.union(_infer("m", ""), {"action": "trace"})) == set()
}

test_a_dataset_is_matched_by_name if {
	operation := {"action": "dataset-read", "scope": "dataset", "model": "", "version": "", "adapter": "", "upstream": "data", "dataset": "images"}
	facts := {"principal": _caller(["u"]), "user": _user({"groups": "ml"}), "operation": operation}
	reads := access.roles with data.access as _index with input as facts
	reads == {"reader"}
	others := access.roles_for(object.union(operation, {"dataset": "other"})) with data.access as _index with input as facts
	others == set()
}

test_the_decision_names_the_first_role if {
	_decision(_caller(["ns", "x", "sa", "both"]), _infer("m", "")) == {"allow": true, "reason": "granted", "role": "a-first"}
}

test_a_known_caller_without_a_grant_is_told_apart if {
	_decision(_one, _infer("z", "")) == {"allow": false, "reason": "not_granted", "role": ""}
	_decision(_caller(["nobody"]), _infer("m", "")) == {"allow": false, "reason": "principal_unknown", "role": ""}
}

# Conditions and denials.

_conditional_index := {
	"policy": {"trust_domain": "a.example"},
	"exact": {
		"spiffe://a.example/ns/x/sa/one": ["g"],
		"spiffe://a.example/ns/y/sa/two": ["g"],
		"spiffe://a.example/x": ["g"],
		"spiffe://b.example/ns/x/sa/one": ["g"],
	},
	"users": {"https://idp.example": {"groups": {"ml": ["people"]}}},
	"conditional": {"g": {"triton": {
		"inference": [
			{"if": {"users": {"people": true}}, "permitted": {"all": {"any": "for-people"}}},
			{"if": {"namespaces": {"x": true}}, "permitted": {"all": {"any": "from-x"}}},
			{"if": {"workloads": {"spiffe://a.example/x": true}}, "permitted": {"all": {"any": "for-server"}}},
			{"if": {"time": "nights"}, "permitted": {"all": {"any": "at-night"}}},
		],
		"trace": [{"if": {"namespaces": {"x": true}, "time": "nights"}, "permitted": {"all": {"any": "both"}}}],
	}}},
}

_conditional_roles(principal, user, open, action) := result if {
	result := access.roles with data.access as _conditional_index
		with input as {"principal": principal, "user": user, "time": {"open": open}, "operation": _op(action, "model", "m", "")}
}

_two := _caller(["ns", "y", "sa", "two"])

_server := _caller(["x"])

_foreign := {"id": "spiffe://b.example/ns/x/sa/one", "trust_domain": "b.example", "path": ["ns", "x", "sa", "one"]}

test_a_condition_on_users_needs_such_a_user if {
	_conditional_roles(_two, null, [], "inference") == set()
	_conditional_roles(_two, _user({"groups": "ml"}), [], "inference") == {"for-people"}
	_conditional_roles(_two, _user({"groups": "other"}), [], "inference") == set()
}

test_a_condition_on_namespaces_needs_an_id_of_that_form_and_trust_domain if {
	_conditional_roles(_one, null, [], "inference") == {"from-x"}
	_conditional_roles(_foreign, null, [], "inference") == set()
}

test_a_condition_on_upstreams_needs_their_id if {
	_conditional_roles(_server, null, [], "inference") == {"for-server"}
}

test_a_condition_on_time_needs_it_to_be_open if {
	_conditional_roles(_two, null, ["nights"], "inference") == {"at-night"}
	_conditional_roles(_two, null, ["days"], "inference") == set()
	undefined_time := access.roles with data.access as _conditional_index
		with input as {"principal": _two, "user": null, "operation": _infer("m", "")}
	undefined_time == set()
}

test_all_parts_of_a_condition_must_be_true if {
	_conditional_roles(_one, null, [], "trace") == set()
	_conditional_roles(_two, null, ["nights"], "trace") == set()
	_conditional_roles(_one, null, ["nights"], "trace") == {"both"}
}

_denying_index := {
	"policy": {"trust_domain": "a.example"},
	"exact": {"spiffe://a.example/ns/x/sa/one": ["g"], "spiffe://a.example/ns/y/sa/two": ["g"]},
	"grants": {"g": {
		"triton": {action: {"all": {"any": "all"}, "server": "all"} |
			some action in ["inference", "health", "metadata", "model-list", "metrics", "statistics"]
		},
		"data": {"dataset-read": {"datasets": {"images": "all", "films": "all"}}},
	}},
	"denials": {"g": {
		"triton": {
			"inference": [{"if": {}, "permitted": {"exact": {
				"m": {"any": "no-m"},
				"v": {"only": {"1": "no-v1"}},
				"a": {"adapters": {"sql": "no-sql"}},
			}}}],
			"health": [{"if": {}, "permitted": {"server": "no-health", "bare": "no-health"}}],
			"metadata": [{"if": {}, "permitted": {"server": "no-metadata", "all": {"any": "no-metadata"}}}],
			"model-list": [{"if": {}, "permitted": {"prefix": {"p": {"only": {"1": "no-p"}}}, "prefix_lengths": [1]}}],
			"metrics": [{"if": {"namespaces": {"y": true}}, "permitted": {"all": {"adapters": {"sql": "no-metrics"}}}}],
		},
		"data": {"dataset-read": [{"if": {}, "permitted": {"datasets": {"images": "no-images"}}}]},
	}},
}

_denied(principal, operation) := result if {
	result := access.decision with data.access as _denying_index
		with input as {"principal": principal, "user": null, "time": {"open": []}, "operation": operation}
}

_allowed := {"allow": true, "reason": "granted", "role": "all"}

_taken(role) := {"allow": false, "reason": "explicitly_denied", "role": role}

test_a_denial_takes_what_a_role_gives if {
	_denied(_one, _infer("m", "")) == _taken("no-m")
	_denied(_one, _infer("m", "7")) == _taken("no-m")
	_denied(_one, _infer("other", "")) == _allowed
}

test_a_denial_of_a_version_takes_the_unnamed_one_too if {
	_denied(_one, _infer("v", "1")) == _taken("no-v1")
	_denied(_one, _infer("v", "")) == _taken("no-v1")
	_denied(_one, _infer("v", "2")) == _allowed
}

test_a_denial_of_an_adapter_leaves_the_model if {
	_denied(_one, object.union(_infer("a", ""), {"adapter": "sql"})) == _taken("no-sql")
	_denied(_one, object.union(_infer("a", ""), {"adapter": "law"})) == _allowed
	_denied(_one, _infer("a", "")) == _allowed
}

test_a_denial_on_some_models_takes_what_touches_every_model if {
	_denied(_one, _op("model-list", "every-model", "", "")) == _taken("no-p")
	_denied(_one, _op("inference", "every-model", "", "")) == _taken("no-m")
	_denied(_one, _op("statistics", "every-model", "", "")) == _allowed
}

test_a_denial_with_a_condition_counts_only_where_it_is_true if {
	_denied(_one, _op("metrics", "every-model", "", "")) == _allowed
	_denied(_two, _op("metrics", "every-model", "", "")) == _taken("no-metrics")
}

test_the_server_itself_is_denied_with_all_models_or_none if {
	_denied(_one, _op("health", "server", "", "")) == _taken("no-health")
	_denied(_one, _op("metadata", "server", "", "")) == _taken("no-metadata")
	_denied(_one, _op("inference", "server", "", "")) == _allowed
}

test_a_dataset_is_denied_by_name if {
	reading := {"action": "dataset-read", "scope": "dataset", "model": "", "version": "", "adapter": "", "upstream": "data", "dataset": "images"}
	_denied(_one, reading) == _taken("no-images")
	_denied(_one, object.union(reading, {"dataset": "films"})) == _allowed
}
