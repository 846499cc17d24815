"""The way of a request: the eight stages in order, and the only place where they meet.

    begin    1 extract   2 recall                     (8 audit of a hit)
    resume               2 recall                     (8 audit of a hit)
    finish   3 identify  4 classify  5 decide  6 respond  7 remember  8 audit

`begin` is short and never waits, so a transport may run it where it reads the request;
`finish` evaluates the policy and belongs on a worker. `resume` begins with facts that
were extracted before: of a stream, whose messages came later. All come to an answer:
whatever goes wrong anywhere is a denial with a reason. That is why this module has the
one broad `except` of the program.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from authz_server.audit import Occurrence, Sink, complete_event, encode_record
from authz_server.cache import DecisionCache, Entry
from authz_server.clock import Clock, Instant
from authz_server.errors import (
    AccessSecretError,
    AuthzError,
    PolicyError,
    Reason,
)
from authz_server.facts import Annotations, Facts, Plan, extract
from authz_server.identity.identify import Identifier, Identity
from authz_server.identity.sources import IdentityState
from authz_server.operations.classify import classify
from authz_server.operations.operation import Operation
from authz_server.operations.triton_grpc import is_grpc_path
from authz_server.policy.engine import Verdict
from authz_server.policy.in_force import AnyPolicy, LoadedPolicy, OpaEnvoyPolicy
from authz_server.policy.judgement import judge, judge_document
from authz_server.policy.time_limit import Moment
from authz_server.response import (
    NO_CHANGES,
    Passage,
    allow,
    allow_as,
    deny,
    deny_as,
    with_gate,
)
from authz_server.second_lock import NO_LOCK, LockState, SecondLock

_log: Final = logging.getLogger("authz_server.pipeline")


_REHEARSED: Final = 512
"""Decisions that a new policy makes before it comes into force; a tenth of a second."""

_REHEARSAL_S: Final = 0.5

Observer = Callable[[Reason, bool, float], None]
"""Gets the reason of a decision, whether it was remembered, and its seconds. It runs
where the decision is made, so it must be quick, and must not raise."""


Onlooker = Callable[["Check", Verdict], None]
"""Gets a decision that was not remembered, before it is given; like an `Observer` it
must be quick, and must not raise."""


class PolicySource(Protocol):
    """Where the policy in force comes from."""

    @property
    def current(self) -> AnyPolicy | None:
        """The policy in force; None until one has been loaded."""

    @property
    def missing(self) -> Reason:
        """Why there is none, while there is none."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How strictly, and for how long.

    Attributes:
        trust_host: whether the Host header may name the upstream.
        deadline_s: seconds after which a decision comes too late and is a denial.
        ttl_s: seconds for which a decision may be remembered at most.
    """

    trust_host: bool = False
    deadline_s: float = 0.25
    ttl_s: float = 60.0


_NOTHING_BESIDE: Final = Annotations()


@dataclass(slots=True)
class Check:
    """One question on its way, filled in by the stages that it has passed.

    Attributes:
        is_recorded: whether the decision is given, and goes on record.
        answer: CheckResponse bytes; None as long as there is none.
        reason: of that answer; only GRANTED lets the call through.
    """

    arrived: Instant
    annotations: Annotations = _NOTHING_BESIDE
    key: bytes = b""
    is_recorded: bool = True
    facts: Facts | None = None
    policy: AnyPolicy | None = None
    standing: IdentityState | None = None
    lock: LockState = NO_LOCK
    identity: Identity | None = None
    operation: Operation | None = None
    answer: bytes | None = None
    reason: Reason = Reason.INTERNAL_ERROR


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An answer, and the half of its audit event that could be remembered with it."""

    response: bytes
    record: bytes
    reason: Reason
    cache_hit: bool = False

    def __post_init__(self) -> None:
        if not self.response:
            raise ValueError("an empty CheckResponse would be an allow")


class Pipeline:
    """Answers CheckRequests. Safe to share between threads.

    Args:
        plan: the inputs of a decision.
        policies: the policy in force.
        identifier: tells who calls.
        cache: where decisions are remembered.
        audit: where every decision is recorded before it is given.
        observe: told of every decision that was recorded.
        second_lock: what an allowed call to Triton is sent along with.
        onlooker: shown every decision that the policy made.
    """

    def __init__(  # noqa: PLR0913 - every room meets here
        self,
        *,
        plan: Plan,
        policies: PolicySource,
        identifier: Identifier,
        cache: DecisionCache,
        audit: Sink,
        clock: Clock,
        settings: Settings,
        observe: Observer | None = None,
        second_lock: SecondLock | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        self._plan = plan
        self._policies = policies
        self._identifier = identifier
        self._cache = cache
        self._audit = audit
        self._clock = clock
        self._settings = settings
        self._observe = observe
        self._second_lock = second_lock or SecondLock()
        self._onlooker = onlooker

    @property
    def plan(self) -> Plan:
        """The inputs of a decision, beside those that a policy in force may add."""
        return self._plan

    @property
    def cache(self) -> DecisionCache:
        """Where decisions are remembered."""
        return self._cache

    @property
    def standing(self) -> str | None:
        """Under what an access policy's decision must have been made to answer now.

        None: nothing may be answered by what was remembered, without this pipeline.
        """
        policy, lock = self._policies.current, self._second_lock.current
        if not isinstance(policy, LoadedPolicy) or lock.secret is None:
            return None
        return _revision(policy, self._identifier.current, lock)

    def check(self, raw: bytes) -> bytes:
        """Return the CheckResponse to the CheckRequest in `raw`. Never raises."""
        check = self.begin(raw)
        return check.answer if check.answer is not None else self.finish(check)

    def begin(self, raw: bytes, arrived: Instant | None = None) -> Check:
        """Return the check of `raw`: answered, or in want of `finish`. Never raises.

        Args:
            arrived: when it came, if that was not just now.
        """
        check = Check(arrived or self._clock())
        check.answer = self._conclude(check, lambda: self._recall(check, raw))
        return check

    def resume(
        self, key: bytes, annotations: Annotations, *, is_recorded: bool = True
    ) -> Check:
        """Return the check of canonical facts, as `begin` returns one. Never raises.

        Args:
            is_recorded: False to learn what the decision would be; whoever acts on it
                asks for one that is recorded.
        """
        check = Check(self._clock(), annotations, key, is_recorded=is_recorded)
        check.answer = self._conclude(check, lambda: self._look_up(check))
        return check

    def finish(self, check: Check) -> bytes:
        """Return the answer to a check that `begin` left open. Never raises."""
        return self._conclude(check, lambda: self._decide(check)) or deny(
            Reason.INTERNAL_ERROR
        )

    def refuse(self, check: Check, reason: Reason) -> bytes:
        """Return, and record, a denial that the transport needs. Never raises."""
        return self._conclude(check, lambda: self._refusal(check, reason)) or deny(
            reason
        )

    def rehearse(self, policy: LoadedPolicy) -> Callable[[], None]:
        """Decide under `policy`, which is to come into force, what was asked of late.

        Returns what remembers those decisions, for when it is in force.
        """
        began = self._clock()
        entries: list[tuple[bytes, Entry]] = []
        for key in self._cache.latest(_REHEARSED):
            check = Check(self._clock(), key=key, is_recorded=False, policy=policy)
            if check.arrived.steady_s - began.steady_s > _REHEARSAL_S:
                break  # nothing holds a change up for long
            # What fails now is asked again when somebody asks it.
            self._conclude(check, functools.partial(self._try, check, entries))

        def remember() -> None:
            for key, entry in entries:
                self._cache.put(key, entry)

        return remember

    def _try(self, check: Check, entries: list[tuple[bytes, Entry]]) -> _Outcome:
        check.standing = self._identifier.current
        check.lock = self._second_lock.current
        outcome, entry, _ = self._judge(check)
        if entry is not None and check.lock.secret is not None:
            entries.append((check.key, entry))
        return outcome

    def _conclude(
        self, check: Check, stages: Callable[[], _Outcome | None]
    ) -> bytes | None:
        """Run `stages` and record what came of it; any error becomes a denial.

        The second attempt can only be the denial that states the first one's error. If
        not even that can be recorded, the caller still gets it: it is a denial.
        """
        attempt, reason = stages, Reason.INTERNAL_ERROR
        for _ in range(2):
            try:
                outcome = attempt()
                if outcome is None:
                    return None
                self._record(check, outcome)
            except Exception as error:  # noqa: BLE001 - deny by default, whatever it was
                reason = _reason_of(error)
                attempt = _bind(self._refusal, check, reason)
            else:
                check.reason = outcome.reason
                return outcome.response
        check.reason = reason
        return deny(reason, is_grpc=check.facts is not None and check.facts.is_grpc)

    def _recall(self, check: Check, raw: bytes) -> _Outcome | None:
        """Stages 1 and 2."""
        check.policy = policy = self._policies.current
        plan = self._plan
        if isinstance(policy, OpaEnvoyPolicy):
            plan = replace(plan, document=policy.reads)
        check.key, check.annotations = extract(raw, plan)
        return self._look_up(check)

    def _look_up(self, check: Check) -> _Outcome | None:
        """Stage 2."""
        if check.policy is None:
            check.policy = self._policies.current
        if check.policy is None:
            check.facts = Facts.decode(check.key)
            raise PolicyError("no policy is in force", self._policies.missing)
        check.standing = self._identifier.current
        check.lock = self._second_lock.current
        if check.lock.secret is None:
            raise AccessSecretError(self._second_lock.error or "no access secret")
        entry = self._cache.get(check.key, _revision_of(check), check.arrived)
        if entry is None:
            return None
        return _Outcome(entry.response, entry.record, entry.reason, cache_hit=True)

    def _decide(self, check: Check) -> _Outcome:
        """Stages 3 to 7."""
        outcome, entry, verdict = self._judge(check)
        if entry is not None:
            self._cache.put(check.key, entry)
        if self._onlooker is not None and check.is_recorded:
            self._onlooker(check, verdict)
        return outcome

    def _judge(self, check: Check) -> tuple[_Outcome, Entry | None, Verdict]:
        """Stages 3 to 6, what to remember of them, and what the policy said."""
        if check.policy is None or check.standing is None:
            raise PolicyError("no policy is loaded", Reason.POLICY_UNAVAILABLE)
        self._check_deadline(check)
        check.facts = facts = Facts.decode(check.key)
        if isinstance(check.policy, OpaEnvoyPolicy):
            return self._judge_document(check, facts, check.policy, check.standing)
        check.identity = self._identifier.identify(
            facts, check.policy.trust_domains, check.arrived, check.standing
        )
        check.operation = classify(
            facts, check.policy.upstreams, trust_host=self._settings.trust_host
        )
        moment = check.policy.schedule.at(check.arrived.wall_s)
        verdict = judge(
            check.policy, check.identity, check.operation, facts, moment.open
        )
        self._check_deadline(check)
        if verdict.allow is not True:
            response = deny(verdict.reason, is_grpc=facts.is_grpc)
        else:
            response = allow(
                self._second_lock.changes(
                    check.lock,
                    check.identity.name,
                    # What was classified has a path of ASCII.
                    is_grpc=is_grpc_path(facts.path.decode("ascii")),
                )
                if check.policy.upstreams.is_triton(check.operation.upstream)
                else NO_CHANGES
            )
            if facts.is_gated:
                response = with_gate(response, check.key)
        outcome = _Outcome(
            response,
            _record_of(
                check, verdict.reason, role=verdict.role, allowed=verdict.allow is True
            ),
            verdict.reason,
        )
        return outcome, self._entry(check, outcome, verdict.ttl_s, moment), verdict

    def _judge_document(
        self,
        check: Check,
        facts: Facts,
        policy: OpaEnvoyPolicy,
        standing: IdentityState,
    ) -> tuple[_Outcome, Entry | None, Verdict]:
        """Stages 3, 5 and 6 for a policy that is written for opa-envoy-plugin.

        It classes the call itself, and may allow a caller that shows no certificate.
        One that shows some identity has to prove it.
        """
        if facts.principal or facts.certificate:
            check.identity = self._identifier.identify(
                facts, None, check.arrived, standing
            )
        ruling, ttl_s = judge_document(policy, facts.document)
        self._check_deadline(check)
        is_allowed = isinstance(ruling, Passage)
        reason = Reason.GRANTED if is_allowed else Reason.NOT_GRANTED
        outcome = _Outcome(
            allow_as(ruling)
            if isinstance(ruling, Passage)
            else deny_as(ruling, reason),
            _record_of(check, reason, role="", allowed=is_allowed),
            reason,
        )
        verdict = Verdict(allow=is_allowed, reason=reason, role="", ttl_s=ttl_s)
        return outcome, self._entry(check, outcome, ttl_s, Moment()), verdict

    def _check_deadline(self, check: Check) -> None:
        if self._clock().steady_s - check.arrived.steady_s > self._settings.deadline_s:
            raise PolicyError("the decision came too late", Reason.DEADLINE_EXCEEDED)

    def _entry(
        self, check: Check, outcome: _Outcome, ttl_s: float | None, moment: Moment
    ) -> Entry | None:
        """Stage 7. Only what the policy itself decided gets here, never an error."""
        longest_s = self._settings.ttl_s
        if ttl_s is None or ttl_s > longest_s:
            ttl_s = longest_s
        if ttl_s <= 0:
            return None
        since_s, until_s = moment.since_s, moment.last_s
        if check.identity is not None:
            since_s = max(since_s, check.identity.valid_from_s)
            until_s = min(until_s, check.identity.valid_until_s)
        return Entry(
            response=outcome.response,
            record=outcome.record,
            reason=outcome.reason,
            revision=_revision_of(check),
            expires_s=check.arrived.steady_s + ttl_s,
            valid_from_s=since_s,
            valid_until_s=until_s,
        )

    def _refusal(self, check: Check, reason: Reason) -> _Outcome:
        if check.facts is None and check.key:
            check.facts = Facts.decode(check.key)
        is_grpc = check.facts is not None and check.facts.is_grpc
        return _Outcome(
            deny(reason, is_grpc=is_grpc),
            _record_of(check, reason, role="", allowed=False),
            reason,
        )

    def _record(self, check: Check, outcome: _Outcome) -> None:
        """Stage 8."""
        if not check.is_recorded:
            return
        now = self._clock()
        occurrence = Occurrence(
            wall_s=check.arrived.wall_s,
            latency_s=now.steady_s - check.arrived.steady_s,
            cache_hit=outcome.cache_hit,
            request_id=check.annotations.request_id,
            source=check.annotations.source,
        )
        self._audit.write(complete_event(outcome.record, occurrence))
        if self._observe is not None:
            self._observe(outcome.reason, outcome.cache_hit, occurrence.latency_s)


def _revision_of(check: Check) -> str:
    return _revision(check.policy, check.standing, check.lock)


def _revision(
    policy: AnyPolicy | None, standing: IdentityState | None, lock: LockState
) -> str:
    """Return what a decision is made under: policy, identities and second lock."""
    return "/".join(
        (
            policy.revision if policy else "",
            standing.revision if standing else "",
            lock.revision,
        )
    )


def _bind(
    refusal: Callable[[Check, Reason], _Outcome], check: Check, reason: Reason
) -> Callable[[], _Outcome]:
    return lambda: refusal(check, reason)


def _reason_of(error: Exception) -> Reason:
    """Return the denial's reason for `error`, having told the operator what it was."""
    if not isinstance(error, AuthzError):
        _log.error("unexpected error; the request is denied", exc_info=error)
        return Reason.INTERNAL_ERROR
    if error.reason in _OPERATORS_CONCERN:
        _log.error("%s: %s", error.reason, error)
    else:
        _log.debug("%s: %s", error.reason, error)
    return error.reason


# What a caller does wrong is in the audit trail; what is wrong with this server is in
# the log as well.
_OPERATORS_CONCERN: Final = frozenset(
    {
        Reason.AUDIT_UNAVAILABLE,
        Reason.INTERNAL_ERROR,
        Reason.POLICY_ERROR,
        Reason.POLICY_RESULT_INVALID,
        Reason.POLICY_UNDEFINED,
        Reason.DEADLINE_EXCEEDED,
    }
)


def _record_of(check: Check, reason: Reason, *, role: str, allowed: bool) -> bytes:
    """Return what the audit trail says of this decision, whoever asks again."""
    facts, identity, operation = check.facts, check.identity, check.operation
    principal = method = path = ""
    if facts is not None:
        principal = facts.principal.decode("utf-8", "backslashreplace")
        method = facts.method.decode("utf-8", "backslashreplace")
        raw_path, _, _ = facts.path.partition(b"?")  # a query may hold a token
        path = raw_path.decode("utf-8", "backslashreplace")
    if identity is not None:
        principal = identity.name
    user = identity.user if identity else None
    call = operation.call if operation else None
    return encode_record(
        {
            "decision": "allow" if allowed else "deny",
            "reason": reason,
            "principal": principal,
            "verified": identity is not None,
            "via": str(identity.via) if identity and identity.via else "",
            "user_issuer": user.issuer if user else "",
            "user": user.subject if user else "",
            "role": role,
            "action": call.action if call else "",
            "scope": call.scope if call else "",
            "model": call.model if call else "",
            "version": call.version if call else "",
            "adapter": call.adapter if call else "",
            "upstream": operation.upstream if operation else "",
            "dataset": operation.dataset if operation else "",
            "also": _also_of(operation),
            "method": method,
            "path": path,
            "policy_revision": check.policy.revision if check.policy else "",
        }
    )


def _also_of(operation: Operation | None) -> str:
    """Return what a request does beside its operation; empty if nothing."""
    also = operation.also if operation else None
    return f"{also.call.action} {also.dataset or also.call.model}" if also else ""
