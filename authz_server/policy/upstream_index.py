"""From the policy's upstreams to what tells a request's upstream."""

from __future__ import annotations

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.upstreams import UpstreamIndex
from authz_server.policy.model import AccessPolicy, UpstreamKind


def index_upstreams(policy: AccessPolicy) -> UpstreamIndex:
    """Return how requests name the upstreams of `policy`.

    Two upstreams with one service account, or one host, are told apart by the route
    alone: what is ambiguous names none of them.
    """
    by_principal: dict[str, str | None] = {}
    by_host: dict[str, str | None] = {}
    for upstream in policy.upstreams.values():
        if upstream.namespace and upstream.service_account:
            # Istio's form of a workload's SPIFFE ID.
            path = ("ns", upstream.namespace, "sa", upstream.service_account)
            workload = str(SpiffeId(policy.trust_domain, path))
            by_principal[workload] = None if workload in by_principal else upstream.name
        for host in upstream.hosts:
            by_host[host] = None if host in by_host else upstream.name
    kinds = {
        kind: frozenset(
            upstream.name
            for upstream in policy.upstreams.values()
            if upstream.kind is kind
        )
        for kind in UpstreamKind
    }
    return UpstreamIndex(
        triton=kinds[UpstreamKind.TRITON],
        dataset=kinds[UpstreamKind.DATASET],
        by_principal={key: name for key, name in by_principal.items() if name},
        by_host={key: name for key, name in by_host.items() if name},
    )
