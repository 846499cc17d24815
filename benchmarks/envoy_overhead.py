"""What an authorization check costs, through the real Envoy.

Four ways for the same call to go, in turn, in one run:

    none    Envoy alone, without an authorizer
    empty   an ext_authz server on grpcio that allows everything and looks at nothing:
            what the transport alone costs
    hit     authz-server, the decision remembered
    miss    authz-server, every call a new one: identity, operation, Rego, audit

Envoy is the one of envoy/edge-unix-socket.yaml (mutual TLS in front, the check over a
unix socket) with one worker, answering by itself in Triton's place. Each round of each
way asks the same number of calls on the same number of connections; answers are checked
before anything is timed. Processor time is what the kernel accounts to the process of
the authorizer and to Envoy, divided by the calls.

These figures depend on the machine and on who else uses it: compare the columns of one
run with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc

from authz_server import response
from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_triton,
)
from authz_server.demo.pki import DevelopmentCa, write_bundle, write_svid
from authz_server.demo.process import Command, Process, free_ports
from authz_server.demo.scenario import EDGE_ID, FACTORY, SUPPLIER
from authz_server.demo.server import AuthzServer
from authz_server.transport.health import SERVICE

CAMERA = f"spiffe://{FACTORY}/ns/line1/sa/camera"
ALLOWED = "/v2/models/defect-detection/versions/1/infer"
DENIED = "/v2/models/demand-forecast/infer"
WAYS = ("none", "empty", "hit", "miss")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Way:
    """One column: where to ask, whose processor time counts, what came of it."""

    name: str
    port: int
    envoy: int
    authorizer: int | None
    latencies_us: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    authorizer_s: float = 0.0
    envoy_s: float = 0.0

    def percentile(self, part: float) -> float:
        """Return the latency that `part` of all calls stayed below."""
        ordered = sorted(self.latencies_us)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def cpu_s(pid: int) -> float:
    """Return the processor time that process `pid` has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


@contextlib.contextmanager
def running_envoy(folder: Path, name: str, socket: Path | None) -> Iterator[Way]:
    """Yield the way through an Envoy of its own."""
    (port,) = free_ports(1)
    places = Places(
        tls=folder,
        check_socket=socket or folder / "nobody",
        listener_port=port,
        triton_http_port=1,
        triton_grpc_port=1,
    )
    configuration = without_triton(
        render(read_configuration("edge-unix-socket"), places),
        with_check=socket is not None,
    )
    with Envoy(folder, configuration, port, name=f"envoy-{name}", workers=1) as envoy:
        envoy.wait()
        yield Way(name, port, envoy.pid, None)


def serve_empty(socket: str) -> None:
    """Be the ext_authz server that allows everything."""
    answer = response.allow()

    async def check(_: bytes, __: object) -> bytes:
        return answer

    async def serve() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(check)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Check": handler}),)
        )
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


@contextlib.contextmanager
def running_empty(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the socket and the process of the server that allows everything."""
    socket = folder / "empty.sock"
    command = Command(
        name="empty server",
        argv=[sys.executable, __file__, "--serve-empty", str(socket)],
        log=folder / "empty.log",
        env=os.environ,
        cwd=folder,
    )
    with Process(command) as process:
        process.wait_until(socket.exists, 20)
        yield socket, process.pid


class Client:
    """One caller with an SVID and keep-alive connections."""

    def __init__(self, folder: Path) -> None:
        self._tls = ssl.create_default_context(cafile=folder / f"{FACTORY}.pem")
        self._tls.load_cert_chain(folder / "camera.crt", folder / "camera.key")
        self._count = 0

    async def ask(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        path: str,
    ) -> int:
        """Return the status of one POST without a body."""
        reader, writer = streams
        request = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0"
        writer.write(f"{request}\r\n\r\n".encode("ascii"))
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        return int(head.split(b" ", 2)[1])

    async def connect(
        self, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return one connection."""
        return await asyncio.open_connection(
            "127.0.0.1", port, ssl=self._tls, server_hostname="localhost"
        )

    async def verify(self, way: Way) -> None:
        """Raise unless the way answers as it should."""
        streams = await self.connect(way.port)
        allowed = await self.ask(streams, ALLOWED)
        denied = await self.ask(streams, DENIED)
        expected = 403 if way.name in {"hit", "miss"} else 200
        if (allowed, denied) != (200, expected):
            raise SystemExit(f"{way.name} answers {allowed} and {denied}: not timed")
        streams[1].close()

    async def round(self, way: Way, calls: int, connections: int) -> None:
        """Ask `calls` calls and add what they took."""
        streams = [await self.connect(way.port) for _ in range(connections)]

        async def run(
            stream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        ) -> None:
            for _ in range(calls // connections):
                self._count += 1
                path = f"{ALLOWED}?n={self._count}" if way.name == "miss" else ALLOWED
                begin = time.perf_counter()
                status = await self.ask(stream, path)
                way.latencies_us.append((time.perf_counter() - begin) * 1e6)
                if status != 200:
                    raise SystemExit(f"{way.name}: a call was answered {status}")

        for stream in streams:  # connections and caches are warm
            await self.ask(stream, ALLOWED)
        envoy, authorizer = cpu_s(way.envoy), cpu_s(way.authorizer or way.envoy)
        begin = time.perf_counter()
        await asyncio.gather(*map(run, streams))
        way.wall_s += time.perf_counter() - begin
        way.envoy_s += cpu_s(way.envoy) - envoy
        if way.authorizer is not None:
            way.authorizer_s += cpu_s(way.authorizer) - authorizer
        for _, writer in streams:
            writer.close()


def verify_misses(ways: list[Way], audit: Path) -> None:
    """Raise unless the audit trail says that every miss was one."""
    calls = sum(len(way.latencies_us) for way in ways if way.name == "miss")
    misses = audit.read_text("utf-8").count('"cache_hit":false')
    if misses < calls:
        raise SystemExit(f"only {misses} of {calls} misses were misses")
    audit.write_text("", "utf-8")


def report(ways: list[Way], connections: int) -> None:
    """Print the table of one number of connections."""
    base = ways[0]
    print(f"\n{connections} connection{'s' * (connections > 1)}")
    print(
        f"{'':6} {'calls/s':>8} {'p50 us':>8} {'p99 us':>8} {'p99.9 us':>9} "
        f"{'CPU us/check':>13} {'Envoy us':>9} {'p50 ratio':>10}"
    )
    for way in ways:
        count = len(way.latencies_us)
        authorizer = (
            f"{way.authorizer_s / count * 1e6:13.0f}"
            if way.authorizer
            else f"{'-':>13}"
        )
        print(
            f"{way.name:6} {count / way.wall_s:8.0f} {way.percentile(0.5):8.0f} "
            f"{way.percentile(0.99):8.0f} {way.percentile(0.999):9.0f} {authorizer} "
            f"{way.envoy_s / count * 1e6:9.0f} "
            f"{way.percentile(0.5) / base.percentile(0.5):10.2f}"
        )


def machine() -> str:
    """Return what the figures were measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {model}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, grpcio {grpc.__version__}"
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000, help="a round of one way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--serve-empty", metavar="SOCKET", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_empty:
        serve_empty(args.serve_empty)
        return 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        factory = DevelopmentCa(FACTORY)
        write_svid(folder, "server", factory.issue(EDGE_ID, ["localhost"]))
        write_svid(folder, "camera", factory.issue(CAMERA))
        bundles = {
            ca.trust_domain: str(write_bundle(folder, ca))
            for ca in (factory, DevelopmentCa(SUPPLIER))
        }
        server = stack.enter_context(AuthzServer(folder, {"bundles": bundles}))
        empty, empty_pid = stack.enter_context(running_empty(folder))
        server.wait()
        print(machine())
        client = Client(folder)
        sockets = {"none": None, "empty": empty}
        pids = {"none": None, "empty": empty_pid}
        for connections in args.connections:
            with contextlib.ExitStack() as round_stack:
                ways = []
                for name in WAYS:
                    way = round_stack.enter_context(
                        running_envoy(folder, name, sockets.get(name, server.socket))
                    )
                    way.authorizer = pids.get(name, server.pid)
                    ways.append(way)
                asyncio.run(_measure(client, ways, args, connections))
                verify_misses(ways, server.audit)
                report(ways, connections)
    return 0


async def _measure(
    client: Client, ways: list[Way], args: argparse.Namespace, connections: int
) -> None:
    for way in ways:
        await client.verify(way)
    for number in range(args.rounds):
        # Another order each time, so that no way always follows the same one.
        shift = number % len(ways)
        for way in ways[shift:] + ways[:shift]:
            await client.round(way, args.calls, connections)


if __name__ == "__main__":
    sys.exit(main())
