"""Real parts that several suites start, and the files that they need."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from checks import CAMERA

from authz_server.address import Address
from authz_server.assembly import build_pipeline, open_policies
from authz_server.audit import FileSink
from authz_server.audit.spool import boot_id, pending_of, spool_of
from authz_server.config import Config, Identity, Policy
from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_triton,
)
from authz_server.demo.pki import DevelopmentCa, write_bundle, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import EDGE_ID, FACTORY, SUPPLIER
from authz_server.errors import AuthzError
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.policy.store import PolicyStore
from authz_server.transport.grpc_server import GrpcServer
from authz_server.transport.health import Health
from authz_server.transport.native_server import NativeServer

AnyServer = GrpcServer | NativeServer

FACTORY_CA, SUPPLIER_CA = DevelopmentCa(FACTORY), DevelopmentCa(SUPPLIER)

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


def trail(path: Path) -> list[bytes]:
    """Return the lines of an audit file, once the server's spool holds no more."""

    def is_settled() -> bool:
        try:
            spool = spool_of(path).read_bytes()
        except FileNotFoundError:
            return True
        return not pending_of(spool, boot_id())

    assert eventually(is_settled)
    return path.read_bytes().splitlines(keepends=True)


def last_event(path: Path) -> dict[str, Any]:
    """Return the last event of an audit file."""
    event: dict[str, Any] = json.loads(trail(path)[-1])
    return event


class RecordSink(FileSink):
    """Keeps events in a file of its own, and reads them back."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "audit.jsonl"
        super().__init__(str(self._path))

    @property
    def events(self) -> list[bytes]:
        return trail(self._path)


def new_server(
    transport: str, pipeline: Pipeline, sink: FileSink, **changes: object
) -> AnyServer:
    """Return a server of the transport "native" or "grpc" on `pipeline`.

    Args:
        sink: that `pipeline` writes to.
        changes: arguments of the server other than the usual ones.
    """
    arguments: dict[str, object] = {
        "health_of": lambda: Health(can_answer=True, is_current=True),
        "max_pending": 16,
        "workers": 2,
        "max_message_bytes": 1024 * 1024,
        **changes,
    }
    if transport == "grpc":
        arguments.pop("threads", None)
        return GrpcServer(pipeline, **arguments)  # type: ignore[arg-type]
    return NativeServer(
        pipeline,
        audit=sink,
        **{"threads": 2, **arguments},  # type: ignore[arg-type]
    )


def example_config(**sections: object) -> Config:
    """Return a configuration of the example policy that asks for no certificate."""
    arguments: dict[str, object] = {
        "policy": Policy(file=str(EXAMPLE)),
        "identity": Identity(chain="proxy", require_certificate=False),
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
        yield build_pipeline(config, policies, sink, IdentitySources())


@contextlib.contextmanager
def running_server(
    server: AnyServer, address: Address, *, socket_mode: int = 0o600
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


def eventually(holds: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Return whether `holds` came true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@contextlib.contextmanager
def serve_process(
    folder: Path, program: Sequence[str] = ("-m", "authz_server")
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield ``authz-server serve`` on the ``config.yaml`` of `folder`."""
    command = [sys.executable, *program, "serve", "--config"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*command, str(folder / "config.yaml")], stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def write_edge_files(folder: Path) -> None:
    """Write what an Envoy of ``envoy/`` reads, and the SVID of a camera."""
    write_svid(folder, "server", FACTORY_CA.issue(EDGE_ID, ["localhost"]))
    write_svid(folder, "camera", FACTORY_CA.issue(CAMERA))
    write_bundle(folder, FACTORY_CA)
    write_bundle(folder, SUPPLIER_CA)


@contextlib.contextmanager
def edge_envoy(folder: Path, configuration: str, authz_port: int = 1) -> Iterator[int]:
    """Yield the port of an Envoy that answers for Triton and asks authz-server."""
    (port,) = free_ports(1)
    places = Places(
        tls=folder,
        check_socket=folder / "s",
        listener_port=port,
        triton_http_port=1,
        triton_grpc_port=1,
        authz_port=authz_port,
    )
    rendered = render(read_configuration(configuration), places)
    with Envoy(folder, without_triton(rendered), port) as envoy:
        envoy.wait()
        yield port


def camera_connection(folder: Path, port: int) -> http.client.HTTPSConnection:
    """Return a camera's connection to an Envoy on files of `write_edge_files`."""
    tls = ssl.create_default_context(cafile=folder / f"{FACTORY}.pem")
    tls.load_cert_chain(folder / "camera.crt", folder / "camera.key")
    return http.client.HTTPSConnection("localhost", port, context=tls)


def camera_status(folder: Path, port: int, path: str) -> int:
    """Return the status of one POST by a camera."""
    with contextlib.closing(camera_connection(folder, port)) as connection:
        connection.request("POST", path)
        return connection.getresponse().status
