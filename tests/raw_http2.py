"""An HTTP/2 client that sends what it is told to, right or wrong, frame by frame."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack
from checks import frame

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHECK = "/envoy.service.auth.v3.Authorization/Check"


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Reply:
    """What came on one stream."""

    headers: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    reset: int | None = None
    is_ended: bool = False

    @property
    def status(self) -> str | None:
        """The gRPC status, if the call ended with one."""
        return self.headers[-1].get("grpc-status") if self.headers else None

    @property
    def message(self) -> bytes:
        """The one message that is expected."""
        assert self.data[:1] == b"\0"
        assert int.from_bytes(self.data[1:5], "big") == len(self.data) - 5
        return self.data[5:]


def pack(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    length = struct.pack(">I", len(payload))[1:]
    return length + struct.pack(">BBI", kind, flags, stream) + payload


def setting(number: int, value: int) -> bytes:
    """Return one setting, for the payload of SETTINGS."""
    return struct.pack(">HI", number, value)


def u32(value: int) -> bytes:
    """Return what WINDOW_UPDATE and RST_STREAM hold."""
    return struct.pack(">I", value)


def dial(target: str, timeout_s: float = 10.0) -> socket.socket:
    """Return a connection to a gRPC target."""
    if target.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(target.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


class RawHttp2:
    """One connection, with preface and SETTINGS sent unless told otherwise."""

    def __init__(
        self, target: str, *, settings: bytes = b"", begins: bool = True
    ) -> None:
        self.socket = dial(target)
        self.replies: dict[int, Reply] = {}
        self.goaway: list[tuple[int, int]] = []
        self._received = b""
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._next = 1
        if begins:  # who is cut off at once learns it when it reads
            self.flood(PREFACE + pack(SETTINGS, 0, 0, settings), 1)

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def flood(self, data: bytes, times: int) -> bool:
        """Send `data` again and again; return whether the server put up with it."""
        try:
            for _ in range(times):
                self.send(data)
        except (TimeoutError, ConnectionError):
            return False
        return True

    def new_stream(self) -> int:
        stream, self._next = self._next, self._next + 2
        self.replies[stream] = Reply()
        return stream

    def block(self, **changes: str | None) -> bytes:
        """Return the headers of a check, HPACK-encoded; None leaves one out."""
        headers: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": CHECK,
            ":authority": "authz",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        headers |= {
            (f":{name[1:]}" if name[0] == "_" else name).replace("_", "-"): value
            for name, value in changes.items()
        }
        return self._encoder.encode(
            [(name, value) for name, value in headers.items() if value is not None]
        )

    def plain_block(self) -> bytes:
        """Return the headers of a check that hold in any state of HPACK."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": CHECK,
            ":authority": "authz",
            "content-type": "application/grpc",
        }
        return b"".join(
            b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value
            for name, value in (
                (name.encode(), value.encode()) for name, value in headers.items()
            )
        )

    def call(self, body: bytes | None, **changes: str | None) -> int:
        """Send a whole request, and return its stream."""
        stream = self.new_stream()
        flags = END_HEADERS | (END_STREAM if body is None else 0)
        request = pack(HEADERS, flags, stream, self.block(**changes))
        chunks = [body[at : at + 16384] for at in range(0, len(body or b""), 16384)]
        for chunk in chunks if body else [b""] if body is not None else []:
            request += pack(DATA, 0, stream, chunk)
        if body is not None:
            request += pack(DATA, END_STREAM, stream)
        self.send(request)
        return stream

    def call_in_parts(self, body: bytes, **changes: str | None) -> int:
        """Send a request whose headers need several frames, and return its stream."""
        stream = self.new_stream()
        block = self.block(**changes)
        parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        request = pack(HEADERS, 0, stream, parts[0])
        for part in parts[1:-1]:
            request += pack(CONTINUATION, 0, stream, part)
        request += pack(CONTINUATION, END_HEADERS, stream, parts[-1])
        self.send(request + pack(DATA, END_STREAM, stream, body))
        return stream

    def ask(self, raw: bytes, timeout_s: float = 10.0) -> bytes:
        """Return the CheckResponse to one CheckRequest."""
        reply = self.wait(self.call(frame(raw)), timeout_s)
        assert reply.status == "0", reply
        return reply.message

    def wait(self, stream: int, timeout_s: float = 10.0) -> Reply:
        """Return what came on a stream once it is over."""
        reply = self.replies[stream]
        frames = self.frames(timeout_s)
        while not reply.is_ended and reply.reset is None:
            if next(frames, None) is None:
                break
        return reply

    def is_cut(self, timeout_s: float = 10.0) -> bool:
        """Return whether the server closes the connection in time."""
        try:
            for _ in self.frames(timeout_s):
                pass
        except TimeoutError:
            return False
        return True

    def frames(self, timeout_s: float) -> Iterator[Frame]:
        """Yield what comes, taken in, until the server closes the connection.

        Raises:
            TimeoutError: if the time is over before.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            while (one := self._take()) is not None:
                self._note(one)
                yield one
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self.socket.settimeout(left_s)
            try:
                received = self.socket.recv(65536)
            except ConnectionError:
                return
            if not received:
                return
            self._received += received

    def _take(self) -> Frame | None:
        if len(self._received) < 9:
            return None
        end = 9 + int.from_bytes(self._received[:3], "big")
        if len(self._received) < end:
            return None
        kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
        payload, self._received = self._received[9:end], self._received[end:]
        return Frame(kind, flags, stream, payload)

    def _note(self, one: Frame) -> None:
        reply = self.replies.setdefault(one.stream, Reply())
        if one.kind == HEADERS:
            reply.headers.append(dict(self._decoder.decode(one.payload)))
        elif one.kind == DATA:
            reply.data += one.payload
        elif one.kind == RST_STREAM:
            (reply.reset,) = struct.unpack(">I", one.payload)
        elif one.kind == GOAWAY:
            self.goaway.append(struct.unpack(">II", one.payload[:8]))
        elif one.kind == SETTINGS and not one.flags & ACK:
            with contextlib.suppress(ConnectionError, TimeoutError):
                self.send(pack(SETTINGS, ACK, 0))
        if one.kind in (HEADERS, DATA) and one.flags & END_STREAM:
            reply.is_ended = True


@contextlib.contextmanager
def raw_http2(target: str, **arguments: object) -> Iterator[RawHttp2]:
    """Yield a connection, closed in the end."""
    client = RawHttp2(target, **arguments)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        client.close()
