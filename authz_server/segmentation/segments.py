"""Every kind of caller, what each layer lets it reach, and what it could touch.

Callers are the kinds that the policy tells apart, each with a witness; so what is shown
holds for every workload there can be, a stranger among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from authz_server.emit.callers import callers as istio_callers
from authz_server.emit.reach import reaches, upstream_ports
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.operation import Operation
from authz_server.policy.model import AccessPolicy, Upstream
from authz_server.policy.standing import Allowances, Standings
from authz_server.policy.vocabulary import Asker, Vocabulary
from authz_server.site.model import Mesh, Site

STRANGER: Final = "anyone else"


@dataclass(frozen=True, slots=True)
class Segment:
    """What one kind of caller reaches of one upstream.

    Attributes:
        allowed, possible: how many kinds of operation the server allows it at some
            time without a user, and how many there are.
        for_users: how many more it gets on behalf of some user.
        words: what is allowed, an action a line.
        ports: that the packet filter opens for its pods; None where there is none,
            outside Kubernetes.
        is_listed: whether Istio's ALLOW lists it; None where there is no ALLOW.
    """

    upstream: str
    allowed: int
    possible: int
    for_users: int
    words: tuple[str, ...]
    ports: tuple[int, ...] | None
    is_listed: bool | None

    @property
    def is_open(self) -> bool:
        """Whether it may do anything there."""
        return bool(self.allowed or self.for_users)


@dataclass(frozen=True, slots=True)
class Caller:
    """A kind of caller.

    Attributes:
        name: its groups, or `STRANGER`.
        witness: one of its SPIFFE IDs.
        segments: by upstream, in the policy's order.
    """

    name: str
    witness: SpiffeId
    segments: tuple[Segment, ...]

    @property
    def allowed(self) -> int:
        """How many kinds of operation it may do in all, for some user or none."""
        return sum(item.allowed + item.for_users for item in self.segments)

    @property
    def possible(self) -> int:
        """How many kinds of operation there are in all."""
        return sum(item.possible for item in self.segments)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A plant's segments.

    Attributes:
        upstreams: in the policy's order, with the ports of each.
    """

    policy: str
    upstreams: tuple[tuple[Upstream, tuple[int, ...]], ...]
    callers: tuple[Caller, ...]


def segmentation(policy: AccessPolicy, site: Site) -> Segmentation:
    """Return the segments that `policy` makes of the plant.

    Raises:
        VocabularyError: if the policy tells too many kinds of caller apart.
    """
    vocabulary = Vocabulary((policy,))
    standings = Standings(policy)
    allowances = Allowances(standings, vocabulary)
    operations = {name: vocabulary.operations(name) for name in policy.upstreams}
    networks = {
        name: _Layers(policy, upstream, site)
        for name, upstream in policy.upstreams.items()
    }
    alone: dict[SpiffeId, dict[str, dict[Operation, None]]] = {}
    for_users: dict[SpiffeId, dict[str, dict[Operation, None]]] = {}
    for asker in vocabulary.askers():
        found = for_users if asker.claims else alone
        of_asker = found.setdefault(asker.spiffe_id, {})
        for name, operations_of in allowances.of(asker).items():
            of_asker.setdefault(name, {}).update(dict.fromkeys(operations_of))
    callers: dict[tuple[object, ...], Caller] = {}
    for witness, by_upstream in alone.items():
        groups = standings.groups(Asker(witness))
        segments = []
        for name in policy.upstreams:
            allowed = by_upstream[name]
            more = for_users.get(witness, {}).get(name, {}).keys() - allowed.keys()
            layers = networks[name]
            segments.append(
                Segment(
                    upstream=name,
                    allowed=len(allowed),
                    possible=len(operations[name]),
                    for_users=len(more),
                    words=tuple(vocabulary.describe([*allowed, *more])),
                    ports=layers.ports(groups),
                    is_listed=layers.is_listed(groups),
                )
            )
        caller = Caller(", ".join(sorted(groups)) or STRANGER, witness, tuple(segments))
        # Kinds that differ in nothing shown here are one.
        callers.setdefault((caller.name, caller.segments), caller)
    return Segmentation(
        policy.name,
        tuple(
            (upstream, upstream_ports(upstream, site))
            for upstream in policy.upstreams.values()
        ),
        tuple(sorted(callers.values(), key=_order)),
    )


def _order(caller: Caller) -> tuple[bool, str, str]:
    return (caller.name == STRANGER, caller.name, str(caller.witness))


class _Layers:
    """What stands before the server, for one upstream."""

    def __init__(self, policy: AccessPolicy, upstream: Upstream, site: Site) -> None:
        self._ports: dict[str, tuple[int, ...]] | None = None
        self._listed: frozenset[str] | None = None
        if not upstream.namespace:
            return
        self._ports = {
            reach.group.name: reach.ports
            for reach in reaches(policy, upstream, site)
            if reach.group.workloads
        }
        if site.mesh is not Mesh.NONE:
            found = istio_callers(policy, upstream, site)
            if not found.obstacles:
                self._listed = frozenset(rule.group for rule in found.rules)

    def ports(self, groups: frozenset[str]) -> tuple[int, ...] | None:
        known = self._ports
        if known is None:
            return None
        return tuple(sorted({port for name in groups for port in known.get(name, ())}))

    def is_listed(self, groups: frozenset[str]) -> bool | None:
        return None if self._listed is None else not groups.isdisjoint(self._listed)
