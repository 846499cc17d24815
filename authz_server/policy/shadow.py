"""A candidate policy beside the one in force: what would change if it took its place.

Every decision that was made, and not remembered, is made once more under the candidate,
by a thread of its own: no request waits for it, and if it can't keep up, decisions are
left out and counted. What differs goes to a file, a line each.

The candidate is asked about the operation as the policy in force classed it, so a
change of an upstream's hosts or datasets does not show here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import json
import logging
import queue
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz_server.errors import AuthzError, ConfigError
from authz_server.facts import Facts
from authz_server.identity.identify import Identity
from authz_server.operations.operation import Operation
from authz_server.policy.engine import Verdict
from authz_server.policy.judgement import judge
from authz_server.policy.store import PolicyStore

MAX_WAITING: Final = 1024
"""Decisions that wait for the candidate's; more are left out."""

MAX_REPORT_BYTES: Final = 64 * 1024 * 1024
"""Of the file of differences; what comes after is counted and not written."""

_log: Final = logging.getLogger("authz_server.policy")


class Answer(enum.StrEnum):
    """How the candidate's answer is to the one that was given."""

    SAME = "same"
    WIDENS = "widens"
    """The candidate allows what was denied."""
    NARROWS = "narrows"
    """The candidate denies what was allowed."""
    FAILED = "failed"
    """The candidate has no answer."""
    LEFT_OUT = "left_out"
    """The candidate was not asked."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision as it was made.

    Attributes:
        wall_s: seconds since the epoch.
        revision: of the policy that made it.
    """

    identity: Identity
    operation: Operation
    facts: Facts
    verdict: Verdict
    wall_s: float
    revision: str


class Shadow:
    """Asks the candidate in `candidates`. Safe to share between threads.

    Args:
        report: the file that differences are appended to.

    Raises:
        ConfigError: if the file cannot be opened.
    """

    def __init__(self, candidates: PolicyStore, report: Path) -> None:
        self._candidates = candidates
        self._waiting: queue.Queue[Decided | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._counts: Counter[Answer] = Counter()
        try:
            self._report = report.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(
                [f"policy.shadow_report: cannot append to {report}: {error.strerror}"]
            ) from error
        self._room = MAX_REPORT_BYTES - report.stat().st_size
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Mapping[Answer, int]:
        """How many decisions came to which answer."""
        with self._lock:
            return {answer: self._counts[answer] for answer in Answer}

    def offer(self, decided: Decided) -> None:
        """Have the candidate asked about a decision, if there is time for it."""
        try:
            self._waiting.put_nowait(decided)
        except queue.Full:
            self._count(Answer.LEFT_OUT)

    def close(self) -> None:
        """Ask about what waits, and end."""
        while self._thread.is_alive():  # or nobody would make room
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=0.1)
                self._thread.join()
        self._report.close()

    def _run(self) -> None:
        while (decided := self._waiting.get()) is not None:
            self._count(self._compare(decided))

    def _compare(self, decided: Decided) -> Answer:
        candidate = self._candidates.current
        if candidate is None:
            return Answer.FAILED
        open_times = candidate.schedule.at(decided.wall_s).open
        try:
            verdict = judge(
                candidate,
                decided.identity,
                decided.operation,
                decided.facts,
                open_times,
            )
        except AuthzError as error:
            _log.debug("the candidate has no answer: %s", error)
            return Answer.FAILED
        if verdict.allow is decided.verdict.allow:
            return Answer.SAME
        answer = Answer.WIDENS if verdict.allow else Answer.NARROWS
        self._write(decided, verdict, answer, candidate.revision)
        return answer

    def _write(
        self, decided: Decided, verdict: Verdict, answer: Answer, revision: str
    ) -> None:
        call, user = decided.operation.call, decided.identity.user
        moment = dt.datetime.fromtimestamp(decided.wall_s, tz=dt.UTC)
        line = json.dumps(
            {
                "change": answer,
                "principal": str(decided.identity.spiffe_id),
                "user_issuer": user.issuer if user else "",
                "user": user.subject if user else "",
                "action": call.action,
                "scope": call.scope,
                "model": call.model,
                "version": call.version,
                "adapter": call.adapter,
                "upstream": decided.operation.upstream,
                "dataset": decided.operation.dataset,
                "reason": decided.verdict.reason,
                "candidate_reason": verdict.reason,
                "role": decided.verdict.role,
                "candidate_role": verdict.role,
                "policy_revision": decided.revision,
                "candidate_revision": revision,
                "time": moment.isoformat(timespec="seconds"),
            },
            separators=(",", ":"),
        ).encode()
        if len(line) >= self._room:
            return
        self._room -= len(line) + 1
        try:
            self._report.write(line + b"\n")
        except OSError as error:
            self._room = 0
            _log.error("policy.shadow_report cannot be written: %s", error.strerror)

    def _count(self, answer: Answer) -> None:
        with self._lock:
            self._counts[answer] += 1
