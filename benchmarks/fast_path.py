"""What a check costs on the fast path, beside the floor and beside what others have.

Envoy alone, and Envoy with each of these to ask, in turn, in one run:

    floor          an empty server in C on libnghttp2 (rivals/floor.c): it reads nothing
                   and allows everything, so this is what HTTP/2 and the kernel cost
    hit, native    authz-server's listener in C, the decision remembered
    hit, grpcio    the same decision over the transport in Python
    miss, ...      every call is another question (`?n=N`: a query is among what a
                   decision may depend on): identity, operation, Rego, audit, and the
                   remembering
    opa-go         OPA's own engine in Go, doing what opa-envoy-plugin does, on the data
                   of the same policy (rivals/opa_go); no identity, no audit
    Istio sample   Istio's ext-authz sample, which compares one string and writes a log
                   line; over loopback TCP, as it has no unix socket

One real Envoy with one worker, mutual TLS in front, has a listener for each, and
answers by itself in Triton's place. A client in C (rivals/load.c) keeps so many
keep-alive connections busy, one call at a time on each. Each round is a fresh set of
connections, warmed up for 0.2 s; the rivals take turns, in another order each time. A
figure is the median of its rounds; p99.9 is that of all calls together.

Before anything is timed each rival must answer six questions of three callers as it
should; in every round all calls must be allowed; and the audit trail must say that hits
were hits and misses misses.

Processor time is the kernel's own clock of the process: all threads, in nanoseconds.
Nothing is kept on a processor of its own: tried on two cores (`--pin`: Envoy on the
first, the client on the last), that took from rivals with several threads, and steadied
nothing.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from bar_chart import Bar, bar_chart
from edge import Identities, issue_identities, running_envoy, status_of
from load_client import Load, Round, run_load
from machine import machine
from rival_servers import ASKED, QUESTIONS, Rival, Started, all_rivals

from authz_server.demo.pki import SvidFiles
from authz_server.demo.scenario import CAMERA_ID, DEPLOYER_ID, FORECASTER_ID

CALLERS: Final = {
    "camera": CAMERA_ID,
    "forecaster": FORECASTER_ID,
    "deployer": DEPLOYER_ID,
}
READY_S: Final = 20.0
AUDIT_S: Final = 2.0
CHARTED: Final = 16
"""The number of connections that the chart shows, if it was measured."""


@dataclass
class Measured:
    """All rounds of one rival with one number of connections."""

    rival: Rival
    started: Started
    port: int
    rounds: list[Round] = field(default_factory=list)
    rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        rival: its name.
        connections: calls under way at a time.
        rps: answers a second.
        p50_us: latency seen by the client, in microseconds; p99 and p99.9 likewise.
        cpu_us: processor time of the rival a check, in microseconds; None for nobody.
        envoy_us: processor time of Envoy a check, in microseconds.
        client_us: processor time of the client a check, in microseconds.
        rss_mb: resident memory of the rival, in 10^6 bytes; None for nobody.
        calls: in all rounds.
    """

    rival: str
    connections: int
    rps: float
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_us: float | None
    envoy_us: float
    client_us: float
    rss_mb: float | None
    calls: int


def percentile_us(took_ns: Sequence[int], part: float) -> float:
    """Return what `part` of all calls stayed below, in microseconds."""
    ordered = sorted(took_ns)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] / 1e3


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process, in 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    found = re.search(r"^VmRSS:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def summed_up(measured: Measured, connections: int) -> Row:
    """Return the line of one rival."""
    rounds = measured.rounds

    def median(of: Sequence[float]) -> float:
        return statistics.median(of)

    has_rival = measured.started.pid is not None
    return Row(
        rival=measured.rival.name,
        connections=connections,
        rps=median([it.calls / it.wall_s for it in rounds]),
        p50_us=median([percentile_us(it.took_ns, 0.5) for it in rounds]),
        p99_us=median([percentile_us(it.took_ns, 0.99) for it in rounds]),
        p999_us=percentile_us([ns for it in rounds for ns in it.took_ns], 0.999),
        cpu_us=median([it.cpu_s[1] / it.calls * 1e6 for it in rounds])
        if has_rival
        else None,
        envoy_us=median([it.cpu_s[0] / it.calls * 1e6 for it in rounds]),
        client_us=median([it.own_cpu_s / it.calls * 1e6 for it in rounds]),
        rss_mb=measured.rss_mb if has_rival else None,
        calls=sum(it.calls for it in rounds),
    )


class Bench:
    """Everything that runs, and the rounds.

    Args:
        folder: for all files, the caller's to remove.
        stack: ends what is started.
        pin: whether Envoy and client are kept on processors of their own.
    """

    def __init__(
        self,
        folder: Path,
        stack: contextlib.ExitStack,
        rivals: Sequence[Rival],
        *,
        pin: bool,
    ) -> None:
        self.folder = folder
        self.identities: Identities = issue_identities(folder)
        self.callers: dict[str, SvidFiles] = {
            name: self.identities.issue(name, spiffe_id)
            for name, spiffe_id in CALLERS.items()
        }
        started = []
        for number, rival in enumerate(rivals):
            own = folder / str(number)
            own.mkdir()
            started.append(stack.enter_context(rival.start(own, self.identities)))
        self.envoy, ports = stack.enter_context(
            running_envoy(folder, [it.peer for it in started])
        )
        cores = sorted(os.sched_getaffinity(0))
        self._client_cores = ""
        if pin and len(cores) > 1:
            _pin(self.envoy.pid, cores[0])
            self._client_cores = str(cores[-1])
        self._parts = list(zip(rivals, started, ports, strict=True))
        self._number = 0

    def verify(self) -> None:
        """Raise unless each rival answers every question as it should."""
        for rival, _, port in self._parts:
            end = time.monotonic() + READY_S
            while (wrong := self._wrong(rival, port)) and time.monotonic() < end:
                time.sleep(0.1)  # it may not be ready
            if wrong:
                raise SystemExit(f"{rival.name}: {wrong}: not timed")

    def _wrong(self, rival: Rival, port: int) -> str:
        for question in QUESTIONS:
            caller = self.callers[question.who]
            got = status_of(self.identities, caller, port, question.path)
            expected = 200 if rival.allows(question) else 403
            if got != expected:
                return f"{question.who} {question.path} got {got}, not {expected}"
        return ""

    def measure(self, connections: int, rounds: int, timed_s: float) -> list[Row]:
        """Return the table of one number of connections."""
        all_measured = [Measured(*part) for part in self._parts]
        for number in range(rounds):
            # Another order each time, so that none always follows the same one.
            shift = number % len(all_measured)
            for measured in all_measured[shift:] + all_measured[:shift]:
                self._round(measured, connections, timed_s)
        return [summed_up(measured, connections) for measured in all_measured]

    def _round(self, measured: Measured, connections: int, timed_s: float) -> None:
        rival, started = measured.rival, measured.started
        watched = [self.envoy.pid] + ([started.pid] if started.pid else [])
        if started.audit is not None:
            started.audit.write_text("", "utf-8")
        done = run_load(
            Load(
                port=measured.port,
                ca=self.identities.ca,
                callers=[self.callers[ASKED.who]],
                paths=[ASKED.path],
                is_numbered=rival.is_miss,
                number_from=self._number,
            ),
            self.folder,
            connections=connections,
            timed_s=timed_s,
            watched=watched,
            cores=self._client_cores,
        )
        self._number = max(done.next_number, self._number)
        if done.refused:
            raise SystemExit(f"{rival.name}: {done.refused} calls were refused")
        measured.rounds.append(done)
        if started.pid is not None:
            measured.rss_mb = rss_mb(started.pid)
        if started.audit is not None:
            self._verify_audit(rival, started.audit, done.calls, connections)

    @staticmethod
    def _verify_audit(rival: Rival, audit: Path, calls: int, connections: int) -> None:
        """Raise unless the trail says that hits were hits; then empty it."""
        end = time.monotonic() + AUDIT_S
        while sum(_hits_and_misses(audit)) < calls and time.monotonic() < end:
            time.sleep(0.05)  # the last events may still be on their way
        hits, misses = _hits_and_misses(audit)
        right, wrong = (misses, hits) if rival.is_miss else (hits, misses)
        # The first calls, and a time to live that ends, are misses among hits.
        if right < calls or wrong > calls // 100 + connections:
            raise SystemExit(f"{rival.name}: {hits} hits and {misses} misses")
        audit.write_text("", "utf-8")


def _hits_and_misses(audit: Path) -> tuple[int, int]:
    """Return how many of each the audit trail has."""
    text = audit.read_bytes()
    return text.count(b'"cache_hit":true'), text.count(b'"cache_hit":false')


def _pin(pid: int, core: int) -> None:
    command = ["taskset", "--all-tasks", "--cpu-list", "--pid", str(core), str(pid)]
    subprocess.run(command, check=True, capture_output=True)


def show(rows: Sequence[Row]) -> None:
    """Print the table of one number of connections."""
    base = rows[0]
    print(f"\n{base.connections} connection{'s' * (base.connections > 1)}")
    print(
        f"{'':14}{'calls/s':>9}{'p50 us':>9}{'p99 us':>9}{'p99.9 us':>10}"
        f"{'CPU us/check':>14}{'Envoy us':>10}{'client us':>11}{'RSS MB':>8}"
    )
    for row in rows:
        cpu = f"{row.cpu_us:14.1f}" if row.cpu_us is not None else f"{'-':>14}"
        rss = f"{row.rss_mb:8.1f}" if row.rss_mb is not None else f"{'-':>8}"
        print(
            f"{row.rival:14}{row.rps:9.0f}{row.p50_us:9.0f}{row.p99_us:9.0f}"
            f"{row.p999_us:10.0f}{cpu}{row.envoy_us:10.1f}{row.client_us:11.1f}{rss}",
            flush=True,
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio to reach: `figure` of `who` by that of `to` with so many connections."""

    figure: str
    who: str
    to: str
    connections: int
    bound: float
    is_least: bool = False


AIMS: Final = (
    Aim("cpu_us", "hit, native", "floor", 16, 1.5),
    Aim("cpu_us", "hit, native", "opa-go", 16, 1 / 25),
    Aim("rps", "hit, native", "floor", 16, 0.9, is_least=True),
    Aim("p50_us", "hit, native", "floor", 1, 1.1),
    Aim("cpu_us", "miss, native", "opa-go", 16, 0.5),
    Aim("p99_us", "miss, native", "opa-go", 16, 1.0),
    Aim("cpu_us", "miss, grpcio", "opa-go", 16, 0.5),
    Aim("p99_us", "miss, grpcio", "opa-go", 16, 1.0),
)


@dataclass(frozen=True, slots=True)
class Reached:
    """What became of an aim."""

    aim: Aim
    ratio: float

    @property
    def is_met(self) -> bool:
        """Whether it was reached."""
        if self.aim.is_least:
            return self.ratio >= self.aim.bound
        return self.ratio <= self.aim.bound


def reached(rows: Sequence[Row]) -> list[Reached]:
    """Return the aims whose figures were measured."""
    by_key = {(row.rival, row.connections): row for row in rows}
    found = []
    for aim in AIMS:
        row = by_key.get((aim.who, aim.connections))
        base = by_key.get((aim.to, aim.connections))
        if row is not None and base is not None:
            ratio = getattr(row, aim.figure) / getattr(base, aim.figure)
            found.append(Reached(aim, ratio))
    return found


def show_aims(found: Sequence[Reached]) -> None:
    """Print what was to be reached, and what was."""
    if found:
        print("\nwanted")
    for it in found:
        aim = it.aim
        print(
            f"{'yes' if it.is_met else 'NO ':4}{aim.who}: {aim.figure} "
            f"{'>=' if aim.is_least else '<='} {aim.bound:.3g} of {aim.to}'s "
            f"at {aim.connections}: {it.ratio:.3g}"
        )


def chart(rows: Sequence[Row], about: str) -> str:
    """Return the picture for README: processor time a check, and p50."""
    asked = {row.connections for row in rows}
    connections = CHARTED if CHARTED in asked else min(asked)
    chosen = [row for row in rows if row.connections == connections]
    plural = "s" * (connections > 1)
    return bar_chart(
        f"Through Envoy, {connections} connection{plural}, microseconds (log scale)",
        [
            (
                "CPU of the authorizer a check",
                [Bar(it.rival, it.cpu_us) for it in chosen if it.cpu_us is not None],
            ),
            ("p50 of a call", [Bar(it.rival, it.p50_us) for it in chosen]),
        ],
        about,
    )


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each rival")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    names = [rival.name for rival in all_rivals()]
    parser.add_argument("--rivals", nargs="+", choices=names, help="only these")
    parser.add_argument(
        "--pin",
        action="store_true",
        help="keep Envoy on the first processor, the client on the last",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chart")
    parser.add_argument(
        "--quick", action="store_true", help="that it works, not what it costs"
    )
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.connections = 1, 0.2, [2]
    return args


def main() -> int:
    """Run the benchmark."""
    args = arguments()
    rivals = []
    for rival in all_rivals():
        if args.rivals and rival.name not in args.rivals:
            continue
        if rival.missing:
            print(f"skipped: {rival.name} ({rival.missing})")
        else:
            rivals.append(rival)
    if not rivals:
        return 1
    about = machine()
    print(about)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(folder, stack, rivals, pin=args.pin)
        bench.verify()
        for connections in args.connections:
            table = bench.measure(connections, args.rounds, args.seconds)
            show(table)
            rows += table
    aims = reached(rows)
    show_aims(aims)
    if args.json:
        told = {
            "machine": about,
            "rows": [asdict(row) for row in rows],
            "wanted": [
                {**asdict(it.aim), "ratio": it.ratio, "is_met": it.is_met}
                for it in aims
            ],
        }
        args.json.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    if args.svg:
        args.svg.write_text(chart(rows, about), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
