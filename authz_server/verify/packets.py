"""What a set of packet filter rules lets through, whatever kind of object they are of.

Rules add up and none denies: a connection is open if some rule of the sender's lets it
out and some rule of the receiver's lets it in, where these have any (Kubernetes'
NetworkPolicy and Cilium's are alike in this).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from authz_server.verify.endpoints import Endpoint, Place
from authz_server.verify.objects import ClusterObject

PROTOCOLS: Final = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports of one protocol, both ends included."""

    protocol: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Peer:
    """Endpoints that a rule names.

    Attributes:
        namespace: the only one that they can be in; None if that is not known.
        matches: tells them.
    """

    namespace: str | None
    matches: Callable[[Endpoint], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """Lets `peers` through on `ports`; None for all of either."""

    peers: tuple[Peer, ...] | None
    ports: tuple[PortRange, ...] | None


@dataclass(frozen=True, slots=True)
class Direction:
    """What an object says of one direction.

    Attributes:
        isolates: whether what no rule lets through is shut.
    """

    isolates: bool
    rules: tuple[Rule, ...]


NOTHING: Final = Direction(isolates=False, rules=())


@dataclass(frozen=True, slots=True)
class FilterPolicy:
    """One object.

    Attributes:
        namespace: of the pods that it selects.
        selects: tells them, of that namespace.
    """

    origin: ClusterObject
    namespace: str
    selects: Callable[[Endpoint], bool]
    ingress: Direction
    egress: Direction


class PortSpace:
    """Ports that rules can tell apart, each as a bit of a number."""

    def __init__(self, ranges: Iterable[PortRange], numbers: Iterable[int]) -> None:
        """Find one of each kind.

        Args:
            numbers: further ports that are to be kinds of their own.
        """
        known = {1, *numbers}
        for item in ranges:
            known |= {item.first - 1, item.first, item.last, item.last + 1}
        self._ports = [
            (protocol, number)
            for protocol in PROTOCOLS
            for number in sorted(known)
            if 1 <= number <= 65535  # noqa: PLR2004 - all there are
        ]
        self.all = (1 << len(self._ports)) - 1
        self._masks: dict[tuple[PortRange, ...], int] = {}

    def mask(self, ranges: tuple[PortRange, ...] | None) -> int:
        """Return the bits of these ports; None for all."""
        if ranges is None:
            return self.all
        if ranges not in self._masks:
            self._masks[ranges] = sum(
                1 << bit
                for bit, (protocol, number) in enumerate(self._ports)
                if any(
                    item.protocol == protocol and item.first <= number <= item.last
                    for item in ranges
                )
            )
        return self._masks[ranges]

    def ports(self, protocol: str, numbers: Iterable[int]) -> int:
        """Return the bits of single ports."""
        return self.mask(tuple(PortRange(protocol, n, n) for n in sorted(numbers)))

    def describe(self, mask: int) -> str:
        """Return ports in a few words."""
        if mask == self.all:
            return "every port"
        words = []
        for protocol in PROTOCOLS:
            every = [n for p, n in self._ports if p == protocol]
            found = [
                number
                for bit, (name, number) in enumerate(self._ports)
                if name == protocol and mask >> bit & 1
            ]
            if found == every:
                words.append(f"every {protocol} port")
            elif found:
                # One of a kind stands for many that nobody has named.
                words.append(f"{protocol} {', '.join(map(str, found))}")
        return "; ".join(words)


Edges = dict[tuple[int, int], int]
"""Open ports by the positions of sender and receiver."""


class PacketFilter:
    """All objects together."""

    def __init__(
        self,
        policies: Sequence[FilterPolicy],
        endpoints: Sequence[Endpoint],
        space: PortSpace,
    ) -> None:
        self._endpoints = endpoints
        self._space = space
        self._by_namespace: dict[str, list[int]] = {}
        for index, item in enumerate(endpoints):
            self._by_namespace.setdefault(item.namespace, []).append(index)
        self._policies: list[list[FilterPolicy]] = [[] for _ in endpoints]
        for policy in policies:
            for index in self._by_namespace.get(policy.namespace, ()):
                chosen = endpoints[index]
                if chosen.place is Place.POD and policy.selects(chosen):
                    self._policies[index].append(policy)

    def edges(self) -> Edges:
        """Return every connection that is open from or to a managed pod."""
        pods = range(len(self._endpoints))
        shut_in = [self._is_isolated(index, is_ingress=True) for index in pods]
        shut_out = [self._is_isolated(index, is_ingress=False) for index in pods]
        # Only pairs that some rule of a shut end names can be open.
        pairs = {
            (source, target)
            for target in pods
            if shut_in[target]
            for source in self._named(target, is_ingress=True)
        }
        pairs |= {
            (source, target)
            for source in pods
            if shut_out[source]
            for target in self._named(source, is_ingress=False)
        }
        pairs |= set(
            product(
                [index for index in pods if not shut_out[index]],
                [index for index in pods if not shut_in[index]],
            )
        )
        return {
            (source, target): mask
            for source, target in sorted(pairs)
            if source != target
            and (
                self._endpoints[source].is_managed or self._endpoints[target].is_managed
            )
            and (mask := self._open(source, target))
        }

    def openers(self, source: int, target: int, mask: int) -> str:
        """Return which objects open some of `mask`, for people."""
        return " and ".join(
            self._opener(index, other, mask, is_ingress=is_ingress)
            for index, other, is_ingress in (
                (source, target, False),
                (target, source, True),
            )
            if self._endpoints[index].place is Place.POD
        )

    def closers(self, source: int, target: int, mask: int) -> str:
        """Return at which end some of `mask` is shut, for people."""
        ends = []
        for index, other, is_ingress in (
            (source, target, False),
            (target, source, True),
        ):
            if mask & ~self._side(index, other, is_ingress=is_ingress):
                side = "ingress" if is_ingress else "egress"
                isolating = [
                    str(item.origin)
                    for item in self._policies[index]
                    if _direction(item, is_ingress=is_ingress).isolates
                ]
                more = len(isolating) - 1
                ends.append(
                    f"no {side} rule of {self._endpoints[index].name} opens it, which "
                    f"{isolating[0]}{f' and {more} more' if more else ''} isolate"
                    + ("" if more else "s")
                )
        return " and ".join(ends)

    def _opener(self, index: int, other: int, mask: int, *, is_ingress: bool) -> str:
        side = "ingress" if is_ingress else "egress"
        if not self._is_isolated(index, is_ingress=is_ingress):
            # Without its name, so that many are said at once.
            return f"nothing isolates the {'receiver' if is_ingress else 'sender'}"
        found = [
            str(policy.origin)
            for policy in self._policies[index]
            for rule in _direction(policy, is_ingress=is_ingress).rules
            if self._space.mask(rule.ports) & mask and self._has(rule, other)
        ]
        return f"{side} by {', '.join(dict.fromkeys(found))}"

    def _open(self, source: int, target: int) -> int:
        return self._side(source, target, is_ingress=False) & self._side(
            target, source, is_ingress=True
        )

    def _side(self, index: int, other: int, *, is_ingress: bool) -> int:
        """Return what one end lets through."""
        if not self._is_isolated(index, is_ingress=is_ingress):
            return self._space.all
        mask = 0
        for policy in self._policies[index]:
            for rule in _direction(policy, is_ingress=is_ingress).rules:
                if self._has(rule, other):
                    mask |= self._space.mask(rule.ports)
        return mask

    def _is_isolated(self, index: int, *, is_ingress: bool) -> bool:
        return any(
            _direction(policy, is_ingress=is_ingress).isolates
            for policy in self._policies[index]
        )

    def _has(self, rule: Rule, other: int) -> bool:
        endpoint = self._endpoints[other]
        return rule.peers is None or any(
            peer.namespace in (None, endpoint.namespace) and peer.matches(endpoint)
            for peer in rule.peers
        )

    def _named(self, index: int, *, is_ingress: bool) -> Iterator[int]:
        for policy in self._policies[index]:
            for rule in _direction(policy, is_ingress=is_ingress).rules:
                if rule.peers is None:
                    yield from range(len(self._endpoints))
                    continue
                for peer in rule.peers:
                    near = (
                        range(len(self._endpoints))
                        if peer.namespace is None
                        else self._by_namespace.get(peer.namespace, ())
                    )
                    yield from (
                        other for other in near if peer.matches(self._endpoints[other])
                    )


def _direction(policy: FilterPolicy, *, is_ingress: bool) -> Direction:
    return policy.ingress if is_ingress else policy.egress
