"""Why the access policy answers as it does: which grant gave it, or what is missing.

The answer itself is the engine's. This says in words what the file's meaning has to do
with it, grant by grant; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from authz_server.operations.operation import Call, Scope
from authz_server.policy.inquiry import Inquiry
from authz_server.policy.matching import gives_not, names_model, takes_not
from authz_server.policy.model import AccessPolicy, Condition, Grant, Permission

# How far something that is missing is from what is asked: a version or a condition, a
# model or a group, another action or upstream.
_NEXT: Final = 1
_NEAR: Final = 3
_FAR: Final = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """A grant or a denial, and everything that keeps it from counting here."""

    grant: Grant
    missing: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether it gives, or takes, what is asked for."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the policy says of one question.

    Attributes:
        groups: that the caller is in, as a workload or as a user.
        grants, denials: the nearest first.
    """

    groups: tuple[str, ...]
    grants: tuple[Finding, ...]
    denials: tuple[Finding, ...]

    @property
    def given(self) -> tuple[Finding, ...]:
        """The grants that give it."""
        return tuple(finding for finding in self.grants if finding.counts)

    @property
    def taken(self) -> tuple[Finding, ...]:
        """The denials that take it."""
        return tuple(finding for finding in self.denials if finding.counts)


def explain(
    policy: AccessPolicy, inquiry: Inquiry, open_times: Collection[str]
) -> Explanation:
    """Return why `policy` answers `inquiry` as it does.

    Args:
        open_times: names of the policy's time limits that hold.
    """
    asker = _Asker(policy, inquiry, open_times)
    return Explanation(
        groups=tuple(sorted(asker.groups)),
        grants=asker.findings(policy.grants, is_denial=False),
        denials=asker.findings(policy.denials, is_denial=True),
    )


class _Asker:
    """One question, held against grants."""

    def __init__(
        self, policy: AccessPolicy, inquiry: Inquiry, open_times: Collection[str]
    ) -> None:
        self._policy = policy
        self._caller = inquiry.spiffe_id
        self._operation = inquiry.operation
        self._open = open_times
        user = inquiry.user
        self._user_groups = {
            group.name
            for group in policy.groups.values()
            for member in group.users
            if user is not None
            and user.issuer == member.issuer
            and member.value in _values(user.claims.get(member.claim))
        }
        self.groups = self._user_groups | {
            group.name
            for group in policy.groups.values()
            if any(pattern.matches(self._caller) for pattern in group.spiffe)
        }

    def findings(
        self, grants: tuple[Grant, ...], *, is_denial: bool
    ) -> tuple[Finding, ...]:
        """Return what is missing from each of `grants`, least first."""
        found = [
            (list(self._missing(grant, is_denial=is_denial)), grant) for grant in grants
        ]
        found.sort(key=lambda item: sum(weight for weight, _ in item[0]))
        return tuple(
            Finding(grant, tuple(text for _, text in missing))
            for missing, grant in found
        )

    def _missing(self, grant: Grant, *, is_denial: bool) -> Iterator[tuple[int, str]]:
        """Yield what is missing, and how far that is from what is asked."""
        if not self.groups & set(grant.to):
            yield _NEAR, f"the caller is in none of: {', '.join(grant.to)}"
        asked = self._operation.upstream
        if asked not in grant.on:
            yield _FAR, f"it is on {', '.join(grant.on)}, not on {asked}"
        else:
            weight, lack = min(
                self._lacks(permission, grant.role, is_denial=is_denial)
                for permission in self._policy.roles[grant.role].permissions
            )
            if lack:
                yield weight, lack
        for unmet in self._unmet(grant.when):
            yield _NEXT, unmet

    def _unmet(self, when: Condition) -> Iterator[str]:
        if when.users and not self._user_groups & set(when.users):
            yield f"it is for a user of: {', '.join(when.users)}"
        if when.namespaces and self._namespace() not in when.namespaces:
            yield f"it is for callers in namespace: {', '.join(when.namespaces)}"
        if when.upstreams and str(self._caller) not in {
            self._policy.workload_id(self._policy.upstreams[name])
            for name in when.upstreams
        }:
            yield f"it is for calls by: {', '.join(when.upstreams)}"
        if when.time is not None and str(when.time) not in self._open:
            yield f"it holds {when.time}"

    def _namespace(self) -> str:
        match self._caller.path:
            case ("ns", namespace, "sa", _):
                is_own = self._caller.trust_domain == self._policy.trust_domain
                return namespace if is_own else ""
        return ""

    def _lacks(
        self, permission: Permission, role: str, *, is_denial: bool
    ) -> tuple[int, str]:
        """Return how far `permission` is from what is asked, and what it lacks."""
        operation = self._operation
        upstream = self._policy.upstreams[operation.upstream]
        lack = takes_not if is_denial else gives_not
        why = lack(permission, operation, upstream)
        if not why:
            return 0, ""
        call = operation.call
        weight = _NEAR
        if call.action not in permission.actions or not permission.holds_on(
            upstream.name
        ):
            weight = _FAR
        elif call.scope is Scope.MODEL and names_model(permission, call.model):
            weight = _NEXT
        return weight, f"role {role} {why}"


def _values(claim: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a claim may be anything
    return tuple(claim) if isinstance(claim, list) else (claim,)


def describe(grant: Grant) -> str:
    """Return a grant or denial in a line."""
    return f"{grant.role} to {', '.join(grant.to)} on {', '.join(grant.on)}"


def target(call: Call, dataset: str) -> str:
    """Return what a call is on, in a few words."""
    if dataset:
        return dataset
    parts = [call.model or call.scope.value.replace("-", " ")]
    parts += [f"version {call.version}"] if call.version else []
    parts += [f"adapter {call.adapter}"] if call.adapter else []
    return ", ".join(parts)
