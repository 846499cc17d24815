"""The Authorization service on the native listener: hits never come to Python.

The listener (``_native/core``) reads HTTP/2 and answers from memory in threads of its
own. What it has no answer to comes to `workers` threads here; health, and the streams
of the gate, come to the event loop. It is for plain HTTP/2, hence for a unix socket or
loopback; TLS is `grpc_server`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from authz_server._native._core import Listener
from authz_server.address import Address
from authz_server.audit import FileSink
from authz_server.clock import Instant
from authz_server.errors import ConfigError, Reason, RequestError
from authz_server.facts.native import compile_plan
from authz_server.pipeline import Check, Pipeline
from authz_server.response import deny
from authz_server.transport.counts import BUCKETS_S, Counts
from authz_server.transport.decider import Decider
from authz_server.transport.ext_proc import SERVICE as GATE
from authz_server.transport.ext_proc import Gate
from authz_server.transport.health import (
    SERVICE,
    Health,
    ServingStatus,
    health_response,
    service_asked,
)
from authz_server.transport.host_calls import CallError, HostCalls, Status
from authz_server.transport.peers import Peer, PeerList, Refusals
from authz_server.transport.socket_files import SocketFile

_log: Final = logging.getLogger("authz_server.transport")

_CHECK: Final = f"/{SERVICE}/Check".encode()
_HEALTH: Final = "/grpc.health.v1.Health"

_MAX_STREAMS: Final = 1024
"""Open calls of one connection."""

_MAX_CONNECTIONS: Final = 256

_PATIENCE_S: Final = 5.0
"""For a request to come whole, and for an answer to be taken."""

_LEASE_S: Final = 1.0
"""If nothing was published for so long, nothing is answered from memory."""

_PUBLISH_S: Final = 0.4
"""A change is published at once. What is in force is said again so that the lease does
not end: the oftener, the more an idle server does for nothing."""

_HEALTH_S: Final = 0.1
_DRAIN_S: Final = 0.05
_BACKLOG: Final = 128

# What the listener wants of a worker beside a decision.
_ABANDONED: Final = 2
_DENIALS: Final = {1: Reason.OVERLOADED, _ABANDONED: Reason.DEADLINE_EXCEEDED}


class NativeServer:
    """Serves Check, Health and the gate on one address until it is told to stop.

    Args:
        health_of: asked for the state of health several times a second.
        audit: of the pipeline; hits are recorded in it too.
        max_pending: open decisions at most.
        workers: threads that decide.
        threads: threads that read and write.
        peers: who may connect to a unix socket, beside what its mode says; None for no
            such list.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        health_of: Callable[[], Health],
        audit: FileSink,
        max_pending: int,
        workers: int,
        threads: int,
        max_message_bytes: int,
        peers: PeerList | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._health_of = health_of
        self._audit = audit
        self._max_pending = max_pending
        self._workers = workers
        self._threads = threads
        self._max_message_bytes = max_message_bytes
        self._peers = peers or PeerList()
        self._refusals = Refusals()
        self._refused = 0
        self._is_stopping = False
        # The gate's decisions are counted apart: they come from other calls.
        self._decider = Decider(pipeline, max_pending=max_pending, workers=workers)
        self._gate = Gate(pipeline, self._decider)
        self._listener: Listener | None = None
        self._publishing = threading.Lock()

    def publish(self) -> None:
        """Tell the listener what is in force now."""
        listener = self._listener
        if listener is None:
            return
        # Who looked earlier must not speak later: what it saw may be over.
        with self._publishing:
            standing = self._pipeline.standing
            if standing is None:
                listener.let_go()
            else:
                listener.hold(standing, time.monotonic() + _LEASE_S)

    def counts(self) -> Counts:
        """Return the decisions that were answered without Python."""
        if self._listener is None:
            return Counts()
        reasons, buckets, sum_s = self._listener.counts()
        return Counts(
            # A reason is counted under its place among all, and most never were.
            {reason: n for reason, n in zip(Reason, reasons, strict=False) if n},
            buckets[: len(BUCKETS_S) + 1],
            sum_s,
        )

    async def run(
        self,
        address: Address,
        *,
        socket_mode: int,
        stop: asyncio.Event,
        drain_s: float,
        on_listening: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Serve until `stop` is set, then let open calls finish.

        Args:
            on_listening: called with the address once connections are accepted.

        Raises:
            ConfigError: if the address cannot be listened on.
        """
        listening = _Listening(address, socket_mode)
        with contextlib.closing(listening.socket):
            listener = self._listener = self._new_listener(listening.socket)
            calls = HostCalls(
                listener, (self._check_health, self._watch_health, self._gate.process)
            )
            workers = [
                threading.Thread(
                    target=listener.work, args=(self._decide,), name=f"decide-{number}"
                )
                for number in range(self._workers)
            ]
            # A denial for want of room does not wait for one.
            workers.append(
                threading.Thread(
                    target=listener.refuse, args=(self._decide,), name="refuse"
                )
            )
            for worker in workers:
                worker.start()
            self.publish()
            calls.start()
            listener.start()
            publisher = asyncio.create_task(self._keep_publishing())
            try:
                on_listening(listening.name)
                await stop.wait()
            finally:
                self._is_stopping = True
                listener.drain()
                listening.retire()
                await _drained(listener, drain_s)
                await calls.stop()
                await asyncio.to_thread(listener.stop)
                for worker in workers:
                    await asyncio.to_thread(worker.join)
                publisher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await publisher
                self._tell_of_refused()
                self._decider.close()

    def _new_listener(self, listening: socket.socket) -> Listener:
        return Listener(
            listening=os.dup(listening.fileno()),
            loops=self._threads,
            max_connections=_MAX_CONNECTIONS,
            max_streams=_MAX_STREAMS,
            max_message_bytes=self._max_message_bytes,
            max_open=self._max_pending,
            patience_s=_PATIENCE_S,
            peer_uids=tuple(self._peers.uids),
            peer_gids=tuple(self._peers.gids),
            check_path=_CHECK,
            host_paths=(
                f"{_HEALTH}/Check".encode(),
                f"{_HEALTH}/Watch".encode(),
                f"/{GATE}/Process".encode(),
            ),
            plan=compile_plan(self._pipeline.plan),
            cache=self._pipeline.cache,
            audit=self._audit.file,
            seed=os.urandom(16),
            denial=deny(Reason.INTERNAL_ERROR),
            bounds_s=BUCKETS_S,
        )

    def _decide(self, raw: bytes, wall_s: float, steady_s: float, wanted: int) -> bytes:
        """Return the answer to what memory has none for."""
        arrived = Instant(wall_s, steady_s)
        if wanted == _ABANDONED and not raw:  # it was long, and is not kept
            return self._pipeline.refuse(Check(arrived), _DENIALS[wanted])
        check = self._pipeline.begin(raw, arrived)
        if check.answer is not None:
            return check.answer
        if wanted in _DENIALS:
            return self._pipeline.refuse(check, _DENIALS[wanted])
        return self._pipeline.finish(check)

    async def _keep_publishing(self) -> None:
        while True:
            self.publish()
            self._tell_of_refused()
            await asyncio.sleep(_PUBLISH_S)

    def _tell_of_refused(self) -> None:
        if self._listener is None:
            return
        count, *peer = self._listener.refused()
        if count > self._refused:
            self._refusals.add(Peer(*peer), count - self._refused)
            self._refused = count

    def _status(self, request: bytes) -> ServingStatus | None:
        try:
            name = service_asked(request)
        except RequestError as error:
            raise CallError(
                Status.INTERNAL, "the message is no HealthCheckRequest"
            ) from error
        status = self._health_of().statuses().get(name)
        if self._is_stopping and status is not None:
            return ServingStatus.NOT_SERVING
        return status

    async def _check_health(
        self, requests: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            status = self._status(request)
            if status is None:
                raise CallError(Status.NOT_FOUND, "unknown service")
            yield health_response(status)
            return
        raise CallError(Status.UNIMPLEMENTED, "the method takes one message")

    async def _watch_health(
        self, requests: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            last = None
            while True:
                status = self._status(request)
                if status is None:
                    status = ServingStatus.SERVICE_UNKNOWN
                if status != last:
                    yield health_response(status)
                last = status
                await asyncio.sleep(_HEALTH_S)


class _Listening:
    """A bound socket, and its name.

    Raises:
        ConfigError: if the address cannot be listened on.
    """

    def __init__(self, address: Address, mode: int) -> None:
        self._file: SocketFile | None = None
        try:
            if address.is_unix:
                self.socket = socket.socket(socket.AF_UNIX)
                path = Path(address.path)
                try:
                    self._file = SocketFile.bind(self.socket, path, mode)
                except OSError:
                    self.socket.close()
                    raise
            else:
                family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
                self.socket = socket.create_server(
                    (address.host, address.port), family=family
                )
                address = replace(address, port=self.socket.getsockname()[1])
            self.socket.setblocking(False)  # noqa: FBT003 - its own interface
            self.socket.listen(_BACKLOG)
        except OSError as error:
            raise ConfigError(
                [f"listen.address: cannot listen on {address.target}: {error}"]
            ) from error
        kind = "unix://" if address.is_unix else "tcp://"
        self.name = kind + address.target.removeprefix("unix:")

    def retire(self) -> None:
        """Let nobody connect any more, and free the path."""
        if self._file is not None:
            self._file.remove()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


async def _drained(listener: Listener, drain_s: float) -> None:
    """Return when every connection is closed, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            while listener.open:  # noqa: ASYNC110 - C wakes nobody here
                await asyncio.sleep(_DRAIN_S)
