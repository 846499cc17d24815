"""``authz-server audit``: ask the audit trail."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Final

_TIMEOUT_S: Final = 10.0


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "audit",
        help="run recorded decisions against a candidate policy",
        description="Works on audit trails.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    replay = actions.add_parser(
        "replay",
        help="run recorded decisions against a candidate policy",
        description="Asks a candidate policy about every recorded decision that a "
        "policy made, at its own time, and lists each difference once. Ends with 1 if "
        "the candidate widens access.",
    )
    replay.add_argument(
        "audit", nargs="+", type=Path, metavar="AUDIT", help="JSON lines"
    )
    replay.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="the candidate"
    )
    replay.add_argument(
        "--bundle", type=Path, metavar="FILE", help="its own Rego from `policy build`"
    )
    replay.add_argument("--output", choices=("table", "json"), default="table")
    replay.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, print the differences, and return the exit code."""
    from authz_server.audit.trail import read_events
    from authz_server.cli.differences import print_differences
    from authz_server.policy.building import read_wasm, shipped_wasm
    from authz_server.policy.compiler import compile_policy
    from authz_server.policy.document import load_policy
    from authz_server.policy.engine import Engine
    from authz_server.policy.replay import Replay

    policy = load_policy(args.policy)
    engine = Engine(
        shipped_wasm() if args.bundle is None else read_wasm(args.bundle),
        compile_policy(policy).data,
        timeout_s=_TIMEOUT_S,
        instances=1,
    )
    with contextlib.closing(engine):
        replay = Replay(policy, engine)
        widens = print_differences(
            replay.differences(read_events(args.audit)), args.output
        )
    print(f"{replay.asked} decisions asked again", file=sys.stderr)
    if replay.undecided:
        print(
            f"{replay.undecided} depend on claims of users, which no trail has",
            file=sys.stderr,
        )
    for why, count in sorted(replay.skipped.items()):
        print(f"{count} left out: {why}", file=sys.stderr)
    return 1 if widens else 0
