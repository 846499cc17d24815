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
