"""Least privilege: the tightest policy that permits what was used.

It names exact callers, models, versions and datasets, under the conditions that they
had. What it permits beside that follows from what a call leaves open: without a version
it needs every version, and on every model it needs them all.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.learning import Observation
from authz_server.policy.model import AccessPolicy, Condition, Grant
from authz_server.policy.roles import ANY_MODEL, SERVER_ACTIONS
from authz_server.policy.writing import (
    callers_document,
    grant_document,
    group_document,
    role_document,
    upstream_document,
)

_MAX_NAME: Final = 63


@dataclass(frozen=True, slots=True)
class Proposal:
    """A tighter policy.

    Attributes:
        document: of the policy file.
        notes: what was used and is left out, one sentence each.
    """

    document: dict[str, Any]
    notes: tuple[str, ...]


def propose(policy: AccessPolicy, observation: Observation, support: int) -> Proposal:
    """Return the tightest policy that permits what was done `support` times or more."""
    notes = [
        f"{use.spiffe_id}: {use.operation.call.action} at {use.operation.upstream}, "
        f"only {count} times"
        for use, count in sorted(observation.uses.items(), key=str)
        if count < support
    ]
    profiles: dict[tuple[SpiffeId, Condition], set[Operation]] = {}
    for use, count in observation.uses.items():
        if count >= support:
            key = (use.spiffe_id, use.when)
            profiles.setdefault(key, set()).add(use.operation)
    # Callers that do the same under the same condition are one group.
    groups: dict[tuple[Condition, frozenset[Operation]], list[SpiffeId]] = {}
    for (spiffe_id, when), operations in sorted(profiles.items(), key=str):
        groups.setdefault((when, frozenset(operations)), []).append(spiffe_id)
    writer = _Writer(policy)
    for (when, done), members in groups.items():
        writer.add(members, when, done)
    return Proposal(writer.document(), (*notes, *writer.notes))


class _Writer:
    """Puts a policy document together."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy
        self._groups: dict[str, Any] = {}
        self._roles: dict[str, Any] = {}
        self._grants: list[dict[str, Any]] = []
        self.notes: list[str] = []
        # They stay: what was used while one did not hold is denied while it does.
        for denial in policy.denials:
            self._roles[denial.role] = role_document(policy.roles[denial.role])
            for name in (*denial.to, *denial.when.users):
                self._groups[name] = group_document(policy.groups[name])

    def add(
        self,
        members: list[SpiffeId],
        when: Condition,
        operations: frozenset[Operation],
    ) -> None:
        group = self._name(members)
        members_document = callers_document(self._policy, members)
        for upstream in sorted({operation.upstream for operation in operations}):
            permissions = self._permissions(
                [item for item in operations if item.upstream == upstream], group
            )
            if not permissions:
                continue
            self._groups[group] = members_document
            for name in when.users:
                whole = self._policy.groups[name]
                self._groups.setdefault(name, group_document(whole))
            role = _free(f"{group}-{upstream}", self._roles)
            self._roles[role] = permissions
            grant = Grant(role, (group,), (upstream,), when)
            self._grants.append(grant_document(grant))

    def document(self) -> dict[str, Any]:
        policy = self._policy
        spec: dict[str, Any] = {"trustDomain": policy.trust_domain.name}
        if policy.federates_with:
            spec["federatesWith"] = [domain.name for domain in policy.federates_with]
        spec["upstreams"] = {
            name: upstream_document(upstream)
            for name, upstream in policy.upstreams.items()
        }
        spec |= {"groups": self._groups, "roles": self._roles, "grants": self._grants}
        if policy.denials:
            spec["denials"] = [grant_document(denial) for denial in policy.denials]
        return {
            "apiVersion": "authz.edge/v1",
            "kind": "AccessPolicy",
            "metadata": {"name": policy.name},
            "spec": spec,
        }

    def _name(self, members: list[SpiffeId]) -> str:
        """Return a name: of the one group that all `members` are in, or a plain one."""
        common = [
            group.name
            for group in self._policy.groups.values()
            if not group.users
            and all(
                any(pattern.matches(member) for pattern in group.spiffe)
                for member in members
            )
        ]
        users = {n for n, group in self._policy.groups.items() if group.users}
        return _free(common[0] if common else "callers", {*self._groups, *users})

    def _permissions(
        self, operations: list[Operation], group: str
    ) -> list[dict[str, Any]]:
        calls = [operation.call for operation in operations]
        on_models = _on_models(calls)
        on_every_model = _actions(calls, Scope.EVERY_MODEL)
        covered = {action for action, _ in on_models} | set(on_every_model)
        on_server = [a for a in _actions(calls, Scope.SERVER) if a not in covered]
        for action in on_server:
            if action not in SERVER_ACTIONS:
                self.notes.append(
                    f"{group} began {action} and named no model, so it gets none"
                )
        bare = [action.value for action in on_server if action in SERVER_ACTIONS]
        permissions: list[dict[str, Any]] = []
        if bare:
            permissions.append({"actions": bare})
        if on_every_model:
            actions = [action.value for action in on_every_model]
            permissions.append({"actions": actions, "models": [ANY_MODEL]})
        return [
            *permissions,
            *_model_permissions(on_models),
            *_dataset_permissions(operations),
        ]


def _free(name: str, taken: Container[str]) -> str:
    """Return `name`, or one like it that is not among `taken`."""
    base = name[:_MAX_NAME].strip("-")
    free, number = base, 1
    while free in taken:
        number += 1
        free = f"{base[: _MAX_NAME - 5].strip('-')}-{number}"
    return free


def _actions(calls: list[Call], scope: Scope) -> list[Action]:
    return sorted({call.action for call in calls if call.scope is scope})


def _model_permissions(
    on_models: Mapping[tuple[Action, str], tuple[str, tuple[str, ...]]],
) -> Iterator[dict[str, Any]]:
    by_limits: dict[tuple[str, tuple[str, ...]], dict[str, set[str]]] = {}
    for (action, model), limits in on_models.items():
        by_model = by_limits.setdefault(limits, {})
        by_model.setdefault(model, set()).add(action.value)
    for (kind, values), by_model in sorted(by_limits.items()):
        for actions, models in _swapped(by_model):
            limited = {kind: list(values)} if values else {}
            yield {"actions": actions, "models": models, **limited}


def _dataset_permissions(operations: list[Operation]) -> Iterator[dict[str, Any]]:
    by_dataset: dict[str, set[str]] = {}
    for operation in operations:
        if operation.call.scope is Scope.DATASET:
            actions_of = by_dataset.setdefault(operation.dataset, set())
            actions_of.add(operation.call.action.value)
    for actions, datasets in _swapped(by_dataset):
        yield {"actions": actions, "datasets": datasets}


def _on_models(
    calls: list[Call],
) -> dict[tuple[Action, str], tuple[str, tuple[str, ...]]]:
    """Return by action and model which versions or adapters were named; or any."""
    named: dict[tuple[Action, str], set[tuple[str, str]]] = {}
    for call in calls:
        if call.scope is Scope.MODEL:
            named.setdefault((call.action, call.model), set()).add(
                (call.version, call.adapter)
            )
    limits: dict[tuple[Action, str], tuple[str, tuple[str, ...]]] = {}
    for key, pairs in named.items():
        versions = sorted({version for version, _ in pairs if version}, key=int)
        adapters = sorted({adapter for _, adapter in pairs if adapter})
        if ("", "") in pairs or (versions and adapters):
            # A call that names none needs a permission without limits.
            limits[key] = ("", ())
        elif versions:
            limits[key] = ("versions", tuple(versions))
        else:
            limits[key] = ("adapters", tuple(adapters))
    return limits


def _swapped(by_name: Mapping[str, set[str]]) -> list[tuple[list[str], list[str]]]:
    """Return (actions, names) for names of the same actions."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, actions in sorted(by_name.items()):
        found.setdefault(tuple(sorted(actions)), []).append(name)
    return [(list(actions), names) for actions, names in sorted(found.items())]
