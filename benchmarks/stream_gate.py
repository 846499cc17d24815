"""What the gate costs a message of a stream, through the real Envoy.

The same stream of the same messages, in turn, in one run:

    open    judged at its beginning, and then left alone
    gated   every message judged by authz-server (ext_proc)

Each message waits for the answer to the one before it. What answers in Triton's place
is a gRPC server that says nothing of any length, so that the figures are of the proxy
and the gate. Envoy is that of envoy/edge-unix-socket.yaml with one worker. Answers are
counted before anything is timed. Processor time is what the kernel accounts to Envoy
and to authz-server, divided by the messages.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import queue
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_gate,
)
from authz_server.demo.pki import DevelopmentCa, write_bundle, write_svid
from authz_server.demo.process import Command, Process, accepts, free_ports
from authz_server.demo.scenario import CAMERA_ID, EDGE_ID, FACTORY, SUPPLIER
from authz_server.demo.server import POLICY, AuthzServer

SERVICE = "inference.GRPCInferenceService"
STREAM = f"/{SERVICE}/ModelStreamInfer"
SIZES = {"1 KiB": 1024, "100 KiB": 100 * 1024, "8 MiB": 8 * 1024 * 1024}
ANSWER = b"\x0a\x00"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass
class Row:
    """One way for messages of one size."""

    way: str
    size: str
    port: int
    envoy: int
    authorizer: int
    latencies_us: list[float] = field(default_factory=list)
    envoy_s: float = 0.0
    authorizer_s: float = 0.0

    def percentile(self, part: float) -> float:
        """Return the latency that `part` of all messages stayed below."""
        ordered = sorted(self.latencies_us)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def cpu_s(pid: int) -> float:
    """Return the processor time that process `pid` has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def serve_upstream(port: int) -> None:
    """Answer each message of each stream with two bytes."""

    async def talk(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for _request in requests:
            yield ANSWER

    async def serve() -> None:
        server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(talk)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE, {"ModelStreamInfer": handler}
                ),
            )
        )
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


@contextlib.contextmanager
def running_upstream(folder: Path) -> Iterator[int]:
    """Yield the port of what stands in Triton's place."""
    (port,) = free_ports(1)
    command = Command(
        name="upstream",
        argv=[sys.executable, __file__, "--serve-upstream", str(port)],
        log=folder / "upstream.log",
        env=os.environ,
        cwd=folder,
    )
    with Process(command) as process:
        process.wait_until(lambda: accepts(port), 20)
        yield port


def message(size: int) -> bytes:
    """Return a ModelInferRequest whose names come after so many bytes of tensors."""
    name = b"defect-detection"
    names = bytes((0x0A, len(name))) + name + b"\x12\x011"
    length, encoded = size, b""
    while length > 0x7F:
        encoded += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return b"\x3a" + encoded + bytes((length,)) + bytes(size) + names


def run_round(row: Row, credentials: grpc.ChannelCredentials, calls: int) -> None:
    """Send `calls` messages one after the other, and add up what that took."""
    request = message(SIZES[row.size])
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    channel = grpc.secure_channel(f"localhost:{row.port}", credentials, OPTIONS)
    with channel:
        answers = channel.stream_stream(STREAM)(iter(requests.get, None), timeout=300)
        before = 0.0, 0.0
        for number in range(-2, calls):  # two to warm up
            if number == 0:
                before = cpu_s(row.envoy), cpu_s(row.authorizer)
            start = time.perf_counter()
            requests.put(request)
            if next(answers) != ANSWER:
                raise SystemExit("the stream is not what it should be: not timed")
            if number >= 0:
                row.latencies_us.append((time.perf_counter() - start) * 1e6)
        row.envoy_s += cpu_s(row.envoy) - before[0]
        row.authorizer_s += cpu_s(row.authorizer) - before[1]
        requests.put(None)
        for _ in answers:
            raise SystemExit("an answer that nobody asked for")


def print_table(rows: list[Row]) -> None:
    """Print each row, and how its p50 compares with the open stream's."""
    head = ("", "size", "p50 us", "p99 us", "p99.9 us", "x open", "gate CPU", "Envoy")
    print("{:<7}{:<9}{:>10}{:>10}{:>10}{:>8}{:>10}{:>8}".format(*head))
    base = {row.size: row.percentile(0.5) for row in rows if row.way == "open"}
    for row in rows:
        count = len(row.latencies_us)
        print(
            f"{row.way:<7}{row.size:<9}{row.percentile(0.5):>10.0f}"
            f"{row.percentile(0.99):>10.0f}{row.percentile(0.999):>10.0f}"
            f"{row.percentile(0.5) / base[row.size]:>8.2f}"
            f"{row.authorizer_s / count * 1e6:>10.0f}{row.envoy_s / count * 1e6:>8.0f}"
        )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve-upstream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_upstream:
        serve_upstream(args.serve_upstream)
        return 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        factory = DevelopmentCa(FACTORY)
        write_svid(folder, "server", factory.issue(EDGE_ID, ["localhost"]))
        camera = factory.issue(CAMERA_ID)
        bundles = {
            ca.trust_domain: str(write_bundle(folder, ca))
            for ca in (factory, DevelopmentCa(SUPPLIER))
        }
        policy = folder / "access.yaml"
        policy.write_text(
            POLICY.read_text("utf-8").replace(
                "  grants:\n",
                '    streamer: [{actions: [inference-stream], models: ["*"]}]\n'
                "  grants:\n"
                "    - {role: streamer, to: [factory-floor], on: [triton]}\n",
            )
        )
        server = stack.enter_context(AuthzServer(folder, {"bundles": bundles}, policy))
        upstream = stack.enter_context(running_upstream(folder))
        server.wait()
        ways = {}
        for name in ("open", "gated"):
            (port,) = free_ports(1)
            places = Places(folder, server.socket, port, 1, upstream)
            configuration = render(read_configuration("edge-unix-socket"), places)
            if name == "open":
                configuration = without_gate(configuration)
            envoy = stack.enter_context(
                Envoy(folder, configuration, port, name=name, workers=1)
            )
            envoy.wait()
            ways[name] = envoy
        credentials = grpc.ssl_channel_credentials(
            factory.bundle_pem, camera.key_pem, camera.certificate_pem
        )
        rows = []
        for size, length in SIZES.items():
            pair = [
                Row(name, size, envoy.port, envoy.pid, server.pid)
                for name, envoy in ways.items()
            ]
            calls = max(2, args.messages // (1 + length // (256 * 1024)))
            for _ in range(args.rounds):
                for row in pair:
                    run_round(row, credentials, calls)
            rows += pair
        print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
