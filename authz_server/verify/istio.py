"""Holds Istio's objects against the policy: who passes, and who is asked.

Of a call Istio sees the caller's certificate, port, method, path and host. The mirror
(ALLOW and DENY) must let through whatever the server allows, and beyond that no more
than it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Final, TypeVar

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.operation import Operation
from authz_server.policy.model import Upstream
from authz_server.site.model import SERVER, Mesh, Pods, Shape, Site
from authz_server.verify.authorization import AuthorizationPolicy, read_authorization
from authz_server.verify.calls import WireCall, call_ports, wire_calls
from authz_server.verify.custom import asked_differences
from authz_server.verify.difference import Difference, Kind, Layer
from authz_server.verify.endpoints import (
    deployed,
    endpoints,
    server_pods,
    upstream_pods,
)
from authz_server.verify.fields import UnreadableError
from authz_server.verify.istio_callers import (
    callers,
    is_expressible,
    is_told,
    twins,
)
from authz_server.verify.limits import Limit
from authz_server.verify.mesh_config import (
    MeshConfig,
    mesh_config,
    provider_differences,
    unclear,
)
from authz_server.verify.mirror import Mirror, Passes
from authz_server.verify.objects import ClusterObject, Found
from authz_server.verify.peer_authentication import (
    PeerAuthentication,
    peer_mode,
    read_peer_authentication,
)
from authz_server.verify.truth import Truth

_Read = TypeVar("_Read")

Calls = Mapping[Operation, tuple[WireCall, ...]]

_SECURITY: Final = "security.istio.io"
_SHOWN: Final = 3
_ODD: Final = ("OPTIONS", "/no/such/route")
"""A call that no operation is: the server is to be asked about it all the same."""


def istio_differences(truth: Truth, site: Site, found: Found) -> Iterator[Difference]:
    """Yield how Istio's objects differ from the policy."""
    problems: list[Difference] = []
    policies = _read(found, "AuthorizationPolicy", read_authorization, problems)
    peers = _read(found, "PeerAuthentication", read_peer_authentication, problems)
    mesh = mesh_config(truth.policy, site, found, problems)
    yield from problems
    comparison = _Comparison(
        truth, site, [item for item in policies if item is not None], peers, mesh
    )
    yield from comparison.differences()


def _read(
    found: Found,
    kind: str,
    read: Callable[[ClusterObject], _Read],
    problems: list[Difference],
) -> list[_Read]:
    items = []
    for item in found.of(_SECURITY, kind):
        try:
            items.append(read(item))
        except UnreadableError as error:
            problems.append(unclear(item.name, f"{item}: {error}"))
    return items


class _Comparison:
    def __init__(
        self,
        truth: Truth,
        site: Site,
        policies: list[AuthorizationPolicy],
        peers: list[PeerAuthentication],
        mesh: MeshConfig,
    ) -> None:
        self._truth = truth
        self._site = site
        self._policies = policies
        self._peers = peers
        self._mesh = mesh
        self._said: set[tuple[Limit | None, str]] = set()
        self._callers = callers(truth, endpoints(truth.policy, site))

    def differences(self) -> Iterator[Difference]:
        for upstream in deployed(self._truth.policy):
            yield from self._upstream(upstream)
        if self._site.mesh is Mesh.SIDECAR:
            yield from provider_differences(self._site, self._mesh)
        server = server_pods(self._site)
        if server is not None and self._site.server.shape is Shape.DEPLOYMENT:
            yield from self._server(server)

    def _applying(self, pods: Pods, action: str) -> list[AuthorizationPolicy]:
        root = self._site.istio.istiod.namespace
        return [
            item
            for item in self._policies
            if item.action == action and item.applies(pods.namespace, pods.labels, root)
        ]

    def _mirror(self, pods: Pods) -> Mirror:
        return Mirror(
            self._mesh.domains,
            self._applying(pods, "DENY"),
            self._applying(pods, "ALLOW"),
            is_l4=self._site.mesh is Mesh.AMBIENT,
        )

    def _upstream(self, upstream: Upstream) -> Iterator[Difference]:
        site, name = self._site, f"upstream {upstream.name}"
        pods = upstream_pods(upstream)
        ports = call_ports(upstream, site)
        yield from self._plain_text(pods, name, ports)
        calls = {
            operation: wire_calls(operation, upstream, site)
            for operation in self._truth.operations(upstream.name)
        }
        if site.mesh is Mesh.SIDECAR:
            every = {call for found in calls.values() for call in found}
            every |= {WireCall(port, *_ODD, "") for port in ports}
            custom = self._applying(pods, "CUSTOM")
            provider = site.istio.provider
            yield from asked_differences(custom, provider, name, sorted(every))
        mirror = self._mirror(pods)
        # Many callers are alike to both, the policy and Istio.
        split = cache(partial(_split, calls))
        for caller in self._callers:
            allowed = self._truth.allowed(caller, upstream.name)
            narrow, wide = split(mirror.of(caller), allowed)
            if narrow or wide:
                yield from self._caller(caller, upstream, calls, mirror, narrow, wide)

    def _plain_text(
        self, pods: Pods, target: str, ports: frozenset[int]
    ) -> Iterator[Difference]:
        for port in sorted(ports):
            mode, origin = peer_mode(
                self._peers,
                pods.namespace,
                pods.labels,
                port,
                self._site.istio.istiod.namespace,
            )
            if mode != "STRICT":
                yield Difference(
                    Layer.ISTIO,
                    Kind.EXTRA,
                    ("anybody in plain text",),
                    target,
                    f"port {port}",
                    "denies who shows no certificate: principal missing",
                    f"the mode is {mode} by {origin}",
                )

    def _caller(
        self,
        caller: SpiffeId,
        upstream: Upstream,
        calls: Calls,
        mirror: Mirror,
        narrow: Sequence[Operation],
        wide: Mapping[frozenset[int], Sequence[Operation]],
    ) -> Iterator[Difference]:
        truth = self._truth
        by_limit: dict[Limit | None, list[Operation]] = {}
        for ports, operations in wide.items():
            limit = self._limit(caller, upstream, ports, mirror)
            by_limit.setdefault(limit, []).extend(operations)
        if narrow:
            is_foreign = caller.trust_domain.name not in self._mesh.domains.names
            by_users = is_foreign and not truth.held(caller, upstream.name)
            yield Difference(
                Layer.ISTIO,
                Kind.MISSING,
                (str(caller),),
                f"upstream {upstream.name}",
                self._words(narrow),
                truth.why(caller, narrow[0]),
                f"TLS refuses {caller.trust_domain}, which is no alias in "
                f"{self._mesh.place}"
                if is_foreign
                else mirror.denial(caller, calls[narrow[0]]),
                Limit.USERS if by_users else None,
            )
        for limit, operations in by_limit.items():
            yield Difference(
                Layer.ISTIO,
                Kind.EXTRA,
                (str(caller),),
                f"upstream {upstream.name}",
                self._words(operations)
                if limit is None
                else "operations it can't tell",
                # Of what is known, one witness is shown.
                ""
                if (limit, upstream.name) in self._said
                else truth.why(caller, operations[0]),
                mirror.consent(caller, calls[operations[0]]),
                limit,
            )
            if limit is not None:
                self._said.add((limit, upstream.name))

    def _limit(
        self,
        caller: SpiffeId,
        upstream: Upstream,
        ports: frozenset[int],
        mirror: Mirror,
    ) -> Limit | None:
        """Return what keeps Istio from denying calls there; None if nothing does."""
        truth, site = self._truth, self._site
        if is_told(truth, site, caller, upstream, ports):
            is_any = bool(truth.allowed(caller, upstream.name))
            return Limit.COARSE if is_any else Limit.CONDITION
        if not mirror.has_allow:
            return None if is_expressible(truth, upstream) else Limit.NO_MIRROR
        if len(caller.path) > len(("ns", "NS", "sa", "SA")) and any(
            is_told(truth, site, shorter, upstream, ports)
            for shorter in twins(caller, self._mesh.domains.names, is_cut=True)
        ):
            return Limit.PREFIX
        if any(
            is_told(truth, site, twin, upstream, ports)
            for twin in twins(caller, self._mesh.domains.names, is_cut=False)
        ):
            return Limit.ALIASES
        return None

    def _words(self, operations: Sequence[Operation]) -> str:
        words = self._truth.describe(operations).split("; ")
        more = len(words) - _SHOWN
        return "; ".join(words[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")

    def _server(self, server: Pods) -> Iterator[Difference]:
        """Yield who may ask the server, and who may not."""
        truth, site = self._truth, self._site
        port = site.server.port
        if site.mesh is Mesh.SIDECAR:
            yield from self._plain_text(server, SERVER, frozenset({port}))
        proxies = {truth.policy.workload_id(item) for item in deployed(truth.policy)}
        call = WireCall(port, "POST", "/envoy.service.auth.v3.Authorization/Check", "")
        mirror = self._mirror(server)
        domains = self._mesh.domains.names
        asks = [SpiffeId.parse(item) for item in sorted(proxies - {""})]
        for caller in sorted({*self._callers, *asks}, key=str):
            is_proxy, may_pass = str(caller) in proxies, mirror.of(caller)(call)
            if is_proxy is may_pass:
                continue
            is_twin = any(
                str(twin) in proxies for twin in twins(caller, domains, is_cut=False)
            )
            yield Difference(
                Layer.ISTIO,
                Kind.MISSING if is_proxy else Kind.EXTRA,
                (str(caller),),
                SERVER,
                "asking for decisions",
                "only the upstreams' proxies may ask",
                mirror.denial(caller, (call,))
                if is_proxy
                else mirror.consent(caller, (call,)),
                Limit.ALIASES if is_twin and mirror.has_allow else None,
            )


def _split(
    calls: Calls, passes: Passes, allowed: frozenset[Operation]
) -> tuple[tuple[Operation, ...], dict[frozenset[int], list[Operation]]]:
    """Return allowed operations that don't pass whole, and denied ones that pass.

    The latter by the ports at which they do.
    """
    narrow: list[Operation] = []
    wide: dict[frozenset[int], list[Operation]] = {}
    for operation, found in calls.items():
        through = [call for call in found if passes(call)]
        if operation in allowed:
            if len(through) < len(found):
                narrow.append(operation)
        elif through:
            ports = frozenset(call.port for call in through)
            wide.setdefault(ports, []).append(operation)
    return tuple(narrow), wide
