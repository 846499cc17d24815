"""What holds for every request and for every failure."""

import dataclasses
import json
from collections.abc import Iterator

import pytest
from checks import (
    CAMERA,
    DEPLOYER,
    FORECASTER,
    INFER,
    MODEL_INFER,
    check_request,
    frame,
    is_allowed,
    len_field,
    reason_of,
)
from hypothesis import example, given
from hypothesis import strategies as st
from parts import MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline
from authz_server.config import Inputs, Limits
from authz_server.errors import AuditError, PolicyError, Reason
from authz_server.facts import Facts, Plan, extract
from authz_server.identity.sources import IdentitySources
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.pipeline import Pipeline
from authz_server.policy.store import PolicyStore

CONFIG = example_config(
    inputs=Inputs(headers=("x-line", "x-role")),
    # What a busy machine does in between is no matter here.
    limits=Limits(deadline_s=10.0),
)
ALLOWED = bytes(check_request())


@pytest.fixture(scope="module")
def policies() -> Iterator[PolicyStore]:
    with loaded_policies(CONFIG) as store:
        yield store


def answer(policies: PolicyStore, raw: bytes) -> tuple[bytes, dict[str, object]]:
    """Return the response of a fresh pipeline, and the audit event."""
    sink = MemorySink()
    response = build_pipeline(CONFIG, policies, sink, IdentitySources()).check(raw)
    assert len(sink.events) == 1
    event: dict[str, object] = json.loads(sink.events[0])
    return response, event


def assert_denied(response: bytes, event: dict[str, object]) -> None:
    assert not is_allowed(response)
    assert event["decision"] == "deny"
    assert event["reason"] == reason_of(response)
    assert reason_of(response) in set(Reason) - {Reason.GRANTED}


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x0a\x00")
def test_bytes_that_are_no_check_request_are_denied_with_a_reason(
    policies: PolicyStore, raw: bytes
) -> None:
    assert_denied(*answer(policies, raw))


@given(st.integers(0, len(ALLOWED) - 1), st.integers(0, 255))
def test_an_allowed_request_with_one_byte_changed_is_answered_and_recorded(
    policies: PolicyStore, position: int, byte: int
) -> None:
    raw = ALLOWED[:position] + bytes((byte,)) + ALLOWED[position + 1 :]
    response, event = answer(policies, raw)
    if is_allowed(response):
        # Only what no decision depends on may have changed.
        assert facts_of(raw) == facts_of(ALLOWED) or event["version"] in {"1", "2"}
        assert event["principal"] == CAMERA
        assert event["model"] == "defect-detection"
    else:
        assert_denied(response, event)


@given(st.integers(0, len(ALLOWED) - 1))
def test_a_request_that_is_cut_off_is_denied(policies: PolicyStore, end: int) -> None:
    assert_denied(*answer(policies, ALLOWED[:end]))


def facts_of(raw: bytes) -> Facts:
    plan = Plan(headers=CONFIG.inputs.headers, outlines=OUTLINES)
    return Facts.decode(extract(raw, plan)[0])


REQUESTS = st.builds(
    check_request,
    principal=st.sampled_from([CAMERA, FORECASTER, DEPLOYER, "spiffe://x/y", ""]),
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from(
        [
            INFER,
            "/v2/models/defect-detection/versions/2/infer",
            "/v2/models/demand-forecast/infer",
            "/v2/models/demand-forecast",
            "/v2/health/ready",
            "/v2/repository/index",
            MODEL_INFER,
        ]
    ),
    host=st.sampled_from(["a", "b"]),
    headers=st.dictionaries(
        st.sampled_from(["x-line", "x-role", "x-other", "content-type"]),
        st.sampled_from(["1", "2", "application/grpc"]),
    ),
    raw_body=st.sampled_from(
        [
            b"",
            frame(len_field(1, b"defect-detection") + len_field(2, b"1")),
            frame(len_field(1, b"demand-forecast") + len_field(5, b"t")),
        ]
    ),
    extensions=st.sampled_from(
        [{"upstream": "triton"}, {"upstream": "training-data"}, {}]
    ),
    request_id=st.sampled_from(["1", "2"]),
).map(bytes)


class Recorder:
    """Stands before the engine and notes what the policy is asked."""

    def __init__(self, policies: PolicyStore) -> None:
        current = policies.current
        assert current is not None
        self.questions: list[bytes] = []
        self.engine = current.engine
        self.current = dataclasses.replace(current, engine=self)  # type: ignore[arg-type]

    def evaluate(self, document: bytes) -> object:
        self.questions.append(document)
        return self.engine.evaluate(document)


@given(REQUESTS, REQUESTS)
def test_requests_that_differ_in_what_the_policy_sees_never_share_an_entry(
    policies: PolicyStore, one: bytes, other: bytes
) -> None:
    questions = []
    for raw in (one, other):
        recorder = Recorder(policies)
        build_pipeline(CONFIG, recorder, MemorySink(), IdentitySources()).check(raw)
        questions.append(recorder.questions)
    if questions[0] != questions[1]:
        assert facts_of(one) != facts_of(other)

    # And through one shared cache the second gets its own answer.
    sink = MemorySink()
    shared = build_pipeline(CONFIG, policies, sink, IdentitySources())
    shared.check(one)
    assert shared.check(other) == answer(policies, other)[0]


@given(REQUESTS, REQUESTS)
def test_equal_facts_give_equal_answers(
    policies: PolicyStore, one: bytes, other: bytes
) -> None:
    if facts_of(one) == facts_of(other):
        assert answer(policies, one)[0] == answer(policies, other)[0]


@given(REQUESTS)
def test_a_remembered_answer_is_the_fresh_answer_and_is_recorded_too(
    policies: PolicyStore, raw: bytes
) -> None:
    sink = MemorySink()
    pipeline = build_pipeline(CONFIG, policies, sink, IdentitySources())
    first, second = pipeline.check(raw), pipeline.check(raw)
    assert first == second
    events = [json.loads(event) for event in sink.events]
    assert len(events) == 2
    volatile = {"time", "latency_us", "cache_hit"}
    assert {k: v for k, v in events[0].items() if k not in volatile} == {
        k: v for k, v in events[1].items() if k not in volatile
    }
    assert events[0]["cache_hit"] is False
    is_policys_answer = events[0]["reason"] in {
        "granted",
        "not_granted",
        "principal_unknown",
    }
    assert events[1]["cache_hit"] is is_policys_answer


STAGES = [
    "authz_server.pipeline.extract",
    "authz_server.pipeline.Facts.decode",
    "authz_server.identity.identify.Identifier.identify",
    "authz_server.pipeline.classify",
    "authz_server.policy.judgement.build_question",
    "authz_server.pipeline.allow",
    "authz_server.pipeline.encode_record",
    "authz_server.pipeline.complete_event",
    "authz_server.pipeline.Entry",
    "authz_server.cache.DecisionCache.get",
    "authz_server.cache.DecisionCache.put",
    "authz_server.policy.engine.Engine.evaluate",
    "parts.MemorySink.write",
]

ERRORS = [
    RuntimeError("boom"),
    MemoryError(),
    RecursionError(),
    KeyError("x"),
    OSError(28, "disk full"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "x"),
    StopIteration(),
    PolicyError("late", Reason.DEADLINE_EXCEEDED),
    AuditError("full"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", STAGES)
def test_whatever_raises_anywhere_the_answer_is_a_denial_with_a_reason(
    policies: PolicyStore,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    pipeline = build_pipeline(CONFIG, policies, MemorySink(), IdentitySources())
    assert is_allowed(pipeline.check(ALLOWED))
    monkeypatch.setattr(stage, fail)
    fresh = build_pipeline(CONFIG, policies, MemorySink(), IdentitySources())
    response = fresh.check(ALLOWED)
    assert not is_allowed(response)
    assert reason_of(response) in set(Reason) - {Reason.GRANTED}
    # The refusals of the transport hold as well.
    refused = fresh.refuse(fresh.begin(ALLOWED), Reason.OVERLOADED)
    assert not is_allowed(refused)


@pytest.mark.parametrize(
    "verdict", [None, 0, "", b"", object(), {"allow": True}, 1], ids=repr
)
def test_an_engine_that_answers_nonsense_gets_a_denial(
    policies: PolicyStore, monkeypatch: pytest.MonkeyPatch, verdict: object
) -> None:
    monkeypatch.setattr(
        "authz_server.policy.engine.Engine.evaluate", lambda *_: verdict
    )
    response = build_pipeline(CONFIG, policies, MemorySink(), IdentitySources()).check(
        ALLOWED
    )
    assert reason_of(response) == Reason.INTERNAL_ERROR


def test_an_empty_response_is_never_given(
    policies: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.pipeline.allow", lambda: b"")
    pipeline: Pipeline = build_pipeline(
        CONFIG, policies, MemorySink(), IdentitySources()
    )
    for _ in range(2):
        assert not is_allowed(pipeline.check(ALLOWED))
