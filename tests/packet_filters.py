"""What NetworkPolicies and CiliumNetworkPolicies allow, each by its own documentation.

Two evaluators that share no line on purpose, for objects of the few fields that are
emitted: any other field is an error, so that none is passed over.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Objects = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class End:
    """Where a connection starts or ends.

    Attributes:
        namespace: of a pod; empty for something else.
        address: of something else, as NetworkPolicies see it.
        entities: of something else, as Cilium sees it.
    """

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    entities: frozenset[str] = frozenset()


def _only(what: Mapping[str, Any], *keys: str) -> None:
    assert what.keys() <= set(keys), f"unknown: {sorted(what.keys() - set(keys))}"


Flow = tuple[str, int]
"""Protocol and port."""

Edge = tuple[str, str, str, int]
"""Names of source and target, protocol and port."""


def _edges(
    ends: Sequence[End],
    flows: Sequence[Flow],
    leaves: Callable[[End, End, Flow], bool],
    enters: Callable[[End, End, Flow], bool],
) -> set[Edge]:
    return {
        (source.name, target.name, *flow)
        for source, target in product(ends, repeat=2)
        # Pods always reach themselves, and no packet filter stands between hosts.
        if source is not target and (source.namespace or target.namespace)
        for flow in flows
        if leaves(source, target, flow) and enters(target, source, flow)
    }


# Kubernetes documentation, "Network Policies".


def kubernetes_edges(
    policies: Objects, ends: Sequence[End], flows: Sequence[Flow]
) -> set[Edge]:
    """Return the connections that NetworkPolicies let through at both ends."""
    specs = {
        end.name: [
            item["spec"]
            for item in policies
            if item["metadata"]["namespace"] == end.namespace
            and _has(end.labels, item["spec"]["podSelector"])
        ]
        for end in ends
    }

    def lets(direction: str, key: str) -> Callable[[End, End, Flow], bool]:
        return lambda here, there, flow: _kubernetes_lets(
            specs[here.name], there, flow, direction, key
        )

    return _edges(ends, flows, lets("egress", "to"), lets("ingress", "from"))


def _kubernetes_lets(
    specs: Objects, there: End, flow: Flow, direction: str, key: str
) -> bool:
    isolating = [
        spec for spec in specs if direction.capitalize() in spec["policyTypes"]
    ]
    if not isolating:
        return True
    for spec in isolating:
        _only(spec, "podSelector", "policyTypes", "ingress", "egress")
        for rule in spec.get(direction, []):
            _only(rule, key, "ports")
            fits_port = "ports" not in rule or any(
                item == {"protocol": flow[0], "port": flow[1]} for item in rule["ports"]
            )
            if fits_port and any(_is_peer(there, peer) for peer in rule[key]):
                return True
    return False


def _is_peer(end: End, peer: Mapping[str, Any]) -> bool:
    _only(peer, "namespaceSelector", "podSelector", "ipBlock")
    if "ipBlock" in peer:
        _only(peer, "ipBlock")
        _only(peer["ipBlock"], "cidr")
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return bool(end.address) and ipaddress.ip_address(end.address) in network
    assert "namespaceSelector" in peer, "a pod selector alone means its own namespace"
    return (
        bool(end.namespace)
        and _has(
            {"kubernetes.io/metadata.name": end.namespace}, peer["namespaceSelector"]
        )
        and _has(end.labels, peer.get("podSelector", {}))
    )


def _has(labels: Mapping[str, str], selector: Mapping[str, Any]) -> bool:
    _only(selector, "matchLabels")
    return selector.get("matchLabels", {}).items() <= labels.items()


# Cilium documentation, "Layer 3 Examples" and "Policy Enforcement Modes".


def cilium_edges(
    policies: Objects, ends: Sequence[End], flows: Sequence[Flow]
) -> set[Edge]:
    """Return the connections that CiliumNetworkPolicies let through at both ends."""
    chosen: dict[str, list[tuple[str, Mapping[str, Any]]]] = {
        end.name: [
            (policy["metadata"]["namespace"], policy["spec"])
            for policy in policies
            # No CiliumNetworkPolicy selects a host.
            if end.namespace == policy["metadata"]["namespace"]
            and policy["spec"]["endpointSelector"].get("matchLabels", {}).items()
            <= _identity(end).items()
        ]
        for end in ends
    }

    def verdict(direction: str) -> Callable[[End, End, Flow], bool]:
        return lambda subject, other, flow: _cilium_verdict(
            chosen[subject.name], other, flow, direction
        )

    return _edges(ends, flows, verdict("egress"), verdict("ingress"))


def _cilium_verdict(
    chosen: Sequence[tuple[str, Mapping[str, Any]]],
    other: End,
    flow: Flow,
    direction: str,
) -> bool:
    denies_by_default = False
    for namespace, spec in chosen:
        _only(spec, "endpointSelector", "enableDefaultDeny", "ingress", "egress")
        scope = {"k8s:io.kubernetes.pod.namespace": namespace}
        # "true for each traffic direction that has rules, and false otherwise"
        rules = spec.get(direction, [])
        denies_by_default |= spec.get("enableDefaultDeny", {}).get(
            direction, bool(rules)
        )
        if any(_cilium_rule(rule, direction, other, flow, scope) for rule in rules):
            return True
    return not denies_by_default


def _cilium_rule(
    rule: Mapping[str, Any],
    direction: str,
    other: End,
    flow: Flow,
    scope: Mapping[str, str],
) -> bool:
    side = "from" if direction == "ingress" else "to"
    _only(rule, f"{side}Endpoints", f"{side}Entities", f"{side}CIDR", "toPorts")
    if not rule:
        return False
    if "toPorts" in rule:
        flows = {
            (item["protocol"], int(item["port"]))
            for ports in rule["toPorts"]
            for item in ports["ports"]
        }
        if flow not in flows:
            return False
    if f"{side}Endpoints" in rule:
        identity = _identity(other)
        return any(
            (scope | endpoint.get("matchLabels", {})).items() <= identity.items()
            for endpoint in rule[f"{side}Endpoints"]
        )
    if f"{side}Entities" in rule:
        return not other.entities.isdisjoint(rule[f"{side}Entities"])
    if f"{side}CIDR" in rule:
        # Only what Cilium does not know by another name.
        return other.entities == {"world"} and any(
            ipaddress.ip_address(other.address) in ipaddress.ip_network(cidr)
            for cidr in rule[f"{side}CIDR"]
        )
    return True


def _identity(end: End) -> dict[str, str]:
    if not end.namespace:
        return {f"reserved:{entity}": "" for entity in end.entities}
    labels = {f"k8s:{key}": value for key, value in end.labels.items()}
    return labels | {"k8s:io.kubernetes.pod.namespace": end.namespace}


# What Cilium's agent refuses, though the CRD's schema lets it pass.

_L3 = {
    "ingress": (
        *("fromEndpoints", "fromCIDR", "fromCIDRSet"),
        *("fromEntities", "fromNodes", "fromGroups"),
    ),
    "egress": (
        *("toEndpoints", "toCIDR", "toCIDRSet", "toEntities"),
        *("toServices", "toFQDNs", "toGroups", "toNodes"),
    ),
}
_ENTITIES = {
    *("all", "world", "cluster", "host", "init", "ingress", "unmanaged"),
    *("remote-node", "health", "none", "kube-apiserver", "world-ipv4", "world-ipv6"),
}
_MAX_PORTS = 40


def cilium_refusals(policy: Mapping[str, Any]) -> Iterable[str]:
    """Yield why Cilium would refuse a CiliumNetworkPolicy."""
    spec = policy["spec"]
    if "endpointSelector" not in spec:
        yield "no endpointSelector"
    for direction, members in _L3.items():
        for rule in spec.get(direction, []):
            present = [key for key in members if rule.get(key)]
            if len(present) > 1:
                yield f"{direction}: {' and '.join(present)} in one rule"
            if "toServices" in present and "toPorts" in rule:
                yield f"{direction}: toServices with toPorts"
            if "icmps" in rule and "toPorts" in rule:
                yield f"{direction}: icmps with toPorts"
            yield from _refused_peers(rule, "from" if direction == "ingress" else "to")
            for ports in rule.get("toPorts", []):
                yield from _refused_ports(direction, ports)


def _refused_peers(rule: Mapping[str, Any], side: str) -> Iterable[str]:
    for entity in rule.get(f"{side}Entities", []):
        if entity not in _ENTITIES:
            yield f"unknown entity {entity}"
    for cidr in rule.get(f"{side}CIDRSet", []):
        network = ipaddress.ip_network(cidr["cidr"])
        for hole in cidr.get("except", []):
            if ipaddress.ip_network(hole).network_address not in network:
                yield f"{hole} is outside of {network}"


def _refused_ports(direction: str, ports: Mapping[str, Any]) -> Iterable[str]:
    rules = ports.get("rules", {})
    if direction == "ingress" and "dns" in rules:
        yield "DNS rules on ingress"
    if len(ports["ports"]) > _MAX_PORTS:
        yield f"{len(ports['ports'])} ports in one rule"
    for item in ports["ports"]:
        port = item.get("port")
        if not isinstance(port, str) or not port.isdecimal() or int(port) > 0xFFFF:
            yield f"port {port!r} is no string of digits"
        if item.get("protocol", "ANY") not in {"TCP", "UDP", "SCTP", "ANY"}:
            yield f"protocol {item['protocol']}"
        if rules.keys() - {"dns"} and item.get("protocol") != "TCP":
            yield "L7 rules on what is not TCP"
