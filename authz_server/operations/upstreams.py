"""Which upstream a request is for, from what a client cannot choose."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from authz_server.errors import Reason
from authz_server.facts import Facts
from authz_server.operations.operation import OperationError


@dataclass(frozen=True, slots=True)
class UpstreamIndex:
    """The policy's upstreams, by each thing that may name them.

    Attributes:
        triton: names of the upstreams of kind ``triton``.
        dataset: names of the upstreams of kind ``dataset``.
        by_principal: SPIFFE ID of the workload beside the proxy to upstream.
        by_host: authority, lower case, without port, to upstream.
    """

    triton: AbstractSet[str]
    dataset: AbstractSet[str] = frozenset()
    by_principal: Mapping[str, str] = field(default_factory=dict)
    by_host: Mapping[str, str] = field(default_factory=dict)


def resolve_upstream(facts: Facts, index: UpstreamIndex, *, trust_host: bool) -> str:
    """Return the name of the upstream that the proxy will forward to.

    The route says so (``context_extensions``), else the identity of the workload that
    the proxy belongs to. The Host header is the client's choice: it counts only where
    the operator says that Envoy routes by it, since a caller could otherwise be judged
    by one upstream's grants and served by another.

    Raises:
        OperationError: if nothing names a known upstream.
    """
    if facts.upstream:
        # A route that names an upstream means that one: no second guess.
        name = facts.upstream.decode("utf-8", "backslashreplace")
        if name in index.triton or name in index.dataset:
            return name
        raise OperationError(
            "the route names an upstream that the policy does not have",
            Reason.UPSTREAM_UNKNOWN,
        )
    by_principal = index.by_principal.get(
        facts.destination.decode("utf-8", "backslashreplace")
    )
    if by_principal is not None:
        return by_principal
    if trust_host:
        by_host = index.by_host.get(normalize_host(facts.host))
        if by_host is not None:
            return by_host
    raise OperationError("no upstream for this request", Reason.UPSTREAM_UNKNOWN)


def normalize_host(host: bytes) -> str:
    """Return an authority in lower case, without port and without a trailing dot."""
    text = host.decode("utf-8", "backslashreplace").lower()
    name, colon, port = text.rpartition(":")
    if colon and port.isdigit():
        text = name
    return text.removesuffix(".")
