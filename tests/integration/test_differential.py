"""What the real Triton does with a request, and what it was judged to be.

The generated requests are right, odd or broken. Whatever makes Triton act on a model
must be denied, or judged as exactly this model with the right action. More of them:
``python tests/differential/run.py --help``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from differential.acts import ANY_VERSION, EVERY, Act
from differential.case import Case, kept_cases
from differential.comparison import comparing, direct, running_triton
from differential.generation import generate
from differential.grpc_cases import SERVICE, TYPE
from differential.messages import INLINE, field, frame
from differential.ours import Judgement
from differential.repository import RUNNING
from differential.through_envoy import through_envoy

from authz_server.demo.triton import Triton
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Scope

pytestmark = [pytest.mark.triton, pytest.mark.long]

SEED = 20260
"""Of the cases that are the same on every run."""

INFER = SERVICE + b"ModelInfer"


@pytest.fixture(scope="module")
def triton() -> Iterator[Triton]:
    with running_triton() as running:
        yield running


def infer(*fields: bytes) -> Case:
    """Return a ModelInfer with these fields before the tensor."""
    message = b"".join((*fields, INLINE))
    return Case(
        is_grpc=True,
        method=b"POST",
        path=INFER,
        headers=(TYPE,),
        body=frame(message),
        labels=("ModelInfer",),
    )


def test_what_triton_does_is_what_was_judged(triton: Triton) -> None:
    with direct(triton) as exchange, comparing(triton, exchange) as differential:
        report = differential.run([*kept_cases(), *generate(SEED, 2000)])
    assert report.findings == [], f"seed {SEED}: {report}"
    # Neither side may say nothing to most of them.
    assert report.agreed > report.cases / 4
    assert sum(report.refused.values()) > report.cases / 40


def test_no_right_request_is_refused(triton: Triton) -> None:
    right = [case for case in generate(SEED + 1, 1000) if len(case.labels) == 1]
    with direct(triton) as exchange, comparing(triton, exchange) as differential:
        report = differential.run(right)
    assert report.refused == {}
    assert report.findings == []
    assert report.agreed > len(right) / 2


@pytest.mark.envoy
def test_what_passes_envoy_was_asked_about_and_judged_as_what_it_does(
    triton: Triton,
) -> None:
    with through_envoy(triton) as exchange, comparing(triton, exchange) as differential:
        report = differential.run([*kept_cases(), *generate(SEED + 2, 300)])
    assert report.findings == [], f"seed {SEED + 2}: {report}"
    assert report.agreed > report.cases / 4


@pytest.mark.envoy
def test_an_error_at_the_gate_tells_nobody_which_models_there_are(
    triton: Triton,
) -> None:
    message = field(1, b"secret") + field(2, b"9")
    case = dataclasses.replace(
        infer(), path=SERVICE + b"ModelStatistics", body=frame(message)
    )
    with through_envoy(triton) as exchange, comparing(triton, exchange) as differential:
        assert differential.run([case]).findings == []


@pytest.mark.parametrize(
    "case",
    [
        infer(field(1, b"public"), field(1, b"secret")),
        infer(field(1, b"secret\x00public")),
        infer(field(2, b"1"), field(1, b"public"), field(2, b"2"), field(1, b"secret")),
    ],
    ids=["two names", "a name cut by NUL", "two names and versions"],
)
def test_a_reader_that_is_misled_is_found(triton: Triton, case: Case) -> None:
    def misled(raw: bytes) -> Judgement:
        del raw
        return Judgement(Call(Action.INFERENCE, Scope.MODEL, "public"))

    with (
        direct(triton) as exchange,
        comparing(triton, exchange, misled) as differential,
    ):
        (finding,) = differential.run([case]).findings
    assert "secret" in {act.model for act in finding.acts}


def test_a_right_judgement_of_the_wrong_action_is_found(triton: Triton) -> None:
    def too_harmless(raw: bytes) -> Judgement:
        del raw
        return Judgement(Call(Action.METADATA, Scope.MODEL, "secret"))

    with (
        direct(triton) as exchange,
        comparing(triton, exchange, too_harmless) as differential,
    ):
        report = differential.run([infer(field(1, b"secret"))])
    assert len(report.findings) == 1


@pytest.mark.parametrize(
    ("act", "call", "is_covered"),
    [
        (("echo", "1"), Call(Action.INFERENCE, Scope.MODEL, "echo", "1"), True),
        (("echo", "1"), Call(Action.INFERENCE, Scope.MODEL, "echo"), True),
        (("echo", "1"), Call(Action.INFERENCE, Scope.MODEL, "echo", "2"), False),
        (("echo", ""), Call(Action.INFERENCE, Scope.MODEL, "echo", "2"), False),
        (("echo", "1"), Call(Action.INFERENCE, Scope.MODEL, "Echo", "1"), False),
        (("echo", "1"), Call(Action.INFERENCE, Scope.EVERY_MODEL), True),
        (("echo", "1"), Call(Action.INFERENCE, Scope.SERVER), False),
        (("echo", "1"), Call(Action.METADATA, Scope.MODEL, "echo", "1"), False),
        ((EVERY, ANY_VERSION), Call(Action.INFERENCE, Scope.MODEL, "echo"), False),
    ],
)
def test_an_act_is_covered_by_calls_on_it_or_on_every_model(
    act: tuple[str, str], call: Call, is_covered: bool
) -> None:
    did = Act("ran", frozenset({Action.INFERENCE}), *act)
    assert did.is_covered_by([call]) is is_covered


def test_a_seed_gives_the_same_cases_each_time() -> None:
    assert generate(1, 300) == generate(1, 300)
    assert generate(1, 300) != generate(2, 300)


def test_a_case_survives_its_line_in_the_file_of_kept_ones() -> None:
    for case in generate(3, 300):
        assert Case.from_json(case.to_json()) == case


def test_the_models_have_confusable_names() -> None:
    assert {"echo", "Echo", "echo2", "stats"} <= RUNNING.keys()
