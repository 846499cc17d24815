"""Which processes may ask over the unix socket, by the kernel's word (SO_PEERCRED).

gRPC does not tell who connected to a unix socket. So when peers are listed, the public
socket is accepted here: a process that is not listed is cut off before a byte of it is
read, and everybody else's bytes are relayed to gRPC's own socket, in a folder that only
this server's user can enter. See unix(7) for what the kernel vouches for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from authz_server.transport.peers import PeerList, Refusals, peer_of
from authz_server.transport.socket_files import SocketFile

_log: Final = logging.getLogger("authz_server.transport")

_CHUNK_BYTES: Final = 64 * 1024
_LINGER_S: Final = 1.0


class PeerGate:
    """Relays the connections of listed peers from one unix socket to another.

    Memory is bounded: while one end does not read, the other is not read from. All of
    it runs in the event loop that started it.

    Args:
        path: the public socket, with permissions `mode`.
        inner_path: where gRPC listens. Whoever can connect there is past the gate.
    """

    def __init__(
        self, path: Path, mode: int, inner_path: Path, allowed: PeerList
    ) -> None:
        self._path = path
        self._mode = mode
        self._inner_path = inner_path
        self._allowed = allowed
        self._refusals = Refusals()
        self._buffer = bytearray(_CHUNK_BYTES)
        self._connecting: set[asyncio.Future[None]] = set()
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None
        self._open: set[_End] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open_ends(self) -> int:
        """How many sockets are open for relayed connections: two for each."""
        return len(self._open)

    async def start(self) -> None:
        """Accept from now on.

        Raises:
            OSError: if the public path is taken or cannot be bound.
        """
        listener = socket.socket(socket.AF_UNIX)
        try:
            self._file = SocketFile.bind(listener, self._path, self._mode)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._accept, sock=listener
            )
        except OSError:
            listener.close()
            raise

    def close(self) -> None:
        """Accept no more; what is connected goes on."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._file is not None:
            self._file.remove()

    async def stop(self) -> None:
        """Accept no more, give answers on their way a moment, then cut all off."""
        self.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _LINGER_S)
        for end in list(self._open):
            end.abort()
        if self._connecting:
            await asyncio.wait(self._connecting)
        await self._idle.wait()

    def _accept(self) -> asyncio.BaseProtocol:
        outer = _End(self._account, self._buffer, self._judge)
        outer.other = _End(self._account, self._buffer)
        outer.other.other = outer
        return outer

    def _judge(self, outer: _End, connection: socket.socket) -> None:
        """Cut the new connection of `outer` off, or let it through to gRPC.

        The loop calls this before it first looks whether there is something to read.
        """
        peer = peer_of(connection)
        if not self._allowed.admits(peer):
            self._refusals.add(peer)
            outer.abort()
            return
        outer.pause()
        task = asyncio.ensure_future(self._connect(outer, outer.other))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, outer: _End, inner: _End) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: inner, str(self._inner_path))
        except OSError as error:
            _log.error("cannot reach our own gRPC socket: %s", error)
            outer.abort()
            return
        if outer.is_lost:
            inner.abort()
        outer.resume()

    def _account(self, end: _End) -> None:
        if not end.is_lost:
            self._open.add(end)
            self._idle.clear()
            return
        self._open.discard(end)
        if not self._open:
            self._idle.set()


class _End(asyncio.BufferedProtocol):
    """One of the two sockets of a relayed connection.

    A protocol and not a pair of streams: reading wakes no task, and a write that the
    kernel takes at once is copied only once.

    Args:
        account: told when it is open, and when it is lost.
        buffer: what is read goes there, and on from there before anything else is read.
        judge: what to do once it is open.

    Attributes:
        other: the end that gets what this one reads; set before anything is.
        is_lost: whether it was open and is gone.
        has_ended: whether its peer has said that nothing more is to come.
    """

    other: _End

    def __init__(
        self,
        account: Callable[[_End], None],
        buffer: bytearray,
        judge: Callable[[_End, socket.socket], None] = lambda _, __: None,
    ) -> None:
        self.is_lost = False
        self.has_ended = False
        self._account = account
        self._judge = judge
        self._buffer = memoryview(buffer)
        self._transport: asyncio.Transport | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_CHUNK_BYTES)
        self._account(self)
        self._judge(self, transport.get_extra_info("socket"))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        # bytes: what the kernel does not take at once may be kept without a copy.
        self.other.send(bytes(self._buffer[:nbytes]))

    def pause_writing(self) -> None:
        self.other.pause()

    def resume_writing(self) -> None:
        self.other.resume()

    def eof_received(self) -> bool:
        self.has_ended = True
        self.other.end()
        return not self.other.has_ended  # False lets asyncio close this end

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.is_lost = True
        self._account(self)
        self.other.close()

    # What the other end and the gate call. All do nothing where it is too late.

    def send(self, data: bytes) -> None:
        """Write `data`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def end(self) -> None:
        """Tell the peer that nothing more is to come; it may go on for all that."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close once what was given to it is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
