"""The native listener beside grpcio's: the same answers, records and rules.

What is asked of both is in `test_grpc_server`; here the two are compared, and what
only the native one does is looked at frame by frame.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from checks import (
    CAMERA,
    DEPLOYER,
    FORECASTER,
    MODEL_INFER,
    check_request,
    frame,
    grpc_check_request,
    is_allowed,
    len_field,
    reason_of,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from native.extract_cases import requests
from parts import (
    EXAMPLE,
    AnyServer,
    RecordSink,
    eventually,
    example_config,
    loaded_policies,
    new_server,
    running_server,
)
from raw_http2 import (
    CHECK,
    DATA,
    END_STREAM,
    GOAWAY,
    PREFACE,
    SETTINGS,
    dial,
    pack,
    raw_http2,
)

from authz_server._native.choice import is_pure
from authz_server.address import Address
from authz_server.assembly import build_pipeline
from authz_server.audit import FileSink
from authz_server.config import Inputs, Limits, Policy
from authz_server.errors import Reason
from authz_server.identity.revocation import RevocationFile
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.policy.engine import Verdict
from authz_server.policy.in_force import LoadedPolicy
from authz_server.policy.store import PolicyStore
from authz_server.second_lock import SecondLock
from authz_server.transport import native_server
from authz_server.transport.health import POLICY_HEALTH, SERVICE, Health
from authz_server.transport.peers import PeerList

pytestmark = pytest.mark.skipif(
    is_pure(), reason="the native listener is what is turned off"
)

CONFIG = example_config(
    inputs=Inputs(headers=("x-line", "x-role")), limits=Limits(deadline_s=5.0)
)
ALLOWED = bytes(check_request())
DENIED = bytes(check_request(path="/v2/models/demand-forecast/infer"))
HEALTH = "/grpc.health.v1.Health"
LOOPBACK = Address(host="127.0.0.1")
BOTH = ("native", "grpc")


@pytest.fixture(scope="module")
def policies() -> Iterator[PolicyStore]:
    with loaded_policies(CONFIG) as store:
        yield store


@dataclasses.dataclass
class Site:
    """A running server, what it was made of, and where it is."""

    server: AnyServer
    sink: RecordSink
    target: str

    def ask(self, raw: bytes, timeout: float = 5.0) -> bytes:
        options = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
        with grpc.insecure_channel(self.target, options) as channel:
            return bytes(channel.unary_unary(CHECK)(raw, timeout=timeout))


@contextlib.contextmanager
def serving(
    transport: str,
    policies: object,
    folder: Path,
    *,
    identities: IdentitySources | None = None,
    second_lock: SecondLock | None = None,
    is_tcp: bool = False,
    **changes: object,
) -> Iterator[Site]:
    own = folder / transport
    own.mkdir()
    with contextlib.closing(RecordSink(own)) as sink:
        pipeline = build_pipeline(
            CONFIG,
            policies,  # type: ignore[arg-type]
            sink,
            identities or IdentitySources(),
            second_lock=second_lock,
        )
        server = new_server(transport, pipeline, sink, **changes)
        address = LOOPBACK if is_tcp else Address(path=str(own / "s"))
        with running_server(server, address, socket_mode=0o666) as target:
            yield Site(server, sink, target)


@pytest.fixture(params=BOTH)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The same answers and records


def many_requests(count: int) -> list[bytes]:
    """Return requests, whole and broken ones, that come to every kind of end."""
    rng = random.Random(7)
    named = [
        bytes(check_request(principal=principal, path=path, request_id=f"é{number}"))
        for number, (principal, path) in enumerate(
            itertools.product(
                (CAMERA, FORECASTER, DEPLOYER, "spiffe://other.example/x", ""),
                (
                    "/v2/models/defect-detection/versions/1/infer",
                    "/v2/models/demand-forecast/infer?token=1",
                    "/v2/repository/index",
                    "/v2/health/live",
                    "/v2/../x",
                ),
            )
        )
    ]
    streams = [
        bytes(grpc_check_request(MODEL_INFER, len_field(1, model), principal=CAMERA))
        for model in (b"defect-detection", b"demand-forecast", b"\xff")
    ]
    odd = [b"", b"\xff\xff", ALLOWED[:-3], ALLOWED + b"\0"]
    all_ = named + streams + odd + list(itertools.islice(requests(11), count))
    rng.shuffle(all_)
    return all_


def without_moment(event: bytes) -> str:
    """Return an event without what differs from one time to the next."""
    fields = json.loads(event)
    assert set(fields) >= {"time", "latency_us", "cache_hit", "request_id", "source"}
    for name in ("time", "latency_us", "cache_hit"):
        del fields[name]
    return json.dumps(fields)


@pytest.mark.parametrize("is_tcp", [False, True], ids=["unix", "tcp"])
def test_both_give_the_same_answers_and_records(
    policies: PolicyStore, tmp_path: Path, *, is_tcp: bool
) -> None:
    asked = many_requests(60 if is_tcp else 400)
    answers, events = [], []
    for transport in BOTH:
        with (
            serving(transport, policies, tmp_path, is_tcp=is_tcp) as site,
            grpc.insecure_channel(site.target) as channel,
        ):
            call = channel.unary_unary(CHECK)
            answers.append([bytes(call(raw, timeout=10)) for raw in [*asked, *asked]])
            events.append(site.sink.events)
            if transport == "native":
                counts = site.server.counts()
                assert sum(counts.reasons.values()) > 10
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 10
    assert list(map(without_moment, events[0])) == list(map(without_moment, events[1]))
    hits = [[json.loads(event)["cache_hit"] for event in side] for side in events]
    assert hits[0] == hits[1]
    assert len(events[0]) == 2 * len(asked)


@pytest.mark.parametrize("is_tcp", [False, True], ids=["unix", "tcp"])
def test_many_callers_at_once_get_the_same_answers_and_records(
    policies: PolicyStore, tmp_path: Path, *, is_tcp: bool
) -> None:
    asked = many_requests(60)

    def ask_all(target: str, seed: int) -> list[tuple[bytes, bytes]]:
        mine = random.Random(seed).sample(asked, len(asked)) * 2
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(target, options) as channel:
            call = channel.unary_unary(CHECK)
            calls = [(raw, call.future(raw, timeout=20)) for raw in mine]
            return [(raw, bytes(answer.result())) for raw, answer in calls]

    # On both there is room for all at once.
    with serving("grpc", policies, tmp_path, max_pending=5000) as site:
        expected = dict(ask_all(site.target, 0))
        single = Counter(map(without_moment, site.sink.events))
    with (
        serving("native", policies, tmp_path, is_tcp=is_tcp, max_pending=5000) as site,
        ThreadPoolExecutor(6) as pool,
    ):
        for answers in pool.map(ask_all, [site.target] * 6, range(6)):
            assert len(answers) == 2 * len(asked)
            assert all(expected[raw] == answer for raw, answer in answers)
        events = Counter(map(without_moment, site.sink.events))
    assert events == Counter({event: 6 * n for event, n in single.items()})


def test_what_the_native_listener_counts_is_what_it_answered_from_memory(
    policies: PolicyStore, tmp_path: Path
) -> None:
    with serving("native", policies, tmp_path) as site:
        for raw in (ALLOWED, DENIED, ALLOWED, DENIED, ALLOWED):
            site.ask(raw)
        counts = site.server.counts()
        hits = [e for e in map(json.loads, site.sink.events) if e["cache_hit"]]
    assert counts.reasons == {Reason.GRANTED: 2, Reason.NOT_GRANTED: 1}
    assert len(hits) == sum(counts.buckets) == 3
    assert counts.sum_s > 0


# What is no call


LONG = 1500
"""The longest message of the servers of these tests."""

NO_CALLS: dict[str, tuple[bytes | None, dict[str, str | None], str, str]] = {
    "unknown method": (frame(ALLOWED), {"_path": "/a.B/C"}, "200", "12"),
    "path with a query": (frame(ALLOWED), {"_path": CHECK + "?x"}, "200", "12"),
    "compressed": (frame(b"x", 1), {"grpc_encoding": "gzip"}, "200", "12"),
    "compressed, not named": (frame(ALLOWED, 1), {}, "200", "13"),
    "odd flag": (frame(ALLOWED, 2), {}, "200", "13"),
    "too long": (frame(b"x" * (LONG + 1)), {}, "200", "8"),
    "declares 4 GiB": (b"\0\xff\xff\xff\xff", {}, "200", "8"),
    "cut": (frame(ALLOWED)[:-1], {}, "200", "13"),
    "cut in the prefix": (b"\0\0", {}, "200", "13"),
    "no message": (b"", {}, "200", "12"),
    "no body": (None, {}, "200", "12"),
    "two messages": (frame(ALLOWED) * 2, {}, "200", "12"),
    "one and a half": (frame(ALLOWED) + b"\0\0", {}, "200", "13"),
    "JSON": (frame(ALLOWED), {"content_type": "application/json"}, "415", "13"),
    "gRPC in JSON": (
        *(frame(ALLOWED), {"content_type": "application/grpc+json"}),
        *("415", "13"),
    ),
    "no type": (frame(ALLOWED), {"content_type": None}, "415", "13"),
    "GET": (None, {"_method": "GET"}, "405", "13"),
    "too long headers": (
        *(frame(ALLOWED), {f"x_{n}": "~" * 2000 for n in range(20)}),
        *("200", "8"),
    ),
    "health without a message": (b"", {"_path": f"{HEALTH}/Check"}, "200", "12"),
    "health cut": (b"\0\0\0\0\5a", {"_path": f"{HEALTH}/Check"}, "200", "13"),
    "health garbage": (frame(b"\xff"), {"_path": f"{HEALTH}/Check"}, "200", "13"),
    "health of nothing": (
        *(frame(len_field(1, b"other")), {"_path": f"{HEALTH}/Check"}),
        *("200", "5"),
    ),
}

# What grpcio does otherwise: it waits for a message that does not come, takes the first
# of several, unpacks, and looks neither at the type nor at odd flags.
SAME = {
    *("unknown method", "path with a query", "compressed, not named", "too long"),
    *("declares 4 GiB", "health of nothing"),
}


@pytest.mark.parametrize("name", NO_CALLS)
def test_what_is_no_call_gets_an_error_and_the_connection_lives(
    policies: PolicyStore,
    tmp_path: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body, changes, http_status, status = NO_CALLS[name]
    for transport in BOTH if name in SAME else ("native",):
        with (
            serving(transport, policies, tmp_path, max_message_bytes=LONG) as site,
            raw_http2(site.target) as client,
        ):
            if name == "too long headers":  # more than one frame holds
                stream = client.call_in_parts(body, **changes)
            else:
                stream = client.call(body, **changes)
            reply = client.wait(stream)
            assert reply.headers[0][":status"] == http_status
            assert reply.status == status
            assert reply.data == b""
            assert reply.is_ended
            assert is_allowed(client.ask(ALLOWED))
        assert len(site.sink.events) == 1
    assert "Traceback" not in caplog.text


def test_an_empty_check_request_is_read_like_any_other(
    policies: PolicyStore, tmp_path: Path, transport: str
) -> None:
    with serving(transport, policies, tmp_path) as site:
        for _ in range(2):
            assert reason_of(site.ask(b"")) == Reason.REQUEST_NOT_HTTP


@pytest.mark.parametrize(
    "kind",
    [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc+proto;x=1",
    ],
)
def test_the_types_of_grpc_are_taken(
    policies: PolicyStore, tmp_path: Path, kind: str
) -> None:
    with serving("native", policies, tmp_path) as site, raw_http2(site.target) as raw:
        reply = raw.wait(raw.call(frame(ALLOWED), content_type=kind))
        assert reply.headers[0] == {
            ":status": "200",
            "content-type": "application/grpc",
        }
        assert reply.headers[1] == {"grpc-status": "0"}
        assert is_allowed(reply.message)


def test_a_call_may_come_byte_by_byte(policies: PolicyStore, tmp_path: Path) -> None:
    with serving("native", policies, tmp_path) as site:
        client = dial(site.target)
        with raw_http2(site.target) as whole:
            stream = whole.new_stream()
            request = pack(1, 4, stream, whole.block())
            for byte in frame(ALLOWED):
                request += pack(DATA, 0, stream, bytes((byte,)))
            whole.send(request + pack(DATA, END_STREAM, stream))
            assert is_allowed(whole.wait(stream).message)
            stream = whole.new_stream()
            request = pack(1, 4, stream, whole.block())
            request += pack(DATA, END_STREAM, stream, frame(ALLOWED))
            for byte in request:
                whole.send(bytes((byte,)))
            assert is_allowed(whole.wait(stream).message)
        client.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        bytes(100),
        PREFACE + bytes(100),
        PREFACE + b"\xff" * 100,
        PREFACE + pack(SETTINGS, 0, 0) + pack(DATA, 0, 1, b"x"),
        PREFACE + pack(SETTINGS, 0, 0) + pack(1, 4, 1, b"\xff" * 50),
        PREFACE + pack(SETTINGS, 0, 0) + pack(1, 4, 2, b"\x82"),
        PREFACE + pack(SETTINGS, 0, 0, b"12345"),
    ],
)
def test_garbage_ends_its_own_connection_only(
    policies: PolicyStore, tmp_path: Path, garbage: bytes
) -> None:
    with (
        serving("native", policies, tmp_path) as site,
        raw_http2(site.target) as other,
        raw_http2(site.target, begins=False) as client,
    ):
        assert is_allowed(other.ask(ALLOWED))
        client.flood(garbage, 1)
        assert client.is_cut()
        assert is_allowed(other.ask(ALLOWED))


# Health


def test_health_is_watched_and_flips(
    policies: PolicyStore, tmp_path: Path, transport: str
) -> None:
    state = Health(can_answer=True, is_current=True)
    with (
        serving(transport, policies, tmp_path, health_of=lambda: state) as site,
        grpc.insecure_channel(site.target) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watches = {
            name: stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
            for name in ("", SERVICE, POLICY_HEALTH, "other")
        }
        first = {name: next(watch).status for name, watch in watches.items()}
        assert first == {"": 1, SERVICE: 1, POLICY_HEALTH: 1, "other": 3}
        state = Health(can_answer=True, is_current=False)
        assert next(watches[POLICY_HEALTH]).status == 2
        state = Health(can_answer=False, is_current=False)
        assert next(watches[SERVICE]).status == 2
        assert next(watches[""]).status == 2
        state = Health(can_answer=True, is_current=True)
        assert next(watches[POLICY_HEALTH]).status == 1
        for watch in watches.values():
            watch.cancel()
        assert not policies.error
        assert is_allowed(site.ask(ALLOWED))


# Draining


class Gate:
    """An engine whose evaluations wait until a test lets them go."""

    def __init__(self, policies: PolicyStore) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.evaluations = 0
        self.ttl_s: float | None = None
        assert policies.current is not None
        self.missing = Reason.POLICY_UNAVAILABLE
        self.current: LoadedPolicy = dataclasses.replace(
            policies.current,
            engine=self,  # type: ignore[arg-type]
        )

    def evaluate(self, _: bytes) -> Verdict:
        self.evaluations += 1
        self.entered.release()
        assert self.go.wait(10)
        return Verdict(allow=True, reason=Reason.GRANTED, role="r", ttl_s=self.ttl_s)


def test_a_connection_is_told_twice_to_go_and_answered_until_then(
    policies: PolicyStore, tmp_path: Path
) -> None:
    gate = Gate(policies)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(contextlib.ExitStack())
        site = running.enter_context(serving("native", gate, tmp_path))
        client = stack.enter_context(raw_http2(site.target))
        idle = stack.enter_context(raw_http2(site.target))
        opened = client.call(frame(ALLOWED))
        assert gate.entered.acquire(timeout=5)
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(running.close)
            for one in client.frames(5):
                if one.kind == GOAWAY:
                    break
            assert client.goaway == [(2**31 - 1, 0)]
            gate.go.set()
            assert is_allowed(client.wait(opened).message)
            assert client.is_cut()
            assert client.goaway[1:] == [(opened, 0)]
            assert idle.is_cut()
            stopped.result(10)
        assert not Path(site.target.removeprefix("unix:")).exists()
        with pytest.raises(OSError, match=r"No such file|refused"):
            dial(site.target)


def test_a_call_that_crosses_the_first_word_of_the_end_is_answered(
    policies: PolicyStore, tmp_path: Path
) -> None:
    """A request under way must not be lost: Envoy would take that for a denial."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(contextlib.ExitStack())
        site = running.enter_context(serving("native", policies, tmp_path))
        client = stack.enter_context(raw_http2(site.target))
        assert is_allowed(client.ask(ALLOWED))
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(running.close)
            for one in client.frames(5):
                if one.kind == GOAWAY:
                    break
            assert is_allowed(client.ask(ALLOWED))
            assert client.is_cut()
            stopped.result(10)


def test_who_asks_on_and_on_does_not_hold_up_the_end(
    policies: PolicyStore, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(contextlib.ExitStack())
        site = running.enter_context(serving("native", policies, tmp_path, is_tcp=True))
        client = stack.enter_context(raw_http2(site.target))
        stream = client.call(frame(ALLOWED)[:-1] + b"")  # refused, and then idle
        client.wait(stream)
        watch = client.new_stream()
        client.send(
            pack(1, 4, watch, client.block(_path=f"{HEALTH}/Watch"))
            + pack(DATA, END_STREAM, watch, frame(b""))
        )
        began = time.monotonic()
        running.close()
        assert time.monotonic() - began < 5
        with pytest.raises(OSError, match="refused"):
            dial(site.target)


# An old answer never comes after a change


def say_no(path: Path, source: Path) -> None:
    text = source.read_text()
    assert "models: [defect-detection]" in text
    path.write_text(text.replace("models: [defect-detection]", "models: [other]"))


def test_nothing_is_answered_under_a_policy_that_was_replaced(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(EXAMPLE.read_text())
    config = example_config(policy=Policy(file=str(file)))
    with (
        loaded_policies(config) as changing,
        serving("native", changing, tmp_path) as site,
        raw_http2(site.target) as client,
        raw_http2(site.target) as other,
    ):
        for _ in range(12):
            assert is_allowed(client.ask(ALLOWED))
            assert is_allowed(other.ask(ALLOWED))
            say_no(file, EXAMPLE)
            assert changing.reload(), changing.error
            site.server.publish()
            assert reason_of(client.ask(ALLOWED)) == Reason.NOT_GRANTED
            assert reason_of(other.ask(ALLOWED)) == Reason.NOT_GRANTED
            file.write_text(EXAMPLE.read_text())
            assert changing.reload(), changing.error
            site.server.publish()
        hits = [json.loads(event)["cache_hit"] for event in site.sink.events]
    assert any(hits)


def test_who_looked_at_the_policy_earlier_does_not_publish_it_later(
    policies: PolicyStore, tmp_path: Path
) -> None:
    """Two threads publish: the one that reloads, and the one that keeps it true."""
    with serving("native", policies, tmp_path) as site:
        assert is_allowed(site.ask(ALLOWED))
        pipeline = site.server._pipeline
        slow, looked, go = threading.Event(), threading.Event(), threading.Event()
        told: list[str] = []

        class Slow:
            """A pipeline of which one thread learns the past."""

            plan, cache = pipeline.plan, pipeline.cache

            @property
            def standing(self) -> str | None:
                if slow.is_set() and not looked.is_set():
                    looked.set()
                    assert go.wait(5)
                    return "the past"
                return pipeline.standing

        listener = site.server._listener  # type: ignore[union-attr]

        class Heard:
            def hold(self, standing: str, until_s: float) -> None:
                told.append(standing)
                listener.hold(standing, until_s)

            def __getattr__(self, name: str) -> object:
                return getattr(listener, name)

        site.server._pipeline = Slow()  # type: ignore[assignment]
        site.server._listener = Heard()  # type: ignore[union-attr, assignment]
        slow.set()
        assert looked.wait(5)
        told.clear()
        newer = threading.Thread(target=site.server.publish)
        newer.start()
        time.sleep(0.05)
        go.set()
        newer.join()
        assert "the past" in told
        assert told[-1] == pipeline.standing
        site.server._pipeline = pipeline
        site.server._listener = listener  # type: ignore[union-attr]


def test_nothing_is_answered_from_memory_once_python_looks_after_it_no_more(
    policies: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("native", policies, tmp_path) as site:

        def is_remembered() -> bool:
            before = site.server.counts().reasons
            assert is_allowed(site.ask(ALLOWED))
            return site.server.counts().reasons != before

        assert eventually(is_remembered)
        assert is_remembered()
        # As if the thread that publishes were stuck: what it said last is soon over.
        monkeypatch.setattr(native_server, "_LEASE_S", 0.0)
        assert eventually(lambda: not is_remembered())
        assert not is_remembered()


def broken(_: bytes, __: float, ___: float, ____: int) -> bytes:
    raise RuntimeError("a fault of ours")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "decide", [broken, lambda *_: b"", lambda *_: None], ids=["error", "empty", "none"]
)
def test_no_answer_of_a_worker_is_a_denial(
    policies: PolicyStore, tmp_path: Path, decide: Callable[..., bytes]
) -> None:
    # An empty CheckResponse would be an allow to Envoy.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(native_server.NativeServer, "_decide", staticmethod(decide))
        with serving("native", policies, tmp_path) as site:
            for _ in range(2):
                assert reason_of(site.ask(ALLOWED)) == Reason.INTERNAL_ERROR


def test_nothing_is_remembered_of_whom_a_revocation_names(
    policies: PolicyStore, tmp_path: Path, transport: str
) -> None:
    file = tmp_path / "revoked"
    file.write_text("")
    identities = IdentitySources(revocations=RevocationFile(file))
    identities.reload()
    with serving(transport, policies, tmp_path, identities=identities) as site:
        for _ in range(2):
            assert is_allowed(site.ask(ALLOWED))
        file.write_text(f"spiffe-id {CAMERA}\n")
        identities.reload()
        site.server.publish()
        assert reason_of(site.ask(ALLOWED)) == Reason.PRINCIPAL_REVOKED
        file.write_text("")
        identities.reload()
        # Without being told so, within moments.
        assert eventually(lambda: is_allowed(site.ask(ALLOWED)), 5)


def test_nothing_is_remembered_once_the_access_secret_is_lost(
    policies: PolicyStore, tmp_path: Path, transport: str
) -> None:
    file = tmp_path / "secret"
    file.write_text("s" * 40)
    lock = SecondLock(file)
    lock.reload()
    with serving(transport, policies, tmp_path, second_lock=lock) as site:
        for _ in range(2):
            assert is_allowed(site.ask(ALLOWED))
        old = site.ask(ALLOWED)
        file.write_text("t" * 40)
        lock.reload()
        site.server.publish()
        assert site.ask(ALLOWED) != old
        file.unlink()
        lock.reload()
        site.server.publish()
        for _ in range(2):
            assert reason_of(site.ask(ALLOWED)) == Reason.ACCESS_SECRET_UNAVAILABLE


def test_nothing_is_answered_from_memory_once_nobody_publishes_any_more(
    policies: PolicyStore, tmp_path: Path
) -> None:
    with serving("native", policies, tmp_path) as site:
        for _ in range(2):
            site.ask(ALLOWED)
        site.server.publish = lambda: None  # type: ignore[method-assign]
        before = sum(site.server.counts().reasons.values())
        assert before == 1
        time.sleep(1.1)
        assert is_allowed(site.ask(ALLOWED))
        assert sum(site.server.counts().reasons.values()) == before


# Who may ask


def test_a_peer_that_is_not_listed_is_cut_off_before_it_says_a_word(
    policies: PolicyStore,
    tmp_path: Path,
    transport: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    peers = PeerList(uids=frozenset({os.geteuid() + 1}))
    with serving(transport, policies, tmp_path, peers=peers) as site:
        for _ in range(3):
            with contextlib.closing(dial(site.target)) as client:
                assert client.recv(1) == b""
    assert f"uid {os.geteuid()}" in caplog.text
    assert site.sink.events == []


def test_there_is_room_for_all_connections_whichever_thread_they_come_to(
    policies: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_server, "_MAX_CONNECTIONS", 16)
    with (
        serving("native", policies, tmp_path, threads=4) as site,
        contextlib.ExitStack() as connections,
    ):
        for _ in range(16):
            client = connections.enter_context(raw_http2(site.target))
            client.call(frame(b""), _path=f"{HEALTH}/Watch")
            assert any(one.kind == DATA for one in client.frames(5))


# Too much, too late, and no room for a record


def test_equal_misses_are_decided_once(policies: PolicyStore, tmp_path: Path) -> None:
    gate = Gate(policies)
    gate.ttl_s = 60.0
    with (
        serving("native", gate, tmp_path, threads=1) as site,
        raw_http2(site.target) as client,
        raw_http2(site.target) as other,
    ):
        streams = [client.call(frame(ALLOWED)) for _ in range(20)]
        more = [other.call(frame(ALLOWED)) for _ in range(20)]
        assert gate.entered.acquire(timeout=5)
        time.sleep(0.1)
        assert gate.evaluations == 1
        gate.go.set()
        for stream in streams:
            assert is_allowed(client.wait(stream).message)
        for stream in more:
            assert is_allowed(other.wait(stream).message)
        assert gate.evaluations == 1
        events = list(map(json.loads, site.sink.events))
    assert len(events) == 40
    assert sum(event["cache_hit"] for event in events) == 39


def test_equal_misses_are_each_decided_if_nothing_is_remembered(
    policies: PolicyStore, tmp_path: Path
) -> None:
    gate = Gate(policies)
    gate.ttl_s = 0.0
    gate.go.set()
    with (
        serving("native", gate, tmp_path) as site,
        raw_http2(site.target) as client,
    ):
        streams = [client.call(frame(ALLOWED)) for _ in range(10)]
        for stream in streams:
            assert is_allowed(client.wait(stream).message)
        assert gate.evaluations == 10
        assert len(site.sink.events) == 10


@pytest.mark.parametrize("size", [0, 200_000])
def test_what_a_proxy_gives_up_is_on_record_whatever_its_size(
    policies: PolicyStore, tmp_path: Path, transport: str, size: int
) -> None:
    gate = Gate(policies)
    late = bytes(check_request(path="/v2/models/a/infer", raw_body=b"x" * size))
    with serving(transport, gate, tmp_path, workers=1) as site:
        with grpc.insecure_channel(site.target) as channel:
            first = channel.unary_unary(CHECK).future(ALLOWED, timeout=10)
            assert gate.entered.acquire(timeout=5)
            with pytest.raises(grpc.RpcError):
                site.ask(late, timeout=0.3)
            assert eventually(lambda: len(site.sink.events) == 1)
            gate.go.set()
            assert is_allowed(first.result())
        (event, _) = map(json.loads, site.sink.events)
    assert event["reason"] == "deadline_exceeded"
    assert event["decision"] == "deny"


def test_a_connection_that_breaks_gives_up_all_its_calls(
    policies: PolicyStore, tmp_path: Path
) -> None:
    gate = Gate(policies)
    with serving("native", gate, tmp_path, workers=1) as site:
        with raw_http2(site.target) as client:
            for number in range(5):
                path = f"/v2/models/m{number}/infer"
                client.call(frame(bytes(check_request(path=path))))
            assert gate.entered.acquire(timeout=5)
            time.sleep(0.1)
        assert eventually(lambda: len(site.sink.events) == 4)
        gate.go.set()
        assert eventually(lambda: len(site.sink.events) == 5)
        reasons = Counter(json.loads(event)["reason"] for event in site.sink.events)
        assert reasons == {"deadline_exceeded": 4, "granted": 1}


def break_record(folder: Path) -> None:
    """Fill the disk that events are written to."""
    file = folder / "native" / "audit.jsonl"
    file.rename(file.with_suffix(".before"))
    file.symlink_to("/dev/full")


def test_without_room_for_its_event_nothing_is_answered_but_no(
    policies: PolicyStore, tmp_path: Path
) -> None:
    with (
        serving("native", policies, tmp_path) as site,
        raw_http2(site.target) as client,
    ):
        for _ in range(2):
            assert is_allowed(client.ask(ALLOWED))
        time.sleep(0.1)  # these are in the file then, and what comes now is not spooled
        break_record(tmp_path)
        streams = [client.call(frame(ALLOWED)) for _ in range(5)]
        for stream in streams:  # remembered
            answer = client.wait(stream).message
            assert reason_of(answer) == Reason.AUDIT_UNAVAILABLE
        assert reason_of(client.ask(DENIED)) == Reason.AUDIT_UNAVAILABLE  # not so
        (tmp_path / "native" / "audit.jsonl").unlink()
        assert is_allowed(client.ask(ALLOWED))
        assert len(site.sink.events) == 1


Ask = Callable[[bytes], bytes]


def test_a_full_disk_from_the_start(policies: PolicyStore, tmp_path: Path) -> None:
    with contextlib.closing(FileSink("/dev/full")) as sink:
        pipeline: Pipeline = build_pipeline(CONFIG, policies, sink, IdentitySources())
        server = new_server("native", pipeline, sink)
        with (
            running_server(server, Address(path=str(tmp_path / "s"))) as target,
            raw_http2(target) as client,
        ):
            for _ in range(2):
                assert reason_of(client.ask(ALLOWED)) == Reason.AUDIT_UNAVAILABLE
