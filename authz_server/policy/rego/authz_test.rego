package authz_test

import data.authz

_access := {
	"exact": {"spiffe://a.example/w": ["g"]},
	"grants": {"g": {"triton": {"inference": {"all": {"any": "r"}}}}},
}

test_allows_what_a_role_gives if {
	authz.decision == {"allow": true, "reason": "granted", "role": "r"} with data.access as _access
		with input as {
			"principal": {"id": "spiffe://a.example/w", "trust_domain": "a.example", "path": ["w"]},
			"user": null,
			"operation": {"action": "inference", "scope": "model", "model": "m", "version": "", "adapter": "", "upstream": "triton", "dataset": ""},
		}
}

test_denies_without_input if {
	authz.decision == {"allow": false, "reason": "principal_unknown", "role": ""} with data.access as _access
}

test_denies_without_data if {
	authz.decision == {"allow": false, "reason": "principal_unknown", "role": ""} with data.access as {}
		with input as {}
}
