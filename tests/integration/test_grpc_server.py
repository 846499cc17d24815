"""The Check service as Envoy meets it, over sockets, on both transports."""

import contextlib
import dataclasses
import datetime as dt
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from checks import check_request, is_allowed, reason_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from parts import (
    AnyServer,
    RecordSink,
    eventually,
    example_config,
    loaded_policies,
    new_server,
    running_server,
)

from authz_server._native.choice import is_pure
from authz_server.address import Address
from authz_server.assembly import build_pipeline
from authz_server.clock import system_clock
from authz_server.config import Limits
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import ConfigError, Reason
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.pipeline import Pipeline
from authz_server.policy.engine import Verdict
from authz_server.policy.in_force import LoadedPolicy
from authz_server.policy.store import PolicyStore
from authz_server.transport.grpc_server import GrpcServer
from authz_server.transport.health import POLICY_HEALTH, SERVICE, Health
from authz_server.transport.peers import PeerList
from authz_server.transport.proxies import ProxyList
from authz_server.transport.tls import TlsFiles

METHOD = f"/{SERVICE}/Check"
ALLOWED = bytes(check_request())
DENIED = bytes(check_request(path="/v2/models/demand-forecast/infer"))
CONFIG = example_config(limits=Limits(deadline_s=5.0))
PROXY = "spiffe://factory.example/ns/inference/sa/triton"


@pytest.fixture(scope="module")
def policies() -> Iterator[PolicyStore]:
    with loaded_policies(CONFIG) as store:
        yield store


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[RecordSink]:
    with contextlib.closing(RecordSink(tmp_path)) as sink:
        yield sink


@pytest.fixture
def pipeline(policies: PolicyStore, sink: RecordSink) -> Pipeline:
    return build_pipeline(CONFIG, policies, sink, IdentitySources())


Make = Callable[..., AnyServer]


@pytest.fixture(params=["grpc"] if is_pure() else ["native", "grpc"])
def server(request: pytest.FixtureRequest, sink: RecordSink) -> Make:
    return lambda pipeline, **changes: new_server(
        request.param, pipeline, sink, **changes
    )


def ask(target: str, raw: bytes, timeout: float = 5.0) -> bytes:
    with grpc.insecure_channel(target) as channel:
        return bytes(channel.unary_unary(METHOD)(raw, timeout=timeout))


def health(channel: grpc.Channel, service: str = "") -> str:
    answer = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service), timeout=5
    )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_checks_are_answered(
    server: Make, pipeline: Pipeline, tmp_path: Path, kind: str
) -> None:
    address = Address(path=str(tmp_path / "s")) if kind == "unix" else LOOPBACK
    with running_server(server(pipeline), address) as target:
        for _ in range(2):  # a miss, then a hit
            assert is_allowed(ask(target, ALLOWED))
            assert reason_of(ask(target, DENIED)) == Reason.NOT_GRANTED


def test_bytes_that_are_no_check_request_get_a_check_response(
    server: Make, pipeline: Pipeline, tmp_path: Path
) -> None:
    with running_server(server(pipeline), Address(path=str(tmp_path / "s"))) as target:
        assert reason_of(ask(target, b"\xff\xff")) == Reason.REQUEST_MALFORMED


def test_a_message_above_the_limit_never_reaches_the_pipeline(
    server: Make, pipeline: Pipeline, sink: RecordSink, tmp_path: Path
) -> None:
    small = server(pipeline, max_message_bytes=1024)
    with (
        running_server(small, Address(path=str(tmp_path / "s"))) as target,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ask(target, b"x" * 2048)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert sink.events == []


def test_health_tells_the_truth(
    server: Make, pipeline: Pipeline, tmp_path: Path
) -> None:
    state = Health(can_answer=False, is_current=False)
    watched = server(pipeline, health_of=lambda: state)
    with (
        running_server(watched, Address(path=str(tmp_path / "s"))) as target,
        grpc.insecure_channel(target) as channel,
    ):
        for name in ("", SERVICE, POLICY_HEALTH):
            assert health(channel, name) == "NOT_SERVING"
        state = Health(can_answer=True, is_current=True)
        assert eventually(lambda: health(channel) == "SERVING")
        assert eventually(lambda: health(channel, POLICY_HEALTH) == "SERVING")
        state = Health(can_answer=True, is_current=False)
        assert eventually(lambda: health(channel, POLICY_HEALTH) == "NOT_SERVING")
        assert health(channel) == "SERVING"
        assert health(channel, SERVICE) == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            health(channel, "other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class Gate:
    """An engine whose evaluations wait until a test lets them go."""

    def __init__(self, policies: PolicyStore) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        assert policies.current is not None
        self.missing = Reason.POLICY_UNAVAILABLE
        self.current: LoadedPolicy = dataclasses.replace(
            policies.current,
            engine=self,  # type: ignore[arg-type]
        )

    def evaluate(self, _: bytes) -> Verdict:
        self.entered.release()
        assert self.go.wait(10)
        return Verdict(allow=True, reason=Reason.GRANTED, role="r", ttl_s=None)


def test_what_exceeds_the_queue_is_denied_at_once_and_recorded(
    server: Make, policies: PolicyStore, sink: RecordSink, tmp_path: Path
) -> None:
    gate = Gate(policies)
    busy = server(
        build_pipeline(CONFIG, gate, sink, IdentitySources()), max_pending=1, workers=1
    )
    with (
        running_server(busy, Address(path=str(tmp_path / "s"))) as target,
        grpc.insecure_channel(target) as channel,
    ):
        first = channel.unary_unary(METHOD).future(ALLOWED, timeout=10)
        assert gate.entered.acquire(timeout=5)
        assert reason_of(ask(target, DENIED)) == Reason.OVERLOADED
        gate.go.set()
        assert is_allowed(first.result())
        # Room again, once the slot is free.
        assert eventually(lambda: is_allowed(ask(target, ALLOWED)))
    assert any(b'"overloaded"' in event for event in sink.events)


def test_a_check_that_the_proxy_gave_up_on_is_recorded_as_a_denial(
    server: Make, policies: PolicyStore, sink: RecordSink, tmp_path: Path
) -> None:
    gate = Gate(policies)
    busy = server(
        build_pipeline(CONFIG, gate, sink, IdentitySources()), max_pending=4, workers=1
    )
    with (
        running_server(busy, Address(path=str(tmp_path / "s"))) as target,
        grpc.insecure_channel(target) as channel,
    ):
        first = channel.unary_unary(METHOD).future(ALLOWED, timeout=10)
        assert gate.entered.acquire(timeout=5)
        with pytest.raises(grpc.RpcError) as caught:
            ask(target, DENIED, timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert eventually(lambda: len(sink.events) == 1)
        event = json.loads(sink.events[0])
        assert event["decision"] == "deny"
        assert event["reason"] == "deadline_exceeded"
        gate.go.set()
        assert is_allowed(first.result())
    assert len(sink.events) == 2


@pytest.mark.parametrize("peers", [None, PeerList(uids=frozenset({os.geteuid()}))])
def test_open_calls_are_finished_when_the_server_stops(
    server: Make,
    policies: PolicyStore,
    sink: RecordSink,
    tmp_path: Path,
    peers: PeerList | None,
) -> None:
    gate = Gate(policies)
    draining = server(
        build_pipeline(CONFIG, gate, sink, IdentitySources()), peers=peers
    )
    with grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
        with running_server(draining, Address(path=str(tmp_path / "s"))):
            call = channel.unary_unary(METHOD).future(ALLOWED, timeout=10)
            assert gate.entered.acquire(timeout=5)
            threading.Timer(0.2, gate.go.set).start()
        assert is_allowed(call.result())


def test_the_socket_is_never_open_to_more_than_its_mode(
    server: Make, pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with running_server(server(pipeline), Address(path=str(path)), socket_mode=0o640):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_stale_socket_is_replaced(
    server: Make, pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with running_server(server(pipeline), Address(path=str(path))) as target:
        assert is_allowed(ask(target, ALLOWED))


def test_the_socket_of_a_live_server_is_not_taken_over(
    server: Make, pipeline: Pipeline, tmp_path: Path
) -> None:
    address = Address(path=str(tmp_path / "s"))
    with running_server(server(pipeline), address) as target:
        with (
            pytest.raises(ConfigError, match="another server"),
            running_server(server(pipeline), address),
        ):
            pass
        assert is_allowed(ask(target, ALLOWED))


def test_a_file_in_the_sockets_place_is_left_alone(
    server: Make, pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with (
        pytest.raises(ConfigError, match="no socket"),
        running_server(server(pipeline), Address(path=str(path))),
    ):
        pass
    assert path.read_text() == "precious"


def test_a_port_that_is_taken_is_an_error(server: Make, pipeline: Pipeline) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
        with (
            pytest.raises(ConfigError, match=r"listen\.address"),
            running_server(server(pipeline), address),
        ):
            pass


# Mutual TLS, which only grpcio speaks


class Pki:
    """CAs and files of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = DevelopmentCa("factory.example")
        self.other = DevelopmentCa("supplier.example")
        ours = self.ca.issue(
            "spiffe://factory.example/ns/authz/sa/authz", dns_names=["localhost"]
        )
        (folder / "crt").write_bytes(ours.certificate_pem)
        (folder / "key").write_bytes(ours.key_pem)
        (folder / "ca").write_bytes(self.ca.bundle_pem)
        self.files = TlsFiles(folder / "crt", folder / "key", folder / "ca")
        self.files.reload()

    def ask(self, target: str, svid: Svid | None) -> bytes:
        credentials = grpc.ssl_channel_credentials(
            self.ca.bundle_pem,
            svid.key_pem if svid else None,
            svid.certificate_pem if svid else None,
        )
        options = (("grpc.ssl_target_name_override", "localhost"),)
        with grpc.secure_channel(target, credentials, options) as channel:
            return bytes(channel.unary_unary(METHOD)(ALLOWED, timeout=5))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def tls_server(pipeline: Pipeline, pki: Pki) -> GrpcServer:
    return GrpcServer(
        pipeline,
        health_of=lambda: Health(can_answer=True, is_current=True),
        max_pending=16,
        workers=2,
        max_message_bytes=1024 * 1024,
        tls=pki.files,
        proxies=ProxyList([SpiffeId.parse_workload(PROXY)], system_clock),
    )


LOOPBACK = Address(host="127.0.0.1")


def test_a_listed_proxy_gets_answers(pipeline: Pipeline, pki: Pki) -> None:
    with running_server(tls_server(pipeline, pki), LOOPBACK) as target:
        assert is_allowed(pki.ask(target, pki.ca.issue(PROXY)))


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "spiffe://factory.example/ns/inference/sa/triton2",
        "spiffe://factory.example/ns/line1/sa/camera",
        "https://factory.example/ns/inference/sa/triton",
    ],
)
def test_a_peer_that_is_no_listed_proxy_learns_nothing(
    pipeline: Pipeline, pki: Pki, sink: RecordSink, spiffe_id: str
) -> None:
    with (
        running_server(tls_server(pipeline, pki), LOOPBACK) as target,
        pytest.raises(grpc.RpcError) as caught,
    ):
        pki.ask(target, pki.ca.issue(spiffe_id))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert sink.events == []


def test_peers_without_a_certificate_of_the_ca_are_refused_in_the_handshake(
    pipeline: Pipeline, pki: Pki
) -> None:
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
    peers = {
        "no certificate": None,
        "another CA": pki.other.issue(PROXY),
        "expired": pki.ca.issue(PROXY, not_before=long_ago, not_after=long_ago),
    }
    with running_server(tls_server(pipeline, pki), LOOPBACK) as target:
        for svid in peers.values():
            with pytest.raises(grpc.RpcError) as caught:
                pki.ask(target, svid)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert is_allowed(pki.ask(target, pki.ca.issue(PROXY)))


def test_plaintext_gets_nothing_from_a_tls_listener(
    pipeline: Pipeline, pki: Pki
) -> None:
    with (
        running_server(tls_server(pipeline, pki), LOOPBACK) as target,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ask(target, ALLOWED)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_proxys_certificate_is_checked_on_every_call_of_a_long_connection() -> None:
    ca = DevelopmentCa("factory.example")
    issued = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    svid = ca.issue(PROXY, not_before=issued, not_after=issued + dt.timedelta(hours=1))
    context = {"x509_pem_cert": [svid.certificate_pem]}

    def admits(seconds: float) -> bool:
        now = dataclasses.replace(system_clock(), wall_s=issued.timestamp() + seconds)
        return ProxyList([SpiffeId.parse_workload(PROXY)], lambda: now).admits(context)

    assert admits(0)
    assert admits(3600)
    assert not admits(3601)
    assert not admits(-1)


@pytest.mark.parametrize(
    "context", [{}, {"x509_pem_cert": []}, {"x509_pem_cert": [b"junk"]}]
)
def test_a_peer_without_a_readable_certificate_is_not_admitted(
    context: dict[str, list[bytes]],
) -> None:
    proxies = ProxyList([SpiffeId.parse_workload(PROXY)], system_clock)
    assert not proxies.admits(context)
