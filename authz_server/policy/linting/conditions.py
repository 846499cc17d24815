"""Rules for conditions that never hold, or no longer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.policy.linting.case import Case, Entry
from authz_server.policy.linting.findings import SHOWN, Finding, finding
from authz_server.policy.linting.istio_form import namespaces_of
from authz_server.policy.linting.reading import scalars_of
from authz_server.policy.model import Grant
from authz_server.policy.nodes import Node, Scalar


def dead_namespaces(case: Case) -> Iterator[Finding]:
    """Find conditions on namespaces of which no caller is."""
    policy = case.policy

    @cache
    def namespaces(group: str) -> frozenset[str] | None:
        patterns = policy.groups[group].spiffe
        return namespaces_of(
            each for each in patterns if each.trust_domain == policy.trust_domain
        )

    for entry, node in _conditions(case, "namespaces"):
        sets = [namespaces(name) for name in entry.grant.to]
        dead = [
            scalar
            for scalar in scalars_of(node)
            if not any(found is None or scalar.text in found for found in sets)
        ]
        yield from _dead(entry, node, dead, "has an ID of namespace")


def dead_callers(case: Case) -> Iterator[Finding]:
    """Find conditions on upstreams that no caller is."""
    for entry, node in _conditions(case, "upstreams"):
        dead = [
            scalar
            for scalar in scalars_of(node)
            if not _may_call(case, entry.grant, scalar.text)
        ]
        yield from _dead(entry, node, dead, "can be upstream")


def _conditions(case: Case, key: str) -> Iterator[tuple[Entry, Node]]:
    """Yield the grants and denials with a condition on which workload calls."""
    for entry in (*case.grants, *case.denials):
        node = entry.condition(key)
        # A user may come with any workload.
        if node is not None and not any(
            case.policy.groups[name].users for name in entry.grant.to
        ):
            yield entry, node


def _may_call(case: Case, grant: Grant, name: str) -> bool:
    """Whether `grant` can count for calls of the upstream `name`."""
    upstream, namespaces = case.policy.upstreams[name], grant.when.namespaces
    if namespaces and upstream.namespace not in namespaces:
        return False
    pattern = SpiffePattern.parse(case.policy.workload_id(upstream))
    return not set(grant.to).isdisjoint(case.owners.of(pattern))


def _dead(entry: Entry, node: Node, dead: list[Scalar], what: str) -> Iterator[Finding]:
    """Yield findings for these items of a list in a condition, or for the whole."""
    if len(dead) == len(scalars_of(node)):
        names = ", ".join(repr(scalar.text) for scalar in dead[:SHOWN])
        yield finding(
            "never-holds",
            node,
            f"the {entry.noun} of {entry.grant.role!r} never holds: no caller in 'to' "
            f"{what} {names}",
            "correct the condition, or 'to'",
        )
        return
    for scalar in dead:
        yield finding(
            "dead-condition",
            scalar,
            f"no caller in 'to' {what} {scalar.text!r}",
            "correct it, or take it out",
        )


def expired(case: Case) -> Iterator[Finding]:
    """Find grants and denials whose time is over."""
    if case.now_s is None:
        return
    for entry in (*case.grants, *case.denials):
        time, node = entry.grant.when.time, entry.condition("until")
        if (
            time is not None
            and time.until_s is not None
            and node is not None
            and time.until_s <= case.now_s
        ):
            yield finding(
                "expired",
                node,
                f"the {entry.noun} of {entry.grant.role!r} ended then",
                f"take out the {entry.noun}, or give it another date",
            )
