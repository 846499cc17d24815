"""The Authorization service over grpcio: raw bytes, no generated classes.

One event loop reads requests and answers remembered decisions on the spot; everything
else goes to a few worker threads (`decider`). The same server is Envoy's external
processor (`ext_proc`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from authz_server.address import Address
from authz_server.errors import ConfigError
from authz_server.pipeline import Pipeline
from authz_server.transport.counts import Counts
from authz_server.transport.decider import Decider
from authz_server.transport.ext_proc import SERVICE as GATE
from authz_server.transport.ext_proc import Gate
from authz_server.transport.health import SERVICE, Health
from authz_server.transport.peer_gate import PeerGate
from authz_server.transport.peers import PeerList
from authz_server.transport.proxies import ProxyList
from authz_server.transport.socket_files import bound_with_mode, clear_path
from authz_server.transport.tls import TlsSource, server_credentials

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_HEALTH_INTERVAL_S: Final = 0.1
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a twin
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

_log: Final = logging.getLogger("authz_server.transport")


class GrpcServer:
    """Serves Check and Health on one address until it is told to stop.

    Args:
        health_of: asked for the state of health several times a second.
        max_pending: open decisions at most.
        workers: threads that decide.
        tls, proxies: both or neither; without them the address must be private.
        peers: who may connect to a unix socket, beside what its mode says; None for no
            such list.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        health_of: Callable[[], Health],
        max_pending: int,
        workers: int,
        max_message_bytes: int,
        tls: TlsSource | None = None,
        proxies: ProxyList | None = None,
        peers: PeerList | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._health_of = health_of
        self._tls = tls
        self._proxies = proxies
        self._peers = peers
        self._decider = Decider(pipeline, max_pending=max_pending, workers=workers)
        self._gate = Gate(pipeline, self._decider)
        self._max_message_bytes = max_message_bytes

    def publish(self) -> None:
        """Do nothing: every request here asks what is in force."""

    def counts(self) -> Counts:
        """Return none: what is answered here is counted by the pipeline."""
        return Counts()

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
        server = grpc.aio.server(
            options=(
                *_OPTIONS,
                ("grpc.max_receive_message_length", self._max_message_bytes),
            )
        )
        checks = grpc.unary_unary_rpc_method_handler(self._check)
        parts = grpc.stream_stream_rpc_method_handler(self._process)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, {"Check": checks}),
                grpc.method_handlers_generic_handler(GATE, {"Process": parts}),
            )
        )
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        await self._publish_health(servicer)
        with contextlib.ExitStack() as temporary:
            bound, gate = await self._listen(server, address, socket_mode, temporary)
            watch = asyncio.create_task(self._watch_health(servicer))
            try:
                on_listening(bound)
                await stop.wait()
            finally:
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch
                if gate is not None:
                    gate.close()
                await servicer.enter_graceful_shutdown()
                await server.stop(drain_s)
                if gate is not None:
                    await gate.stop()
                self._decider.close()

    async def _check(self, raw: bytes, context: Context) -> bytes:
        await self._admit(context)
        return await self._decider.answer(self._pipeline.begin(raw))

    async def _process(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        await self._admit(context)
        async for answer in self._gate.process(requests):
            yield answer

    async def _admit(self, context: Context) -> None:
        """Return if the peer may ask; end its call if not."""
        if self._proxies is not None and not self._proxies.admits(
            context.auth_context()
        ):
            _log.warning("refused a peer that is no listed proxy: %s", context.peer())
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "this peer may not ask"
            )

    async def _listen(
        self,
        server: grpc.aio.Server,
        address: Address,
        mode: int,
        temporary: contextlib.ExitStack,
    ) -> tuple[str, PeerGate | None]:
        """Return the address at which connections are accepted, and who guards it.

        Args:
            temporary: gets the folder of the socket behind the guard.

        Raises:
            ConfigError: if the address cannot be listened on.
        """
        gate = None
        try:
            if address.is_unix and self._peers is not None:
                # mkdtemp makes the folder with mode 0700.
                folder = tempfile.TemporaryDirectory(prefix="authz-server-")
                inner = Path(temporary.enter_context(folder)) / "grpc.sock"
                gate = PeerGate(Path(address.path), mode, inner, self._peers)
                server.add_insecure_port(f"unix:{inner}")
            else:
                address = self._bind(server, address, mode)
            await server.start()
            if gate is not None:
                await gate.start()
        except (OSError, RuntimeError) as error:
            await server.stop(None)
            raise ConfigError(
                [f"listen.address: cannot listen on {address.target}: {error}"]
            ) from error
        kind = "unix://" if address.is_unix else "tcp://"
        return kind + address.target.removeprefix("unix:"), gate

    def _bind(self, server: grpc.aio.Server, address: Address, mode: int) -> Address:
        """Return the address that `server` is bound to, which has a port for certain.

        Raises:
            OSError, RuntimeError: if it cannot be bound.
        """
        if address.is_unix:
            # gRPC would quietly unlink the socket of a server that is still answering.
            clear_path(Path(address.path))
            with bound_with_mode(mode):
                server.add_insecure_port(address.target)
            return address
        if self._tls is not None:
            credentials = server_credentials(self._tls)
            port = server.add_secure_port(address.target, credentials)
        else:
            port = server.add_insecure_port(address.target)
        return dataclasses.replace(address, port=port)

    async def _watch_health(self, servicer: Any) -> None:  # noqa: ANN401 - untyped
        while True:
            await self._publish_health(servicer)
            await asyncio.sleep(_HEALTH_INTERVAL_S)

    async def _publish_health(self, servicer: Any) -> None:  # noqa: ANN401 - untyped
        for name, status in self._health_of().statuses().items():
            await servicer.set(name, status)
