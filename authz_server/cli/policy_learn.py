"""``authz-server policy learn``: the tightest policy for what an audit trail shows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_action(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to those of ``policy``."""
    parser = commands.add_parser(
        "learn",
        help="propose the tightest policy that permits what an audit trail shows",
        description="Reads the allowed calls of audit trails and prints an access "
        "policy that permits these and nothing else; and on standard error, what of "
        "the policy at hand nobody made use of.",
    )
    parser.add_argument("policy", type=Path, metavar="FILE", help="the policy at hand")
    parser.add_argument(
        "audit", nargs="+", type=Path, metavar="AUDIT", help="JSON lines"
    )
    parser.add_argument(
        "--min-support",
        type=_count,
        default=1,
        metavar="N",
        help="leave out what was done less than N times, and say so; default 1",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the proposal, and what is unused, and return the exit code."""
    from authz_server.audit.trail import read_events
    from authz_server.emit.yaml_text import comment, document
    from authz_server.policy.document import load_policy, parse_policy
    from authz_server.policy.learning import observe, unused
    from authz_server.policy.proposal import propose

    policy = load_policy(args.policy)
    observation = observe(policy, read_events(args.audit))
    proposal = propose(policy, observation, args.min_support)
    text = comment([f"What was used of {policy.name}, by its audit trail."])
    text += document(proposal.document)
    parse_policy(text, "proposal")  # what is printed is a policy
    print(text, end="")
    for line in unused(policy, observation):
        print(f"unused: {line}", file=sys.stderr)
    for line in proposal.notes:
        print(f"left out: {line}", file=sys.stderr)
    for why, count in sorted(observation.skipped.items()):
        print(f"left out: {count} allowed calls: {why}", file=sys.stderr)
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
