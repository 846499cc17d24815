from __future__ import annotations

from typing import Any

from authz_server.cluster.answers import refusal

HOST = "https://api.example"


def status(message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "message": message, "details": details}


def test_what_the_server_says_is_passed_on() -> None:
    error = refusal(HOST, 422, status("spec.x: Invalid", kind="Deployment", name="d"))

    assert str(error) == "spec.x: Invalid"
    assert (error.status, error.about, error.name) == (422, "Deployment", "d")
    assert not error.is_missing_namespace


def test_an_answer_that_is_not_the_apis_is_named_by_its_status() -> None:
    assert str(refusal(HOST, 502, {})) == "answered with HTTP 502"


def test_unknown_credentials_have_their_mend() -> None:
    assert str(refusal(HOST, 401, status("Unauthorized"))).startswith(
        f"{HOST}: doesn't accept your credentials; log in again"
    )


def test_what_rbac_refuses_comes_with_the_rule_that_mends_it() -> None:
    error = refusal(
        HOST,
        403,
        status(
            'networkpolicies.networking.k8s.io "x" is forbidden: User "eve" cannot '
            'patch resource "networkpolicies" in API group "networking.k8s.io" in the '
            'namespace "line1"'
        ),
    )

    assert str(error) == (
        "eve may not patch networkpolicies.networking.k8s.io in the namespace "
        '"line1"; add this rule to a ClusterRole that is bound to it: '
        '{"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], '
        '"verbs": ["patch"]} (docs/apply.md has them all)'
    )


def test_the_core_group_has_no_name() -> None:
    message = (
        'User "eve" cannot list resource "services" in API group "" at the cluster'
    )

    assert str(refusal(HOST, 403, status(message))).startswith(
        "eve may not list services at the cluster; "
    )


def test_another_prohibition_is_passed_on() -> None:
    message = 'services "x" is forbidden: exceeded quota'

    assert str(refusal(HOST, 403, status(message))) == message


def test_a_missing_namespace_is_told_from_other_things_that_are_missing() -> None:
    missing = status('namespaces "n" not found', kind="namespaces", name="n")

    assert refusal(HOST, 404, missing).is_missing_namespace
    assert not refusal(HOST, 404, status("x", kind="services")).is_missing_namespace


def test_conflicts_are_put_together_by_who_has_set_the_fields() -> None:
    def cause(manager: str, field: str) -> dict[str, str]:
        message = f'conflict with "{manager}" using v1'
        return {"reason": "FieldManagerConflict", "message": message, "field": field}

    causes = [
        cause("kubectl-edit", ".b"),
        cause("helm", ".c"),
        cause("kubectl-edit", ".a"),
        {"reason": "FieldManagerConflict", "message": "odd", "field": ".d"},
        {"reason": "other"},
    ]

    assert [
        str(c) for c in refusal(HOST, 409, status("x", causes=causes)).conflicts
    ] == [
        '.c set by "helm"',
        '.a, .b set by "kubectl-edit"',
        '.d set by "somebody else"',
    ]
    assert not refusal(HOST, 409, status("changed")).conflicts
