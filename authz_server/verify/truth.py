"""What the policy says, asked of the Rego in Wasm that serves.

For a caller of any ID: what it may do for some user, or none, at some time. A layer
that knows neither users nor times must let through at least that. Callers whom the
same grants and denials count for are asked about once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property

from authz_server.errors import Reason
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.user_token import User
from authz_server.operations.actions import Action
from authz_server.operations.operation import Operation
from authz_server.policy.engine import Engine, Verdict
from authz_server.policy.explanation import Finding, describe, explain
from authz_server.policy.inquiry import Inquiry, make_user
from authz_server.policy.model import AccessPolicy, Group, UpstreamKind, UserClaim
from authz_server.policy.standing import Standings
from authz_server.policy.vocabulary import Asker, Vocabulary


class Truth:
    """The answers of one policy.

    Args:
        engine: has `policy` loaded.
    """

    def __init__(self, policy: AccessPolicy, engine: Engine) -> None:
        self.policy = policy
        self._engine = engine
        self._vocabulary = Vocabulary((policy,))
        self._standings = Standings(policy)
        self._standing = cache(self._standings.of)
        self._allowed: dict[tuple[object, ...], frozenset[Operation]] = {}
        self.operations = cache(self._vocabulary.operations)
        self.allowed = cache(self._find_allowed)
        self.held = cache(self._find_held)
        self.granted = cache(self._find_granted)

    @cached_property
    def callers(self) -> tuple[SpiffeId, ...]:
        """A witness of every kind of workload, strangers among them."""
        return self._vocabulary.workloads()

    def describe(self, operations: Iterable[Operation]) -> str:
        """Return operations in a few words."""
        return "; ".join(self._vocabulary.describe(operations))

    def _find_allowed(self, spiffe_id: SpiffeId, upstream: str) -> frozenset[Operation]:
        """Return what the caller may do for some user, or none, at some time."""
        found: frozenset[Operation] = frozenset()
        for claims, times in self._circumstances:
            found |= self._answers(Asker(spiffe_id, claims, times), upstream)
        return found

    def _find_held(self, spiffe_id: SpiffeId, upstream: str) -> frozenset[Action]:
        """Return the actions of all grants to the workload, whatever their conditions.

        Grants to users are not among them: they may call from anywhere.
        """
        groups = self._standings.groups(Asker(spiffe_id))
        return frozenset(
            action for name in groups for action in self.granted(name, upstream)
        )

    def _find_granted(self, group: str, upstream: str) -> frozenset[Action]:
        """Return the actions of all grants to `group` that mean something there."""
        policy = self.policy
        possible = {item.call.action for item in self.operations(upstream)}
        target = policy.upstreams[upstream]
        return frozenset(
            action
            for grant in policy.grants
            if group in grant.to and upstream in grant.on
            for permission in policy.roles[grant.role].permissions
            if permission.holds_on(upstream)
            and (
                target.kind is not UpstreamKind.DATASET
                or not target.datasets.keys().isdisjoint(permission.datasets)
            )
            for action in permission.actions
            if action in possible
        )

    def groups_with_grants(self, upstream: str) -> tuple[Group, ...]:
        """Return the groups that hold a grant on `upstream`, by name."""
        return tuple(
            group
            for name, group in sorted(self.policy.groups.items())
            if self.granted(name, upstream)
        )

    def is_privileged(self, spiffe_id: SpiffeId) -> bool:
        """Return whether any grant is for the ID, or it is an upstream's own.

        The proxies of upstreams may ask the server about anybody.
        """
        upstreams = self.policy.upstreams.values()
        return any(
            self.held(spiffe_id, item.name)
            or str(spiffe_id) == self.policy.workload_id(item)
            for item in upstreams
        )

    def why(self, spiffe_id: SpiffeId, operation: Operation) -> str:
        """Return the policy's answer for people, with the grant or what is missing."""
        asker = Asker(spiffe_id)
        for claims, times in self._circumstances:
            asker = Asker(spiffe_id, claims, times)
            if operation in self._answers(asker, operation.upstream):
                break
        else:
            asker = Asker(spiffe_id)
        verdict = self._ask(asker, operation)
        what = f"{self.describe([operation])} at {operation.upstream}"
        found = explain(self.policy, _inquiry(asker, operation), sorted(asker.times))
        if verdict.allow:
            given = f"grant {describe(found.given[0].grant)}" if found.given else "Rego"
            return f"allows {what}{_for(asker)}: {given}"
        near = [item for item in found.grants if operation.upstream in item.grant.on]
        return f"denies {what}: {_lack(verdict, near)}"

    def _answers(self, asker: Asker, upstream: str) -> frozenset[Operation]:
        standing = self._standing(asker)[upstream]
        key = (upstream, standing.given, standing.taken)
        if key not in self._allowed:
            self._allowed[key] = frozenset(
                operation
                for operation in self.operations(upstream)
                if self._ask(asker, operation).allow
            )
        return self._allowed[key]

    def _ask(self, asker: Asker, operation: Operation) -> Verdict:
        question = _inquiry(asker, operation).question(tuple(sorted(asker.times)))
        return self._engine.evaluate(question)

    @cached_property
    def _circumstances(
        self,
    ) -> tuple[tuple[frozenset[UserClaim], frozenset[str]], ...]:
        """Users and times that can make a difference, those with less first."""
        return tuple(
            dict.fromkeys(
                (asker.claims, asker.times) for asker in self._vocabulary.askers()
            )
        )


def _inquiry(asker: Asker, operation: Operation) -> Inquiry:
    return Inquiry(asker.spiffe_id, _user(asker.claims), operation, at_s=0.0)


def _user(claims: frozenset[UserClaim]) -> User | None:
    if not claims:
        return None
    values: dict[str, list[str]] = {}
    for claim in sorted(claims, key=str):
        values.setdefault(claim.claim, []).append(claim.value)
    [issuer] = {claim.issuer for claim in claims}
    return make_user(issuer, values)


def _for(asker: Asker) -> str:
    users = [f"{item.claim}={item.value}" for item in sorted(asker.claims, key=str)]
    return (f" for a user with {', '.join(users)}" if users else "") + "".join(
        f", {time}" for time in sorted(asker.times)
    )


def _lack(verdict: Verdict, findings: Iterable[Finding]) -> str:
    if verdict.reason is Reason.EXPLICITLY_DENIED:
        return f"a denial of {verdict.role}"
    missing = next((item.missing for item in findings if item.missing), ())
    return "; ".join((verdict.reason.value.replace("_", " "), *missing[:1]))
