"""Real parts that several suites start, and the files that they need."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from authz_server.address import Address
from authz_server.assembly import build_pipeline, open_policies
from authz_server.config import Config, Inputs, Policy
from authz_server.errors import AuthzError
from authz_server.pipeline import Pipeline
from authz_server.policy.store import PolicyStore
from authz_server.transport.grpc_server import GrpcServer

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "plant-7.yaml"


class MemorySink:
    """Keeps events in memory."""

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def write(self, event: bytes) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing is held."""


def example_config(**sections: object) -> Config:
    """Return a configuration of the example policy that asks for no certificate."""
    arguments: dict[str, object] = {
        "policy": Policy(file=str(EXAMPLE)),
        "inputs": Inputs(require_certificate=False),
        **sections,
    }
    return Config(**arguments)  # type: ignore[arg-type]


@contextlib.contextmanager
def loaded_policies(config: Config) -> Iterator[PolicyStore]:
    """Yield the configured policy, loaded."""
    policies = open_policies(config)
    try:
        assert policies.reload(), policies.error
        yield policies
    finally:
        policies.close()


@contextlib.contextmanager
def example_pipeline(
    sink: MemorySink, config: Config | None = None
) -> Iterator[Pipeline]:
    """Yield a whole pipeline on the example policy."""
    config = config or example_config()
    with loaded_policies(config) as policies:
        yield build_pipeline(config, policies, sink)


@contextlib.contextmanager
def running_server(
    server: GrpcServer, address: Address, *, socket_mode: int = 0o600
) -> Iterator[str]:
    """Yield the gRPC target of `server`, which runs in a thread of its own."""
    listening: Future[str] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def serve() -> None:
        try:
            loop.run_until_complete(
                server.run(
                    address,
                    socket_mode=socket_mode,
                    stop=stop,
                    drain_s=2.0,
                    on_listening=listening.set_result,
                )
            )
        except AuthzError as error:
            listening.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        bound = listening.result(timeout=10)
        yield Address.parse(bound).target
    finally:
        if not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it ended by itself
                loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)
        assert not thread.is_alive()
