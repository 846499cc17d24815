"""Random access policies, and questions to them."""

from __future__ import annotations

import json
import random
from typing import Any

from authz_server.operations.actions import DATASET_ACTIONS
from authz_server.policy.document import parse_policy
from authz_server.policy.model import AccessPolicy

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
    return parse_policy(json.dumps(make_document(rng)), "generated")


def make_document(rng: random.Random) -> dict[str, Any]:
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
    return {
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
