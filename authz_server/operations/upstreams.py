"""Which upstream a request is for, from what a client cannot choose."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from authz_server.errors import Reason
from authz_server.facts import Facts
from authz_server.operations.operation import OperationError

ANY_LABEL: Final = "*."
"""Before a host: all that have one label more."""


@dataclass(frozen=True, slots=True)
class DatasetUpstream:
    """Where the datasets of one upstream are, and how its hosts name buckets.

    Attributes:
        datasets: absolute path of each dataset, without a slash at its end, to its
            name.
        hosts: authorities under which callers reach it, lower case, without port.
        bucket_hosts: authorities under which one label in front names the bucket.
    """

    datasets: Mapping[str, str]
    hosts: AbstractSet[str]
    bucket_hosts: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UpstreamIndex:
    """The policy's upstreams, by each thing that may name them.

    Attributes:
        triton: names of the upstreams of kind ``triton``.
        dataset: the upstreams of kind ``dataset``, by name.
        openai: the separator before an adapter (empty for none) of each upstream of
            kind ``openai``, by name.
        by_principal: SPIFFE ID of the workload beside the proxy to upstream.
        by_host: authority, lower case, without port, to upstream. With `ANY_LABEL`
            before it, it stands for each with one label more.
    """

    triton: AbstractSet[str]
    dataset: Mapping[str, DatasetUpstream] = field(default_factory=dict)
    openai: Mapping[str, str] = field(default_factory=dict)
    by_principal: Mapping[str, str] = field(default_factory=dict)
    by_host: Mapping[str, str] = field(default_factory=dict)

    def is_triton(self, name: str) -> bool:
        """Return whether Triton stands behind upstream `name`, by either frontend."""
        return name in self.triton or name in self.openai


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
        if name in index.triton or name in index.dataset or name in index.openai:
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
        host = normalize_host(facts.host)
        _, _, parent = host.partition(".")
        by_host = index.by_host.get(host) or index.by_host.get(ANY_LABEL + parent)
        if by_host is not None:
            return by_host
    raise OperationError("no upstream for this request", Reason.UPSTREAM_UNKNOWN)


def normalize_host(host: bytes) -> str:
    """Return an authority in lower case, without port and without a trailing dot."""
    # Bytes fold ASCII alone: the Kelvin sign is no k.
    text = host.lower().decode("utf-8", "backslashreplace")
    name, colon, port = text.rpartition(":")
    if colon and port.isdigit():
        text = name
    return text.removesuffix(".")
