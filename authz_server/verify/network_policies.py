"""NetworkPolicy as Kubernetes documents it (networking.k8s.io/v1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from authz_server.verify.endpoints import METADATA_NAME, Endpoint, Place, Wanted
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import ClusterObject
from authz_server.verify.packets import (
    NOTHING,
    PROTOCOLS,
    Direction,
    FilterPolicy,
    Peer,
    PortRange,
    Rule,
)
from authz_server.verify.selectors import Selector, read_selector

MAX_PORT: Final = 65535

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NamespaceLabels = Mapping[str, Mapping[str, str]]
"""The labels of namespaces, as far as they are known beside their names."""


class Reader:
    """Reads NetworkPolicies, and notes whom their selectors tell apart."""

    def __init__(self, namespaces: NamespaceLabels, declared: Sequence[str]) -> None:
        """Read for a cluster.

        Args:
            declared: CIDRs that the site names.
        """
        # Shared by all that is read: also by what was read before one is added.
        self._namespaces = dict(namespaces)
        self._declared = declared
        self.wanted: list[Wanted] = []

    def read(self, item: ClusterObject) -> FilterPolicy:
        """Return what `item` says.

        Raises:
            UnreadableError: if it holds what nothing is known about.
        """
        spec = Fields(item.spec, "spec")
        spec.only("podSelector", "policyTypes", "ingress", "egress")
        chosen = read_selector(spec.child("podSelector"))
        types = spec.texts("policyTypes")
        for name in types:
            if name not in {"Ingress", "Egress"}:
                raise UnreadableError(f"spec.policyTypes has {name!r}")
        # Left out, it is Ingress, and Egress if there are egress rules.
        has_ingress = "Ingress" in types or not types
        has_egress = "Egress" in types or (not types and bool(spec.children("egress")))
        namespace = item.namespace or "default"
        self.wanted.append((namespace, chosen.witness()))
        return FilterPolicy(
            item,
            namespace,
            lambda endpoint: chosen.matches(endpoint.labels),
            self._direction(spec, "ingress", namespace) if has_ingress else NOTHING,
            self._direction(spec, "egress", namespace) if has_egress else NOTHING,
        )

    def _direction(self, spec: Fields, name: str, namespace: str) -> Direction:
        side = "from" if name == "ingress" else "to"
        rules = []
        for rule in spec.children(name):
            rule.only(side, "ports")
            # An empty list means anybody, as a missing one does.
            peers = [self._peer(peer, namespace) for peer in rule.children(side)]
            ports = [port for item in rule.children("ports") for port in _ports(item)]
            rules.append(Rule(tuple(peers) or None, tuple(ports) or None))
        return Direction(isolates=True, rules=tuple(rules))

    def _peer(self, fields: Fields, namespace: str) -> Peer:
        fields.only("podSelector", "namespaceSelector", "ipBlock")
        block = fields.child("ipBlock")
        pods, spaces = fields.child("podSelector"), fields.child("namespaceSelector")
        if block is not None:
            if pods is not None or spaces is not None:
                raise UnreadableError("ipBlock beside a selector is refused")
            return Peer(None, read_block(block, self._declared))
        if pods is None and spaces is None:
            raise UnreadableError("a peer without a selector is refused")
        chosen = read_selector(pods)
        if spaces is None:
            self.wanted.append((namespace, chosen.witness()))
            return Peer(namespace, _pods(chosen))
        there = read_selector(spaces)
        return self._elsewhere(chosen, there)

    def _elsewhere(self, chosen: Selector, there: Selector) -> Peer:
        wanted = there.witness()
        name = wanted.get(METADATA_NAME, "")
        if name or not wanted:
            self.wanted.append((name, chosen.witness()))
        else:
            # A namespace with such labels, which nobody has named.
            words = "-".join(f"{key}-{value}" for key, value in sorted(wanted.items()))
            invented = "labelled-" + re.sub(r"[^a-z0-9]+", "-", words.lower())
            self.wanted.append((invented, chosen.witness()))
            self._namespaces[invented] = wanted
        is_exact = not there.requirements and set(wanted) == {METADATA_NAME}
        known = self._namespaces

        def matches(endpoint: Endpoint) -> bool:
            labels = {
                **known.get(endpoint.namespace, {}),
                METADATA_NAME: endpoint.namespace,
            }
            return (
                endpoint.place is Place.POD
                and there.matches(labels)
                and chosen.matches(endpoint.labels)
            )

        return Peer(name if is_exact else None, matches)


def _pods(chosen: Selector) -> Callable[[Endpoint], bool]:
    return lambda endpoint: (
        endpoint.place is Place.POD and chosen.matches(endpoint.labels)
    )


def read_block(fields: Fields, declared: Sequence[str]) -> Callable[[Endpoint], bool]:
    """Return what tells who has an address in a block (``cidr``, ``except``).

    Args:
        declared: CIDRs that the site names, each of which is somebody's.

    Raises:
        UnreadableError: if it is no block.
    """
    fields.only("cidr", "except")
    block = _network(fields.text("cidr"))
    holes = [_network(text) for text in fields.texts("except")]
    around = [item for item in map(_network, declared) if _within(block, item)]
    narrowest = max((item.prefixlen for item in around), default=0)

    def matches(endpoint: Endpoint) -> bool:
        # What a block does to pods Kubernetes leaves open: their addresses change.
        if endpoint.place is Place.POD:
            return False
        if endpoint.place is Place.ELSEWHERE:
            return not around
        # A block within several networks is about the narrowest of them.
        return any(
            (_within(network, block) and not any(_within(network, h) for h in holes))
            or (_within(block, network) and network.prefixlen == narrowest)
            for network in map(_network, endpoint.networks)
        )

    return matches


def within(inner: str, outer: str) -> bool:
    """Return whether all addresses of one CIDR are in the other one."""
    return _within(_network(inner), _network(outer))


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UnreadableError(f"{text!r} is no CIDR") from error


def _ports(fields: Fields) -> Iterator[PortRange]:
    fields.only("protocol", "port", "endPort")
    protocol = fields.text("protocol", "TCP")
    port, last = fields.number_or_text("port"), fields.number_or_text("endPort")
    if protocol not in PROTOCOLS:
        raise UnreadableError(f"protocol {protocol!r} is not known")
    if port is None and last is None:
        yield PortRange(protocol, 1, MAX_PORT)
        return
    if not isinstance(port, int) or isinstance(last, str):
        raise UnreadableError(
            f"port {port!r}: what a name means depends on each pod; write the number"
        )
    yield PortRange(protocol, port, port if last is None else last)
