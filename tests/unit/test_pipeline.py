"""The pipeline's own rules: time, revisions, what is remembered and for how long."""

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import (
    CAMERA,
    MODEL_INFER,
    check_request,
    envoy_certificate,
    grpc_check_request,
    is_allowed,
    len_field,
    reason_of,
)
from parts import MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline
from authz_server.cache import DecisionCache
from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import Reason
from authz_server.facts import Plan
from authz_server.facts.input_paths import InputPaths
from authz_server.identity.identify import Identifier
from authz_server.identity.rules import Rules
from authz_server.identity.sources import IdentitySources
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.pipeline import Pipeline, Settings
from authz_server.policy.engine import Verdict
from authz_server.policy.in_force import AnyPolicy, LoadedPolicy, OpaEnvoyPolicy
from authz_server.policy.store import PolicyStore
from authz_server.policy.time_limit import Schedule, TimeLimit
from authz_server.second_lock import SecondLock

ALLOWED = bytes(check_request())
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = Instant(START.timestamp() + 60, 1000.0)

    def __call__(self) -> Instant:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now = Instant(self.now.wall_s + seconds, self.now.steady_s + seconds)


class Source:
    """A policy source that a test sets."""

    missing = Reason.POLICY_UNAVAILABLE

    def __init__(self, current: AnyPolicy | None) -> None:
        self.current = current


class SlowEngine:
    """Takes a while, then answers what a real engine would."""

    def __init__(self, time: Time, seconds: float, verdict: Verdict) -> None:
        self._time, self._seconds, self._verdict = time, seconds, verdict
        self.evaluations = 0
        self.open: list[list[str]] = []

    def evaluate(self, question: bytes) -> Verdict:
        self.evaluations += 1
        self.open.append(json.loads(question)["time"]["open"])
        self._time.pass_(self._seconds)
        return self._verdict


@pytest.fixture(scope="module")
def policies() -> Iterator[PolicyStore]:
    with loaded_policies(example_config()) as store:
        yield store


@pytest.fixture
def loaded(policies: PolicyStore) -> LoadedPolicy:
    assert policies.current is not None
    return policies.current


LENIENT = Rules(verify_chain=False, require_certificate=False)


class Bench:
    """A pipeline with a clock, a policy source and a sink to look into."""

    def __init__(
        self,
        loaded: AnyPolicy | None,
        rules: Rules = LENIENT,
        **settings: object,
    ) -> None:
        self.time = Time()
        self.source = Source(loaded)
        self.sink = MemorySink()
        self.cache = DecisionCache(max_entries=100, max_bytes=1_000_000)
        self.pipeline = Pipeline(
            plan=Plan(outlines=OUTLINES),
            policies=self.source,
            identifier=Identifier(rules, IdentitySources()),
            cache=self.cache,
            audit=self.sink,
            clock=self.time,
            settings=Settings(**settings),  # type: ignore[arg-type]
        )

    @property
    def event(self) -> dict[str, object]:
        event: dict[str, object] = json.loads(self.sink.events[-1])
        return event

    def check(self, raw: bytes = ALLOWED) -> bytes:
        return self.pipeline.check(raw)

    def with_engine(self, seconds: float, verdict: Verdict) -> SlowEngine:
        engine = SlowEngine(self.time, seconds, verdict)
        assert self.source.current is not None
        self.source.current = dataclasses.replace(
            self.source.current,
            engine=engine,  # type: ignore[arg-type]
        )
        return engine


GRANTED = Verdict(allow=True, reason=Reason.GRANTED, role="r", ttl_s=None)


def test_an_allowed_call_is_allowed_and_recorded(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded)
    assert is_allowed(bench.check())
    assert bench.event == {
        "decision": "allow",
        "reason": "granted",
        "principal": CAMERA,
        "verified": True,
        "via": "",
        "user_issuer": "",
        "user": "",
        "role": "inspector",
        "action": "inference",
        "scope": "model",
        "model": "defect-detection",
        "version": "1",
        "adapter": "",
        "upstream": "triton",
        "dataset": "",
        "also": "",
        "method": "POST",
        "path": "/v2/models/defect-detection/versions/1/infer",
        "policy_revision": loaded.revision,
        "time": "2026-01-01T00:01:00.000000+00:00",
        "cache_hit": False,
        "latency_us": 0,
        "request_id": "req-1",
        "source": "10.1.2.3:40123",
    }


def test_without_a_policy_every_call_is_denied() -> None:
    bench = Bench(None)
    raw = bytes(grpc_check_request(MODEL_INFER, len_field(1, b"m")))
    response = bench.check(raw)
    assert reason_of(response) == Reason.POLICY_UNAVAILABLE
    assert b"application/json" not in response
    assert bench.event["policy_revision"] == ""


def test_a_policy_that_is_too_old_is_told_from_none() -> None:
    bench = Bench(None)
    bench.source.missing = Reason.POLICY_STALE
    assert reason_of(bench.check(ALLOWED)) == Reason.POLICY_STALE
    assert bench.event["reason"] == Reason.POLICY_STALE


def test_a_check_that_never_got_a_policy_cannot_be_finished(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    check = bench.pipeline.begin(ALLOWED)
    check.policy = None
    answer = bench.pipeline.finish(check)
    assert reason_of(answer) == Reason.POLICY_UNAVAILABLE


def test_a_query_that_may_hold_a_token_is_not_recorded(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded)
    bench.check(bytes(check_request(path="/v2/models/m/infer?token=secret")))
    assert b"secret" not in b"".join(bench.sink.events)
    assert bench.event["path"] == "/v2/models/m/infer"


def test_no_part_of_header_body_or_certificate_is_recorded(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    pem = DevelopmentCa("factory.example").issue(CAMERA).certificate_pem
    encoded = envoy_certificate(pem)
    bench.check(
        bytes(
            check_request(
                certificate=encoded,
                headers={"authorization": "Bearer s3cr3t", "cookie": "s3cr3t"},
                raw_body=b"s3cr3t",
            )
        )
    )
    record = b"".join(bench.sink.events)
    assert b"s3cr3t" not in record
    assert encoded[100:160].encode() not in record


def test_a_decision_is_remembered_for_its_lifetime_only(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded, ttl_s=10.0)
    engine = bench.with_engine(0.0, GRANTED)
    bench.check()
    bench.time.pass_(9.9)
    bench.check()
    assert engine.evaluations == 1
    bench.time.pass_(0.2)
    bench.check()
    assert engine.evaluations == 2


@pytest.mark.parametrize(("ttl_s", "evaluations"), [(0.0, 3), (1.5, 2), (99.0, 1)])
def test_the_policy_may_shorten_the_lifetime_but_not_lengthen_it(
    loaded: LoadedPolicy, ttl_s: float, evaluations: int
) -> None:
    bench = Bench(loaded, ttl_s=10.0)
    engine = bench.with_engine(0.0, dataclasses.replace(GRANTED, ttl_s=ttl_s))
    for _ in range(3):
        bench.check()
        bench.time.pass_(1.0)
    assert engine.evaluations == evaluations
    bench.time.pass_(10.0)
    bench.check()
    assert engine.evaluations == evaluations + 1


def test_a_hit_does_not_outlive_the_certificate(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded, ttl_s=3600.0)
    pem = (
        DevelopmentCa("factory.example")
        .issue(CAMERA, not_before=START, not_after=START + dt.timedelta(seconds=90))
        .certificate_pem
    )
    raw = bytes(check_request(certificate=envoy_certificate(pem)))
    assert is_allowed(bench.check(raw))
    bench.time.pass_(29.0)
    assert is_allowed(bench.check(raw))
    assert bench.event["cache_hit"] is True
    bench.time.pass_(2.0)
    assert reason_of(bench.check(raw)) == Reason.CERTIFICATE_EXPIRED


def test_a_clock_that_is_set_back_before_the_certificate_ends_the_hit(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    pem = (
        DevelopmentCa("factory.example").issue(CAMERA, not_before=START).certificate_pem
    )
    raw = bytes(check_request(certificate=envoy_certificate(pem)))
    assert is_allowed(bench.check(raw))
    bench.time.now = Instant(START.timestamp() - 1, bench.time.now.steady_s)
    assert reason_of(bench.check(raw)) == Reason.CERTIFICATE_NOT_YET_VALID


def test_another_revision_ends_every_older_entry_at_once(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded)
    assert is_allowed(bench.check())
    bench.source.current = dataclasses.replace(loaded, revision="newer")
    engine = bench.with_engine(
        0.0, Verdict(allow=False, reason=Reason.NOT_GRANTED, role="", ttl_s=None)
    )
    assert reason_of(bench.check()) == Reason.NOT_GRANTED
    assert engine.evaluations == 1


def test_a_check_in_flight_ends_on_the_revision_it_began_with(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    check = bench.pipeline.begin(ALLOWED)
    bench.source.current = dataclasses.replace(loaded, revision="newer")
    assert is_allowed(bench.pipeline.finish(check))
    assert bench.event["policy_revision"] == loaded.revision
    # And what it stored answers nobody under the newer one.
    assert bench.pipeline.begin(ALLOWED).answer is None


def test_an_evaluation_that_ends_too_late_is_a_denial(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded, deadline_s=0.25)
    bench.with_engine(0.3, GRANTED)
    assert reason_of(bench.check()) == Reason.DEADLINE_EXCEEDED
    assert len(bench.cache) == 0


def test_a_check_that_waited_too_long_is_not_evaluated(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded, deadline_s=0.25)
    engine = bench.with_engine(0.0, GRANTED)
    check = bench.pipeline.begin(ALLOWED)
    bench.time.pass_(0.3)
    assert reason_of(bench.pipeline.finish(check)) == Reason.DEADLINE_EXCEEDED
    assert engine.evaluations == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        bytes(check_request(principal="")),
        bytes(check_request(path="/unknown")),
        bytes(check_request(extensions={"upstream": "x"})),
    ],
)
def test_errors_are_never_remembered(loaded: LoadedPolicy, raw: bytes) -> None:
    bench = Bench(loaded)
    bench.check(raw)
    assert len(bench.cache) == 0


def test_a_policy_that_denies_is_remembered(loaded: LoadedPolicy) -> None:
    bench = Bench(loaded)
    raw = bytes(check_request(path="/v2/models/demand-forecast/infer"))
    assert reason_of(bench.check(raw)) == Reason.NOT_GRANTED
    bench.check(raw)
    assert bench.event["cache_hit"] is True


def test_rules_and_settings_are_strict_by_default(loaded: LoadedPolicy) -> None:
    assert reason_of(Bench(loaded, Rules()).check()) == Reason.CERTIFICATE_MISSING
    raw = bytes(check_request(extensions={}))
    assert reason_of(Bench(loaded).check(raw)) == Reason.UPSTREAM_UNKNOWN


def test_a_stream_needs_the_action_on_every_model(loaded: LoadedPolicy) -> None:
    raw = bytes(
        check_request(
            path="/inference.GRPCInferenceService/ModelStreamInfer",
            headers={"content-type": "application/grpc"},
        )
    )
    bench = Bench(loaded)
    assert reason_of(bench.check(raw)) == Reason.NOT_GRANTED
    assert bench.event["action"] == "inference-stream"
    assert bench.event["scope"] == "every-model"


def test_what_depends_on_the_time_is_remembered_until_that_changes(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    now_s = bench.time.now.wall_s
    limit = TimeLimit(since_s=now_s - 5, until_s=now_s + 20)
    bench.source.current = dataclasses.replace(loaded, schedule=Schedule([limit]))
    engine = bench.with_engine(0.0, GRANTED)
    for seconds, evaluations in ((0.0, 1), (19.0, 1), (1.0, 2), (1.0, 2)):
        bench.time.pass_(seconds)
        bench.check()
        assert engine.evaluations == evaluations
    assert engine.open == [[str(limit)], []]
    # Nor does a clock that is set back bring an answer from later.
    bench.time.now = Instant(now_s + 10, bench.time.now.steady_s)
    bench.check()
    assert engine.open == [[str(limit)], [], [str(limit)]]


def test_a_policy_that_comes_into_force_has_decided_what_is_asked_often(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    assert is_allowed(bench.check())
    newer = dataclasses.replace(loaded, revision="newer")
    count = len(bench.sink.events)
    remember = bench.pipeline.rehearse(newer)
    # Nothing of it shows before it is in force.
    assert len(bench.sink.events) == count
    assert bench.pipeline.begin(ALLOWED).answer is not None
    bench.source.current = newer
    remember()
    assert is_allowed(bench.check())
    assert bench.event["cache_hit"] is True
    assert bench.event["policy_revision"] == "newer"


def test_what_cannot_be_decided_in_a_rehearsal_is_asked_again(
    loaded: LoadedPolicy,
) -> None:
    bench = Bench(loaded)
    assert is_allowed(bench.check())
    bench.source.current = dataclasses.replace(loaded, revision="newer")
    bench.with_engine(1.0, GRANTED)
    bench.pipeline.rehearse(bench.source.current)()
    assert bench.pipeline.begin(ALLOWED).answer is None


def test_a_slow_rehearsal_ends_and_whatever_fails_in_it(
    loaded: LoadedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(loaded, deadline_s=10.0)
    for version in range(1, 9):
        path = f"/v2/models/defect-detection/versions/{version}/infer"
        bench.check(bytes(check_request(path=path)))
    bench.source.current = dataclasses.replace(loaded, revision="newer")
    engine = bench.with_engine(0.3, GRANTED)
    bench.pipeline.rehearse(bench.source.current)
    assert engine.evaluations == 2

    def fail(_: bytes) -> Verdict:
        raise MemoryError

    monkeypatch.setattr(engine, "evaluate", fail)
    bench.pipeline.rehearse(bench.source.current)()


def test_nothing_holds_without_a_policy_or_the_access_secret(
    loaded: LoadedPolicy, policies: PolicyStore, tmp_path: Path
) -> None:
    assert Bench(None).pipeline.standing is None
    # A policy for opa-envoy-plugin: its input is part of what was asked.
    other = OpaEnvoyPolicy(loaded.engine, InputPaths.parse(("attributes",)), "r")
    assert Bench(other).pipeline.standing is None
    assert Bench(loaded).pipeline.standing is not None

    file = tmp_path / "secret"
    lock = SecondLock(file)
    config = example_config()
    pipeline = build_pipeline(
        config, policies, MemorySink(), IdentitySources(), second_lock=lock
    )
    assert pipeline.standing is None
    file.write_text("s" * 40)
    lock.reload()
    assert pipeline.standing is not None
    file.unlink()
    lock.reload()
    assert pipeline.standing is None
