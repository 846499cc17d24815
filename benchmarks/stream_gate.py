"""What the gate costs a message of a stream, through the real Envoy.

The same stream of the same messages, in turn, in one run:

    open    judged at its beginning, and then left alone
    gated   every message judged by authz-server (ext_proc)

NVIDIA's own client talks to the real Triton, to a sequence and to a decoupled model,
which answer each message with one byte; a message waits for the answer to the one
before it. Envoy is that of envoy/edge-unix-socket.yaml with one worker. Processor time
is what the kernel accounts to Envoy and to authz-server, divided by the messages.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import queue
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult

from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_gate,
)
from authz_server.demo.pki import DevelopmentCa, SvidFiles, write_bundle, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import CAMERA_ID, EDGE_ID, FACTORY, SUPPLIER
from authz_server.demo.server import POLICY, AuthzServer
from authz_server.demo.triton import Triton

MODELS = Path(__file__).parent / "models"
SIZES = {"1 KiB": 1024, "100 KiB": 100 * 1024, "8 MiB": 8 * 1024 * 1024}
WARM_UP = 3
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """One way to one model, for messages of one size."""

    way: str
    model: str
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


class Conversation:
    """A stream of one client, on which each message waits for its answer."""

    def __init__(self, client: InferenceServerClient, model: str, size: int) -> None:
        tensor = np.zeros(size, dtype=np.uint8)
        self._input = InferInput("DATA", tensor.shape, "UINT8")
        self._input.set_data_from_numpy(tensor)
        self._client, self._model = client, model
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client.start_stream(lambda result, error: self._answers.put(error or result))

    def ask(self, *, is_first: bool) -> None:
        """Send a message, and return when it is answered.

        Raises:
            SystemExit: if that is not Triton's answer to it.
        """
        sequence = {"sequence_id": 1, "sequence_start": is_first}
        self._client.async_stream_infer(
            self._model,
            [self._input],
            model_version="1",
            **(sequence if self._model == "sequence" else {}),
        )
        answer = self._answers.get(timeout=60)
        if not isinstance(answer, InferResult) or answer.as_numpy("DONE")[0] != 1:
            raise SystemExit(f"not timed, as the stream is not right: {answer}")


def run_round(row: Row, tls: SvidFiles, bundle: Path, calls: int) -> None:
    """Send `calls` messages one after the other, and add up what that took."""
    client = InferenceServerClient(
        f"localhost:{row.port}",
        ssl=True,
        root_certificates=str(bundle),
        private_key=str(tls.key),
        certificate_chain=str(tls.certificate),
    )
    with contextlib.closing(client):
        talk = Conversation(client, row.model, SIZES[row.size])
        for number in range(WARM_UP):
            talk.ask(is_first=number == 0)
        before = cpu_s(row.envoy), cpu_s(row.authorizer)
        for _ in range(calls):
            start = time.perf_counter()
            talk.ask(is_first=False)
            row.latencies_us.append((time.perf_counter() - start) * 1e6)
        row.envoy_s += cpu_s(row.envoy) - before[0]
        row.authorizer_s += cpu_s(row.authorizer) - before[1]


def print_table(rows: list[Row]) -> None:
    """Print each row, and how its p50 compares with the open stream's."""
    head = "p50 us", "p99 us", "p99.9 us", "x open", "gate CPU", "Envoy"
    print(("{:<26}" + "{:>10}" * len(head)).format("", *head))
    base = {
        (row.model, row.size): row.percentile(0.5) for row in rows if row.way == "open"
    }
    for row in rows:
        count = len(row.latencies_us)
        print(
            f"{row.model:<10}{row.size:<8}{row.way:<8}{row.percentile(0.5):>10.0f}"
            f"{row.percentile(0.99):>10.0f}{row.percentile(0.999):>10.0f}"
            f"{row.percentile(0.5) / base[row.model, row.size]:>10.2f}"
            f"{row.authorizer_s / count * 1e6:>10.0f}{row.envoy_s / count * 1e6:>10.0f}"
        )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        factory = DevelopmentCa(FACTORY)
        write_svid(folder, "server", factory.issue(EDGE_ID, ["localhost"]))
        camera = write_svid(folder, "camera", factory.issue(CAMERA_ID))
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
        triton = stack.enter_context(Triton(folder, MODELS))
        for part in (server, triton):
            part.wait()
        ways = {}
        for name in ("open", "gated"):
            (port,) = free_ports(1)
            places = Places(
                folder, server.socket, port, triton.http_port, triton.grpc_port
            )
            configuration = render(read_configuration("edge-unix-socket"), places)
            if name == "open":
                configuration = without_gate(configuration)
            envoy = stack.enter_context(
                Envoy(folder, configuration, port, name=name, workers=1)
            )
            envoy.wait()
            ways[name] = envoy
        bundle = Path(bundles[FACTORY])
        rows = []
        for model, (size, length) in itertools.product(
            ("sequence", "decoupled"), SIZES.items()
        ):
            pair = [
                Row(name, model, size, envoy.port, envoy.pid, server.pid)
                for name, envoy in ways.items()
            ]
            calls = max(10, args.messages // (1 + length // (256 * 1024)))
            for _ in range(args.rounds):
                for row in pair:
                    run_round(row, camera, bundle, calls)
            rows += pair
        print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
