"""Recorded decisions once more, under a candidate policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from authz_server.errors import AuthzError, Reason
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.engine import Engine, Verdict
from authz_server.policy.inquiry import Inquiry, make_user, open_at
from authz_server.policy.learning import operation_beside, operation_of
from authz_server.policy.model import AccessPolicy

_WORDS: Final = (
    *("principal", "user_issuer", "action", "scope", "model", "version", "adapter"),
    *("upstream", "dataset", "also"),
)
_BY_POLICY: Final = frozenset(
    {
        Reason.GRANTED,
        Reason.NOT_GRANTED,
        Reason.EXPLICITLY_DENIED,
        Reason.PRINCIPAL_UNKNOWN,
    }
)


@dataclass(slots=True)
class Replay:
    """Asks a candidate about recorded decisions.

    The trail has no claims of users. So a call for a user is asked without one and with
    one of each group that its issuer has; if the answers differ it is undecided.

    Attributes:
        asked: how many decisions were the policy's, and so asked again.
        undecided: how many of those depend on what the trail does not say.
        skipped: how many the candidate has no words for, by why.
    """

    policy: AccessPolicy
    engine: Engine
    asked: int = 0
    undecided: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    _remembered: dict[tuple[object, ...], tuple[Verdict, ...]] = field(
        default_factory=dict
    )

    def differences(
        self, events: Iterable[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the events to which the candidate answers otherwise, and how."""
        for event in events:
            if event.get("reason") not in _BY_POLICY or not event.get("verified"):
                continue
            self.asked += 1
            try:
                verdicts = self._ask(event)
            except (AuthzError, ValueError, KeyError) as error:
                self.skipped[str(error)] += 1
                continue
            if len({verdict.allow for verdict in verdicts}) > 1:
                self.undecided += 1
                continue
            verdict = verdicts[0]
            was_allowed = event.get("decision") == "allow"
            if verdict.allow is not was_allowed:
                yield {
                    **event,
                    "change": "widens" if verdict.allow else "narrows",
                    "candidate_reason": verdict.reason,
                    "candidate_role": verdict.role,
                }

    def _ask(self, event: Mapping[str, Any]) -> tuple[Verdict, ...]:
        """Return the verdicts without a user, and with each that it may have been."""
        at_s = datetime.fromisoformat(event["time"]).timestamp()
        open_times = open_at(self.policy, at_s)
        key = (*(str(event.get(word, "")) for word in _WORDS), open_times)
        if key not in self._remembered:
            self._remembered[key] = tuple(self._evaluate(event, at_s, open_times))
        return self._remembered[key]

    def _evaluate(
        self, event: Mapping[str, Any], at_s: float, open_times: tuple[str, ...]
    ) -> Iterator[Verdict]:
        spiffe_id = SpiffeId.parse_workload(event["principal"])
        operations = [operation_of(event)]
        if event.get("also"):
            operations.append(operation_beside(event, event["also"]))
        if operations[0].upstream not in self.policy.upstreams:
            raise ValueError(f"upstream {operations[0].upstream!r} is not defined")
        issuer = event.get("user_issuer")
        users = [None] + [
            make_user(member.issuer, {member.claim: member.value})
            for group in self.policy.groups.values()
            for member in group.users
            if issuer and member.issuer == issuer
        ]
        for user in users:
            verdicts = [
                self.engine.evaluate(
                    Inquiry(spiffe_id, user, operation, at_s).question(open_times)
                )
                for operation in operations
            ]
            yield next((item for item in verdicts if not item.allow), verdicts[0])
