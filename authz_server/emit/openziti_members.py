"""Which callers a controller can know: one identity is one ID, never a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.policy.model import AccessPolicy, Group
from authz_server.site.model import Site

_HEAD = 2
"""Segments that IDs are filed under: ``ns/NAMESPACE``, in Kubernetes."""


class NamedIds:
    """Every ID of the own trust domain that the policy or the site names in full."""

    def __init__(self, policy: AccessPolicy, site: Site) -> None:
        """File them, so that a pattern need not be held against each."""
        self._trust_domain = policy.trust_domain
        self._all = {
            item
            for item in _named(policy, site)
            if item.trust_domain == policy.trust_domain
        }
        self._by_head: dict[tuple[str, ...], list[SpiffeId]] = {}
        for item in self._all:
            self._by_head.setdefault(item.path[:_HEAD], []).append(item)

    def members(self, group: Group) -> tuple[SpiffeId, ...]:
        """Return those in `group`, sorted."""
        found = {
            item
            for pattern in group.spiffe
            if pattern.trust_domain == self._trust_domain
            for item in self._candidates(pattern)
            if pattern.matches(item)
        }
        return tuple(sorted(found, key=str))

    def _candidates(self, pattern: SpiffePattern) -> Iterable[SpiffeId]:
        head = pattern.segments[:_HEAD]
        if len(head) < _HEAD or ANY_SEGMENT in head:
            return self._all
        return self._by_head.get(head, ())


def _named(policy: AccessPolicy, site: Site) -> Iterator[SpiffeId]:
    for group in policy.groups.values():
        for pattern in group.spiffe:
            if pattern.is_exact:
                yield SpiffeId.parse(str(pattern))
        for workload in group.workloads:
            if workload.service_account:
                yield SpiffeId(
                    policy.trust_domain,
                    ("ns", workload.namespace, "sa", workload.service_account),
                )
    for upstream in policy.upstreams.values():
        if policy.workload_id(upstream):
            yield SpiffeId.parse(policy.workload_id(upstream))
    for box in site.boxes:
        for item in box.workloads:
            yield item.spiffe_id
