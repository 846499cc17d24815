"""What emitted NetworkPolicies let through is what the policy means, edge for edge.

By two engines that others wrote. Each half of them by itself as well, since a hole in
one is hidden while the other is shut.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from judges import Edge, connectivity
from network_engines import ENGINES, half, np_guard
from network_meaning import BOTH, meant, namespaces, ports_of_interest
from network_plants import (
    ROGUES,
    Plant,
    Spec,
    example,
    gives,
    selected,
)
from random_network_plants import make_plant

from authz_server.policy.matching import gives_not
from authz_server.policy.vocabulary import Vocabulary

pytestmark = [pytest.mark.go, pytest.mark.long]

PLANTS = 300


def plant_of(seed: int) -> Plant:
    return make_plant(random.Random(f"closure {seed}"))


@pytest.mark.parametrize("seed", range(PLANTS))
def test_random_policies_let_through_exactly_what_they_mean(seed: int) -> None:
    plant = plant_of(seed)
    policies = plant.emit()
    ports = ports_of_interest(plant, policies)
    pods = plant.cluster

    with ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(connectivity, [*pods, *policies], ports)
        found = np_guard([*pods, *policies], ports)
        halves = {
            direction: np_guard([*pods, *half(policies, direction)], ports)
            for direction in BOTH
        }

    assert found == waiting.result() == meant(plant, ports)
    assert halves == {direction: meant(plant, ports, [direction]) for direction in BOTH}
    assert_rogues_reach_nothing(plant, found)


@pytest.mark.parametrize("mesh", ["none", "sidecar", "ambient"])
def test_the_example_lets_through_exactly_what_it_means(mesh: str) -> None:
    plant = example(mesh=mesh)
    policies = plant.emit()
    ports = ports_of_interest(plant, policies)

    for engine in ENGINES.values():
        found = engine([*plant.cluster, *policies], ports)
        assert found == meant(plant, ports)
        assert_rogues_reach_nothing(plant, found)


def assert_rogues_reach_nothing(plant: Plant, found: set[Edge]) -> None:
    """Check rogues in every namespace but those of which a selector takes all pods."""
    policy, site = plant.policy, plant.site
    selectors = [
        *policy["upstreams"].values(),
        *(
            item
            for group in policy["groups"].values()
            for item in group.get("workloads", ())
        ),
        site.get("monitoring", {}),
    ]
    taken = {
        item["namespace"]
        for item in selectors
        if "namespace" in item and "podSelector" not in item
    }
    rogues = {
        pod
        for pod, labels in plant.pods.items()
        if labels in ROGUES and _namespace(pod) not in taken
    }
    assert {_namespace(pod) for pod in rogues} == {
        _namespace(pod) for pod in plant.pods
    } - taken
    shut = namespaces(policy, site)
    assert not [
        edge for edge in found if edge[0] in rogues and _namespace(edge[1]) in shut
    ]


def _namespace(pod: str) -> str:
    return pod.partition("/")[0]


@pytest.mark.parametrize("seed", range(0, PLANTS, 10))
def test_what_a_role_is_taken_to_give_is_what_the_decision_gives(seed: int) -> None:
    # Else expectation and emitter might be wrong alike.
    plant = plant_of(seed)
    policy, _ = plant.parsed()
    vocabulary = Vocabulary((policy,))

    for name, upstream in policy.upstreams.items():
        operations = vocabulary.operations(name)
        for role in policy.roles.values():
            written = plant.policy["roles"][role.name]
            assert gives(written, name, plant.policy["upstreams"][name]) == {
                operation.call.action.value
                for operation in operations
                for permission in role.permissions
                if not gives_not(permission, operation, upstream)
            }


def test_the_plants_have_everything_in_them() -> None:
    plants = [plant_of(seed) for seed in range(PLANTS)]

    counts = Counter(kind for plant in plants for kind in set(kinds(plant)))

    rare = {kind: counts[kind] for kind in KINDS if counts[kind] < 10}
    assert rare == {}, counts


KINDS = (
    *("mesh none", "mesh sidecar", "mesh ambient"),
    *("shape deployment", "shape daemonset", "shape sidecar"),
    *("SPIRE's server", "nothing of SPIRE", "monitoring inside", "no monitoring"),
    *("workload without labels", "workload on the host", "workload of two groups"),
    *("group in a group", "grant to users", "grant with a condition", "denial"),
    *("permission by upstream", "role for models and datasets", "metrics alone"),
    *("upstream outside", "upstreams in one namespace", "nobody reaches anything"),
)


def kinds(plant: Plant) -> Iterator[str]:
    """Yield what there is in a plant."""
    policy, site = plant.policy, plant.site
    yield f"mesh {site['mesh']}"
    yield f"shape {site['server']['shape']}"
    yield "SPIRE's server" if "spire" in site else "nothing of SPIRE"
    if "monitoring" not in site:
        yield "no monitoring"
    elif site["monitoring"]["namespace"] in namespaces(policy, site):
        yield "monitoring inside"
    yield from _kinds_of_groups(policy)
    homes = [item.get("namespace", "") for item in policy["upstreams"].values()]
    if "" in homes:
        yield "upstream outside"
    if len(set(homes)) < len(homes):
        yield "upstreams in one namespace"
    yield from _kinds_of_grants(policy)


def _kinds_of_groups(policy: Spec) -> Iterator[str]:
    selectors = []
    for group in policy["groups"].values():
        workloads = group.get("workloads", ())
        selectors += [selected(item) for item in workloads]
        if "groups" in group:
            yield "group in a group"
        if any("podSelector" not in item for item in workloads):
            yield "workload without labels"
        if any("hostNetwork" in item for item in workloads):
            yield "workload on the host"
    if any(selectors.count(item) > 1 for item in selectors):
        yield "workload of two groups"


def _kinds_of_grants(policy: Spec) -> Iterator[str]:
    if not policy["grants"]:
        yield "nobody reaches anything"
    if policy["denials"]:
        yield "denial"
    for grant in policy["grants"]:
        role = policy["roles"][grant["role"]]
        if "when" in grant:
            yield "grant with a condition"
        if "people" in grant["to"]:
            yield "grant to users"
        if any("upstreams" in item for item in role):
            yield "permission by upstream"
        if any("models" in item for item in role) and any(
            "datasets" in item for item in role
        ):
            yield "role for models and datasets"
        for name in grant["on"]:
            if gives(role, name, policy["upstreams"][name]) == {"metrics"}:
                yield "metrics alone"
