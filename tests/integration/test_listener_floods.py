"""Known attacks on HTTP/2 servers, against the native listener.

Of each: the attacker's connection is ended or kept within bounds, another connection is
served all the while, and the memory of the process does not grow with the attack.
"""

import contextlib
import gc
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checks import check_request, frame, is_allowed
from parts import (
    RecordSink,
    eventually,
    example_config,
    loaded_policies,
    new_server,
    resident_bytes,
    running_server,
)
from raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawHttp2,
    pack,
    raw_http2,
    setting,
    u32,
)

from authz_server._native.choice import is_pure
from authz_server.address import Address
from authz_server.assembly import build_pipeline
from authz_server.config import Limits
from authz_server.identity.sources import IdentitySources
from authz_server.policy.store import PolicyStore
from authz_server.transport import native_server

ALLOWED = bytes(check_request())
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(is_pure(), reason="the native listener is what is turned off"),
]

CALM = 11  # ENHANCE_YOUR_CALM
CANCEL, PROTOCOL_ERROR = 8, 1
GROWTH_BYTES = 48 << 20
CONFIG = example_config(limits=Limits(deadline_s=5.0))


class Bystander:
    """Another proxy, which asks all the time; each answer must come soon."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._is_over = threading.Event()
        self.answers = 0
        self.slowest_s = 0.0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with raw_http2(self._target) as client:
                while not self._is_over.wait(0.01):
                    began = time.monotonic()
                    assert is_allowed(client.ask(ALLOWED))
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                    self.answers += 1
        except BaseException as error:  # noqa: BLE001 - told by `stop`
            self.error = error

    def start(self) -> None:
        self._thread.start()
        assert eventually(lambda: self.answers > 0 or self.error is not None)

    def stop(self) -> None:
        before = self.answers
        assert eventually(lambda: self.answers > before or self.error is not None)
        self._is_over.set()
        self._thread.join()
        assert self.error is None, self.error
        assert self.slowest_s < 10.0  # one that waits for an attacker waits for good


class Attacked:
    """A listener under attack."""

    def __init__(self, target: str, server: object, sink: RecordSink) -> None:
        self.target, self.server, self.sink = target, server, sink

    def attacker(
        self, **arguments: object
    ) -> contextlib.AbstractContextManager[RawHttp2]:
        return raw_http2(self.target, **arguments)


@pytest.fixture(scope="module")
def policies() -> Iterator[PolicyStore]:
    with loaded_policies(CONFIG) as store:
        yield store


@pytest.fixture
def site(
    policies: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Attacked]:
    """A server with one thread, so that an attack on it would be felt by the other."""
    monkeypatch.setattr(native_server, "_PATIENCE_S", 1.0)
    with contextlib.closing(RecordSink(tmp_path)) as sink:
        pipeline = build_pipeline(CONFIG, policies, sink, IdentitySources())
        server = new_server(
            *("native", pipeline, sink), threads=1, max_pending=512, workers=1
        )
        with running_server(server, Address(path=str(tmp_path / "s"))) as target:
            bystander = Bystander(target)
            bystander.start()
            gc.collect()
            before = resident_bytes(os.getpid())
            yield Attacked(target, server, sink)
            grown = resident_bytes(os.getpid()) - before
            bystander.stop()
            assert grown < GROWTH_BYTES, f"{grown >> 20} MiB"


def is_ended(client: RawHttp2, frames: bytes, times: int) -> bool:
    """Return whether a flood, half a minute of it at most, ends its connection."""
    client.socket.settimeout(5)
    client.flood(frames, times)
    return client.is_cut(5)


Flood = Callable[[RawHttp2], bytes]


def pings(_: RawHttp2) -> bytes:
    """CVE-2019-9512, ping flood."""
    return pack(PING, 0, 0, bytes(8)) * 500


def acknowledged_pings(_: RawHttp2) -> bytes:
    """CVE-2019-9512, of answers that nobody asked for."""
    return pack(PING, ACK, 0, bytes(8)) * 500


def settings(_: RawHttp2) -> bytes:
    """CVE-2019-9515, settings flood."""
    return pack(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 65535)) * 500


def empty_settings(_: RawHttp2) -> bytes:
    """CVE-2019-9515, of frames without a setting."""
    return pack(SETTINGS, 0, 0) * 500


def window_updates(_: RawHttp2) -> bytes:
    """A flood of windows that hardly open."""
    return pack(WINDOW_UPDATE, 0, 0, u32(1)) * 500


def priorities(_: RawHttp2) -> bytes:
    """CVE-2019-9513, priority churn (resource loop)."""
    return b"".join(
        pack(PRIORITY, 0, 1 + 2 * n, u32(1 + 2 * ((n + 1) % 100)) + b"\x10")
        for n in range(500)
    )


def unknown(_: RawHttp2) -> bytes:
    """Frames of a kind that nobody knows, which must be ignored, but not for ever."""
    return pack(0xFA, 0, 0, b"x") * 500


def resets(_: RawHttp2) -> bytes:
    """CVE-2019-9514: RST_STREAM for a stream that is closed."""
    return pack(RST_STREAM, 0, 1, u32(CANCEL)) * 500


@pytest.mark.parametrize(
    "flood",
    [
        *(pings, acknowledged_pings, settings, empty_settings, window_updates),
        *(priorities, resets),
    ],
)
def test_control_frames_without_end(site: Attacked, flood: Flood) -> None:
    with site.attacker() as client:
        assert is_allowed(client.ask(ALLOWED))
        assert is_ended(client, flood(client), 200)
        # Without a read it may be reset before it is told so.
        assert not client.goaway or client.goaway[-1][1] in (CALM, PROTOCOL_ERROR)


def closed_streams(client: RawHttp2) -> bytes:
    """DATA and HEADERS of a stream that is closed, which libnghttp2 skips."""
    return (
        pack(DATA, 0, 1) + pack(HEADERS, END_HEADERS, 1, client.plain_block())
    ) * 250


@pytest.mark.parametrize("flood", [unknown, closed_streams])
def test_frames_that_are_skipped(site: Attacked, flood: Flood) -> None:
    """They cost us no more than a read, so they may go on; nothing comes of them."""
    with site.attacker() as client:
        assert is_allowed(client.ask(ALLOWED))
        client.socket.settimeout(5)
        client.flood(flood(client), 200)
        with contextlib.suppress(TimeoutError):
            assert [one for one in client.frames(0.5) if one.kind == DATA] == []


@pytest.mark.parametrize("flood", [pings, settings])
def test_floods_by_a_peer_that_never_reads(site: Attacked, flood: Flood) -> None:
    """CVE-2019-9511/9512/9515/9517: answers must not gather for who takes none."""
    with site.attacker() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(2)
        # It is cut, or it is not read any more: then its own sending stops.
        assert not client.flood(flood(client), 2000)


def test_streams_that_are_reset_at_once(site: Attacked) -> None:
    """CVE-2023-44487, rapid reset."""
    with site.attacker() as client:
        for _ in range(400):
            batch = b""
            for _ in range(50):
                stream = client.new_stream()
                batch += pack(HEADERS, END_HEADERS, stream, client.block())
                batch += pack(RST_STREAM, 0, stream, u32(CANCEL))
            if not client.flood(batch, 1):
                break
        assert client.is_cut(5)


def test_whole_checks_that_are_reset_at_once(site: Attacked) -> None:
    """CVE-2023-44487 with work in it: what is given up is on record, and bounded."""
    with site.attacker() as client:
        sent = 0
        for number in range(400):
            batch = b""
            raw = bytes(check_request(path=f"/v2/models/m{number}/infer"))
            for _ in range(50):
                stream = client.new_stream()
                batch += pack(HEADERS, END_HEADERS, stream, client.block())
                batch += pack(DATA, END_STREAM, stream, frame(raw))
                batch += pack(RST_STREAM, 0, stream, u32(CANCEL))
            if not client.flood(batch, 1):
                break
            sent += 50
        assert client.is_cut(10)
    assert sent < 10_000
    # All that was taken in is decided or refused, and nothing lags behind for long.
    assert eventually(lambda: is_quiet(site.sink), 10)


def is_quiet(sink: RecordSink) -> bool:
    """Return whether only the bystander is on record for a moment."""
    before = len(sink.events)
    time.sleep(0.2)
    news = map(json.loads, sink.events[before:])
    return all(event["reason"] == "granted" for event in news)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param((WINDOW_UPDATE, u32(0)), id="window of nothing"),
        pytest.param((WINDOW_UPDATE, u32(2**31 - 1)), id="window overflow"),
        pytest.param((PRIORITY, bytes(4)), id="priority of a wrong length"),
        pytest.param((DATA, b""), id="data after the end"),
    ],
)
def test_streams_that_we_are_made_to_reset(
    site: Attacked, fault: tuple[int, bytes]
) -> None:
    """CVE-2025-8671, MadeYouReset."""
    kind, payload = fault
    with site.attacker() as client:
        client.socket.settimeout(5)
        for _ in range(600):
            batch = b""
            for _ in range(25):
                stream = client.new_stream()
                batch += pack(HEADERS, END_HEADERS, stream, client.block())
                batch += pack(DATA, END_STREAM, stream, frame(ALLOWED))
                batch += pack(kind, 0, stream, payload)
            if not client.flood(batch, 1):
                break
        assert client.is_cut(10)


def test_a_block_of_headers_without_an_end(site: Attacked) -> None:
    """CVE-2024-28182, CONTINUATION flood."""
    with site.attacker() as client:
        stream = client.new_stream()
        client.send(pack(HEADERS, 0, stream, client.block()))
        fields = b"".join(b"\x00\x01x\x7f\x00" + b"y" * 127 for _ in range(100))
        assert is_ended(client, pack(CONTINUATION, 0, stream, fields), 2000)
        assert not client.goaway or client.goaway[-1][1] in (CALM, PROTOCOL_ERROR)


def test_a_block_of_headers_in_empty_frames(site: Attacked) -> None:
    """CVE-2024-28182 and CVE-2019-9518: CONTINUATION frames of nothing."""
    with site.attacker() as client:
        stream = client.new_stream()
        client.send(pack(HEADERS, 0, stream, client.block()))
        assert is_ended(client, pack(CONTINUATION, 0, stream) * 500, 200)


def test_headers_that_unpack_to_far_more(site: Attacked) -> None:
    """CVE-2016-6581, HPACK bomb: one long entry, and then one byte for each use."""
    with site.attacker() as client:
        stream = client.new_stream()
        # A literal that is added to the table, 4,000 bytes long.
        length = 4000 - 127
        entry = b"\x40\x01x\x7f" + bytes((length & 0x7F | 0x80, length >> 7))
        entry += b"y" * 4000
        client.send(pack(HEADERS, END_HEADERS, stream, client.block() + entry))
        began = time.monotonic()
        for _ in range(20):
            stream = client.new_stream()
            bomb = pack(HEADERS, 0, stream, client.block() + b"\xbe" * 16000)
            bomb += pack(CONTINUATION, 0, stream, b"\xbe" * 16384) * 14
            bomb += pack(CONTINUATION, END_HEADERS, stream)
            client.socket.settimeout(10)
            if not client.flood(bomb, 1):
                break
        # The connection may live, but none of it is a call.
        with contextlib.suppress(TimeoutError):
            for _ in client.frames(1):
                if stream in client.replies and client.replies[stream].is_ended:
                    break
        assert time.monotonic() - began < 10
        for reply in client.replies.values():
            assert reply.status in (None, "8")


def test_a_table_that_is_made_larger_and_larger(site: Attacked) -> None:
    """RFC 7541 4.2: the peer cannot ask for a larger table than we allow."""
    with site.attacker() as client:
        stream = client.new_stream()
        client.send(pack(HEADERS, END_HEADERS, stream, b"\x3f\xe1\xff\xff\x7f"))
        assert client.is_cut(5)


@pytest.mark.parametrize("name", [b"", b"x"])
def test_headers_of_no_length(site: Attacked, name: bytes) -> None:
    """CVE-2019-9516, 0-length headers leak."""
    field = b"\x00" + bytes((len(name),)) + name + b"\x00"
    with site.attacker() as client:
        for _ in range(300):
            stream = client.new_stream()
            block = client.block() + field * 1000
            if not client.flood(pack(HEADERS, END_HEADERS, stream, block), 1):
                break
            client.flood(pack(RST_STREAM, 0, stream, u32(CANCEL)), 1)
        for reply in client.replies.values():
            assert reply.status in (None, "8")


@pytest.mark.parametrize("flags", [0, 0x8], ids=["empty", "padding only"])
def test_frames_of_nothing(site: Attacked, flags: int) -> None:
    """CVE-2019-9518, empty frames: DATA without end."""
    with site.attacker() as client:
        stream = client.new_stream()
        client.send(pack(HEADERS, END_HEADERS, stream, client.block()))
        payload = b"\x00" if flags else b""
        assert is_ended(client, pack(DATA, flags, stream, payload) * 500, 200)


def test_answers_are_not_kept_for_who_never_takes_them(site: Attacked) -> None:
    """CVE-2019-9517, internal data buffering: open windows, and nothing is read."""
    with site.attacker(settings=setting(INITIAL_WINDOW_SIZE, 2**31 - 1)) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(pack(WINDOW_UPDATE, 0, 0, u32(2**31 - 1 - 65535)))
        client.socket.settimeout(2)
        for _ in range(1000):
            batch = b""
            for _ in range(50):
                stream = client.new_stream()
                batch += pack(HEADERS, END_HEADERS, stream, client.block())
                batch += pack(DATA, END_STREAM, stream, frame(ALLOWED))
            if not client.flood(batch, 1):
                break
        else:
            pytest.fail("it was read on and on")
    assert eventually(lambda: site.server._listener.open <= 2, 5)


def test_answers_that_trickle_through_a_tiny_window(site: Attacked) -> None:
    """CVE-2019-9511, data dribble: the call is given up when patience ends."""
    with site.attacker(settings=setting(INITIAL_WINDOW_SIZE, 0)) as client:
        streams = []
        for _ in range(20):
            streams += [client.call(frame(ALLOWED)) for _ in range(25)]
            with contextlib.suppress(TimeoutError):
                for _ in client.frames(0.01):
                    pass
        end_s = time.monotonic() + 8
        while time.monotonic() < end_s:
            with contextlib.suppress(TimeoutError):
                for _ in client.frames(0.1):
                    pass
            if all(client.replies[stream].reset == CANCEL for stream in streams[1:]):
                break
            client.flood(pack(WINDOW_UPDATE, 0, streams[0], u32(1)), 1)
        resets = [client.replies[stream].reset for stream in streams]
        assert set(resets[1:]) == {CANCEL}
        assert set(resets[:1]) <= {CANCEL, 5, None}


def open_calls(site: Attacked) -> int:
    return int(site.server._listener.open)


def test_requests_that_never_end_are_given_up(site: Attacked) -> None:
    """Slowloris: of a request, all but the end."""
    with site.attacker() as client:
        streams = []
        for body in (b"", b"\0", frame(ALLOWED)[:-1], frame(ALLOWED)):
            stream = client.new_stream()
            streams.append(stream)
            client.send(
                pack(HEADERS, END_HEADERS, stream, client.block())
                + pack(DATA, 0, stream, body)
            )
        for stream in streams:
            assert client.wait(stream, 5).reset == CANCEL
        assert is_allowed(client.ask(ALLOWED))


def test_a_request_that_comes_byte_by_byte_gets_no_more_time(site: Attacked) -> None:
    """Slowloris with signs of life."""
    with site.attacker() as client:
        stream = client.new_stream()
        client.send(pack(HEADERS, END_HEADERS, stream, client.block()))
        began = time.monotonic()
        for byte in frame(ALLOWED):
            client.send(pack(DATA, 0, stream, bytes((byte,))))
            with contextlib.suppress(TimeoutError):
                for _ in client.frames(0.1):
                    pass
            if client.replies[stream].reset is not None:
                break
        assert client.replies[stream].reset == CANCEL
        assert time.monotonic() - began < 5


def test_a_block_of_headers_without_end_ends_its_connection(site: Attacked) -> None:
    """Slowloris within headers, where no stream can be reset."""
    with site.attacker() as client:
        stream = client.new_stream()
        client.send(pack(HEADERS, 0, stream, client.block()))
        assert client.is_cut(5)


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        PREFACE[:10],
        PREFACE,
        PREFACE + b"\0\0",
        PREFACE + pack(SETTINGS, 0, 0) + b"\0\x10\0\x01\x04\0\0\0\x01",
    ],
    ids=["nothing", "half a preface", "preface", "half a frame's head", "head only"],
)
def test_who_says_too_little_makes_room_for_others(
    policies: PolicyStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begin: bytes,
) -> None:
    """Slowloris by number of connections: idle ones are closed, the oldest first."""
    monkeypatch.setattr(native_server, "_MAX_CONNECTIONS", 8)
    # A connection with a call is looked at once a second.
    monkeypatch.setattr(native_server, "_PATIENCE_S", 0.1)
    with (
        contextlib.closing(RecordSink(tmp_path)) as sink,
        contextlib.ExitStack() as all_,
    ):
        pipeline = build_pipeline(CONFIG, policies, sink, IdentitySources())
        server = new_server("native", pipeline, sink, threads=1)
        address = Address(path=str(tmp_path / "s"))
        target = all_.enter_context(running_server(server, address))
        busy = all_.enter_context(raw_http2(target))
        watch = busy.new_stream()
        busy.send(
            pack(
                *(HEADERS, END_HEADERS, watch),
                busy.block(_path="/grpc.health.v1.Health/Watch"),
            )
            + pack(DATA, END_STREAM, watch, frame(b""))
        )
        slow = [all_.enter_context(raw_http2(target, begins=False)) for _ in range(7)]
        for client in slow:
            client.send(begin)
        time.sleep(1.2)  # until they count as idle

        def can_ask(_: int) -> bool:
            with raw_http2(target) as client:
                return is_allowed(client.ask(ALLOWED, 3))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(can_ask, range(4)))
        # Who waits for an answer is not closed for others.
        assert busy.replies[watch].reset is None
        assert is_allowed(busy.ask(ALLOWED))
        assert eventually(lambda: server._listener.open <= 8, 5)


def test_all_connections_busy_leave_no_room_and_lose_none(
    policies: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_server, "_MAX_CONNECTIONS", 4)
    with (
        contextlib.closing(RecordSink(tmp_path)) as sink,
        contextlib.ExitStack() as all_,
    ):
        pipeline = build_pipeline(CONFIG, policies, sink, IdentitySources())
        server = new_server("native", pipeline, sink, threads=1)
        address = Address(path=str(tmp_path / "s"))
        target = all_.enter_context(running_server(server, address))
        busy = [all_.enter_context(raw_http2(target)) for _ in range(4)]
        for client in busy:
            stream = client.new_stream()
            path = "/grpc.health.v1.Health/Watch"
            client.send(
                pack(HEADERS, END_HEADERS, stream, client.block(_path=path))
                + pack(DATA, END_STREAM, stream, frame(b""))
            )
            next(one for one in client.frames(5) if one.kind == DATA)
        time.sleep(1.1)
        # Cut so early that not even its preface may get out.
        with (
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
            raw_http2(target) as late,
        ):
            assert late.is_cut(5)
        for client in busy:
            assert is_allowed(client.ask(ALLOWED))


def test_more_streams_than_were_offered_are_refused(site: Attacked) -> None:
    with site.attacker() as client:
        for one in client.frames(5):
            if one.kind == SETTINGS and not one.flags & ACK:
                told = dict(struct.iter_unpack(">HI", one.payload))
                break
        most = told[MAX_CONCURRENT_STREAMS]
        assert most == 1024
        block = client.plain_block()
        streams = [client.new_stream() for _ in range(most + 50)]
        client.send(b"".join(pack(HEADERS, END_HEADERS, s, block) for s in streams))
        # As it knows how many may be open, it is cut off rather than refused.
        assert client.is_cut(5)
        assert client.goaway == [(streams[most - 1], PROTOCOL_ERROR)]


def test_a_length_that_is_only_declared_costs_nothing(site: Attacked) -> None:
    """A message of nearly the greatest length, on many streams, with no byte of it."""
    declared = (1024 * 1024 - 1).to_bytes(4, "big")
    with site.attacker() as client:
        streams = [client.new_stream() for _ in range(1000)]
        block = client.plain_block()
        for stream in streams:
            client.send(
                pack(HEADERS, END_HEADERS, stream, block)
                + pack(DATA, 0, stream, b"\0" + declared)
            )
        assert client.wait(streams[-1], 5).reset == CANCEL
        stream = client.call(b"\0\xff\xff\xff\xff")
        assert client.wait(stream).status == "8"


@pytest.mark.parametrize("message", [b"", b"x"], ids=["empty", "small"])
def test_messages_that_nobody_takes_are_not_piled_up(
    site: Attacked, message: bytes
) -> None:
    """A window full of tiny frames would be a hundred times that in objects."""
    with site.attacker() as client:
        path = "/grpc.health.v1.Health/Watch"
        stream = client.new_stream()
        client.send(pack(HEADERS, END_HEADERS, stream, client.block(_path=path)))
        # The first one is taken; those behind it never are.
        client.send(pack(DATA, 0, stream, frame(b"") + frame(message) * 2000))
        assert client.wait(stream, 5).status == "8"  # RESOURCE_EXHAUSTED


def test_bodies_are_held_within_the_window_of_a_connection(site: Attacked) -> None:
    """Who sends more than the window lets in is cut off."""
    with site.attacker() as client:
        assert is_allowed(client.ask(ALLOWED))  # it knows our settings
        client.socket.settimeout(5)
        block = client.plain_block()
        declared = (1024 * 1024 - 1).to_bytes(4, "big")
        for _ in range(64):
            stream = client.new_stream()
            request = pack(HEADERS, END_HEADERS, stream, block)
            request += pack(DATA, 0, stream, b"\0" + declared)
            request += pack(DATA, 0, stream, bytes(16384)) * 40
            if not client.flood(request, 1):
                break
        assert client.is_cut(5)
