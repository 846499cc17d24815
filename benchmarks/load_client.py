"""Asks through Envoy in a closed loop, by the client in C, and reads what it took."""

from __future__ import annotations

import array
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from c_programs import built

from authz_server.demo.pki import SvidFiles

TIMEOUT_S: Final = 60.0
"""Seconds for a round beyond its own time."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask, and of whom.

    Attributes:
        port: Envoy's listener on localhost.
        ca: PEM file of the CA that the listener's certificate is from.
        callers: connection i has the i-th one's certificate, round and round.
        paths: the first is asked for; with `zipf` one by Zipf's law.
        headers: header lines to send along.
        body: what to post.
        zipf: exponent of that law; 0 for the first path alone.
        is_numbered: whether each call gets a query of its own, ``?n=N``.
        number_from: the first N.
        seed: of the random choice of paths.
    """

    port: int
    ca: Path
    callers: Sequence[SvidFiles]
    paths: Sequence[str]
    headers: Sequence[str] = ()
    body: bytes = b""
    zipf: float = 0.0
    is_numbered: bool = False
    number_from: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took.

    Attributes:
        ended_ns: when each call ended, by the monotonic clock.
        took_ns: how long each call took, in the same order.
        refused: calls that were answered by another status than 200.
        wall_s: length of the round.
        own_cpu_s: processor time of the client, in seconds.
        cpu_s: processor time of each watched process, in seconds.
        next_number: the first number that was not used.
    """

    ended_ns: Sequence[int]
    took_ns: Sequence[int]
    refused: int
    wall_s: float
    own_cpu_s: float
    cpu_s: tuple[float, ...]
    next_number: int

    @property
    def calls(self) -> int:
        """How many calls ended within the round."""
        return len(self.took_ns)


def run_load(
    load: Load,
    folder: Path,
    *,
    connections: int,
    timed_s: float,
    warm_s: float = 0.2,
    watched: Sequence[int] = (),
    cores: str = "",
) -> Round:
    """Return what one round measured.

    Args:
        folder: for a few files, which are written over by the next round there.
        connections: calls under way at a time.
        timed_s: seconds that count.
        warm_s: seconds before them.
        watched: process ids whose processor time counts.
        cores: the client's own processors, as ``taskset`` writes them; empty for all.
    """
    paths, records = folder / "load-paths", folder / "load-records"
    body = folder / "load-body"
    body.write_bytes(load.body)
    paths.write_text("".join(f"{path}\n" for path in load.paths), "ascii")
    command = [
        *(("taskset", "-c", cores) if cores else ()),
        *(str(built("load")), "--port", str(load.port), "--ca", str(load.ca)),
        *("--paths", str(paths), "--records", str(records)),
        *("--body", str(body), "--connections", str(connections)),
        *("--warm-ms", f"{warm_s * 1e3:.0f}", "--timed-ms", f"{timed_s * 1e3:.0f}"),
        *("--zipf", str(load.zipf), "--seed", str(load.seed)),
    ]
    for caller in load.callers:
        command += ["--caller", f"{caller.certificate}:{caller.key}"]
    for header in load.headers:
        command += ["--header", header]
    for pid in watched:
        command += ["--cpu", str(pid)]
    if load.is_numbered:
        command += ["--number-from", str(load.number_from)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timed_s + warm_s + TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"the load client failed: {done.stderr}")
    told = json.loads(done.stdout)
    pairs = array.array("Q", records.read_bytes())
    if len(pairs) != 2 * told["calls"] or not pairs:
        raise SystemExit(f"{told['calls']} calls have {len(pairs) // 2} records")
    return Round(
        ended_ns=pairs[::2],
        took_ns=pairs[1::2],
        refused=told["refused"],
        wall_s=told["wall_ns"] / 1e9,
        own_cpu_s=told["own_cpu_ns"] / 1e9,
        cpu_s=tuple(used / 1e9 for used in told["cpu_ns"]),
        next_number=told["next"],
    )
