"""Finite sets of callers and operations that stand for all there can be.

A policy looks at callers, users, models, versions and adapters through patterns and
names alone. So what is decided for one witness of each kind that these tell apart is
decided for everybody and everything. Several policies share a vocabulary that is as
fine as all of them together.

Users and times need an argument. A claim more can only put a user into more groups,
and a time that holds can only make more grants and denials count. Let a caller with a
user and a set of times be allowed by policy A and not by B. Some grant of A counts,
which takes at most two claims (one to be in `to`, one for `when.users`) and one time;
and in B either none counts, or some denial does, which takes as much again. With just
those claims and times the grant of A still counts, no denial of A does which did not
before, and B still denies. So it is enough to look at users of at most four claims and
at two times; at fewer, where no condition names users or nothing is denied.
"""

from __future__ import annotations

import math
import string
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from typing import Final, TypeVar

from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.operations.actions import (
    DATASET_ACTIONS,
    OPENAI_ACTIONS,
    Action,
    is_model_name,
)
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.caller_classes import caller_classes
from authz_server.policy.model import (
    AccessPolicy,
    Grant,
    Permission,
    Upstream,
    UpstreamKind,
    UserClaim,
)
from authz_server.policy.roles import SERVER_ACTIONS

MAX_TIMES: Final = 2
MAX_KINDS: Final = 1_000_000
"""Of callers, users and times together; some ten seconds' work."""

_SIGNS: Final = "0123456789" + string.ascii_letters + "_-."
"""What a model's name may be made of."""

_Item = TypeVar("_Item")

# What a call of an action can be on, where it is not just one model. The beginning of a
# gated call is left out: each of its messages is judged like a call of its own.
_EVERY_MODEL: Final = frozenset(
    {
        Action.INFERENCE_STREAM,
        Action.LOGGING,
        Action.METRICS,
        Action.MODEL_LIST,
        Action.MODEL_REPOSITORY,
        Action.SHARED_MEMORY,
        Action.STATISTICS,
        Action.TRACE,
    }
)
_NO_MODEL: Final = frozenset({Action.LOGGING, Action.SHARED_MEMORY})
_TRITON_ACTIONS: Final = frozenset(Action) - DATASET_ACTIONS


class VocabularyError(PolicyError):
    """A policy tells too many kinds of caller apart to look at all of them."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A kind of caller.

    Attributes:
        spiffe_id: a witness.
        claims: of the user that it calls for; empty for none.
        times: names of the time limits that hold.
    """

    spiffe_id: SpiffeId
    claims: frozenset[UserClaim] = frozenset()
    times: frozenset[str] = frozenset()


class Vocabulary:
    """What some policies can tell apart.

    Args:
        patterns: further ones that callers are to be told apart by.
        models: further names and prefixes.
        versions: further ones.
        grants: how many of them must count at once for what is asked.
    """

    def __init__(
        self,
        policies: Sequence[AccessPolicy],
        *,
        patterns: Iterable[SpiffePattern] = (),
        models: Iterable[str] = (),
        versions: Iterable[str] = (),
        grants: int = 1,
    ) -> None:
        self._policies = policies
        self._grants = grants
        self._patterns = tuple(patterns)
        permissions = [
            permission
            for policy in policies
            for role in policy.roles.values()
            for permission in role.permissions
        ]
        self._models = _model_names(permissions, models)
        self._versions = _with_fresh(
            {version for item in permissions for version in item.versions}
            | set(versions)
        )
        adapters = sorted({name for item in permissions for name in item.adapters})
        self._adapters = ("", *adapters, _fresh_adapter(adapters))
        self._found: dict[str, tuple[Operation, ...]] = {}

    def workloads(self) -> tuple[SpiffeId, ...]:
        """Return a witness of every kind of workload."""
        patterns: dict[SpiffePattern, set[tuple[int, str]]] = {}
        for number, policy in enumerate(self._policies):
            for group in policy.groups.values():
                for pattern in group.spiffe:
                    patterns.setdefault(pattern, set()).add((number, group.name))
            for marker in _markers(policy):
                patterns.setdefault(marker, set()).add((number, str(marker)))
        for pattern in self._patterns:
            patterns.setdefault(pattern, set()).add((-1, str(pattern)))
        names = list(patterns.values())
        domains = set().union(*(policy.trust_domains for policy in self._policies))

        def label(matching: frozenset[int]) -> frozenset[tuple[int, str]]:
            return frozenset(chain.from_iterable(names[number] for number in matching))

        return tuple(caller_classes(list(patterns), domains, label).values())

    def askers(self) -> Iterator[Asker]:
        """Yield every kind of caller, those with less before those with more.

        Raises:
            VocabularyError: if there are too many.
        """
        kinds = self._count_users() * len(self.time_sets) * len(self._workloads)
        if kinds > MAX_KINDS:
            raise VocabularyError(
                f"there are {kinds} kinds of caller, user and time to look at, more "
                f"than {MAX_KINDS}; let fewer conditions and denials depend on users"
            )
        for claims in self._user_kinds:
            for times in self.time_sets:
                for workload in self._workloads:
                    yield Asker(workload, claims, times)

    @cached_property
    def time_sets(self) -> tuple[frozenset[str], ...]:
        """Sets of time limits that may hold together."""
        names = {
            str(limit) for policy in self._policies for limit in policy.time_limits
        }
        return tuple(_subsets(sorted(names), MAX_TIMES))

    @cached_property
    def _workloads(self) -> tuple[SpiffeId, ...]:
        return self.workloads()

    @cached_property
    def _user_kinds(self) -> tuple[frozenset[UserClaim], ...]:
        return tuple(self._users())

    def operations(self, upstream: str) -> tuple[Operation, ...]:
        """Return a witness of every operation that there can be on `upstream`."""
        if upstream not in self._found:
            self._found[upstream] = tuple(
                dict.fromkeys(
                    operation
                    for policy in self._policies
                    if upstream in policy.upstreams
                    for operation in self._operations(policy.upstreams[upstream])
                )
            )
        return self._found[upstream]

    def describe(self, operations: Iterable[Operation]) -> list[str]:
        """Return operations of one upstream in a few words, an action a line."""
        targets: dict[str, dict[str, set[str]]] = {}
        for operation in operations:
            call = operation.call
            target = operation.dataset or call.scope.value.replace("-", " ")
            if call.scope is Scope.MODEL:
                target = self._models[call.model]
            limits = targets.setdefault(call.action.value, {}).setdefault(target, set())
            if call.scope is Scope.MODEL:
                limits.add(self._limit(call))
        return [
            f"{action} on "
            + ", ".join(self._target(name, limits) for name, limits in by_name.items())
            for action, by_name in sorted(targets.items())
        ]

    def _limit(self, call: Call) -> str:
        if call.adapter:
            is_other = call.adapter == self._adapters[-1]
            return "another adapter" if is_other else f"adapter {call.adapter}"
        if call.version:
            is_other = call.version == self._versions[-1]
            return "another version" if is_other else f"version {call.version}"
        return "none named"

    def _target(self, name: str, limits: set[str]) -> str:
        # Every version, or every adapter, and none: then they do not matter.
        versions = {f"version {item}" for item in self._versions[1:-1]}
        adapters = {f"adapter {item}" for item in self._adapters[1:-1]}
        if limits in (
            set(),
            versions | {"none named", "another version"},
            adapters | {"none named", "another adapter"},
        ):
            return name
        return f"{name} ({', '.join(sorted(limits))})"

    @property
    def upstreams(self) -> tuple[str, ...]:
        """Names of all upstreams."""
        return tuple(sorted({name for p in self._policies for name in p.upstreams}))

    def _users(self) -> Iterator[frozenset[UserClaim]]:
        yield frozenset()
        for claims in self._claims:
            yield from (found for found in _subsets(claims, self._most_claims) if found)

    def _count_users(self) -> int:
        return 1 + sum(
            math.comb(len(claims), size)
            for claims in self._claims
            for size in range(1, self._most_claims + 1)
        )

    @cached_property
    def _claims(self) -> tuple[tuple[UserClaim, ...], ...]:
        """Claims that put a user into different groups, by issuer."""
        by_issuer: dict[str, dict[frozenset[tuple[int, str]], UserClaim]] = {}
        groups_of: dict[UserClaim, set[tuple[int, str]]] = {}
        for number, policy in enumerate(self._policies):
            for group in policy.groups.values():
                for claim in group.users:
                    groups_of.setdefault(claim, set()).add((number, group.name))
        for claim, groups in groups_of.items():
            # Of claims that put one into the same groups one will do.
            kinds = by_issuer.setdefault(claim.issuer, {})
            kinds.setdefault(frozenset(groups), claim)
        return tuple(tuple(kinds.values()) for kinds in by_issuer.values())

    @cached_property
    def _most_claims(self) -> int:
        """How many claims a user can need for what is asked."""
        grants = max((_claims_for(p, p.grants) for p in self._policies), default=0)
        denials = max((_claims_for(p, p.denials) for p in self._policies), default=0)
        return self._grants * grants + denials

    def _operations(self, upstream: Upstream) -> Iterator[Operation]:
        name = upstream.name
        if upstream.kind is UpstreamKind.DATASET:
            for dataset in upstream.datasets:
                for action in sorted(DATASET_ACTIONS):
                    yield Operation(Call(action, Scope.DATASET), name, dataset)
            return
        is_openai = upstream.kind is UpstreamKind.OPENAI
        named = [
            (model, version, adapter)
            for model in self._models
            for version in (("",) if is_openai else self._versions)
            for adapter in (self._adapters if upstream.lora_separator else ("",))
        ]
        for action in sorted(OPENAI_ACTIONS if is_openai else _TRITON_ACTIONS):
            if action in SERVER_ACTIONS:
                yield Operation(Call(action, Scope.SERVER), name)
            if action in _EVERY_MODEL:
                yield Operation(Call(action, Scope.EVERY_MODEL), name)
            if action not in _NO_MODEL:
                for words in named:
                    yield Operation(Call(action, Scope.MODEL, *words), name)


def _claims_for(policy: AccessPolicy, grants: Iterable[Grant]) -> int:
    """Return how many claims it takes at most for one of `grants` to count."""
    return max(
        (
            any(policy.groups[name].users for name in grant.to) + bool(grant.when.users)
            for grant in grants
        ),
        default=0,
    )


def _markers(policy: AccessPolicy) -> Iterator[SpiffePattern]:
    """Yield the patterns of the callers that conditions look for."""
    for grant in (*policy.grants, *policy.denials):
        for namespace in grant.when.namespaces:
            path = ("ns", namespace, "sa", ANY_SEGMENT)
            yield SpiffePattern(policy.trust_domain, path)
        for name in grant.when.upstreams:
            yield SpiffePattern.parse(policy.workload_id(policy.upstreams[name]))


def _model_names(
    permissions: Iterable[Permission], further: Iterable[str]
) -> dict[str, str]:
    """Return a name of every kind that exact names and prefixes tell apart.

    To each of them what people call its kind.
    """
    patterns = {model for item in permissions for model in item.models} | set(further)
    exact = {pattern for pattern in patterns if not pattern.endswith("*")}
    prefixes = {pattern[:-1] for pattern in patterns if pattern.endswith("*")} - {""}
    names = {name: name for name in sorted(exact)}
    for prefix in sorted(prefixes):
        name = _fresh_model(prefix, exact, prefixes)
        if name:
            names[name] = f"{prefix}*"
    name = _fresh_model("", exact, prefixes)
    if name:
        names[name] = "any other model"
    return names


def _fresh_model(prefix: str, exact: Collection[str], prefixes: Collection[str]) -> str:
    """Return a name that `prefix` covers, and no exact name or longer prefix.

    Empty if there is none. An exact name takes no more than itself, so what is longer
    may do; what a longer prefix covers, it covers whatever follows.
    """
    longer = tuple(item for item in prefixes if len(item) > len(prefix))
    waiting = deque([prefix])
    while waiting:
        begun = waiting.popleft()
        for sign in _SIGNS:
            name = begun + sign
            if not is_model_name(name) or name.startswith(longer):
                continue
            if name not in exact:
                return name
            waiting.append(name)
    return prefix if prefix and prefix not in exact else ""


def _fresh_adapter(taken: Collection[str]) -> str:
    name = "_any"
    while name in taken:
        name += "_"
    return name


def _with_fresh(versions: Collection[str]) -> tuple[str, ...]:
    number = 1
    while str(number) in versions:
        number += 1
    return ("", *sorted(versions, key=int), str(number))


def _subsets(items: Sequence[_Item], most: int) -> Iterator[frozenset[_Item]]:
    for size in range(min(most, len(items)) + 1):
        yield from map(frozenset, combinations(items, size))
