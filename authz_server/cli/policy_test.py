"""``authz-server policy test``: tables of expected answers, and tests in Rego."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Final

_FULL_COVERAGE: Final = 100.0
_TABLES: Final = (".yaml", ".yml")
_TIMEOUT_S: Final = 10.0


def add_action(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to those of ``policy``."""
    test = commands.add_parser(
        "test",
        help="run tables of expected answers, and Rego tests",
        description="Runs tables of expected answers (kind PolicyTest, *.yaml), and "
        "the Rego tests of folders together with the library; without arguments those "
        "of the shipped Rego. Rego tests need the pinned OPA. Ends with 1 if one "
        "fails.",
    )
    test.add_argument("tests", nargs="*", type=Path, metavar="FILE.yaml|DIR")
    test.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="the access policy that the tables are run on, instead of the one that "
        "each names",
    )
    test.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="own Rego from `policy build` that answers the tables",
    )
    test.add_argument(
        "--threshold",
        type=_percentage,
        metavar="PERCENT",
        help="lines that the Rego tests must reach, default 100 for the shipped Rego "
        "and none for your own",
    )
    test.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the tests and return the exit code."""
    tables = [path for path in args.tests if path.suffix in _TABLES]
    folders = [path for path in args.tests if path.suffix not in _TABLES]
    passed = True
    if folders or not tables:
        passed = _run_rego(folders, args.threshold)
    for table in tables:
        passed &= _run_table(table, args.policy, args.bundle)
    return 0 if passed else 1


def _percentage(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _FULL_COVERAGE:
        raise ValueError(text)
    return value


def _run_rego(folders: list[Path], threshold: float | None) -> bool:
    from authz_server.policy.building import LIBRARY, REGO_DIR, check_rego, find_opa

    sources: list[Path] = (
        [LIBRARY, *folders] if folders else sorted(REGO_DIR.glob("*.rego"))
    )
    if threshold is None:
        threshold = 0.0 if folders else _FULL_COVERAGE
    passed, report = check_rego(sources, find_opa(), threshold)
    print(report, file=sys.stdout if passed else sys.stderr)
    return passed


def _run_table(table: Path, policy_file: Path | None, bundle: Path | None) -> bool:
    from authz_server.policy.building import read_wasm, shipped_wasm
    from authz_server.policy.compiler import compile_policy
    from authz_server.policy.document import load_policy
    from authz_server.policy.engine import Engine
    from authz_server.policy.expectations import failures, load_cases, policy_of

    policy = load_policy(policy_file or policy_of(table))
    cases = load_cases(table, policy, time.time())
    engine = Engine(
        shipped_wasm() if bundle is None else read_wasm(bundle),
        compile_policy(policy).data,
        timeout_s=_TIMEOUT_S,
        instances=1,
    )
    with contextlib.closing(engine):
        failed = list(failures(cases, policy, engine))
    for failure in failed:
        print(failure)
    print(f"{table}: {len(cases) - len(failed)} of {len(cases)} cases as expected")
    return not failed
