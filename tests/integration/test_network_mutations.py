"""Mistakes in emitted NetworkPolicies are told by what they let through.

One test for each way in which a NetworkPolicy is easily wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from judges import Edge, Object, Port
from network_engines import ENGINES, half, peer_lists, rules
from network_meaning import BOTH, meant, namespaces, ports_of_interest
from network_plants import Plant, example

pytestmark = [pytest.mark.go, pytest.mark.long]

Spec: TypeAlias = dict[str, Any]
Mend: TypeAlias = Callable[[Spec], object]
Change: TypeAlias = Callable[[list[Object]], list[Object]]

DENY, DNS = "default-deny", "allow-dns"
CALLERS, SCRAPING = "triton-from-factory-floor", "triton-from-monitoring"
LEAVING = "factory-floor-to-triton"
EITHER = frozenset(ENGINES)


@dataclass(frozen=True)
class Mutation:
    """A mistake in what is emitted for the example.

    Attributes:
        part: where it shows: in the whole, in one half of it, or in default-deny alone.
            Elsewhere than in the whole, something else keeps shut what it opens.
        seen_by: the engines that see it there.
    """

    change: Change
    part: str = "whole"
    mesh: str = "sidecar"
    seen_by: frozenset[str] = EITHER


def changed(name: str, mend: Mend) -> Change:
    """Make a mistake in each policy `name`, in whatever namespace."""

    def change(policies: list[Object]) -> list[Object]:
        found = [item for item in policies if item["metadata"]["name"] == name]
        assert found, name
        for item in found:
            mend(item["spec"])
        return policies

    return change


def without(namespace: str, name: str) -> Change:
    def change(policies: list[Object]) -> list[Object]:
        left = [item for item in policies if _place(item) != (namespace, name)]
        assert len(left) == len(policies) - 1, name
        return left

    return change


def _place(item: Object) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def each_peer(mend: Mend) -> Mend:
    def change(spec: Spec) -> None:
        for peers in peer_lists(spec):
            for peer in peers:
                mend(peer)

    return change


def each_rule(mend: Mend) -> Mend:
    def change(spec: Spec) -> None:
        for rule in rules(spec):
            mend(rule)

    return change


def or_for_and(spec: Spec) -> None:
    for peers in peer_lists(spec):
        peers[:] = [{key: value} for peer in peers for key, value in peer.items()]


def no_peer(spec: Spec) -> None:
    for peers in peer_lists(spec):
        peers.clear()


def peers_left_out(rule: Spec) -> None:
    rule.pop("from", None)
    rule.pop("to", None)


def anything(rule: Spec) -> None:
    rule.clear()


def ports_left_out(rule: Spec) -> None:
    del rule["ports"]


def service_port(rule: Spec) -> None:
    rule["ports"] = [{"protocol": "TCP", "port": 80}]


def range_of_ports(rule: Spec) -> None:
    rule["ports"][0]["endPort"] = 32767


def wrong_label(peer: Spec) -> None:
    peer["podSelector"]["matchLabels"]["app"] = "misspelt"


def labels_left_out(peer: Spec) -> None:
    del peer["podSelector"]


def namespace_left_out(peer: Spec) -> None:
    del peer["namespaceSelector"]


def any_namespace(peer: Spec) -> None:
    peer["namespaceSelector"] = {}


def all_addresses(spec: Spec) -> None:
    for peers in peer_lists(spec):
        peers.append({"ipBlock": {"cidr": "0.0.0.0/0"}})


def tunnel_for_anyone(spec: Spec) -> None:
    spec["ingress"].append({"ports": [{"protocol": "TCP", "port": 15008}]})


def types_left_out(spec: Spec) -> None:
    del spec["policyTypes"]


def guards_egress_alone(policies: list[Object]) -> list[Object]:
    """Return `policies` without default-deny, and others of it that lean on it."""
    for item in policies:
        if item["metadata"]["name"] in {DNS, "allow-istiod"}:
            item["spec"]["policyTypes"] = ["Egress"]
    return [item for item in policies if item["metadata"]["name"] != DENY]


WIDER: dict[str, Mend] = {
    "two peers in place of one": or_for_and,
    "a range of ports": each_rule(range_of_ports),
    "no ports": each_rule(ports_left_out),
    "no labels": each_peer(labels_left_out),
}
"""For callers, each is hidden as long as the other end is guarded."""

MUTATIONS: dict[str, Mutation] = {
    **{
        f"{what}, {where}": Mutation(changed(name, mend), part)
        for what, mend in WIDER.items()
        for where, name, part in (
            ("callers", CALLERS, "ingress"),
            ("callers on their way out", LEAVING, "egress"),
            # Whose own namespace is not guarded.
            ("monitoring", SCRAPING, "whole"),
        )
    },
    **{
        f"{what}, {name}": Mutation(changed(name, mend))
        for what, mend in (
            ("an empty list of peers", no_peer),
            ("peers left out", each_rule(peers_left_out)),
            ("an empty rule", each_rule(anything)),
            ("a Service's port", each_rule(service_port)),
            ("a wrong label", each_peer(wrong_label)),
            ("no namespace", each_peer(namespace_left_out)),
            ("any namespace", each_peer(any_namespace)),
        )
        for name in (CALLERS, SCRAPING, LEAVING)
    },
    # The SIG's engine takes pods for addresses, as some network plugins do.
    **{
        f"all addresses, {name}": Mutation(
            changed(name, all_addresses), seen_by=frozenset({"sig"})
        )
        for name in (CALLERS, SCRAPING, LEAVING)
    },
    "no way out": Mutation(without("line1", LEAVING)),
    "no way in": Mutation(without("inference", CALLERS)),
    "a tunnel for anyone": Mutation(
        changed(CALLERS, tunnel_for_anyone), mesh="ambient"
    ),
    # allow-dns chooses all pods too, and guards both ends.
    **{
        f"no default-deny in {namespace}": Mutation(without(namespace, DENY), DENY)
        for namespace in ("authz-system", "inference", "line1", "release")
    },
    "default-deny without its types": Mutation(changed(DENY, types_left_out), DENY),
    "no default-deny, and egress alone guarded": Mutation(guards_egress_alone),
}


def part_of(policies: list[Object], part: str) -> list[Object]:
    if part in BOTH:
        return half(policies, part)
    if part == DENY:
        return [item for item in policies if item["metadata"]["name"] == DENY]
    return policies


def meant_by(plant: Plant, part: str, ports: list[Port]) -> set[Edge]:
    if part in BOTH:
        return meant(plant, ports, [part])
    if part == DENY:
        shut = namespaces(plant.policy, plant.site)
        pods = [pod for pod in plant.pods if pod.partition("/")[0] not in shut]
        return {
            (source, target, *port)
            for source in pods
            for target in pods
            if source != target
            for port in ports
        }
    return meant(plant, ports)


def seen(
    plant: Plant, policies: Iterable[Object], ports: list[Port], expected: set[Edge]
) -> set[str]:
    """Return the engines to which `policies` let through something else."""
    objects = [*plant.cluster, *policies]
    return {
        name for name, engine in ENGINES.items() if engine(objects, ports) != expected
    }


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_lets_through_something_else(name: str) -> None:
    mutation = MUTATIONS[name]
    plant = example(mesh=mutation.mesh)
    policies = mutation.change(plant.emit())
    ports = ports_of_interest(plant, plant.emit())

    expected = meant_by(plant, mutation.part, ports)

    part = part_of(policies, mutation.part)
    assert seen(plant, part, ports, expected) == mutation.seen_by
    if mutation.part != "whole":
        assert seen(plant, policies, ports, meant(plant, ports)) == set()


@pytest.mark.parametrize("part", ["whole", *BOTH, DENY])
@pytest.mark.parametrize("mesh", ["sidecar", "ambient"])
def test_without_a_mistake_every_part_lets_through_what_it_means(
    mesh: str, part: str
) -> None:
    plant = example(mesh=mesh)
    policies = plant.emit()
    ports = ports_of_interest(plant, policies)

    expected = meant_by(plant, part, ports)

    assert seen(plant, part_of(policies, part), ports, expected) == set()
