"""What a kind of caller may do, worked out from the policy's meaning alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.operation import Operation, Scope
from authz_server.policy.matching import gives_not, names_model, takes_not
from authz_server.policy.model import (
    AccessPolicy,
    Grant,
    Permission,
    Upstream,
    UserClaim,
)
from authz_server.policy.vocabulary import Asker, Vocabulary

_Lacks = Callable[[Permission, Operation, Upstream], str]


@dataclass(frozen=True, slots=True)
class Standing:
    """The permissions that count for a caller on one upstream.

    Attributes:
        given, taken: of the grants and of the denials that count.
    """

    upstream: Upstream
    given: frozenset[Permission]
    taken: frozenset[Permission]


class _Rule:
    """A grant or a denial, made ready to be asked about many callers."""

    def __init__(self, policy: AccessPolicy, grant: Grant) -> None:
        when = grant.when
        self.on = grant.on
        self.permissions = policy.roles[grant.role].permissions
        self._to = frozenset(grant.to)
        self._users = frozenset(when.users)
        self._time = "" if when.time is None else str(when.time)
        self._namespaces = frozenset(when.namespaces)
        self._trust_domain = policy.trust_domain
        self._workloads = frozenset(
            policy.workload_id(policy.upstreams[name]) for name in when.upstreams
        )

    def counts(
        self, asker: Asker, groups: frozenset[str], user_groups: frozenset[str]
    ) -> bool:
        """Return whether it counts for a caller in these groups."""
        return (
            not groups.isdisjoint(self._to)
            and not (self._users and user_groups.isdisjoint(self._users))
            and not (self._time and self._time not in asker.times)
            and not (self._workloads and str(asker.spiffe_id) not in self._workloads)
            and not (self._namespaces and not self._is_inside(asker.spiffe_id))
        )

    def _is_inside(self, spiffe_id: SpiffeId) -> bool:
        match spiffe_id.path:
            case ("ns", namespace, "sa", _):
                is_own = spiffe_id.trust_domain == self._trust_domain
                return is_own and namespace in self._namespaces
        return False


class Standings:
    """The standings of callers under one policy."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy
        self._grants = [_Rule(policy, grant) for grant in policy.grants]
        self._denials = [_Rule(policy, denial) for denial in policy.denials]
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
        given, taken = (
            _by_upstream(
                rule for rule in rules if rule.counts(asker, groups, user_groups)
            )
            for rules in (self._grants, self._denials)
        )
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


def _by_upstream(rules: Iterable[_Rule]) -> dict[str, set[Permission]]:
    found: dict[str, set[Permission]] = {}
    for rule in rules:
        for name in rule.on:
            found.setdefault(name, set()).update(rule.permissions)
    return found


class _Operations:
    """The operations that there are on one upstream, to be found by a permission.

    Attributes:
        all: in the vocabulary's order; others name them by their place in it.
    """

    def __init__(self, upstream: Upstream, operations: Sequence[Operation]) -> None:
        self.all = operations
        self._upstream = upstream
        self._by_model: dict[str, list[int]] = {}
        self._others: list[int] = []
        for place, operation in enumerate(operations):
            call = operation.call
            is_of_model = call.scope is Scope.MODEL
            (
                self._by_model.setdefault(call.model, [])
                if is_of_model
                else self._others
            ).append(place)
        self.given = cache(self._find_given)
        self.taken = cache(self._find_taken)

    def _find_given(self, permission: Permission) -> frozenset[int]:
        return self._which(gives_not, permission)

    def _find_taken(self, permission: Permission) -> frozenset[int]:
        return self._which(takes_not, permission)

    def _which(self, lacks: _Lacks, permission: Permission) -> frozenset[int]:
        return frozenset(
            place
            for place in self._near(permission)
            if not lacks(permission, self.all[place], self._upstream)
        )

    def _near(self, permission: Permission) -> Iterator[int]:
        """Yield at least all that `permission` can match: of models, those it names."""
        yield from self._others
        if any(name.endswith("*") for name in permission.models):
            named = [name for name in self._by_model if names_model(permission, name)]
        else:
            named = [*permission.models]
        for name in named:
            yield from self._by_model.get(name, ())


class Allowances:
    """The operations that callers may do, worked out once for each standing."""

    def __init__(self, standings: Standings, vocabulary: Vocabulary) -> None:
        self._standings = standings
        self._vocabulary = vocabulary
        self._operations: dict[str, _Operations] = {}
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
            if name not in self._operations:
                self._operations[name] = _Operations(
                    standing.upstream, self._vocabulary.operations(name)
                )
            known = self._operations[name]
            given = frozenset().union(*map(known.given, standing.given))
            taken = frozenset().union(*map(known.taken, standing.taken))
            self._allowed[key] = tuple(known.all[at] for at in sorted(given - taken))
        return self._allowed[key]
