"""What a lookup in the decision cache costs as the cache grows.

Times `authz_cache_get` of the core in C, one call at a time, and `DecisionCache.get` of
both implementations from Python. Entries are asked for in random order, so at 1,000,000
they are in no cache of the processor; the asked key is warm, as facts that were just
extracted are. A hit hashes and compares the whole key, and copies response and record.

The table costs the same at any size: a lookup reads one line of it, then the entry.
What grows is the time that memory takes. Measured on 2 shared cores (AMD EPYC, KVM,
1 MB L2 each, 32 MB L3), responses of 200 bytes and records of 500, microseconds, p50:

    key      hit: 1,000   1,000,000   ratio   miss: 1,000   1,000,000   ratio
    64 B          0.06      0.68       11           0.03      0.23       8
    300 B         0.09      0.72        8.0         0.05      0.20       4.0
    1,500 B       0.17      1.14        6.7         0.11      0.28       2.5
    1,500 B, huge pages
                  0.18      0.79        4.4         0.11      0.26       2.4
    1,500 B, from Python
                  0.64      1.48        2.3

Three more runs of 1,500 bytes at 1,000,000: 0.95, 0.96 and 1.02.

The aim, at most twice the time of 1,000 entries, is missed. What bounds it: a program
that only follows a pointer from a random place of a table to a random entry, and reads
its first byte, takes 0.63 us (0.44 with huge pages); with the key compared and 700
bytes copied it takes 0.82 (0.66), and the processor keeps too few misses in flight for
more. So the faster the rest, the larger the ratio: with SipHash over the whole key,
which was slower by 0.2 us at any size, it was 3.4 (0.37 and 1.24).

Tried, and not worth their code: other prefetches (none: short keys are a fifth slower,
long ones the same; to the second level, by page, values first: no better), and a second
table by a cheap hash, which fetches the entry while the real hash is still at work
(then SipHash; 8 bytes more an entry and 0.1 us more among 1,000, no less among
1,000,000: a ratio of 2.2 that nobody gains by).

Huge pages are the operator's to give, to the whole process:
GLIBC_TUNABLES=glibc.malloc.hugetlb=1, where the system has them on madvise or always.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from authz_server._native import _core
from authz_server.cache import Entry
from authz_server.cache.decision_cache import DecisionCache as Twin
from authz_server.clock import Instant
from authz_server.errors import Reason

ROOT = Path(__file__).parents[1]
NOW = Instant(1000.0, 0.0)
ENTRY = Entry(b"r" * 200, b"a" * 500, Reason.GRANTED, "revision", 1.0, 0.0, 2000.0)


def run_core(*arguments: object) -> dict[str, Any]:
    """Return what the program in C measured."""
    program = ROOT / "build" / "native" / "bench_cache"
    done = subprocess.run(
        [program, *map(str, arguments)], check=True, capture_output=True
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def key_of(number: int, length: int) -> bytes:
    """Return a key that differs from the others in its last bytes only."""
    return b"k" * (length - 8) + number.to_bytes(8, "big")


def quantiles_from_python(
    kind: type[Twin | _core.DecisionCache],
    entries: int,
    length: int,
    lookups: int,
) -> tuple[float, float]:
    """Return p50 and p99 of a hit in nanoseconds, the clock's own cost among them."""
    cache = kind(max_entries=entries, max_bytes=sys.maxsize)
    for number in range(entries):
        cache.put(key_of(number, length), ENTRY)
    chosen = random.Random(1)
    times = []
    for _ in range(lookups):
        key = key_of(chosen.randrange(entries), length)
        begin = time.perf_counter_ns()
        found = cache.get(key, "revision", NOW)
        times.append(time.perf_counter_ns() - begin)
        if found != ENTRY:
            raise SystemExit("a lookup gave another entry: not timed")
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98]


def show(name: str, small: tuple[float, float], large: tuple[float, float]) -> None:
    """Print one row."""
    print(
        f"{name:28} {small[0]:8.0f} {small[1]:8.0f} {large[0]:10.0f} {large[1]:8.0f}"
        f" {large[0] / small[0]:7.2f} {large[1] / small[1]:7.2f}"
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=200_000)
    parser.add_argument("--keys", type=int, nargs="+", default=[64, 300, 1500])
    args = parser.parse_args()
    make = f"make -s -C tests/native bench-cache PYTHON={sys.executable}"
    subprocess.run(make.split(), check=True, cwd=ROOT)
    print(
        f"{'nanoseconds':28} {args.small:8,} {'p99':>8} {args.large:10,} {'p99':>8}"
        f" {'ratio':>7} {'p99':>7}"
    )
    for length in args.keys:
        small, large = (
            run_core("lookup", entries, length, args.lookups)
            for entries in (args.small, args.large)
        )
        for what in ("hit", "miss", "put"):
            show(
                f"core, {what}, key {length}",
                (small[what]["p50"], small[what]["p99"]),
                (large[what]["p50"], large[what]["p99"]),
            )
    for name, kind in (("native", _core.DecisionCache), ("twin", Twin)):
        length = args.keys[-1]
        show(
            f"Python, {name}, hit, key {length}",
            quantiles_from_python(kind, args.small, length, args.lookups),
            quantiles_from_python(kind, args.large, length, args.lookups),
        )
    print("\nthreads   one lock   sixteen (lookups a second, keys of 1,024 bytes)")
    for threads in (1, 2, 4, 8):
        one, many = (
            run_core("threads", threads, locks, 500)["lookups_per_s"]
            for locks in (1, 16)
        )
        print(f"{threads:7} {one:10,.0f} {many:10,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
