"""Differential test by hand: ``run.py --cases 20000 --seed 1``, with ``--envoy`` too.

A seed gives the same cases each time; `tests/integration/test_differential.py` runs a
few of them in every test run.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # as pytest's `pythonpath` does
    sys.path.insert(0, str(Path(__file__).parents[1]))

from differential.case import kept_cases
from differential.comparison import comparing, direct, running_triton
from differential.generation import generate
from differential.through_envoy import through_envoy


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print what came of it, and return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--keep", type=Path, help="append failed cases to this file")
    parser.add_argument("--envoy", action="store_true", help="through the real Envoy")
    options = parser.parse_args(argv)
    way = through_envoy if options.envoy else direct
    say(f"seed {options.seed}")
    begin = time.monotonic()
    with (
        running_triton() as triton,
        way(triton) as exchange,
        comparing(triton, exchange) as differential,
    ):
        cases = [*kept_cases(), *generate(options.seed, options.cases)]
        report = differential.run(cases)
    say(f"{report}\n{time.monotonic() - begin:.0f} s")
    if options.keep and report.findings:
        with options.keep.open("a") as file:
            file.writelines(f"{one.case.to_json()}\n" for one in report.findings)
    return 1 if report.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
