"""What a check costs as the number of distinct callers grows.

So many cameras, each with a certificate of its own, ask authz-server about the same
model, one check at a time, directly over its unix socket (no Envoy). Of each number:

    first sight   every caller's first check: certificate, chain, decision, remembering
    hit           callers at random, each of whom asked before
    miss          callers at random, each check another question (`?n=N`): certificates
                  seen before, the decision new

Every answer is looked at. Processor time is the server's own, by the kernel's clock of
its process; latency is that of a client in Python and mostly its own, so it is given as
a multiple of the hit's with the fewest callers, and for nothing else.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from edge import issue_identities
from envoy_data_plane.envoy.service.auth import v3 as auth
from machine import machine
from rival_servers import has_transport, start_authz_server

from authz_server import response
from authz_server.demo.pki import DevelopmentCa
from authz_server.demo.scenario import FACTORY

METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"
PATH: Final = "/v2/models/defect-detection/versions/1/infer"
READY_S: Final = 20.0

Ask = Callable[[bytes], bytes]


def process_clock(pid: int) -> int:
    """Return the clock of another process's processor time (clock_getcpuclockid)."""
    return (~pid << 3) | 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What one kind of check took, in microseconds."""

    cpu_us: float
    p50_us: float


def certificates(ca: DevelopmentCa, count: int) -> Iterator[tuple[str, str]]:
    """Yield the ID and the certificate of each caller, as Envoy writes them."""
    key = ec.generate_private_key(ec.SECP256R1())  # Nobody signs anything with it.
    for number in range(count):
        spiffe_id = f"spiffe://{FACTORY}/ns/line2/sa/camera-{number}"
        pem = ca.issue(spiffe_id, key=key).certificate_pem.decode("ascii")
        yield spiffe_id, urllib.parse.quote(pem, safe="")


def question(spiffe_id: str, certificate: str, path: str = PATH) -> bytes:
    """Return a CheckRequest."""
    return bytes(
        auth.CheckRequest(
            attributes=auth.AttributeContext(
                source=auth.AttributeContextPeer(
                    principal=spiffe_id, certificate=certificate
                ),
                request=auth.AttributeContextRequest(
                    http=auth.AttributeContextHttpRequest(
                        id="benchmark", method="POST", path=path, host="localhost"
                    )
                ),
                context_extensions={"upstream": "triton"},
            )
        )
    )


def cost(ask: Ask, pid: int, questions: Sequence[bytes]) -> Cost:
    """Return what these checks took, one at a time; each must be allowed."""
    clock, allowed = process_clock(pid), response.allow()
    took = []
    used = time.clock_gettime(clock)
    for asked in questions:
        begin = time.perf_counter()
        answer = ask(asked)
        took.append(time.perf_counter() - begin)
        if answer != allowed:
            raise SystemExit("a check was not allowed: not timed")
    used = time.clock_gettime(clock) - used
    return Cost(used / len(questions) * 1e6, statistics.median(took) * 1e6)


def measure(transport: str, count: int, checks: int) -> dict[str, Cost]:
    """Return the costs with `count` callers, on a server of their own."""
    chosen = random.Random(1)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        identities = issue_identities(folder)
        own = folder / "server"
        own.mkdir()
        started = stack.enter_context(start_authz_server(own, identities, transport))
        *callers, another = certificates(identities.factory, count + 1)
        firsts = [question(*caller) for caller in callers]
        hits = chosen.choices(firsts, k=checks)
        misses = [
            question(*chosen.choice(callers), f"{PATH}?n={number}")
            for number in range(checks)
        ]
        channel = stack.enter_context(
            grpc.insecure_channel(f"unix:{started.peer.socket}")
        )
        ask = channel.unary_unary(METHOD)
        await_policy(ask, question(*another))
        if started.pid is None:
            raise SystemExit("nothing runs")
        return {
            "first sight": cost(ask, started.pid, firsts),
            "hit": cost(ask, started.pid, hits),
            "miss": cost(ask, started.pid, misses),
        }


def await_policy(ask: Ask, asked: bytes) -> None:
    """Return once a check is allowed."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(grpc.RpcError):
            if ask(asked) == response.allow():
                return
        time.sleep(0.1)
    raise SystemExit("an allowed check is denied: not timed")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--callers", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--checks", type=int, default=5000, help="hits, and misses")
    args = parser.parse_args()
    print(machine())
    for transport in ("native", "grpc") if has_transport() else ("grpc",):
        print(f"\n{transport}: server's CPU us/check, and p50 as a multiple of a hit's")
        print(f"{'callers':>8}{'first sight':>18}{'hit':>18}{'miss':>18}")
        base = 0.0
        for count in args.callers:
            costs = measure(transport, count, args.checks)
            base = base or costs["hit"].p50_us
            line = "".join(
                f"{it.cpu_us:10.0f} {f'({it.p50_us / base:.2f})':>7}"
                for it in costs.values()
            )
            print(f"{count:>8}{line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
