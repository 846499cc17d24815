"""Who is listed, and the relay's ends, on real sockets in one event loop."""

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from authz_server.transport.peer_gate import PeerGate
from authz_server.transport.peers import Peer, PeerList, peer_of

OURS = PeerList(uids=frozenset({os.geteuid()}))
NOBODY = PeerList(uids=frozenset({os.geteuid() + 1}), gids=frozenset())
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("uid", "gid", "admitted"),
    [(10, 99, True), (99, 20, True), (20, 10, False), (0, 0, False)],
)
def test_a_peer_is_admitted_by_its_user_or_by_its_group(
    uid: int, gid: int, admitted: bool
) -> None:
    peers = PeerList(uids=frozenset({10}), gids=frozenset({20}))
    assert peers.admits(Peer(pid=1, uid=uid, gid=gid)) is admitted


def test_an_empty_list_admits_nobody() -> None:
    assert not PeerList().admits(Peer(pid=1, uid=0, gid=0))


def test_the_kernel_tells_who_connected() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_of(ours) == (os.getpid(), os.geteuid(), os.getegid())


class Behind:
    """A server behind a gate that does with a connection what a test says."""

    def __init__(self, serve: Callable[[Streams], Awaitable[None]]) -> None:
        self._serve = serve
        self.connections = 0
        self.errors: list[BaseException] = []

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        try:
            await self._serve((reader, writer))
        except ConnectionError as error:
            self.errors.append(error)
        finally:
            writer.close()


async def echo(streams: Streams) -> None:
    reader, writer = streams
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


@contextlib.asynccontextmanager
async def gated(
    folder: Path,
    serve: Callable[[Streams], Awaitable[None]] = echo,
    allowed: PeerList = OURS,
) -> AsyncIterator[tuple[PeerGate, Behind]]:
    behind = Behind(serve)
    server = await asyncio.start_unix_server(behind.accept, folder / "inner")
    gate = PeerGate(folder / "s", 0o600, folder / "inner", allowed)
    await gate.start()
    try:
        yield gate, behind
    finally:
        await gate.stop()
        assert gate.open_ends == 0
        server.close()


async def connect(folder: Path) -> Streams:
    return await asyncio.open_unix_connection(folder / "s")


async def holds(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


def test_bytes_go_both_ways_whole_and_in_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with gated(tmp_path):
            reader, writer = await connect(tmp_path)
            sent = os.urandom(3 * MIB)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read(-1) == sent
            writer.close()

    asyncio.run(run())


def test_an_unlisted_process_is_cut_off_before_anything_of_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with gated(tmp_path, allowed=NOBODY) as (_, behind):
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.send(b"hello")
                client.settimeout(0)
                # A reset, not an end: the kernel says that bytes were thrown away.
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(client, 1)
            assert behind.connections == 0

    asyncio.run(run())
    assert f"uid {os.geteuid()}, gid {os.getegid()}, pid {os.getpid()}" in caplog.text


def test_refusals_are_logged_once_a_second_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with gated(tmp_path, allowed=NOBODY) as (gate, _):
            for _ in range(5):
                reader, writer = await connect(tmp_path)
                assert await reader.read() == b""
                writer.close()
            assert len(caplog.records) == 1
            gate._refusals._next_s = 0.0
            reader, writer = await connect(tmp_path)
            assert await reader.read() == b""
            writer.close()

    with caplog.at_level(logging.WARNING, "authz_server.transport"):
        asyncio.run(run())
    assert len(caplog.records) == 2
    assert "(and 4 before it)" in caplog.records[1].message


def test_who_does_not_read_is_not_read_from_for_long(tmp_path: Path) -> None:
    async def run() -> None:
        async with gated(tmp_path) as (gate, _):
            reader, writer = await connect(tmp_path)
            sent = 0

            async def pump() -> None:
                nonlocal sent
                while sent < 64 * MIB:
                    writer.write(bytes(4096))
                    sent += 4096
                    await writer.drain()

            with pytest.raises(TimeoutError):  # the echo backs up to the client
                await asyncio.wait_for(pump(), 0.5)
            assert sent < 8 * MIB
            for end in gate._open:
                assert end._transport is not None
                assert end._transport.get_write_buffer_size() < MIB
            await reader.readexactly(sent)  # and it comes unstuck
            writer.close()

    asyncio.run(run())


def test_one_direction_may_end_before_the_other(tmp_path: Path) -> None:
    async def answer_after_the_end(streams: Streams) -> None:
        reader, writer = streams
        question = await reader.read(-1)
        writer.write(question.upper())
        await writer.drain()

    async def run() -> None:
        async with gated(tmp_path, answer_after_the_end) as (gate, _):
            reader, writer = await connect(tmp_path)
            writer.write(b"question")
            writer.write_eof()
            assert await reader.read(-1) == b"QUESTION"
            await holds(lambda: gate.open_ends == 0)
            writer.close()

    asyncio.run(run())


def test_the_server_may_end_its_direction_first(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def greet(streams: Streams) -> None:
        reader, writer = streams
        writer.write(b"hi")
        writer.write_eof()
        got.append(await reader.read(-1))

    async def run() -> None:
        async with gated(tmp_path, greet) as (gate, _):
            reader, writer = await connect(tmp_path)
            assert await reader.read(-1) == b"hi"
            writer.write(b"still here")
            writer.close()
            await holds(lambda: gate.open_ends == 0)
        assert got == [b"still here"]

    asyncio.run(run())


def test_an_abandoned_connection_ends_at_the_server_too(tmp_path: Path) -> None:
    async def talk(streams: Streams) -> None:
        await streams[0].read(-1)
        while True:  # until the relay's other end is gone
            streams[1].write(bytes(4096))
            await streams[1].drain()

    async def run() -> None:
        async with gated(tmp_path, talk) as (gate, behind):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.send(b"x")
                await holds(lambda: behind.connections == 1)
            await holds(lambda: gate.open_ends == 0)
            await holds(lambda: len(behind.errors) == 1)

    asyncio.run(run())


def test_a_connection_is_cut_off_where_nobody_listens_behind_the_gate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        gate = PeerGate(tmp_path / "s", 0o600, tmp_path / "nothing", OURS)
        await gate.start()
        reader, writer = await connect(tmp_path)
        assert await reader.read() == b""
        writer.close()
        await gate.stop()
        assert gate.open_ends == 0

    asyncio.run(run())
    assert "cannot reach our own gRPC socket" in caplog.text


def test_what_is_still_connected_at_the_stop_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.transport.peer_gate._LINGER_S", 0.05)

    async def run() -> None:
        async with gated(tmp_path) as (gate, _):
            reader, writer = await connect(tmp_path)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            assert gate.open_ends == 2
        assert await reader.read() == b""
        writer.close()

    asyncio.run(run())


def test_a_connection_lost_before_the_one_behind_it_is_open_leaves_nothing(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with gated(tmp_path) as (gate, _):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                while gate.open_ends == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                (outer,) = gate._open
                outer.abort()
                await holds(lambda: not gate._connecting)
                await holds(lambda: gate.open_ends == 0)

    asyncio.run(run())


def test_a_connection_that_comes_with_the_stop_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.transport.peer_gate._LINGER_S", 0.0)

    async def run() -> None:
        async with gated(tmp_path) as (gate, _):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                while gate.open_ends == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await gate.stop()
                assert gate.open_ends == 0
                client.settimeout(1)
                assert client.recv(1) == b""

    asyncio.run(run())


def test_the_sockets_are_gone_after_the_stop_and_had_their_mode(tmp_path: Path) -> None:
    async def run() -> None:
        async with gated(tmp_path) as (gate, _):
            mode = (tmp_path / "s").stat().st_mode
            assert stat.S_IMODE(mode) == 0o600
            gate.close()
            gate.close()
            assert not (tmp_path / "s").exists()

    asyncio.run(run())


def test_a_socket_that_took_the_place_of_ours_is_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with gated(tmp_path):
            (tmp_path / "s").rename(tmp_path / "old")
            (tmp_path / "s").write_text("another's")
        assert (tmp_path / "s").read_text() == "another's"

    asyncio.run(run())


def test_a_path_that_cannot_be_bound_is_an_error(tmp_path: Path) -> None:
    gate = PeerGate(tmp_path / "no" / "s", 0o600, tmp_path / "inner", OURS)

    async def run() -> None:
        with pytest.raises(FileNotFoundError):
            await gate.start()
        await gate.stop()

    asyncio.run(run())
