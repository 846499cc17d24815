"""The callers of an upstream as Istio principals, where Istio can tell them.

An ALLOW policy denies whatever it does not list, so it must never be narrower than
what the server allows. A group that Istio's principals can't cover therefore leaves
the upstream without that mirror; it is never approximated from below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from authz_server.emit.reach import reaches
from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.policy.model import AccessPolicy, Group, Upstream
from authz_server.site.model import Site

ISTIO_LOCAL: Final = "cluster.local"
"""In a five-part principal Istio takes this for "the mesh's own trust domain"."""

_PARTS: Final = 4  # ns, NS, sa, SA


@dataclass(frozen=True, slots=True)
class CallerRule:
    """`principals`, without ``spiffe://``, may connect to `ports`."""

    group: str
    principals: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may call an upstream.

    Attributes:
        rules: a rule a group; complete only if there are no `obstacles`.
        obstacles: why Istio's principals can't cover everyone whom the server allows.
        notes: where a rule is wider than the policy.
    """

    rules: tuple[CallerRule, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


def callers(policy: AccessPolicy, upstream: Upstream, site: Site) -> Callers:
    """Return the callers of `upstream`."""
    rules: list[CallerRule] = []
    obstacles: list[str] = []
    notes: list[str] = []
    for reach in reaches(policy, upstream, site):
        group = reach.group
        found = _obstacles(policy, group)
        obstacles += found
        notes += [
            f"{pattern} is matched by its beginning, so a longer path would pass here, "
            "though not at the server."
            for pattern in sorted(group.spiffe)
            if not pattern.is_exact
        ]
        if group.spiffe and not found:
            rules.append(CallerRule(group.name, _principals(group), reach.ports))
    return Callers(tuple(rules), tuple(obstacles), tuple(notes))


def _obstacles(policy: AccessPolicy, group: Group) -> list[str]:
    found = [
        f"group {group.name}: {pattern} is not of the form ns/NAMESPACE/sa/ACCOUNT"
        for pattern in sorted(group.spiffe)
        if not _is_expressible(pattern)
    ]
    found += [
        f"group {group.name}: Istio reads {pattern} as one of its own trust domain"
        for pattern in sorted(group.spiffe)
        if pattern.trust_domain.name == ISTIO_LOCAL != policy.trust_domain.name
    ]
    if group.users:
        found.append(
            f"group {group.name}: users are told by their token, and may call from any "
            "workload"
        )
    return found


def _is_expressible(pattern: SpiffePattern) -> bool:
    """Return whether a five-part principal covers `pattern` and its trust domain."""
    if pattern.has_rest or len(pattern.segments) != _PARTS:
        return False
    namespace_key, namespace, account_key, _ = pattern.segments
    return (namespace_key, account_key) == ("ns", "sa") and namespace != ANY_SEGMENT


def _principals(group: Group) -> tuple[str, ...]:
    # `TD/ns/NS/sa/*` is a prefix match on "spiffe://TD/ns/NS/sa/". It has five parts,
    # so trust domain aliases treat it like an exact one. Workloads add nothing here:
    # the server goes by SPIFFE IDs alone.
    names = {
        "/".join((pattern.trust_domain.name, *pattern.segments))
        for pattern in group.spiffe
    }
    prefixes = tuple(name[:-1] for name in names if name.endswith(ANY_SEGMENT))
    return tuple(
        sorted(
            name
            for name in names
            if name.endswith(ANY_SEGMENT) or not name.startswith(prefixes)
        )
    )
