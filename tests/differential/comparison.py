"""Sends cases to Triton and to the judgement, and compares what either made of them.

Whatever made Triton act on a model must be denied, or be a call on exactly this model
with the right action.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from differential.acts import UNKNOWN, Act
from differential.case import Case
from differential.oracle import Oracle
from differential.ours import Judgement, as_envoy_asks, judge, path_in
from differential.repository import write_repository
from differential.wires import Answer, Http1, Http2, to_port

from authz_server.demo.triton import Triton


@dataclasses.dataclass(frozen=True, slots=True)
class Exchanged:
    """What came of sending a case.

    Attributes:
        questions: the CheckRequests about it.
        gated: what the gate made of its messages, or of the models in the answer.
    """

    answer: Answer
    questions: list[bytes]
    gated: list[Judgement] = dataclasses.field(default_factory=list)


Exchange = Callable[[Case], Exchanged]
"""Sends a case on its way."""

Judging = Callable[[bytes], Judgement]

SHOWN: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Triton did something that was not what was judged."""

    case: Case
    acts: list[Act]
    judgements: list[Judgement]
    answer: Answer

    @property
    def uncovered(self) -> list[Act]:
        """What nobody was asked about."""
        calls = [one.call for one in self.judgements if one.call is not None]
        return [act for act in self.acts if not act.is_covered_by(calls)]

    def __str__(self) -> str:
        asked = [str(one) for one in self.judgements]
        return (
            f"{self.case.to_json()}\n"
            f"    Triton: {', '.join(map(str, self.acts))}\n    judged: {asked}\n"
            f"    answer: {self.answer.status} {self.answer.grpc_status} "
            f"{self.answer.message!r} {self.answer.body[:200]!r}"
        )


@dataclasses.dataclass
class Report:
    """What a run found.

    Attributes:
        refused: how often Triton would have acted on what is denied, by what was done
            to the request and the reason.
        let_through: how often Triton did what was judged, by what was done.
        kinds: how often Triton did what.
        unrepeated: findings that were none when the case was sent again, in silence.
    """

    cases: int = 0
    acted: int = 0
    agreed: int = 0
    unseen: int = 0
    unanswered: int = 0
    unrepeated: list[Finding] = dataclasses.field(default_factory=list)
    refused: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    let_through: Counter[str] = dataclasses.field(default_factory=Counter)
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        total = (
            f"{self.cases} cases; Triton acted in {self.acted}, of which "
            f"{self.agreed} were judged as what they did and "
            f"{sum(self.refused.values())} denied; in {self.unseen} it is not known "
            f"on what; {self.unanswered} got no answer"
        )
        lines = [
            total,
            "acts: " + ", ".join(f"{k} {n}" for k, n in self.kinds.most_common()),
        ]
        lines += [
            "let through: "
            + ", ".join(f"{label} {n}" for label, n in self.let_through.most_common()),
        ]
        lines += [
            f"{count:6} denied  {labels:40} {why}"
            for (labels, why), count in sorted(self.refused.items())
        ]
        lines += [f"ONCE ONLY {finding}" for finding in self.unrepeated[:SHOWN]]
        lines += [f"FINDING {finding}" for finding in self.findings[:SHOWN]]
        return "\n".join(lines)


class Differential:
    """Sends cases, asks the oracle, and compares."""

    def __init__(
        self,
        triton: Triton,
        exchange: Exchange,
        oracle: Oracle,
        judging: Judging = judge,
    ) -> None:
        self._exchange = exchange
        self._judging = judging
        self._oracle = oracle
        self._http = Http1(to_port(triton.http_port))
        self._grpc = Http2(to_port(triton.grpc_port))

    def close(self) -> None:
        """End the connections for twins."""
        self._http.close()
        self._grpc.close()

    def run(self, cases: Iterable[Case]) -> Report:
        """Return what came of `cases`."""
        report = Report()
        # Those that need the same models loaded come together.
        for case in sorted(cases, key=_needs):
            first = self._one(case, report)
            if first is None:
                continue
            # Once more in silence, lest it was the echo of another.
            self._oracle.settle()
            finding = self._one(case, Report())
            if finding is not None:
                report.findings.append(finding)
            else:
                report.unrepeated.append(first)
        return report

    def _one(self, case: Case, report: Report) -> Finding | None:
        self._oracle.prepare(case.path)
        exchanged = self._exchange(case)
        answer, questions = exchanged.answer, exchanged.questions
        path = path_in(questions[0]) if questions else case.path

        def twin(other: bytes) -> Answer:
            wire = self._grpc if case.is_grpc else self._http
            return wire.send(dataclasses.replace(case, path=other, is_crossed=False))

        acts = self._oracle.acts(
            is_grpc=case.is_grpc, path=path, answer=answer, twin=twin
        )
        checked = [self._judging(raw) for raw in questions]
        judgements = [*checked, *exchanged.gated]
        calls = [one.call for one in judgements if one.call is not None]
        report.cases += 1
        report.unanswered += answer.status == 0
        report.kinds.update(act.what for act in acts)
        report.unseen += any(act.model == UNKNOWN for act in acts)
        report.acted += bool(acts)
        if not acts:
            return None
        if all(act.is_covered_by(calls) for act in acts):
            report.agreed += 1
            report.let_through.update(case.labels[1:] or ("nothing",))
            return None
        # What is denied does not happen, since nothing here is held back. Of several
        # questions about one connection, some may be.
        denied = [one.why for one in judgements if one.call is None]
        if denied and (not any(one.call for one in checked) or exchanged.gated):
            done = "+".join(case.labels[1:]) or f"nothing ({case.labels[0]})"
            report.refused[done, denied[0]] += 1
            return None
        return Finding(case, acts, judgements, answer)


def _needs(case: Case) -> int:
    lower = case.path.lower()
    return (b"load" in lower) + (b"load" in lower and b"unload" not in lower)


@contextlib.contextmanager
def running_triton() -> Iterator[Triton]:
    """Run Triton with the models of this folder."""
    with tempfile.TemporaryDirectory(prefix="authz-server-") as name:
        folder = Path(name)
        with Triton(folder, write_repository(folder)) as triton:
            triton.wait()
            yield triton


@contextlib.contextmanager
def comparing(
    triton: Triton, exchange: Exchange, judging: Judging = judge
) -> Iterator[Differential]:
    """Compare what goes through `exchange` with what `triton` does."""
    oracle = Oracle(triton.grpc_port)
    differential = Differential(triton, exchange, oracle, judging)
    try:
        yield differential
    finally:
        differential.close()
        oracle.close()


@contextlib.contextmanager
def direct(triton: Triton) -> Iterator[Exchange]:
    """Send cases straight to `triton`, and ask as Envoy would."""
    http, grpc = Http1(to_port(triton.http_port)), Http2(to_port(triton.grpc_port))

    def exchange(case: Case) -> Exchanged:
        answer = (grpc if case.is_grpc else http).send(case)
        if len(case.labels) > 1:
            # The rest of an odd request may be taken for the next one.
            http.close()
        return Exchanged(answer, [as_envoy_asks(case)])

    try:
        yield exchange
    finally:
        http.close()
        grpc.close()
