"""What the rules ask: a policy, where each part of it is, and who is in which group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Final

from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.actions import Action
from authz_server.policy.linting.members import Member, Owners, members_of
from authz_server.policy.linting.reading import (
    entries_of,
    items_of,
    scalars_of,
    text_of,
    value_of,
    words_in,
)
from authz_server.policy.linting.rights import DANGEROUS, actions_on
from authz_server.policy.model import (
    AccessPolicy,
    Grant,
    Group,
    Permission,
    UserClaim,
    Workload,
)
from authz_server.policy.nodes import Node, Scalar

_READ_HERE: Final = frozenset(
    {
        *("trustDomain", "federatesWith", "upstreams", "groups", "roles"),
        *("grants", "denials"),
    }
)
"""Sections of `spec` whose names the rules know; in others any name counts as used."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A grant or a denial, and where it is."""

    node: Node
    grant: Grant
    noun: str

    @property
    def to(self) -> list[Scalar]:
        """The groups that it names."""
        return scalars_of(value_of(self.node, "to"))

    def condition(self, key: str) -> Node | None:
        """Return one part of its condition."""
        return value_of(value_of(self.node, "when"), key)


class Case:
    """A policy with its places, and what more than one rule needs to know of it."""

    def __init__(self, policy: AccessPolicy, root: Node, now_s: float | None) -> None:
        self.policy = policy
        self.now_s = now_s
        self._spec = value_of(root, "spec")
        self.upstreams = entries_of(value_of(self._spec, "upstreams"))
        self.groups = entries_of(value_of(self._spec, "groups"))
        self.roles = entries_of(value_of(self._spec, "roles"))
        self.grants = self._read("grants", "grant", policy.grants)
        self.denials = self._read("denials", "denial", policy.denials)
        self._group_nodes = {key.text: node for key, node in self.groups}
        self._supersets: dict[str, tuple[str, ...]] = {}

    def _read(self, key: str, noun: str, grants: tuple[Grant, ...]) -> list[Entry]:
        nodes = items_of(value_of(self._spec, key))
        return [
            Entry(node, grant, noun) for node, grant in zip(nodes, grants, strict=True)
        ]

    @cached_property
    def elsewhere(self) -> frozenset[str]:
        """Every word in the sections that the rules don't know."""
        return frozenset(
            word
            for key, node in entries_of(self._spec)
            if key.text not in _READ_HERE
            for word in words_in(node)
        )

    # A group's own members, which are not those of a group in it.

    def has_callers_of_its_own(self, group: str) -> bool:
        """Whether `group` is more than the groups in it."""
        node = self._group_nodes[group]
        return any(value_of(node, key) is not None for key in ("spiffe", "users"))

    def own_patterns(self, group: str) -> list[tuple[Scalar, SpiffePattern]]:
        """Return the patterns of `group` itself, and where they are."""
        own = scalars_of(value_of(self._group_nodes[group], "spiffe"))
        # Its own come first.
        return list(zip(own, self.policy.groups[group].spiffe, strict=False))

    def _own_users(self, group: str) -> list[UserClaim]:
        """Return the users of `group` itself."""
        return [
            UserClaim(
                issuer=text_of(value_of(item, "issuer")),
                claim=text_of(value_of(item, "claim")),
                value=text_of(value_of(item, "value")),
            )
            for item in items_of(value_of(self._group_nodes[group], "users"))
        ]

    def own_workloads(self, group: str) -> list[Workload]:
        """Return the workloads of `group` itself."""
        return [
            Workload(
                namespace=text_of(value_of(item, "namespace")),
                pod_selector={
                    key.text: text_of(value)
                    for key, value in entries_of(value_of(item, "podSelector"))
                },
                service_account=text_of(value_of(item, "serviceAccount")),
            )
            for item in items_of(value_of(self._group_nodes[group], "workloads"))
        ]

    # Groups in groups.

    def nested(self, group: str) -> list[Scalar]:
        """Return the names of the groups in `group`."""
        return scalars_of(value_of(self._group_nodes[group], "groups"))

    @cached_property
    def idle(self) -> Mapping[str, frozenset[str]]:
        """The groups in each group that add nothing to it."""
        return {
            name: self._idle(group) if group.groups else frozenset()
            for name, group in self.policy.groups.items()
        }

    def _idle(self, group: Group) -> frozenset[str]:
        itself = ""
        owners = Owners()
        owners.add((pattern for _, pattern in self.own_patterns(group.name)), itself)
        owners.add(self._own_users(group.name), itself)
        owners.add(self.own_workloads(group.name), itself)
        for name in group.groups:
            owners.add(members_of(self.policy.groups[name]), name)
        idle: set[str] = set()
        # From behind: of two that have the same members the first one stays.
        for name in reversed(group.groups):
            without = idle | {name}
            if all(
                any(owner not in without for owner in owners.of(member))
                for member in members_of(self.policy.groups[name])
            ):
                idle.add(name)
        return frozenset(idle)

    @cached_property
    def owners(self) -> Owners:
        """The groups that have each member; those of the groups in them too."""
        owners = Owners()
        for name, group in self.policy.groups.items():
            owners.add(members_of(group), name)
        return owners

    def supersets(self, group: str) -> tuple[str, ...]:
        """Return the groups that every caller in `group` is in, itself among them."""
        if group not in self._supersets:
            found = set(self.policy.groups)
            members = self.policy.groups[group]
            callers: Iterable[Member] = chain(members.users, members.spiffe)
            for caller in callers:
                found.intersection_update(self.owners.of(caller))
                if len(found) == 1:
                    break  # Itself. A large group is seldom looked at to its end.
            self._supersets[group] = tuple(sorted(found))
        return self._supersets[group]

    # What is granted.

    @cached_property
    def _granted(self) -> Mapping[str, set[str]]:
        """The upstreams on which each role is granted."""
        found: dict[str, set[str]] = {}
        for entry in self.grants:
            found.setdefault(entry.grant.role, set()).update(entry.grant.on)
        return found

    def permissions(self, *actions: Action) -> Iterator[tuple[str, Node, Permission]]:
        """Yield each permission that gives anyone one of `actions`, and its role."""
        wanted = frozenset(actions)
        for key, node in self.roles:
            upstreams = [
                self.policy.upstreams[name] for name in self._granted.get(key.text, ())
            ]
            permissions = self.policy.roles[key.text].permissions
            for item, permission in zip(items_of(node), permissions, strict=True):
                if any(
                    not wanted.isdisjoint(actions_on(permission, upstream))
                    for upstream in upstreams
                ):
                    yield key.text, item, permission

    def dangerous(self, grant: Grant) -> list[Action]:
        """Return the dangerous actions that `grant` gives."""
        found = {
            action
            for permission in self.policy.roles[grant.role].permissions
            for name in grant.on
            for action in actions_on(permission, self.policy.upstreams[name])
        }
        return sorted(found & DANGEROUS)
