"""``authz-server policy shadow report``: what a candidate policy would change."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_action(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to those of ``policy``."""
    shadow = commands.add_parser(
        "shadow",
        help="what a candidate policy would change",
        description="Works on what a server with `policy.shadow` wrote.",
    )
    actions = shadow.add_subparsers(dest="shadow", required=True, metavar="ACTION")
    report = actions.add_parser(
        "report",
        help="list the differences",
        description="Lists each difference once, the most frequent first, with how "
        "often it was seen. Counted are decisions that were made: a remembered one "
        "counts once. Ends with 1 if the candidate widens access.",
    )
    report.add_argument("file", type=Path, help="`policy.shadow_report` of the server")
    report.add_argument("--output", choices=("table", "json"), default="table")
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report and return the exit code."""
    from authz_server.audit.trail import read_events
    from authz_server.cli.differences import print_differences

    return 1 if print_differences(read_events([args.file]), args.output) else 0
