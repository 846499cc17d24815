"""From the policy's upstreams to what tells a request's upstream."""

from __future__ import annotations

from authz_server.operations.upstreams import ANY_LABEL, DatasetUpstream, UpstreamIndex
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind


def index_upstreams(policy: AccessPolicy) -> UpstreamIndex:
    """Return how requests name the upstreams of `policy`.

    Two upstreams with one service account, or one host, are told apart by the route
    alone: what is ambiguous names none of them.
    """
    by_principal: dict[str, str | None] = {}
    by_host: dict[str, str | None] = {}
    for upstream in policy.upstreams.values():
        workload = policy.workload_id(upstream)
        if workload:
            by_principal[workload] = None if workload in by_principal else upstream.name
        for host in upstream.hosts:
            by_host[host] = None if host in by_host else upstream.name
    return UpstreamIndex(
        triton=frozenset(
            upstream.name
            for upstream in policy.upstreams.values()
            if upstream.kind is UpstreamKind.TRITON
        ),
        dataset={
            upstream.name: _dataset_upstream(upstream)
            for upstream in policy.upstreams.values()
            if upstream.kind is UpstreamKind.DATASET
        },
        openai={
            upstream.name: upstream.lora_separator
            for upstream in policy.upstreams.values()
            if upstream.kind is UpstreamKind.OPENAI
        },
        by_principal={key: name for key, name in by_principal.items() if name},
        by_host={key: name for key, name in by_host.items() if name},
    )


def _dataset_upstream(upstream: Upstream) -> DatasetUpstream:
    return DatasetUpstream(
        datasets={path: name for name, path in upstream.datasets.items()},
        hosts=frozenset(
            host for host in upstream.hosts if not host.startswith(ANY_LABEL)
        ),
        bucket_hosts=frozenset(
            host.removeprefix(ANY_LABEL)
            for host in upstream.hosts
            if host.startswith(ANY_LABEL)
        ),
    )
