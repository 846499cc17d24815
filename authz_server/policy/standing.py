"""What a kind of caller may do, worked out from the policy's meaning alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.operation import Operation
from authz_server.policy.matching import gives_not, takes_not
from authz_server.policy.model import (
    AccessPolicy,
    Grant,
    Permission,
    Upstream,
    UserClaim,
)
from authz_server.policy.vocabulary import Asker, Vocabulary, holds


@dataclass(frozen=True, slots=True)
class Standing:
    """The permissions that count for a caller on one upstream.

    Attributes:
        given, taken: of the grants and of the denials that count.
    """

    upstream: Upstream
    given: frozenset[Permission]
    taken: frozenset[Permission]

    def allows(self, operation: Operation) -> bool:
        """Return whether the caller may do `operation`."""
        upstream = self.upstream
        return any(
            not gives_not(item, operation, upstream) for item in self.given
        ) and all(takes_not(item, operation, upstream) for item in self.taken)


class Standings:
    """The standings of callers under one policy."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy
        # There can be very many exact IDs, and every kind of caller is looked up.
        self._exact: dict[str, list[str]] = {}
        self._wildcards: list[tuple[SpiffePattern, str]] = []
        for group in policy.groups.values():
            for pattern in group.spiffe:
                if pattern.is_exact:
                    self._exact.setdefault(str(pattern), []).append(group.name)
                else:
                    self._wildcards.append((pattern, group.name))
        self._workload_groups = cache(self._find_workload_groups)
        self._user_groups = cache(self._find_user_groups)

    def groups(self, asker: Asker) -> frozenset[str]:
        """Return the groups that a caller is in, as a workload or by its user."""
        return self._workload_groups(asker.spiffe_id) | self._user_groups(asker.claims)

    def of(self, asker: Asker) -> dict[str, Standing]:
        """Return the standing of a caller on each upstream."""
        user_groups = self._user_groups(asker.claims)
        groups = self._workload_groups(asker.spiffe_id) | user_groups
        given = self._permissions(self._policy.grants, asker, groups, user_groups)
        taken = self._permissions(self._policy.denials, asker, groups, user_groups)
        return {
            name: Standing(
                upstream,
                frozenset(given.get(name, ())),
                frozenset(taken.get(name, ())),
            )
            for name, upstream in self._policy.upstreams.items()
        }

    def _find_workload_groups(self, spiffe_id: SpiffeId) -> frozenset[str]:
        return frozenset(self._exact.get(str(spiffe_id), ())) | {
            name for pattern, name in self._wildcards if pattern.matches(spiffe_id)
        }

    def _find_user_groups(self, claims: frozenset[UserClaim]) -> frozenset[str]:
        return frozenset(
            group.name
            for group in self._policy.groups.values()
            if not claims.isdisjoint(group.users)
        )

    def _permissions(
        self,
        grants: Iterable[Grant],
        asker: Asker,
        groups: frozenset[str],
        user_groups: frozenset[str],
    ) -> dict[str, set[Permission]]:
        found: dict[str, set[Permission]] = {}
        for grant in grants:
            if not groups.isdisjoint(grant.to) and holds(
                self._policy, grant.when, asker, user_groups
            ):
                permissions = self._policy.roles[grant.role].permissions
                for name in grant.on:
                    found.setdefault(name, set()).update(permissions)
        return found


class Allowances:
    """The operations that callers may do, worked out once for each standing."""

    def __init__(self, standings: Standings, vocabulary: Vocabulary) -> None:
        self._standings = standings
        self._vocabulary = vocabulary
        self._operations = cache(vocabulary.operations)
        self._allowed: dict[tuple[object, ...], tuple[Operation, ...]] = {}

    def of(self, asker: Asker) -> dict[str, tuple[Operation, ...]]:
        """Return what a caller may do on each upstream, in the vocabulary's order."""
        return {
            name: self._of(name, standing)
            for name, standing in self._standings.of(asker).items()
        }

    def _of(self, name: str, standing: Standing) -> tuple[Operation, ...]:
        key = (name, standing.given, standing.taken)
        if key not in self._allowed:
            self._allowed[key] = tuple(
                operation
                for operation in self._operations(name)
                if standing.allows(operation)
            )
        return self._allowed[key]
