"""Random plants for packet filters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from network_plants import Plant, Spec, gives, make_pods

PORTS = ("tritonHttp", "tritonGrpc", "tritonMetrics", "dataset", "openai", "envoy")
MANAGED = ("n1", "n2", "n3")
LABELS = ({"app": "x"}, {"app": "y"}, {"app": "x", "tier": "t"}, {"tier": "t"}, {})
MODEL_ACTIONS = ("inference", "metadata", "health", "model-repository")
UPSTREAMS = {
    "t1": "triton",
    "t2": "triton",
    "o1": "openai",
    "d1": "dataset",
    "d2": "dataset",
}


def make_plant(rng: random.Random) -> Plant:
    policy, site = _policy(rng), _site(rng)
    return Plant(policy, site, make_pods(policy, site))


# Policies


def _policy(rng: random.Random) -> Spec:
    upstreams = {
        name: _upstream(rng, kind)
        for name, kind in UPSTREAMS.items()
        if name == "t1" or rng.random() < 0.7
    }
    groups = _groups(rng)
    roles = {name: _role(rng, upstreams) for name in ("r1", "r2", "r3", "r4")}
    return {
        "trustDomain": "factory.example",
        "upstreams": upstreams,
        "groups": groups,
        "roles": roles,
        "grants": _grants(rng, roles, groups, upstreams, rng.choice((0.02, 0.4))),
        "denials": _grants(rng, roles, groups, upstreams, 0.1),
    }


def _upstream(rng: random.Random, kind: str) -> Spec:
    upstream: dict[str, Any] = {"kind": kind, "hosts": ["h.example"]}
    if kind == "dataset":
        upstream["datasets"] = {
            name: f"/{name}" for name in rng.sample(("d", "e"), rng.randint(1, 2))
        }
    # t1 is always in Kubernetes: without any there would be nothing to emit.
    if kind != "triton" or rng.random() < 0.85:
        upstream |= {"namespace": rng.choice(MANAGED), "serviceAccount": kind}
        labels = rng.choice((*LABELS, {"app": kind}, {"app": kind}, {"app": kind}))
        upstream |= {"podSelector": labels} if labels else {}
    return upstream


def _groups(rng: random.Random) -> Spec:
    groups: dict[str, Any] = {}
    for name in ("g1", "g2", "g3", "g4"):
        groups[name] = {"spiffe": ["spiffe://factory.example/ns/*/sa/*"]}
        workloads = [_workload(rng) for _ in range(rng.randint(0, 3))]
        if workloads:
            groups[name]["workloads"] = workloads
    groups["people"] = {"users": [_USER]}
    groups["all"] = {"groups": rng.sample(("g1", "g2", "people"), rng.randint(1, 3))}
    # Nested twice, and with a member of its own.
    groups["more"] = {**groups.pop("g4"), "groups": [rng.choice(("all", "g3"))]}
    return groups


_USER = {"issuer": "https://i.example", "claim": "groups", "value": "v"}


def _workload(rng: random.Random) -> Spec:
    labels = rng.choice(LABELS if rng.random() < 0.4 else LABELS[:-1])
    return {
        "namespace": rng.choice((*MANAGED, "clients")),
        **({"podSelector": labels} if labels else {}),
        **({"serviceAccount": rng.choice(("a", "b"))} if rng.random() < 0.5 else {}),
        **({"hostNetwork": True} if rng.random() < 0.1 else {}),
    }


def _role(rng: random.Random, upstreams: Spec) -> list[Spec]:
    held = sorted({d for item in upstreams.values() for d in item.get("datasets", ())})
    return [_permission(rng, upstreams, held) for _ in range(rng.randint(1, 3))]


def _permission(
    rng: random.Random, upstreams: Spec, held: Sequence[str]
) -> dict[str, Any]:
    permission: dict[str, Any] = {"actions": []}
    kind = rng.random()
    if kind < 0.4 and held:
        permission["actions"] += rng.sample(("dataset-read", "dataset-write"), 1)
        permission["datasets"] = rng.sample(held, rng.randint(1, len(held)))
    # Some are about datasets and models at once.
    if kind >= 0.3 or not held:
        permission["actions"] += (
            ["metrics"]
            if rng.random() < 0.35
            else rng.sample(MODEL_ACTIONS, rng.randint(1, 3))
        )
        permission["models"] = rng.choice((["*"], ["m"], ["m-*", "k"]))
    if rng.random() < 0.3:
        permission["upstreams"] = rng.choices(sorted(upstreams), k=1)
    return permission


def _grants(
    rng: random.Random, roles: Spec, groups: Spec, upstreams: Spec, share: float
) -> list[Spec]:
    grants = []
    for role in roles:
        on = [
            name
            for name in upstreams
            if gives(roles[role], name, upstreams[name]) and rng.random() < 0.6
        ]
        for group in groups:
            if on and rng.random() < share:
                when = {"when": _condition(rng)} if rng.random() < 0.3 else {}
                grants.append({"role": role, "to": [group], "on": on, **when})
    return grants


def _condition(rng: random.Random) -> Spec:
    return rng.choice(
        (
            {"users": ["people"]},
            {"namespaces": ["n1"]},
            {"until": "2030-01-01T00:00:00Z"},
            {"times": [{"from": "06:00", "to": "22:00", "zone": "UTC"}]},
        )
    )


# Sites


def _site(rng: random.Random) -> Spec:
    mesh = rng.choice(("none", "sidecar", "ambient"))
    shapes = ("deployment", "daemonset", "sidecar")
    shape = "deployment" if mesh == "sidecar" else rng.choice(shapes)
    site: dict[str, Any] = {
        "mesh": mesh,
        "server": {"shape": shape},
        "cluster": {"nodes": ["10.20.0.0/24"], "apiServer": ["10.96.0.1/32"]},
    }
    if rng.random() < 0.3:
        site["server"] |= {"namespace": rng.choice(("n1", "own")), "port": 9999}
    if rng.random() < 0.3:
        site["ports"] = {name: 7000 + number for number, name in enumerate(PORTS)}
    if rng.random() < 0.3:
        site["cluster"]["dns"] = {
            "namespace": "dns",
            "podSelector": {"dns": "default"},
            "port": 5353,
            "addresses": ["10.20.1.10/32"],
        }
    if rng.random() < 0.7:
        namespace = rng.choice(("monitoring", "monitoring", "n2", "own"))
        labels = rng.choice(({"app": "prometheus"}, {"app": "prometheus"}, {}))
        selector = {"podSelector": labels} if labels else {}
        site["monitoring"] = {"namespace": namespace, **selector}
    if rng.random() < 0.5:
        namespace = rng.choice(("spire", "spire", "n3", "authz-system"))
        selector = {"podSelector": {"app": "spire-server"}}
        site["spire"] = {"namespace": namespace, **selector}
    return site
