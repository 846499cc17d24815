"""Finds who has what a group may have in it: patterns, users and workloads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.policy.linting.covers import Cover
from authz_server.policy.model import Group, UserClaim, Workload

Member = SpiffePattern | UserClaim | Workload


def members_of(group: Group) -> Iterator[Member]:
    """Yield all members of `group`, those of the groups in it among them."""
    return chain(group.spiffe, group.users, group.workloads)


class Owners:
    """Finds the owners of members; who has a pattern has what it covers too."""

    def __init__(self) -> None:
        self._cover = Cover()
        self._others: dict[object, list[str]] = {}

    def add(self, members: Iterable[Member], owner: str) -> None:
        """Note that `owner` has `members`."""
        for member in members:
            if isinstance(member, SpiffePattern):
                self._cover.add(member, owner)
            else:
                self._others.setdefault(_key(member), []).append(owner)

    def of(self, member: Member) -> Iterable[str]:
        """Return the owners of `member`, perhaps some of them twice."""
        if isinstance(member, SpiffePattern):
            return self._cover.owners(member)
        return self._others.get(_key(member), ())


def _key(member: UserClaim | Workload) -> object:
    if isinstance(member, UserClaim):
        return member
    # It has a mapping in it, so no dictionary takes it.
    labels = frozenset(member.pod_selector.items())
    return member.namespace, labels, member.service_account
