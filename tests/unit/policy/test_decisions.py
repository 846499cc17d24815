"""The Wasm's answers against an evaluation of the same policy by brute force."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

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

SEGMENTS = ("ns", "a", "b", "sa")
DOMAINS = ("one.example", "two.example")
MODELS = ("m", "mm", "m-1", "k", "k.2")
ADAPTERS = ("sql", "law")
ISSUERS = ("https://i.example", "https://j.example")
TIMES = (
    "mon,tue,wed,thu,fri,sat,sun 06:00-22:00 UTC",
    "until 2030-01-01T00:00:00Z",
    "mon,tue,wed,thu,fri,sat,sun 06:00-22:00 UTC, until 2030-01-01T00:00:00Z",
)
MODEL_ACTIONS = ("inference", "health", "metadata", "model-repository")
EVERY_MODEL = ("model-list", "metrics")


def some(rng: random.Random, values: tuple[str, ...], most: int) -> list[str]:
    return rng.sample(values, rng.randint(1, min(most, len(values))))


def make_pattern(rng: random.Random) -> str:
    segments = rng.choices((*SEGMENTS, "*", "*"), k=rng.randint(1, 4))
    rest = ["**"] if rng.random() < 0.3 else []
    return "/".join(["spiffe:/", rng.choice(DOMAINS), *segments, *rest])


def make_permission(rng: random.Random) -> dict[str, Any]:
    kind = rng.random()
    if kind < 0.2:
        return {
            "actions": some(rng, ("dataset-read", "dataset-write"), 2),
            "datasets": some(rng, ("d", "e"), 2),
        }
    if kind < 0.3:
        return {"actions": some(rng, ("health", "metadata"), 2)}
    if kind < 0.4:
        return {"actions": some(rng, (*EVERY_MODEL, "health"), 2), "models": ["*"]}
    permission: dict[str, Any] = {
        "actions": some(rng, MODEL_ACTIONS, 3),
        "models": some(rng, ("m", "m*", "m-*", "k", "k.*", "*"), 2),
    }
    if rng.random() < 0.5:
        permission["versions"] = some(rng, ("1", "2", "10"), 2)
    elif rng.random() < 0.4:
        # With health it gives something on every upstream.
        permission["actions"] = sorted({*permission["actions"], "health"})
        permission["adapters"] = some(rng, ADAPTERS, 1)
    if rng.random() < 0.2:
        permission["upstreams"] = some(rng, ("t1", "t2"), 1)
    return permission


def make_condition(rng: random.Random) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "users": ["people"],
        "namespaces": some(rng, ("a", "b"), 1),
        "upstreams": ["t1"],
        "times": [{"from": "06:00", "to": "22:00", "zone": "UTC"}],
        "until": "2030-01-01T00:00:00Z",
    }
    keys = some(rng, ("users", "namespaces", "upstreams", "times", "until"), 2)
    return {key: parts[key] for key in keys}


def make_grants(
    rng: random.Random, groups: dict[str, Any], roles: dict[str, Any], share: float
) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "to": some(rng, tuple(groups), 2),
            "on": [upstream],
            **({"when": make_condition(rng)} if rng.random() < 0.4 else {}),
        }
        for role in roles
        for upstream in ("t1", "t2", "s1", "s2")
        if _fits(roles[role], upstream) and rng.random() < share
    ]


def make_policy(rng: random.Random) -> AccessPolicy:
    groups: dict[str, Any] = {}
    for name in ("g1", "g2", "g3", "g4"):
        groups[name] = {
            "spiffe": sorted({make_pattern(rng) for _ in range(rng.randint(1, 4))})
        }
        if rng.random() < 0.5:
            groups[name]["users"] = [
                {
                    "issuer": rng.choice(ISSUERS),
                    "claim": rng.choice(("groups", "sub")),
                    "value": rng.choice(("v", "w")),
                }
                for _ in range(2)
            ]
    groups["people"] = {
        "users": [{"issuer": ISSUERS[0], "claim": "groups", "value": "v"}]
    }
    groups["both"] = {"groups": some(rng, ("g1", "g2", "people"), 2)}
    roles = {
        name: [make_permission(rng) for _ in range(rng.randint(1, 3))]
        for name in ("r1", "r2", "r3", "r4", "r5")
    }
    document = {
        "apiVersion": "authz.edge/v1",
        "kind": "AccessPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "trustDomain": DOMAINS[0],
            "federatesWith": [DOMAINS[1]],
            "upstreams": {
                "t1": {"kind": "triton", "namespace": "a", "serviceAccount": "b"},
                "t2": {"kind": "triton"},
                "s1": {"kind": "dataset", "datasets": {"d": "/d", "e": "/e"}},
                "s2": {"kind": "dataset", "datasets": {"d": "/d"}},
            },
            "groups": groups,
            "roles": roles,
            "grants": make_grants(rng, groups, roles, 0.7),
            "denials": make_grants(rng, groups, roles, 0.4),
        },
    }
    return parse_policy(json.dumps(document), "generated")


def _fits(permissions: list[dict[str, Any]], upstream: str) -> bool:
    wanted = {"s1": {"d", "e"}, "s2": {"d"}}.get(upstream)
    if wanted is None:
        return any(
            "datasets" not in permission
            and upstream in permission.get("upstreams", [upstream])
            for permission in permissions
        )
    return any(
        wanted & set(permission.get("datasets", []))
        and upstream in permission.get("upstreams", [upstream])
        for permission in permissions
    )


def make_question(rng: random.Random) -> dict[str, Any]:
    domain = rng.choice(DOMAINS)
    path = rng.choices(SEGMENTS, k=rng.randint(1, 5))
    if rng.random() < 0.5:
        path = ["ns", rng.choice(SEGMENTS), "sa", rng.choice(SEGMENTS)]
    scope = rng.choice(("model", "model", "model", "every-model", "server", "dataset"))
    user = None
    if rng.random() < 0.4:
        value: Any = rng.choice(("v", "w", "x", ["x", "v"], ["w"], 7, None, {"v": 1}))
        user = {
            "issuer": rng.choice(ISSUERS),
            "subject": "s",
            "claims": {rng.choice(("groups", "sub", "aud")): value},
        }
    return {
        "principal": {
            "id": "/".join(["spiffe:/", domain, *path]),
            "trust_domain": domain,
            "path": path,
        },
        "user": user,
        "operation": {
            "action": rng.choice(
                tuple(DATASET_ACTIONS)
                if scope == "dataset"
                else (*MODEL_ACTIONS, *EVERY_MODEL)
            ),
            "scope": scope,
            "model": rng.choice(MODELS) if scope == "model" else "",
            "version": rng.choice(("", "1", "2", "10", "100")),
            "adapter": rng.choice(("", "", *ADAPTERS)),
            "upstream": rng.choice(("s1", "s2", "t1")
                                   if scope == "dataset" else ("t1", "t2", "s1")),
            "dataset": rng.choice(("d", "e")) if scope == "dataset" else "",
        },
        "http": {"method": "GET", "path": "/", "host": "", "headers": {}},
        "time": {"open": rng.sample(TIMES, rng.randint(0, len(TIMES)))},
    }  # fmt: skip


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
