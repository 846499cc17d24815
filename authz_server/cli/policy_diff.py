"""``authz-server policy diff``: whose answer changes, and who may make the change."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz_server.errors import PolicyError

if TYPE_CHECKING:
    from authz_server.policy.admins import Author, Change
    from authz_server.policy.difference import Difference
    from authz_server.policy.vocabulary import Asker


def add_action(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to those of ``policy``."""
    parser = commands.add_parser(
        "diff",
        help="list every answer that changes between two policies",
        description="Lists for every kind of caller, user, time, model and version "
        "that either policy can tell apart what changes from OLD to NEW. Ends with 1 "
        "if access widens, or if --author names somebody who may not make the change.",
    )
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument(
        "--allow-widening", action="store_true", help="end with 0 if access widens"
    )
    parser.add_argument(
        "--author", metavar="ID", help="SPIFFE ID of who makes the change"
    )
    parser.add_argument(
        "--issuer", default="", metavar="URL", help="of the author's token"
    )
    parser.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the author's token",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print, and return the exit code."""
    from authz_server.policy.admins import forbidden
    from authz_server.policy.difference import differences
    from authz_server.policy.document import load_policy

    old, new = load_policy(args.old), load_policy(args.new)
    author = _author(args)
    found = differences(old, new)
    refused = forbidden(old, new, author) if author is not None else ()
    show = _print_json if args.output == "json" else _print_text
    show(found, refused)
    widens = any(difference.widens for difference in found)
    return 1 if refused or (widens and not args.allow_widening) else 0


def _author(args: argparse.Namespace) -> Author | None:
    from authz_server.identity.spiffe_id import SpiffeId
    from authz_server.policy.admins import Author
    from authz_server.policy.model import UserClaim

    if args.author is None and not args.claim:
        return None
    claims = set()
    for text in args.claim:
        name, equals, value = text.partition("=")
        if not equals or not args.issuer:
            raise PolicyError("a claim is NAME=VALUE, and needs --issuer")
        claims.add(UserClaim(args.issuer, name, value))
    spiffe_id = None if args.author is None else SpiffeId.parse_workload(args.author)
    return Author(spiffe_id, frozenset(claims))


def _print_text(found: Sequence[Difference], refused: Sequence[Change]) -> None:
    for difference in found:
        first, *others = difference.askers
        direction = "widens" if difference.widens else "narrows"
        who = ", ".join(difference.groups) or "anybody else"
        kinds = "kind" if len(others) == 1 else "kinds"
        more = f" and {len(others)} more {kinds} of caller" if others else ""
        print(f"{direction} {difference.upstream} for {who}{more}")
        print(f"  e.g. {_asker(first)}")
        for line in difference.words:
            print(f"    {line}")
    if not found:
        print("no answer changes")
    for change in refused:
        print(f"the author may not change {change}")


def _asker(asker: Asker) -> str:
    parts = [str(asker.spiffe_id)]
    parts += [
        f"a user with {claim.claim}={claim.value} of {claim.issuer}"
        for claim in sorted(asker.claims, key=str)
    ]
    parts += [f"at {time}" for time in sorted(asker.times)]
    return ", ".join(parts)


def _print_json(found: Sequence[Difference], refused: Sequence[Change]) -> None:
    def shown(asker: Asker) -> dict[str, Any]:
        return {
            "principal": str(asker.spiffe_id),
            "claims": [
                {"issuer": item.issuer, "claim": item.claim, "value": item.value}
                for item in sorted(asker.claims, key=str)
            ],
            "times": sorted(asker.times),
        }

    print(
        json.dumps(
            {
                "differences": [
                    {
                        "change": "widens" if item.widens else "narrows",
                        "upstream": item.upstream,
                        "groups": list(item.groups),
                        "callers": [shown(asker) for asker in item.askers],
                        "operations": list(item.words),
                    }
                    for item in found
                ],
                "forbidden": [str(change) for change in refused],
            },
            indent=2,
        )
    )
