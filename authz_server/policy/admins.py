"""Who may change what in an access policy, and what a change did that they may not.

The rule is that of the policy before the change: nobody can give themselves the right
to make it. It holds where changes are reviewed or delivered (`policy diff --author`);
the server, which sees a file and no author, does not ask.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import (
    AccessPolicy,
    Admin,
    Grant,
    Invariant,
    Section,
    UserClaim,
)

_Item = TypeVar("_Item", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change: a workload, a user, or a workload for a user."""

    spiffe_id: SpiffeId | None = None
    claims: frozenset[UserClaim] = frozenset()


class Kind(enum.StrEnum):
    """What became of a part of a policy."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """One part of a policy that is not what it was.

    Attributes:
        name: of the upstream, group or role, or of a grant what it says.
        groups, roles, upstreams: what it names, before or after.
    """

    kind: Kind
    section: Section
    name: str
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    upstreams: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.section}: {self.name} {self.kind}"


def changes(old: AccessPolicy, new: AccessPolicy) -> tuple[Change, ...]:
    """Return what differs between two policies, part by part."""
    return (
        *_trust_changes(old, new),
        *_named_changes(Section.UPSTREAMS, old.upstreams, new.upstreams),
        *_named_changes(Section.GROUPS, old.groups, new.groups),
        *_named_changes(Section.ROLES, old.roles, new.roles),
        *_grant_changes(Section.GRANTS, old.grants, new.grants),
        *_grant_changes(Section.DENIALS, old.denials, new.denials),
        *_invariant_changes(old.invariants, new.invariants),
        *_admin_changes(old.admins, new.admins),
    )


def forbidden(
    old: AccessPolicy, new: AccessPolicy, author: Author
) -> tuple[Change, ...]:
    """Return those changes from `old` to `new` that `author` may not make."""
    groups = _groups_of(old, author)
    admins = [admin for admin in old.admins if groups & set(admin.to)]
    return tuple(
        change
        for change in changes(old, new)
        if not any(_covers(admin, change) for admin in admins)
    )


def _groups_of(policy: AccessPolicy, author: Author) -> set[str]:
    return {
        group.name
        for group in policy.groups.values()
        if author.claims & set(group.users)
        or (
            author.spiffe_id is not None
            and any(pattern.matches(author.spiffe_id) for pattern in group.spiffe)
        )
    }


def _covers(admin: Admin, change: Change) -> bool:
    return change.section in admin.change and all(
        not limits or named <= set(limits)
        for limits, named in (
            (admin.groups, change.groups),
            (admin.roles, change.roles),
            (admin.upstreams, change.upstreams),
        )
    )


def _trust_changes(old: AccessPolicy, new: AccessPolicy) -> Iterator[Change]:
    for name, before, after in (
        ("name", old.name, new.name),
        ("trustDomain", old.trust_domain, new.trust_domain),
        ("federatesWith", set(old.federates_with), set(new.federates_with)),
    ):
        if before != after:
            yield Change(Kind.CHANGED, Section.TRUST, name)


def _named_changes(
    section: Section, old: Mapping[str, object], new: Mapping[str, object]
) -> Iterator[Change]:
    for name in sorted({*old, *new}):
        if name not in old:
            kind = Kind.ADDED
        elif name not in new:
            kind = Kind.REMOVED
        elif old[name] != new[name]:
            kind = Kind.CHANGED
        else:
            continue
        named = frozenset({name})
        yield Change(
            kind,
            section,
            name,
            groups=named if section is Section.GROUPS else frozenset(),
            roles=named if section is Section.ROLES else frozenset(),
            upstreams=named if section is Section.UPSTREAMS else frozenset(),
        )


def _grant_changes(
    section: Section, old: tuple[Grant, ...], new: tuple[Grant, ...]
) -> Iterator[Change]:
    for kind, grant in _added_and_removed(old, new):
        yield Change(
            kind,
            section,
            f"{grant.role} to {', '.join(grant.to)} on {', '.join(grant.on)}",
            groups=frozenset((*grant.to, *grant.when.users)),
            roles=frozenset({grant.role}),
            upstreams=frozenset(grant.on),
        )


def _admin_changes(old: tuple[Admin, ...], new: tuple[Admin, ...]) -> Iterator[Change]:
    for kind, admin in _added_and_removed(old, new):
        yield Change(
            kind,
            Section.ADMINS,
            f"{', '.join(admin.change)} by {', '.join(admin.to)}",
            groups=frozenset((*admin.to, *admin.groups)),
            roles=frozenset(admin.roles),
            upstreams=frozenset(admin.upstreams),
        )


def _invariant_changes(
    old: tuple[Invariant, ...], new: tuple[Invariant, ...]
) -> Iterator[Change]:
    for kind, invariant in _added_and_removed(old, new):
        yield Change(kind, Section.INVARIANTS, invariant.name)


def _added_and_removed(
    old: tuple[_Item, ...], new: tuple[_Item, ...]
) -> Iterator[tuple[Kind, _Item]]:
    before, after = Counter(old), Counter(new)
    for item in (before - after).elements():
        yield Kind.REMOVED, item
    for item in (after - before).elements():
        yield Kind.ADDED, item
