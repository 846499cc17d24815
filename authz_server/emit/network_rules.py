"""What NetworkPolicies are made of.

An empty peer list, a missing one and an empty peer all mean "anyone" to Kubernetes, so
none of them can be written here. Ports are the pods' own and numeric, since named ones
and Service ports mean different things to different network plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from authz_server.emit.manifest import Object, metadata
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Pods

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Set by the API server, so a namespace can't claim another one's name."""

Peer = dict[str, Any]
Rule = dict[str, Any]


def pods(chosen: Pods) -> Peer:
    """Return the peer that is these pods."""
    # One entry with both selectors means AND; two entries would mean OR.
    return {
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: chosen.namespace}},
        **({"podSelector": selector(chosen.labels)} if chosen.labels else {}),
    }


def addresses(cidrs: Iterable[str]) -> list[Peer]:
    """Return the peers that are these networks, outside of what pods have."""
    return [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]


def incoming(peers: Sequence[Peer], ports: Sequence[int]) -> Rule:
    """Return the ingress rule that lets `peers` in on TCP `ports`."""
    return _rule("from", peers, [_port("TCP", port) for port in ports])


def outgoing(
    peers: Sequence[Peer], ports: Sequence[int], protocols: Sequence[str] = ("TCP",)
) -> Rule:
    """Return the egress rule that lets pods out to `ports` of `peers`."""
    return _rule(
        "to", peers, [_port(name, port) for name in protocols for port in ports]
    )


def incoming_on_any_port(peers: Sequence[Peer]) -> Rule:
    """Return the ingress rule that lets `peers` in on every port."""
    assert peers, "a rule without a peer lets everyone in"  # noqa: S101
    return {"from": list(peers)}


def selector(labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the selector of pods with `labels`; without any, of all pods."""
    return {"matchLabels": dict(sorted(labels.items()))} if labels else {}


def network_policy(
    policy: AccessPolicy,
    name: str,
    chosen: Pods,
    ingress: Sequence[Rule] = (),
    egress: Sequence[Rule] = (),
) -> Object:
    """Return the NetworkPolicy that lets `chosen` do this and no more."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(policy, name, chosen.namespace),
        "spec": {
            "podSelector": selector(chosen.labels),
            # Written out always: left to its default, it changes with the rules.
            "policyTypes": ["Ingress", "Egress"],
            # An empty list is no rule either, but differs from what is read back.
            **({"ingress": list(ingress)} if ingress else {}),
            **({"egress": list(egress)} if egress else {}),
        },
    }


def _rule(direction: str, peers: Sequence[Peer], ports: list[dict[str, Any]]) -> Rule:
    assert peers, "a rule without a peer lets everyone in"  # noqa: S101
    assert ports, "a rule without a port opens them all"  # noqa: S101
    # By their text, as there may be thousands: equal ones are written alike.
    unique = {repr(peer): peer for peer in peers}
    return {direction: list(unique.values()), "ports": ports}


def _port(protocol: str, port: int) -> dict[str, Any]:
    return {"protocol": protocol, "port": port}
