"""Holds what packets get through against what a plant needs (`network_needs`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from authz_server.policy.model import Upstream
from authz_server.site.model import Site
from authz_server.verify import cilium, network_policies
from authz_server.verify.calls import call_ports
from authz_server.verify.difference import Difference, Kind, Layer
from authz_server.verify.endpoints import (
    Place,
    Wanted,
    addresses,
    deployed,
    endpoints,
    upstream_pods,
    with_pairs,
)
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.limits import Limit
from authz_server.verify.network_needs import Need, Needs, known_ports
from authz_server.verify.objects import ClusterObject, Found
from authz_server.verify.packets import (
    Edges,
    FilterPolicy,
    PacketFilter,
    PortRange,
    PortSpace,
)
from authz_server.verify.truth import Truth


def kubernetes_differences(
    truth: Truth, site: Site, found: Found
) -> Iterator[Difference]:
    """Yield how NetworkPolicies differ from the policy."""
    namespaces: dict[str, dict[str, str]] = {}
    for item in found.of("", "Namespace"):
        try:
            fields = Fields(item.body["metadata"], "metadata")
            namespaces[item.name] = fields.labels("labels")
        except UnreadableError as error:
            yield _unclear(Layer.KUBERNETES, item, error)
    reader = network_policies.Reader(namespaces, declared(site))
    objects = found.of("networking.k8s.io", "NetworkPolicy")
    yield from _differences(Layer.KUBERNETES, truth, site, objects, reader)


def cilium_differences(truth: Truth, site: Site, found: Found) -> Iterator[Difference]:
    """Yield how CiliumNetworkPolicies differ from the policy."""
    objects = found.of(
        "cilium.io", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"
    )
    reader = cilium.Reader(declared(site))
    yield from _differences(Layer.CILIUM, truth, site, objects, reader)


def declared(site: Site) -> tuple[str, ...]:
    """Return the CIDRs that the site names."""
    return tuple(text for item in addresses(site) for text in item.networks)


def _differences(
    layer: Layer,
    truth: Truth,
    site: Site,
    objects: Sequence[ClusterObject],
    reader: network_policies.Reader | cilium.Reader,
) -> Iterator[Difference]:
    policies: list[FilterPolicy] = []
    for item in objects:
        try:
            policies.append(reader.read(item))
        except UnreadableError as error:
            yield _unclear(layer, item, error)
    comparison = _Comparison(layer, truth, site, policies, reader.wanted)
    yield from comparison.differences()


def _unclear(layer: Layer, item: ClusterObject, error: UnreadableError) -> Difference:
    return Difference(
        layer, Kind.UNCLEAR, (), item.name, "packets", "", f"{item}: {error}"
    )


class _Comparison:
    def __init__(
        self,
        layer: Layer,
        truth: Truth,
        site: Site,
        policies: Sequence[FilterPolicy],
        wanted: Sequence[Wanted],
    ) -> None:
        self._layer = layer
        self._truth = truth
        self._site = site
        self._endpoints = endpoints(
            truth.policy, site, with_pairs(truth.policy, site, wanted)
        )
        self._space = PortSpace(_ranges(policies), known_ports(truth.policy, site))
        self._filter = PacketFilter(policies, self._endpoints, self._space)
        self._needs = Needs(layer, truth, site, self._endpoints, self._space)

    def differences(self) -> Iterator[Difference]:
        actual = self._filter.edges()
        nothing = Need()
        for pair in sorted({*actual, *self._needs.pairs}):
            need = self._needs.pairs.get(pair, nothing)
            yield from self._compare(pair, actual.get(pair, 0), need)
        yield from self._coarse(actual)
        yield from self._without_pods()

    def _compare(
        self, pair: tuple[int, int], actual: int, need: Need
    ) -> Iterator[Difference]:
        space = self._space
        required = (need.allowed & need.listed) | need.other
        extra = actual & ~(need.listed | need.other)
        if extra:
            yield self._difference(
                Kind.EXTRA,
                pair,
                extra,
                self._denial(pair, extra),
                self._filter.openers(*pair, extra),
            )
        missing = required & ~actual
        if missing:
            yield self._difference(
                Kind.MISSING,
                pair,
                missing,
                self._reason(pair, missing, need),
                self._filter.closers(*pair, missing),
            )
        unlisted = need.allowed & ~required & ~actual
        if unlisted:
            yield self._difference(
                Kind.MISSING,
                pair,
                unlisted,
                self._reason(pair, unlisted, need),
                self._filter.closers(*pair, unlisted),
                Limit.UNLISTED,
            )
        loose = actual & need.listed & ~need.allowed & ~need.other
        if loose and space.describe(loose):
            is_pod = all(self._endpoints[i].place is Place.POD for i in pair)
            yield self._difference(
                Kind.EXTRA,
                pair,
                loose,
                self._denial(pair, loose),
                self._filter.openers(*pair, loose),
                Limit.LABELS if is_pod else Limit.NODES,
            )

    def _difference(
        self,
        kind: Kind,
        pair: tuple[int, int],
        mask: int,
        policy: str,
        enforced: str,
        limit: Limit | None = None,
    ) -> Difference:
        source, target = (self._endpoints[index] for index in pair)
        what = self._space.describe(mask)
        verb = "opens it" if kind is Kind.EXTRA else "keeps it shut"
        return Difference(
            self._layer,
            kind,
            (source.name,),
            target.name,
            what,
            policy,
            f"{verb}: {enforced}",
            limit,
        )

    def _upstreams_behind(self, target: int) -> list[Upstream]:
        return [
            upstream
            for upstream in deployed(self._truth.policy)
            if self._endpoints[target].is_one_of(upstream_pods(upstream))
        ]

    def _denial(self, pair: tuple[int, int], mask: int) -> str:
        """Return why nothing asks for an edge."""
        sender = self._endpoints[pair[0]]
        for upstream in self._upstreams_behind(pair[1]):
            ports = self._space.ports("TCP", call_ports(upstream, self._site))
            for caller in sender.ids(self._truth.policy):
                if mask & ports:
                    operations = self._truth.operations(upstream.name)
                    denied = [
                        operation
                        for operation in operations
                        if operation not in self._truth.allowed(caller, upstream.name)
                        and self._needs.mask(upstream, [operation.call.action]) & mask
                    ]
                    if denied:
                        return f"{caller}: {self._truth.why(caller, denied[0])}"
        return "neither policy nor site asks for it"

    def _reason(self, pair: tuple[int, int], mask: int, need: Need) -> str:
        sender = self._endpoints[pair[0]]
        if mask & need.other:
            return "the plant needs it, as the site says"
        for upstream in self._upstreams_behind(pair[1]):
            for caller in sender.ids(self._truth.policy):
                allowed = self._truth.allowed(caller, upstream.name)
                for operation in self._truth.operations(upstream.name):
                    if (
                        operation in allowed
                        and self._needs.mask(upstream, [operation.call.action]) & mask
                    ):
                        return f"{caller}: {self._truth.why(caller, operation)}"
        return "a workload on the host's network needs it"

    def _coarse(self, actual: Edges) -> Iterator[Difference]:
        """Yield, by upstream, whose ports open more than they may do there."""
        truth = self._truth
        for upstream in deployed(truth.policy):
            operations = truth.operations(upstream.name)
            targets = self._needs.pods(upstream_pods(upstream))
            senders: dict[str, None] = {}
            policy = ""
            for source, sender in enumerate(self._endpoints):
                if not any(
                    (need := self._needs.pairs.get((source, target)))
                    and need.allowed & actual.get((source, target), 0)
                    for target in targets
                ):
                    continue
                for caller in sender.ids(truth.policy):
                    allowed = truth.allowed(caller, upstream.name)
                    denied = next((o for o in operations if o not in allowed), None)
                    if denied is not None and allowed:
                        # Of all of them one witness is shown.
                        policy = policy or f"{caller}: {truth.why(caller, denied)}"
                        senders[sender.name] = None
            if senders:
                yield Difference(
                    self._layer,
                    Kind.EXTRA,
                    tuple(senders),
                    f"upstream {upstream.name}",
                    "operations of the ports that it needs",
                    policy,
                    "opens ports",
                    Limit.COARSE,
                )

    def _without_pods(self) -> Iterator[Difference]:
        """Yield callers that no pod stands for."""
        truth = self._truth
        known = {
            caller for item in self._endpoints for caller in item.ids(truth.policy)
        }
        for upstream in deployed(truth.policy):
            for caller in truth.callers:
                allowed = truth.allowed(caller, upstream.name)
                if not allowed or caller in known:
                    continue
                is_held = bool(truth.held(caller, upstream.name))
                operation = next(
                    item for item in truth.operations(upstream.name) if item in allowed
                )
                yield Difference(
                    self._layer,
                    Kind.MISSING,
                    (str(caller),),
                    f"upstream {upstream.name}",
                    "every port",
                    truth.why(caller, operation),
                    "no pods have this ID, so no rule is about them",
                    Limit.UNLISTED if is_held else Limit.USERS,
                )


def _ranges(policies: Iterable[FilterPolicy]) -> Iterator[PortRange]:
    for policy in policies:
        for direction in (policy.ingress, policy.egress):
            for rule in direction.rules:
                yield from rule.ports or ()
