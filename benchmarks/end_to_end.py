"""What authorization adds to an inference, from caller to the real Triton and back.

A camera posts an image (12 KB, binary tensor) to defect-detection over mutual TLS, on
one HTTP/1.1 connection; Envoy, with one worker, passes it on to Triton, whose Python
backend looks for spots in it. The same call goes in turn through listeners that ask
nobody, and that ask authz-server over each transport that there is, the decision
remembered. Each answer of Triton is compared with the right one before anything is
timed.

A figure is the median of its rounds. `added` is the difference to asking nobody.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from edge import NOBODY, Upstream, issue_identities, running_envoy
from load_client import Load, Round, run_load
from machine import machine
from rival_servers import has_transport, start_authz_server
from tritonclient.http import InferenceServerClient, InferInput

from authz_server.demo.calls import (
    DEFECTS,
    IMAGE_SHAPE,
    SPOTS,
    Caller,
    Edge,
    Protocol,
    Verdict,
)
from authz_server.demo.scenario import CAMERA_ID
from authz_server.demo.triton import Triton

PATH: Final = f"/v2/models/{DEFECTS}/versions/1/infer"
READY_S: Final = 20.0


def image_call() -> tuple[bytes, str]:
    """Return the body of the call, and the header that says how it is packed."""
    image = np.full(IMAGE_SHAPE, 128, np.uint8)
    for top, left, bottom, right in SPOTS:
        image[top:bottom, left:right] = 255
    tensor = InferInput("IMAGE", image.shape, "UINT8")
    tensor.set_data_from_numpy(image)
    body, json_bytes = InferenceServerClient.generate_request_body([tensor])
    return body, f"inference-header-content-length: {json_bytes}"


def quantile_us(done: Round, share: float) -> float:
    """Return the latency below which this share of the calls is, in microseconds."""
    ordered = sorted(done.took_ns)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] / 1e3


def show(names: Sequence[str], rounds: Sequence[Sequence[Round]]) -> None:
    """Print a row for each way."""
    print(
        f"{'':16}{'calls':>8}{'p50 us':>9}{'added':>8}{'p99 us':>9}{'added':>8}"
        f"{'CPU us/check':>14}{'Envoy us':>10}"
    )
    base: dict[float, float] = {}
    for name, its in zip(names, rounds, strict=True):
        line = f"{name:16}{sum(done.calls for done in its):8}"
        for share in (0.5, 0.99):
            value = statistics.median(quantile_us(done, share) for done in its)
            added = value - base.setdefault(share, value)
            shown = "" if its is rounds[0] else f"{added:.0f}"
            line += f"{value:9.0f}{shown:>8}"
        cpu = [done.cpu_s[1] / done.calls * 1e6 for done in its if len(done.cpu_s) > 1]
        line += f"{statistics.median(cpu):14.1f}" if cpu else f"{'-':>14}"
        envoy = statistics.median(done.cpu_s[0] / done.calls for done in its) * 1e6
        print(line + f"{envoy:10.1f}")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument(
        "--quick", action="store_true", help="that it works, not what it costs"
    )
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 0.3
    transports = ["native", "grpc"] if has_transport() else ["grpc"]
    names = ["nobody", *(f"hit, {name}" for name in transports)]
    print(machine())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        identities = issue_identities(folder)
        camera = identities.issue("camera", CAMERA_ID)
        triton = stack.enter_context(Triton(folder))
        peers = [NOBODY]
        pids: list[list[int]] = [[]]
        for transport in transports:
            own = folder / transport
            own.mkdir()
            started = stack.enter_context(
                start_authz_server(own, identities, transport)
            )
            peers.append(started.peer)
            pids.append([started.pid] if started.pid else [])
        triton.wait()
        upstream = Upstream(triton.http_port, triton.grpc_port)
        envoy, ports = stack.enter_context(running_envoy(folder, peers, upstream))
        for name, port in zip(names, ports, strict=True):
            with Caller(Edge(port, identities.ca), Protocol.HTTP, camera) as caller:
                end = time.monotonic() + READY_S
                while (
                    outcome := caller.attempt(lambda it: it.find_defects("1"))
                ).verdict is not Verdict.ALLOWED:
                    if time.monotonic() > end:
                        raise SystemExit(f"{name}: {outcome}: not timed")
                    time.sleep(0.1)
        body, header = image_call()
        rounds: list[list[Round]] = [[] for _ in names]
        for number in range(args.rounds):
            for turn in range(len(names)):
                which = (turn + number) % len(names)
                done = run_load(
                    Load(ports[which], identities.ca, [camera], [PATH], [header], body),
                    folder,
                    connections=1,
                    timed_s=args.seconds,
                    watched=[envoy.pid, *pids[which]],
                )
                if done.refused:
                    raise SystemExit(f"{names[which]}: {done.refused} calls failed")
                rounds[which].append(done)
        show(names, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
