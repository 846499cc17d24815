"""CiliumNetworkPolicy as Cilium documents it (cilium.io/v2), layers 3 and 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz_server.verify.endpoints import METADATA_NAME, Endpoint, Place, Wanted
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.network_policies import MAX_PORT, read_block
from authz_server.verify.objects import ClusterObject
from authz_server.verify.packets import (
    PROTOCOLS,
    Direction,
    FilterPolicy,
    Peer,
    PortRange,
    Rule,
)
from authz_server.verify.selectors import Requirement, Selector, read_selector

NAMESPACE: Final = "io.kubernetes.pod.namespace"
_NAMESPACE_LABEL: Final = f"io.cilium.k8s.namespace.labels.{METADATA_NAME}"

_ENTITIES: Final = {
    "host": frozenset({Place.NODE, Place.RESOLVER}),
    "remote-node": frozenset({Place.NODE}),
    "kube-apiserver": frozenset({Place.API_SERVER}),
    "world": frozenset({Place.ELSEWHERE}),
    "cluster": frozenset({Place.POD, Place.NODE, Place.RESOLVER, Place.API_SERVER}),
    "all": frozenset(Place),
}
"""Which of our endpoints each entity has."""


class Reader:
    """Reads CiliumNetworkPolicies, and notes whom their selectors tell apart."""

    def __init__(self, declared: Sequence[str]) -> None:
        """Read for a cluster.

        Args:
            declared: CIDRs that the site names.
        """
        self._declared = declared
        self.wanted: list[Wanted] = []

    def read(self, item: ClusterObject) -> FilterPolicy:
        """Return what `item` says.

        Raises:
            UnreadableError: if it holds what nothing is known about.
        """
        if item.kind != "CiliumNetworkPolicy":
            raise UnreadableError("what holds for the whole cluster is not read")
        spec = Fields(item.spec, "spec")
        spec.only(
            *("endpointSelector", "enableDefaultDeny", "ingress", "egress"),
            "description",
        )
        namespace = item.namespace or "default"
        if not spec.has("endpointSelector"):
            raise UnreadableError("spec.endpointSelector is missing")
        chosen = _plain(read_selector(spec.child("endpointSelector")))
        self.wanted.append((namespace, chosen.witness()))
        denies = spec.child("enableDefaultDeny") or Fields({}, "spec")
        return FilterPolicy(
            item,
            namespace,
            lambda endpoint: chosen.matches(endpoint.labels),
            self._direction(spec, denies, "ingress", namespace),
            self._direction(spec, denies, "egress", namespace),
        )

    def _direction(
        self, spec: Fields, denies: Fields, name: str, namespace: str
    ) -> Direction:
        side = "from" if name == "ingress" else "to"
        rules = [
            Rule((peer,), ports)
            for fields in spec.children(name)
            for peer, ports in self._rule(fields, side, namespace)
        ]
        # Unlike NetworkPolicy's, an empty list says nothing, and an empty rule denies.
        isolates = denies.boolean(name, default=bool(spec.children(name)))
        return Direction(isolates, tuple(rules))

    def _rule(
        self, fields: Fields, side: str, namespace: str
    ) -> list[tuple[Peer, tuple[PortRange, ...] | None]]:
        names = [f"{side}{kind}" for kind in ("Endpoints", "Entities", "CIDR")]
        fields.only(*names, f"{side}CIDRSet", "toPorts")
        ports = [
            port for item in fields.children("toPorts") for port in _port_list(item)
        ]
        peers = [self._pods(item, namespace) for item in fields.children(names[0])]
        for entity in fields.texts(names[1]):
            if entity not in _ENTITIES:
                raise UnreadableError(f"the entity {entity!r} is not known")
            places = _ENTITIES[entity]
            peers.append(Peer(None, lambda item, places=places: item.place in places))  # type: ignore[misc]
        blocks = [
            *(Fields({"cidr": text}, side) for text in fields.texts(names[2])),
            *fields.children(f"{side}CIDRSet"),
        ]
        # Only what is no pod, node or API server has an address to Cilium.
        peers += [self._world(block) for block in blocks]
        if not peers and ports:
            peers = [Peer(None, lambda _: True)]
        return [(peer, tuple(ports) or None) for peer in peers]

    def _world(self, block: Fields) -> Peer:
        matches = read_block(block, self._declared)
        outside = {Place.ELSEWHERE, Place.PROBE}
        return Peer(None, lambda item: item.place in outside and matches(item))

    def _pods(self, fields: Fields, namespace: str) -> Peer:
        selector = _plain(read_selector(fields))
        labels = dict(selector.labels)
        name = labels.pop(NAMESPACE, None) or labels.pop(_NAMESPACE_LABEL, None)
        chosen = Selector(tuple(labels.items()), selector.requirements)
        # Without a namespace a rule means the object's own.
        requires = any(item.key == NAMESPACE for item in chosen.requirements)
        there = None if requires else name or namespace
        wanted = chosen.witness()
        self.wanted.append((wanted.pop(NAMESPACE, there or ""), wanted))

        def matches(item: Endpoint) -> bool:
            return item.place is Place.POD and chosen.matches(
                {**item.labels, NAMESPACE: item.namespace}
            )

        return Peer(there, matches)


def _plain(selector: Selector) -> Selector:
    """Return it without labels' sources."""
    return Selector(
        tuple((_key(key), value) for key, value in selector.labels),
        tuple(
            Requirement(_key(item.key), item.operator, item.values)
            for item in selector.requirements
        ),
    )


def _key(key: str) -> str:
    return key.removeprefix("k8s:").removeprefix("any:")


def _port_list(fields: Fields) -> list[PortRange]:
    fields.only("ports")
    found = []
    for item in fields.children("ports"):
        item.only("port", "protocol", "endPort")
        text, last = item.text("port"), item.number_or_text("endPort")
        protocol = item.text("protocol", "ANY")
        if not text.isdecimal() or isinstance(last, str):
            raise UnreadableError(f"port {text!r} is no number")
        if protocol not in (*PROTOCOLS, "ANY"):
            raise UnreadableError(f"protocol {protocol!r} is not known")
        first = int(text)
        end = last if last is not None else first or MAX_PORT
        found += [
            PortRange(name, first, end)
            for name in (PROTOCOLS if protocol == "ANY" else (protocol,))
        ]
    return found
