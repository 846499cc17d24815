"""The engines for NetworkPolicies under one form, and parts of a set of policies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from judges import Edge, Object, Port, connectivity, netpol_analyzer_edges

Engine: TypeAlias = Callable[[Iterable[Object], Iterable[Port]], set[Edge]]


def np_guard(objects: Iterable[Object], ports: Iterable[Port]) -> set[Edge]:
    # It takes fd00::/8 for 253.0.0.0/8. No pod here has an address of either.
    return netpol_analyzer_edges(map(_without_ipv6, objects), ports)


ENGINES: Mapping[str, Engine] = {"sig": connectivity, "np-guard": np_guard}


def rules(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("ingress", ()), *spec.get("egress", ())]


def peer_lists(spec: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    for rule in rules(spec):
        yield from (rule[key] for key in ("from", "to") if key in rule)


def half(policies: Iterable[Object], direction: str) -> list[Object]:
    """Return what is left of `policies` with the other end of connections unguarded."""
    result = []
    for item in policies:
        spec = item["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        kept = {"podSelector": spec["podSelector"]}
        kept["policyTypes"] = [direction.capitalize()]
        if direction in spec:
            kept[direction] = spec[direction]
        result.append({**item, "spec": kept})
    return result


def _without_ipv6(item: Object) -> Object:
    if item["kind"] != "NetworkPolicy":
        return item
    changed = copy.deepcopy(item)
    for peers in peer_lists(changed["spec"]):
        left = [
            peer for peer in peers if ":" not in peer.get("ipBlock", {}).get("cidr", "")
        ]
        assert left or not peers, "without a peer it would be open to everyone"
        peers[:] = left
    return changed
