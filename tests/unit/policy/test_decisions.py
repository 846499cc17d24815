"""The Wasm's answers against an evaluation of the same policy by brute force."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from random_policies import make_policy, make_question

from authz_server.errors import Reason
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import PolicyDocumentError, parse_policy
from authz_server.policy.engine import Engine
from authz_server.policy.model import AccessPolicy, Condition, Permission, UpstreamKind

POLICIES = 40
QUESTIONS = 300

# The other evaluation: straight from the file's meaning, without any index.


def member_of(policy: AccessPolicy, asked: dict[str, Any]) -> set[str]:
    spiffe_id = SpiffeId.parse(asked["principal"]["id"])
    user = asked["user"]
    names = set()
    for group in policy.groups.values():
        if any(pattern.matches(spiffe_id) for pattern in group.spiffe):
            names.add(group.name)
        for member in group.users if user is not None else ():
            claim = user["claims"].get(member.claim)
            held = claim if isinstance(claim, list) else [claim]
            if user["issuer"] == member.issuer and member.value in held:
                names.add(group.name)
    return names


def names_model(pattern: str, model: str) -> bool:
    if pattern.endswith("*"):
        return model.startswith(pattern[:-1])
    return model == pattern


def gives(permission: Permission, kind: UpstreamKind, asked: dict[str, Any]) -> bool:
    action = Action(asked["action"])
    if action not in permission.actions:
        return False
    if (action in DATASET_ACTIONS) is not (kind is UpstreamKind.DATASET):
        return False
    if asked["scope"] == "server":
        return action in {
            Action.HEALTH,
            Action.METADATA,
            # The beginning of a call that the gate judges further.
            Action.INFERENCE,
            Action.INFERENCE_STREAM,
            Action.METRICS,
            Action.MODEL_LIST,
            Action.STATISTICS,
        }
    if asked["scope"] == "dataset":
        return asked["dataset"] in permission.datasets
    if asked["scope"] == "every-model":
        limits = permission.versions or permission.adapters
        return "*" in permission.models and not limits
    return (
        any(names_model(model, asked["model"]) for model in permission.models)
        and (not permission.versions or asked["version"] in permission.versions)
        and (not permission.adapters or asked["adapter"] in permission.adapters)
    )


def takes(permission: Permission, kind: UpstreamKind, asked: dict[str, Any]) -> bool:
    """Return whether a denial of `permission` takes what could touch it."""
    action = Action(asked["action"])
    limits = permission.versions or permission.adapters
    if action not in permission.actions:
        return False
    if (action in DATASET_ACTIONS) is not (kind is UpstreamKind.DATASET):
        return False
    touches = {
        "dataset": asked["dataset"] in permission.datasets,
        "every-model": bool(permission.models),
        "server": "*" in permission.models and not limits
        if permission.models
        else action in {Action.HEALTH, Action.METADATA},
        "model": any(names_model(model, asked["model"]) for model in permission.models)
        and (
            not limits
            or asked["version"] in permission.versions
            or (bool(permission.versions) and not asked["version"])
            or asked["adapter"] in permission.adapters
        ),
    }
    return touches[asked["scope"]]


def holds(policy: AccessPolicy, when: Condition, asked: dict[str, Any]) -> bool:
    of_user = member_of(policy, {**asked, "principal": NOBODY})
    trust_domain, path = asked["principal"]["trust_domain"], asked["principal"]["path"]
    return (
        (not when.users or bool(of_user & set(when.users)))
        and (
            not when.namespaces
            or (
                trust_domain == policy.trust_domain.name
                and [path[0], *path[2:3], len(path)] == ["ns", "sa", 4]
                and path[1] in when.namespaces
            )
        )
        and (
            not when.upstreams
            or (trust_domain, path)
            == (policy.trust_domain.name, ["ns", "a", "sa", "b"])
        )
        and (when.time is None or str(when.time) in asked["time"]["open"])
    )


NOBODY = {"id": "spiffe://nobody.example/x"}


def brute_force(policy: AccessPolicy, asked: dict[str, Any]) -> tuple[Reason, str]:
    groups = member_of(policy, asked)
    operation = asked["operation"]
    upstream = policy.upstreams[operation["upstream"]]
    if operation["dataset"] and operation["dataset"] not in upstream.datasets:
        return (Reason.NOT_GRANTED if groups else Reason.PRINCIPAL_UNKNOWN), ""
    given, taken = (
        {
            grant.role
            for grant in grants
            if groups & set(grant.to)
            and upstream.name in grant.on
            and holds(policy, grant.when, asked)
            for permission in policy.roles[grant.role].permissions
            if permission.holds_on(upstream.name)
            and applies(permission, upstream.kind, operation)
        }
        for grants, applies in ((policy.grants, gives), (policy.denials, takes))
    )
    if given and taken:
        return Reason.EXPLICITLY_DENIED, min(taken)
    if given:
        return Reason.GRANTED, min(given)
    return (Reason.NOT_GRANTED if groups else Reason.PRINCIPAL_UNKNOWN), ""


@pytest.mark.parametrize("seed", range(POLICIES))
def test_the_wasm_decides_as_brute_force_does(seed: int) -> None:
    rng = random.Random(seed)
    policy = make_policy(rng)
    engine = Engine(
        shipped_wasm(), compile_policy(policy).data, timeout_s=10.0, instances=1
    )
    try:
        for _ in range(QUESTIONS):
            asked = make_question(rng)
            verdict = engine.evaluate(json.dumps(asked).encode())
            expected = brute_force(policy, asked)
            assert (verdict.reason, verdict.role) == expected, asked
            assert verdict.allow is (expected[0] is Reason.GRANTED)
    finally:
        engine.close()


def test_the_comparison_sees_every_kind_of_answer() -> None:
    seen: dict[tuple[str, str], int] = {}
    for seed in range(POLICIES):
        rng = random.Random(seed)
        policy = make_policy(rng)
        for _ in range(QUESTIONS):
            asked = make_question(rng)
            key = (asked["operation"]["scope"], brute_force(policy, asked)[0].value)
            seen[key] = seen.get(key, 0) + 1
    for scope in ("model", "every-model", "server", "dataset"):
        for answer in ("granted", "not_granted", "explicitly_denied"):
            assert seen[scope, answer] >= 2


def test_a_generated_policy_is_read_as_strictly_as_any() -> None:
    with pytest.raises(PolicyDocumentError):
        parse_policy('{"apiVersion": "authz.edge/v1"}', "generated")
