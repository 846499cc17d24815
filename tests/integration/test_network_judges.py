"""Two NetworkPolicy engines that others wrote: they agree, and they see mistakes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from emitted_istio import MANIFESTS
from judges import (
    Edge,
    Object,
    Port,
    Way,
    connectivity,
    netpol_analyzer_edges,
    netpol_analyzer_ways,
    read,
)
from kube_objects import cluster, network_policy

pytestmark = pytest.mark.go

TRITON, CAMERA, ROGUE, TWIN, GUEST = (
    "inference/triton-0",
    "line1/camera-0",
    "line1/rogue",
    "line2/camera-0",
    "inference/guest",
)
PODS = cluster(
    {
        TRITON: {"app": "triton"},
        GUEST: {"app": "camera"},
        CAMERA: {"app": "camera", "tier": "edge"},
        ROGUE: {"app": "rogue"},
        TWIN: {"app": "camera"},
    },
    ports={"http": 8000, "grpc": 8001, "metrics": 8002},
)
HTTP, GRPC, METRICS, DNS = ("TCP", 8000), ("TCP", 8001), ("TCP", 8002), ("UDP", 53)
PORTS = [HTTP, GRPC, METRICS, DNS]
EVERYBODY = {CAMERA, ROGUE, TWIN, GUEST}

LINE1 = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "line1"}}}
APP_CAMERA = {"podSelector": {"matchLabels": {"app": "camera"}}}
DENY = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def to_triton(rule: Mapping[str, Any] | None, **more: Any) -> Object:
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": {"app": "triton"}},
        "policyTypes": ["Ingress"],
        **more,
    }
    if rule is not None:
        spec["ingress"] = [rule]
    return network_policy("inference", "to-triton", spec)


def from_camera(**rule: Any) -> Object:
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]}
    return network_policy("line1", "from-camera", spec)


def edges(sources: Iterable[str], ports: Iterable[Port]) -> set[Edge]:
    wanted = list(ports)
    return {(source, TRITON, *port) for source in sources for port in wanted}


@dataclass(frozen=True)
class Case:
    policies: list[Object]
    reach: set[Edge]


WITHOUT_TYPES = to_triton(None, egress=[{"ports": [{"port": 53, "protocol": "UDP"}]}])
del WITHOUT_TYPES["spec"]["policyTypes"]

CASES = {
    "no policy lets everything through": Case([], edges(EVERYBODY, PORTS)),
    "one entry with both selectors is an and": Case(
        [to_triton({"from": [{**LINE1, **APP_CAMERA}]})], edges([CAMERA], PORTS)
    ),
    "two entries are an or, the second of the own namespace": Case(
        [to_triton({"from": [LINE1, APP_CAMERA]})],
        edges([CAMERA, ROGUE, GUEST], PORTS),
    ),
    "an empty from is everyone": Case(
        [to_triton({"from": []})], edges(EVERYBODY, PORTS)
    ),
    "an empty rule is everyone": Case([to_triton({})], edges(EVERYBODY, PORTS)),
    "an empty ingress is nobody": Case([to_triton(None, ingress=[])], set()),
    "a missing ingress is nobody": Case([to_triton(None)], set()),
    "egress without policyTypes isolates ingress as well": Case([WITHOUT_TYPES], set()),
    "policyTypes of egress alone leave ingress open": Case(
        [to_triton(None, policyTypes=["Egress"])], edges(EVERYBODY, PORTS)
    ),
    "an empty podSelector denies in its own namespace only": Case(
        [network_policy("line1", "deny", DENY)], edges([TWIN, GUEST], PORTS)
    ),
    "a peer without namespaceSelector is of the own namespace": Case(
        [to_triton({"from": [APP_CAMERA]})], edges([GUEST], PORTS)
    ),
    "an empty namespaceSelector is every namespace": Case(
        [to_triton({"from": [{"namespaceSelector": {}, **APP_CAMERA}]})],
        edges([CAMERA, TWIN, GUEST], PORTS),
    ),
    "a port of the Service opens none of the pod's": Case(
        [to_triton({"from": [LINE1], "ports": [{"port": 80}]})], set()
    ),
    "a named port is the destination's": Case(
        [to_triton({"from": [LINE1], "ports": [{"port": "grpc"}]})],
        edges([CAMERA, ROGUE], [GRPC]),
    ),
    "endPort is within": Case(
        [to_triton({"from": [LINE1], "ports": [{"port": 8000, "endPort": 8001}]})],
        edges([CAMERA, ROGUE], [HTTP, GRPC]),
    ),
    "a protocol that is left out is TCP": Case(
        [to_triton({"ports": [{"port": 53}]})], set()
    ),
    "policies add up": Case(
        [
            network_policy("inference", "deny", DENY),
            to_triton({"from": [{**LINE1, **APP_CAMERA}], "ports": [{"port": 8000}]}),
            network_policy(
                "inference",
                "more",
                {
                    "podSelector": {},
                    "policyTypes": ["Ingress"],
                    "ingress": [{"from": [LINE1], "ports": [{"port": 8001}]}],
                },
            ),
        ],
        edges([CAMERA], [HTTP]) | edges([CAMERA, ROGUE], [GRPC]),
    ),
    "without its egress half a way is closed": Case(
        [
            network_policy("line1", "deny", DENY),
            to_triton({"from": [{**LINE1, **APP_CAMERA}]}),
        ],
        set(),
    ),
    "with both halves it is open": Case(
        [
            network_policy("line1", "deny", DENY),
            from_camera(
                to=[
                    {
                        "namespaceSelector": {
                            "matchLabels": {"kubernetes.io/metadata.name": "inference"}
                        },
                        "podSelector": {"matchLabels": {"app": "triton"}},
                    }
                ],
                ports=[{"port": 8001}],
            ),
            to_triton({"from": [{**LINE1, **APP_CAMERA}]}),
        ],
        edges([CAMERA], [GRPC]),
    ),
    "matchExpressions select as well": Case(
        [
            to_triton(
                {
                    "from": [
                        {
                            "namespaceSelector": {},
                            "podSelector": {
                                "matchExpressions": [
                                    {"key": "tier", "operator": "Exists"},
                                    {
                                        "key": "app",
                                        "operator": "NotIn",
                                        "values": ["rogue"],
                                    },
                                ]
                            },
                        }
                    ]
                }
            )
        ],
        edges([CAMERA], PORTS),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_engines_agree_and_are_right(name: str) -> None:
    objects = [*PODS, *CASES[name].policies]

    ours = connectivity(objects, PORTS)

    assert netpol_analyzer_edges(objects, PORTS) == ours
    assert {edge for edge in ours if edge[1] == TRITON} == CASES[name].reach


def test_ranges_outside_of_the_cluster_are_ways_too() -> None:
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}
    policy = to_triton({"from": [block], "ports": [{"port": 8001}]})

    ways = netpol_analyzer_ways([*PODS, policy])

    onto_triton = {way for way in ways if way.destination == TRITON}
    assert onto_triton == {
        Way("192.0.2.0-192.0.2.127", TRITON, frozenset({("TCP", 8001, 8001)}))
    }


def test_engines_differ_on_whether_a_block_of_addresses_holds_pods() -> None:
    # So none may be meant for pods, and one that is wide may let them in.
    block = {"ipBlock": {"cidr": "0.0.0.0/0"}}
    objects = [*PODS, to_triton({"from": [block]})]

    def callers(found: set[Edge]) -> set[str]:
        return {source for source, destination, *_ in found if destination == TRITON}

    assert callers(connectivity(objects, PORTS)) == EVERYBODY
    assert callers(netpol_analyzer_edges(objects, PORTS)) == set()


def test_a_pod_without_its_namespace_is_refused() -> None:
    pods = [item for item in PODS if item["kind"] == "Pod"]
    with pytest.raises(AssertionError, match=r"Namespace is not among the objects"):
        connectivity(pods, PORTS)


def test_a_policy_that_cannot_be_read_is_no_empty_answer() -> None:
    broken = network_policy("inference", "broken", {"podSelector": {"app": ["triton"]}})
    with pytest.raises(AssertionError, match="unknown field"):
        connectivity([*PODS, broken], PORTS)
    broken["spec"] = {"podSelector": "triton"}
    with pytest.raises(AssertionError, match="NetworkPolicy"):
        netpol_analyzer_edges([*PODS, broken], PORTS)


# The example

PLANT = cluster(
    {
        "authz-system/authz-server-0": {"app.kubernetes.io/name": "authz-server"},
        "data/minio-0": {"app": "minio"},
        "inference/triton-0": {"app": "triton"},
        "line1/camera-0": {"app": "camera"},
        "line2/vision-0": {"tier": "vision"},
        "planning/forecaster-0": {"app": "forecaster"},
        "release/deployer-0": {"app": "deployer"},
        **{
            f"{namespace}/rogue": {"app": "rogue"}
            for namespace in (
                *("authz-system", "data", "default", "inference"),
                *("line1", "line2", "planning", "release"),
            )
        },
    }
)
PLANT_PORTS = [("TCP", 8000), ("TCP", 8001), ("TCP", 9000), ("TCP", 9191)]


def example() -> list[Object]:
    return read(MANIFESTS / "kubernetes" / "network-policies.yaml")


def test_the_example_lets_through_what_it_means_and_no_rogue() -> None:
    policies = example()
    objects = [*PLANT, *policies]

    found = connectivity(objects, PLANT_PORTS)

    callers = (
        *("line1/camera-0", "line2/vision-0"),
        *("planning/forecaster-0", "release/deployer-0"),
    )
    assert netpol_analyzer_edges(objects, PLANT_PORTS) == found
    managed = {item["metadata"]["namespace"] for item in policies}
    assert {edge for edge in found if edge[1].partition("/")[0] in managed} == {
        *(
            (caller, "inference/triton-0", "TCP", port)
            for caller in callers
            for port in (8000, 8001)
        ),
        ("planning/forecaster-0", "data/minio-0", "TCP", 9000),
        ("data/minio-0", "authz-system/authz-server-0", "TCP", 9191),
        ("inference/triton-0", "authz-system/authz-server-0", "TCP", 9191),
    }


@pytest.mark.parametrize("engine", [connectivity, netpol_analyzer_edges])
def test_an_or_in_place_of_an_and_is_seen_once_the_other_half_is_away(
    engine: Any,
) -> None:
    policies = example()
    mutant = copy.deepcopy(policies)
    (changed,) = (
        item
        for item in mutant
        if item["metadata"]["name"] == "triton-from-factory-floor"
    )
    for rule in changed["spec"]["ingress"]:
        rule["from"] = [
            {key: value} for peer in rule["from"] for key, value in peer.items()
        ]

    def half(items: list[Object]) -> list[Object]:
        return [item for item in items if item["metadata"]["namespace"] == "inference"]

    def found(items: list[Object]) -> set[Edge]:
        answer: set[Edge] = engine([*PLANT, *items], PLANT_PORTS)
        return answer

    assert found(mutant) == found(policies)
    assert found(half(mutant)) - found(half(policies)) == {
        (f"{namespace}/rogue", "inference/triton-0", "TCP", port)
        for namespace in ("line1", "line2")
        for port in (8000, 8001)
    }
