"""What SPIRE's files say of who gets no ID, or one that the policy does not know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from authz_server.emit.notes import GENERATED
from authz_server.emit.spire_entries import Entry, both_possible, box_id
from authz_server.emit.spire_identities import Identity
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.policy.model import AccessPolicy, Group
from authz_server.site.model import Attestor, Box, Site

_IDENTITIES: Final = """
Each pod below gets the ID /ns/NAMESPACE/sa/ACCOUNT, for SPIRE's controller manager to
register. A pod that has the labels alone gets nothing: its agent must find it in the
namespace and with the account as well.
"""
_IGNORED: Final = """
The manager ignores these namespaces unless it is told otherwise, so nobody there gets
an ID: {names}.
"""
_NO_ACCOUNT: Final = """
Without serviceAccount, so their ID is not known and none is issued for: {names}.
"""
_NOBODY: Final = """
Nobody gets an ID that matches these patterns, neither here nor on a box: {names}.
"""
_STRANGERS: Final = """
These get an ID that no pattern of their group matches, so to the server they are not in
it: {names}.
"""
_NO_ENDPOINT: Final = """
The site has no endpoint for the bundle of these trust domains, so they are in no
federatesWith, and their workloads fail at TLS: {names}.
"""
_ENTRIES: Final = """
The boxes' entries for SPIRE's controller manager; entries.json has the same for
spire-server entry create -data, where there is none. Not both: the manager deletes
entries of others.
"""
_TOKENS: Final = """
Attested by a join token, which carries the box's ID. For each, once: spire-server token
generate -spiffeID {alias}, with for NAME: {names}.
"""
_FROM_FILES: Final = """
Envoy and the server of these have certificates from files, and no entries: {names}.
"""
_UNKNOWN: Final = """
These IDs are issued, but no pattern of any group matches them: {names}.
"""
_BOTH: Final = """
A process of which all selectors are true gets both IDs: {names}.
"""
_FEDERATION: Final = """
Where the manager fetches bundles. With profile https_spiffe the first one has to be set
by hand: spire-server bundle set.
"""

# Of the controller manager, unless it is told otherwise.
_IGNORED_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "spire-system"})


def of_identities(
    policy: AccessPolicy,
    site: Site,
    found: tuple[Identity, ...],
    entries: tuple[Entry, ...],
) -> tuple[str, ...]:
    """Return the paragraphs above the ClusterSPIFFEIDs."""
    issued = {item.spiffe_id(policy.trust_domain) for item in found}
    issued |= {entry.spiffe_id for entry in entries if not entry.is_alias}
    return (
        GENERATED,
        _IDENTITIES,
        *_about(_IGNORED, {item.namespace for item in found} & _IGNORED_NAMESPACES),
        *_about(_NO_ACCOUNT, _without_account(policy)),
        *_about(_NOBODY, _unmatched(policy, issued)),
        *_about(_STRANGERS, _outside_their_group(policy)),
        *_about(_NO_ENDPOINT, without_endpoint(policy, site)),
    )


def of_entries(
    policy: AccessPolicy, site: Site, boxes: tuple[Box, ...], entries: tuple[Entry, ...]
) -> tuple[str, ...]:
    """Return the paragraphs above the boxes' entries."""
    alias = f"{box_id(policy.trust_domain, 'NAME')}"
    tokens = {box.name for box in boxes if box.attestor is Attestor.JOIN_TOKEN}
    workloads = {item.spiffe_id for box in boxes for item in box.workloads}
    matchers = _Matchers(p for group in policy.groups.values() for p in group.spiffe)
    pairs = {
        f"{one.spiffe_id} and {other.spiffe_id}"
        for one, other in both_possible(entries)
    }
    return (
        GENERATED,
        _ENTRIES,
        *_about(_TOKENS.replace("{alias}", alias), tokens),
        *_about(
            _FROM_FILES,
            {box.name for box in site.boxes if box.serves and not box.uses_spire},
        ),
        *_about(_UNKNOWN, {str(i) for i in workloads if not matchers.matches(i)}),
        *_about(_BOTH, pairs),
    )


def of_federation(policy: AccessPolicy, site: Site) -> tuple[str, ...]:
    """Return the paragraphs above the ClusterFederatedTrustDomains."""
    return (
        GENERATED,
        _FEDERATION,
        *_about(_NO_ENDPOINT, without_endpoint(policy, site)),
    )


def without_endpoint(policy: AccessPolicy, site: Site) -> set[str]:
    """Return the trust domains whose bundle the site can't get."""
    known = {item.trust_domain for item in site.federation}
    return {str(item) for item in policy.federates_with if item not in known}


def _about(text: str, names: Iterable[str]) -> tuple[str, ...]:
    listed = ", ".join(sorted(names))
    return (text.format(names=listed),) if listed else ()


def _without_account(policy: AccessPolicy) -> set[str]:
    return {
        f"spec.groups.{name} in {workload.namespace}"
        for name, group in policy.groups.items()
        for workload in group.workloads
        if not workload.service_account
    }


def _unmatched(policy: AccessPolicy, issued: set[SpiffeId]) -> set[str]:
    """Return the patterns of the own trust domain that match none of `issued`."""
    texts = {str(spiffe_id) for spiffe_id in issued}
    below: dict[tuple[str, ...], list[SpiffeId]] = {}
    for spiffe_id in issued:
        for length in range(len(spiffe_id.path) + 1):
            below.setdefault(spiffe_id.path[:length], []).append(spiffe_id)
    return {
        str(pattern)
        for group in policy.groups.values()
        for pattern in group.spiffe
        if pattern.trust_domain == policy.trust_domain
        and not (
            pattern.text in texts
            if pattern.is_exact
            # Only what begins like the pattern can match it.
            else any(map(pattern.matches, below.get(_literal(pattern), ())))
        )
    }


def _literal(pattern: SpiffePattern) -> tuple[str, ...]:
    segments = pattern.segments
    if ANY_SEGMENT in segments:
        return segments[: segments.index(ANY_SEGMENT)]
    return segments


def _outside_their_group(policy: AccessPolicy) -> set[str]:
    return {
        f"{spiffe_id} of spec.groups.{name}"
        for name, group in policy.groups.items()
        for spiffe_id in _strangers(policy, group)
    }


def _strangers(policy: AccessPolicy, group: Group) -> Iterator[SpiffeId]:
    matchers = _Matchers(group.spiffe)
    for workload in group.workloads:
        if workload.service_account:
            path = ("ns", workload.namespace, "sa", workload.service_account)
            spiffe_id = SpiffeId(policy.trust_domain, path)
            if not matchers.matches(spiffe_id):
                yield spiffe_id


class _Matchers:
    """Many patterns, of which the exact ones cost nothing."""

    def __init__(self, patterns: Iterable[SpiffePattern]) -> None:
        listed = list(patterns)
        self._exact = {item.text for item in listed if item.is_exact}
        self._others = [item for item in listed if not item.is_exact]

    def matches(self, spiffe_id: SpiffeId) -> bool:
        return str(spiffe_id) in self._exact or any(
            item.matches(spiffe_id) for item in self._others
        )
