"""Clients that send what a case says, right or wrong, and read what comes back."""

from __future__ import annotations

import dataclasses
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import hpack
from differential.case import Case
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from authz_server.demo.pki import SvidFiles

TIMEOUT_S: Final = 3.0
"""For an answer; a server that waits for the rest of a request gets no more."""

STALE_S: Final = 0.3

_FRAME: Final = 16384
_WINDOW: Final = 2**31 - 1

Connect = Callable[[], socket.socket]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; 0 for no answer, -1 for a stream that was reset before one.
        grpc_status: -1 for none.
        message: of the gRPC status.
        body: whole.
    """

    status: int = 0
    grpc_status: int = -1
    message: bytes = b""
    body: bytes = b""


SILENCE: Final = Answer(message=b"(silence)")
CLOSED: Final = Answer(message=b"(closed)")

_ERRORS: Final = (
    OSError,
    http.client.HTTPException,
    hpack.HPACKError,
    HyperframeError,
    ValueError,
)


def _send(attempt: Callable[[Case], Answer], case: Case, *, is_fresh: bool) -> Answer:
    begin = time.monotonic()
    answer = attempt(case)
    # A connection that the server had closed in the meantime says nothing. One that it
    # closes for what it was sent, it closes late.
    is_stale = not is_fresh and time.monotonic() - begin < STALE_S
    return attempt(case) if answer is CLOSED and is_stale else answer


class Http1:
    """HTTP/1.1 whose request line and headers are written as they are."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None

    def send(self, case: Case) -> Answer:
        """Return the answer to `case`, or that there is none."""
        return _send(self._try, case, is_fresh=self._socket is None)

    def _try(self, case: Case) -> Answer:
        try:
            if self._socket is None:
                self._socket = self._connect()
                self._socket.settimeout(TIMEOUT_S)
            self._socket.sendall(request_bytes(case))
            response = http.client.HTTPResponse(self._socket, method=_name(case.method))
            with response:
                response.begin()
                body = response.read()
                grpc_status = response.getheader("grpc-status", "-1")
                message = response.getheader("grpc-message", "").encode("latin-1")
                if response.will_close:
                    self.close()
            return Answer(response.status, int(grpc_status), message, body)
        except TimeoutError:
            self.close()
            return SILENCE
        except _ERRORS:
            self.close()
            return CLOSED

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def request_bytes(case: Case) -> bytes:
    """Return `case` as a request of HTTP/1.1."""
    out = io.BytesIO()
    out.write(case.method + b" " + case.path + b" HTTP/1.1\r\nhost: localhost\r\n")
    for name, value in case.headers:
        out.write(name + b": " + value + b"\r\n")
    if case.is_grpc:
        out.write(b"te: trailers\r\n")
    given = {name for name, _ in case.headers}
    if given.isdisjoint({b"content-length", b"transfer-encoding"}) and (
        case.body or case.method == b"POST"
    ):
        out.write(b"content-length: %d\r\n" % len(case.body))
    out.write(b"\r\n" + case.body)
    return out.getvalue()


def _name(method: bytes) -> str:
    return method.decode("latin-1")


class Http2:
    """HTTP/2 that checks nothing of what it sends and little of what comes back.

    Triton's answers to malformed calls break the order of frames that a strict client
    insists on. Flow control is left out: requests here are smaller than a window.
    """

    def __init__(
        self, connect: Connect, scheme: bytes = b"http", pause_s: float = 0.0
    ) -> None:
        """Prepare to connect.

        Args:
            pause_s: between two pieces of a body.
        """
        self._connect = connect
        self._pause_s = pause_s
        self._scheme = scheme
        self._socket: socket.socket | None = None
        self._stream = 1
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._buffer = b""

    def send(self, case: Case) -> Answer:
        """Return the answer to `case`, or that there is none."""
        return _send(self._try, case, is_fresh=self._socket is None)

    def _try(self, case: Case) -> Answer:
        try:
            connection = self._open()
            self._stream += 2
            headers = [
                (b":method", case.method),
                (b":scheme", self._scheme),
                (b":path", case.path),
                (b":authority", b"localhost"),
            ]
            if case.is_grpc:
                headers.append((b"te", b"trailers"))
            # Never indexed, so that no call depends on those before it.
            block = self._encoder.encode(
                [(name, value, True) for name, value in (*headers, *case.headers)]
            )
            first = HeadersFrame(self._stream, block, flags=["END_HEADERS"])
            frames: list[Frame] = [first]
            frames += [DataFrame(self._stream, piece) for piece in _small(case.pieces)]
            frames[-1].flags.add("END_STREAM")
            if self._pause_s:
                for frame in frames:
                    connection.sendall(frame.serialize())
                    time.sleep(self._pause_s)
            else:
                connection.sendall(b"".join(frame.serialize() for frame in frames))
            return self._read(connection)
        except TimeoutError:
            self.close()
            return SILENCE
        except _ERRORS:
            self.close()
            return CLOSED

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = self._connect()
            self._socket.settimeout(TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._stream, self._buffer = 1, b""
            self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
            window = SettingsFrame.INITIAL_WINDOW_SIZE
            settings = {window: _WINDOW, SettingsFrame.ENABLE_PUSH: 0}
            self._socket.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                + SettingsFrame(0, settings).serialize()
                + WindowUpdateFrame(0, _WINDOW - 65535).serialize()
            )
        return self._socket

    def _read(self, connection: socket.socket) -> Answer:
        found: dict[bytes, bytes] = {}
        body = bytearray()
        block = b""
        while True:
            frame = self._next(connection)
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                connection.sendall(SettingsFrame(0, flags=["ACK"]).serialize())
            elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                answer = PingFrame(0, frame.opaque_data, flags=["ACK"])
                connection.sendall(answer.serialize())
            elif isinstance(frame, GoAwayFrame):
                self.close()
                break
            elif isinstance(frame, HeadersFrame | ContinuationFrame):
                block += frame.data
                if "END_HEADERS" in frame.flags:
                    headers = self._decoder.decode(block, raw=True)
                    block = b""
                    if frame.stream_id == self._stream:
                        found.update((bytes(name), bytes(v)) for name, v in headers)
            elif frame.stream_id == self._stream and isinstance(frame, DataFrame):
                body += frame.data
            if frame.stream_id == self._stream and (
                "END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame)
            ):
                break
        return Answer(
            int(found.get(b":status", b"-1")),
            int(found.get(b"grpc-status", b"-1")),
            found.get(b"grpc-message", b""),
            bytes(body),
        )

    def _next(self, connection: socket.socket) -> Frame:
        frame, size = Frame.parse_frame_header(memoryview(self._take(connection, 9)))
        frame.parse_body(memoryview(self._take(connection, size)))
        return frame

    def _take(self, connection: socket.socket, size: int) -> bytes:
        while len(self._buffer) < size:
            data = connection.recv(65536)
            if not data:
                raise ConnectionResetError("closed")
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _small(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces that fit into frames (RFC 9113 §4.2)."""
    for piece in pieces:
        for begin in range(0, len(piece), _FRAME):
            yield piece[begin : begin + _FRAME]


def to_port(port: int) -> Connect:
    """Return what connects to this port of 127.0.0.1, in clear."""
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def to_tls_port(port: int, bundle: Path, svid: SvidFiles, protocol: str) -> Connect:
    """Return what connects to this port with mutual TLS, for `protocol` of ALPN."""
    context = ssl.create_default_context(cafile=str(bundle))
    context.load_cert_chain(svid.certificate, svid.key)
    context.set_alpn_protocols([protocol])

    def connect() -> socket.socket:
        return context.wrap_socket(to_port(port)(), server_hostname="localhost")

    return connect
