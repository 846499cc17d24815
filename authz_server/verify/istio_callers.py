"""Callers whom Istio's principals might take for others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from authz_server.identity.spiffe_id import SCHEME, SpiffeId, TrustDomain
from authz_server.identity.spiffe_pattern import ANY_SEGMENT
from authz_server.policy.model import Upstream
from authz_server.site.model import Site
from authz_server.verify.authorization import LOCAL
from authz_server.verify.calls import ports_of
from authz_server.verify.endpoints import Endpoint
from authz_server.verify.truth import Truth

_ISTIO_PATH = 4  # ns/NS/sa/SA


def callers(truth: Truth, endpoints: Iterable[Endpoint]) -> tuple[SpiffeId, ...]:
    """Return a witness of every kind of caller that policy or Istio can tell apart.

    Beside the policy's own kinds the pods', each under every trust domain, and with a
    segment more.
    """
    policy = truth.policy
    found = {*truth.callers}
    for endpoint in endpoints:
        found.update(endpoint.ids(policy))
    for group in policy.groups.values():
        found.update(
            SpiffeId.parse(str(pattern)) for pattern in group.spiffe if pattern.is_exact
        )
    inside = [item for item in found if len(item.path) == _ISTIO_PATH]
    for item in inside:
        found.add(SpiffeId(item.trust_domain, (*item.path, "more")))
        found.update(SpiffeId(domain, item.path) for domain in policy.trust_domains)
    return tuple(sorted(found, key=str))


def principal(caller: SpiffeId) -> str:
    """Return a caller as Istio's principals name it."""
    return str(caller).removeprefix(SCHEME)


def twins(
    caller: SpiffeId, domains: Iterable[str], *, is_cut: bool
) -> Iterator[SpiffeId]:
    """Yield the callers that Istio takes `caller` for.

    Args:
        domains: of the mesh.
        is_cut: those with its first segments alone, in its own trust domain too.
    """
    path = caller.path[:_ISTIO_PATH] if is_cut else caller.path
    for name in domains:
        if is_cut or name != caller.trust_domain.name:
            yield SpiffeId(TrustDomain(name), path)


def is_told(
    truth: Truth,
    site: Site,
    caller: SpiffeId,
    upstream: Upstream,
    ports: Collection[int],
) -> bool:
    """Return whether a grant to the caller itself needs one of `ports`."""
    return any(
        not ports_of(action, upstream, site).isdisjoint(ports)
        for action in truth.held(caller, upstream.name)
    )


def is_expressible(truth: Truth, upstream: Upstream) -> bool:
    """Return whether Istio's principals can name all whom a grant is for."""
    own = truth.policy.trust_domain.name
    for group in truth.groups_with_grants(upstream.name):
        if group.users:
            return False  # who may call from any workload
        for pattern in group.spiffe:
            match pattern.segments:
                case ("ns", namespace, "sa", _) if namespace != ANY_SEGMENT:
                    is_plain = not pattern.has_rest
                case _:
                    is_plain = False
            domain = pattern.trust_domain.name
            # In five parts, Istio takes the latter for the mesh's own.
            if not is_plain or domain == LOCAL != own:
                return False
    return True
