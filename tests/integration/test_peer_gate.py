"""The Check service behind a list of processes that may connect."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from checks import check_request, is_allowed
from parts import (
    MemorySink,
    eventually,
    example_config,
    loaded_policies,
    running_server,
)

from authz_server.address import Address
from authz_server.assembly import build_pipeline
from authz_server.config import Limits
from authz_server.errors import ConfigError
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.transport.grpc_server import GrpcServer
from authz_server.transport.health import SERVICE, Health
from authz_server.transport.peers import PeerList

METHOD = f"/{SERVICE}/Check"
ALLOWED = bytes(check_request())
BIG = bytes(check_request(raw_body=b"x" * 3_000_000))
CONFIG = example_config(limits=Limits(deadline_s=5.0))
US = PeerList(uids=frozenset({os.geteuid()}))
NOT_US = PeerList(uids=frozenset({os.geteuid() + 1}))
STRANGER = 65534

# It turns into another user only now: what Python it is may lie where only we may read.
CONNECT = """
import os, socket, sys
path, stranger = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setgid(stranger)
os.setuid(stranger)
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(5)
    try:
        client.connect(path)
        client.sendall(bytes.fromhex(sys.argv[3]))
        print("answered" if client.recv(1) else "cut off")
    except ConnectionError:
        print("cut off")
"""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with loaded_policies(CONFIG) as policies:
        yield build_pipeline(CONFIG, policies, MemorySink(), IdentitySources())


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def server(pipeline: Pipeline, peers: PeerList | None) -> GrpcServer:
    return GrpcServer(
        pipeline,
        health_of=lambda: Health(can_answer=True, is_current=True),
        max_pending=512,
        workers=2,
        max_message_bytes=8 * 1024 * 1024,
        peers=peers,
    )


@contextlib.contextmanager
def guarded(pipeline: Pipeline, folder: Path, peers: PeerList) -> Iterator[str]:
    address = Address(path=str(folder / "s"))
    with running_server(server(pipeline, peers), address, socket_mode=0o666) as target:
        yield target


def ask(target: str, raw: bytes = ALLOWED) -> bytes:
    options = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
    with grpc.insecure_channel(target, options) as channel:
        return bytes(channel.unary_unary(METHOD)(raw, timeout=5))


def test_a_listed_process_gets_answers(pipeline: Pipeline, tmp_path: Path) -> None:
    with guarded(pipeline, tmp_path, US) as target:
        assert is_allowed(ask(target))
    assert not (tmp_path / "s").exists()


def test_a_listed_group_gets_answers(pipeline: Pipeline, tmp_path: Path) -> None:
    group = PeerList(gids=frozenset({os.getegid()}))
    with guarded(pipeline, tmp_path, group) as target:
        assert is_allowed(ask(target))


def test_a_process_that_is_not_listed_gets_no_answer(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        guarded(pipeline, tmp_path, NOT_US) as target,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ask(target)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"uid {os.geteuid()}" in caplog.text


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may start a process of another user"
)
@pytest.mark.parametrize(
    ("peers", "says"),
    [
        (US, "cut off"),
        (PeerList(uids=frozenset({STRANGER})), "answered"),
        (PeerList(gids=frozenset({STRANGER})), "answered"),
    ],
)
def test_a_process_of_another_user_is_judged_by_its_own_ids(
    pipeline: Pipeline, public: Path, peers: PeerList, says: str
) -> None:
    with guarded(pipeline, public, peers):
        client = subprocess.run(
            [
                *(sys.executable, "-I", "-c", CONNECT),
                *(str(public / "s"), str(STRANGER), HTTP2_PREFACE.hex()),
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert client.stdout.strip() == says, client.stderr


def test_big_messages_go_through(pipeline: Pipeline, tmp_path: Path) -> None:
    with guarded(pipeline, tmp_path, US) as target:
        assert is_allowed(ask(target, BIG))


def test_many_connections_at_once_are_all_answered(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with guarded(pipeline, tmp_path, US) as target, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(target), range(100)))
    assert all(map(is_allowed, answers))


def test_connections_that_are_abandoned_leave_nothing_open(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    descriptors = Path("/proc/self/fd")
    with guarded(pipeline, tmp_path, US) as target:
        assert is_allowed(ask(target))
        before = len(list(descriptors.iterdir()))
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.send(b"PRI * HT")
        assert eventually(lambda: len(list(descriptors.iterdir())) <= before, 5)
        assert is_allowed(ask(target))


def test_the_socket_behind_the_gate_is_ours_alone_and_gone_after_the_stop(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with guarded(pipeline, tmp_path, US):
        (folder,) = (tmp_path / "tmp").iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / "grpc.sock").is_socket()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_stop_does_not_wait_for_an_idle_proxy(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with (
        guarded(pipeline, tmp_path, US) as target,
        contextlib.ExitStack() as later,
    ):
        channel = later.enter_context(grpc.insecure_channel(target))
        assert is_allowed(channel.unary_unary(METHOD)(ALLOWED, timeout=5))
        later.pop_all()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD)(ALLOWED, timeout=1)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_the_socket_of_a_live_server_is_not_taken_over(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with guarded(pipeline, tmp_path, US) as target:
        with (
            pytest.raises(ConfigError, match="another server"),
            guarded(pipeline, tmp_path, US),
        ):
            pass
        assert is_allowed(ask(target))


def test_a_folder_that_does_not_exist_is_an_error(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with (
        pytest.raises(ConfigError, match=r"listen\.address: cannot listen"),
        guarded(pipeline, tmp_path / "no", US),
    ):
        pass
