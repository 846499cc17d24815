"""The demo believes no call that did not end exactly as it must."""

from __future__ import annotations

import ssl

import pytest
from tritonclient.utils import InferenceServerException

from authz_server.demo.calls import Caller, Outcome, Protocol, Verdict, judge
from authz_server.demo.report import summary, table
from authz_server.demo.scenario import (
    ALLOWED,
    NOT_GRANTED,
    REFUSED,
    Attempt,
    Expectation,
    Row,
)

DENIED = InferenceServerException("access denied (not_granted)", status="403")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DENIED, (Verdict.DENIED, "403", "not_granted")),
        (
            InferenceServerException(
                "access denied (overloaded)", "StatusCode.UNAVAILABLE"
            ),
            (Verdict.DENIED, "UNAVAILABLE", "overloaded"),
        ),
        (
            InferenceServerException("Socket closed", "StatusCode.UNAVAILABLE"),
            (Verdict.REFUSED, "", ""),
        ),
        (ssl.SSLError("alert certificate required"), (Verdict.REFUSED, "", "")),
        (ConnectionResetError(), (Verdict.REFUSED, "", "")),
        (
            InferenceServerException("Connection refused", "StatusCode.UNAVAILABLE"),
            (Verdict.FAILED, "UNAVAILABLE", ""),
        ),
        (
            ConnectionRefusedError("nobody"),
            (Verdict.FAILED, "ConnectionRefusedError: nobody", ""),
        ),
        (
            InferenceServerException("no such model", "404"),
            (Verdict.FAILED, "404", ""),
        ),
        (ValueError("odd"), (Verdict.FAILED, "ValueError: odd", "")),
    ],
)
def test_each_end_of_a_call_is_told_apart(
    error: Exception, expected: tuple[Verdict, str, str]
) -> None:
    assert judge(error) == expected


@pytest.mark.parametrize(
    ("expected", "outcome", "protocol", "is_met"),
    [
        (ALLOWED, Outcome(Verdict.ALLOWED), Protocol.HTTP, True),
        (ALLOWED, Outcome(Verdict.WRONG), Protocol.HTTP, False),
        (REFUSED, Outcome(Verdict.REFUSED), Protocol.GRPC, True),
        (REFUSED, Outcome(Verdict.FAILED, "x"), Protocol.GRPC, False),
        (
            NOT_GRANTED,
            Outcome(Verdict.DENIED, "403", "not_granted"),
            Protocol.HTTP,
            True,
        ),
        (
            NOT_GRANTED,
            Outcome(Verdict.DENIED, "503", "not_granted"),
            Protocol.HTTP,
            False,
        ),
        (
            NOT_GRANTED,
            Outcome(Verdict.DENIED, "PERMISSION_DENIED", "not_granted"),
            Protocol.GRPC,
            True,
        ),
        (
            NOT_GRANTED,
            Outcome(Verdict.DENIED, "PERMISSION_DENIED", "internal_error"),
            Protocol.GRPC,
            False,
        ),
    ],
)
def test_only_the_very_outcome_meets_an_expectation(
    expected: Expectation, outcome: Outcome, protocol: Protocol, is_met: bool
) -> None:
    assert expected.is_met_by(outcome, protocol) is is_met


def row(expected: Expectation, outcome: Outcome) -> Row:
    attempt = Attempt("camera", "infer m", Protocol.HTTP, expected, Caller.forecast)
    return Row(attempt, outcome)


def test_the_table_marks_a_wrong_row_and_says_what_was_expected() -> None:
    right = row(ALLOWED, Outcome(Verdict.ALLOWED, latency_ms=1.25))
    wrong = row(NOT_GRANTED, Outcome(Verdict.FAILED, "x" * 200, latency_ms=10))
    head, rule, first, second = table([right, wrong]).splitlines()
    assert head.split() == ["who", "what", "over", "expected", "got", "reason", "ms"]
    assert set(rule) == {"-", " "}
    assert first.split() == [
        "ok",
        "camera",
        "infer",
        "m",
        "HTTP",
        "allowed",
        "allowed",
        "-",
        "1.2",
    ]
    assert second.startswith("WRONG  camera  infer m  HTTP  denied (not_granted)  fail")
    assert len(second) < 140
    assert len({len(line) for line in (head, rule, first, second)}) == 1


def test_the_summary_counts_the_right_rows() -> None:
    rows = [
        row(ALLOWED, Outcome(Verdict.ALLOWED)),
        row(ALLOWED, Outcome(Verdict.DENIED)),
    ]
    assert summary(rows, 2).startswith("1 of 2 ended as they must; 2 decisions")
