"""What of a policy an audit trail shows to be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import AuthzError
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.explanation import explain
from authz_server.policy.inquiry import Inquiry, make_user
from authz_server.policy.model import ALWAYS, AccessPolicy, Condition, Grant

_EVENT: Final = (
    "action",
    "scope",
    "model",
    "version",
    "adapter",
    "upstream",
    "dataset",
)


@dataclass(frozen=True, slots=True)
class Use:
    """Something that a caller was allowed to do.

    Attributes:
        when: the condition under which it is permitted now.
    """

    spiffe_id: SpiffeId
    operation: Operation
    when: Condition = ALWAYS


@dataclass(slots=True)
class Observation:
    """What an audit trail shows.

    Attributes:
        uses: how often each was made.
        touched: which grants gave one of them: by grant, group and action.
        skipped: how many allowed calls this policy has no words for, by why.
    """

    uses: Counter[Use] = field(default_factory=Counter)
    touched: set[tuple[Grant, str, Action]] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)


def observe(policy: AccessPolicy, events: Iterable[Mapping[str, Any]]) -> Observation:
    """Return what the allowed calls among `events` make use of in `policy`."""
    found = Observation()
    counts: Counter[tuple[str, ...]] = Counter()
    for event in events:
        if event.get("decision") == "allow" and event.get("verified") is True:
            words = ("principal", "user_issuer", *_EVENT, "also")
            counts[tuple(str(event.get(word, "")) for word in words)] += 1
    observer = _Observer(policy, found)
    for (principal, issuer, *named, also), count in counts.items():
        event = dict(zip(_EVENT, named, strict=True))
        try:
            spiffe_id = SpiffeId.parse_workload(principal)
            observer.add(spiffe_id, issuer, operation_of(event), count)
            if also:
                observer.add(spiffe_id, issuer, operation_beside(event, also), count)
        except (AuthzError, ValueError) as error:
            found.skipped[str(error)] += count
    return found


def unused(policy: AccessPolicy, observation: Observation) -> tuple[str, ...]:
    """Return the grants, and the actions of grants, that nobody made use of."""
    lines = []
    for grant in policy.grants:
        given = {
            action
            for permission in policy.roles[grant.role].permissions
            for action in permission.actions
        }
        for group in grant.to:
            idle = sorted(
                action
                for action in given
                if (grant, group, action) not in observation.touched
            )
            what = f"{grant.role} to {group} on {', '.join(grant.on)}"
            if len(idle) == len(given):
                lines.append(what)
            elif idle:
                lines.append(f"{what}: {', '.join(idle)}")
    return tuple(lines)


def operation_of(event: Mapping[str, str]) -> Operation:
    """Return what a call did.

    Raises:
        ValueError, OperationError: if this version has no words for it.
    """
    return Operation(
        Call(
            Action(event["action"]),
            Scope(event["scope"]),
            event["model"],
            event["version"],
            event["adapter"],
        ),
        event["upstream"],
        event["dataset"],
    )


def operation_beside(event: Mapping[str, str], also: str) -> Operation:
    """Return what a call did beside: the source of a copy is a dataset.

    Raises:
        ValueError, OperationError: if this version has no words for it.
    """
    action, _, dataset = also.partition(" ")
    if Action(action) not in DATASET_ACTIONS:
        raise ValueError(f"beside a call, {action} is unknown")
    return Operation(Call(Action(action), Scope.DATASET), event["upstream"], dataset)


class _Observer:
    def __init__(self, policy: AccessPolicy, found: Observation) -> None:
        self._policy = policy
        self._found = found
        # Conditions on time were true then, whatever they are now.
        self._times = [str(limit) for limit in policy.time_limits]

    def add(
        self, spiffe_id: SpiffeId, issuer: str, operation: Operation, count: int
    ) -> None:
        if operation.upstream not in self._policy.upstreams:
            raise ValueError(f"upstream {operation.upstream!r} is not defined any more")
        when = self._condition(spiffe_id, issuer, operation)
        if when is None:
            self._found.skipped["no grant gives it any more"] += count
        else:
            self._found.uses[Use(spiffe_id, operation, when)] += count

    def _condition(
        self, spiffe_id: SpiffeId, issuer: str, operation: Operation
    ) -> Condition | None:
        """Return under which condition the caller may; the workload alone comes first.

        The trail does not say which groups a user was in, so of those that would do
        the first is taken.
        """
        candidates = [""]
        candidates += [
            group.name
            for group in self._policy.groups.values()
            if any(member.issuer == issuer for member in group.users)
        ]
        for group in candidates:
            given = self._given(spiffe_id, group, operation)
            if given:
                whens = [grant.when for grant in given]
                when = ALWAYS if ALWAYS in whens else whens[0]
                if not group:
                    return when
                return Condition((group,), when.namespaces, when.upstreams, when.time)
        return None

    def _given(
        self, spiffe_id: SpiffeId, group: str, operation: Operation
    ) -> list[Grant]:
        user = None
        if group:
            member = self._policy.groups[group].users[0]
            user = make_user(member.issuer, {member.claim: member.value})
        inquiry = Inquiry(spiffe_id, user, operation, 0.0)
        explanation = explain(self._policy, inquiry, self._times)
        given = [finding.grant for finding in explanation.given]
        for grant in given:
            for name in set(explanation.groups) & set(grant.to):
                self._found.touched.add((grant, name, operation.call.action))
        return given
