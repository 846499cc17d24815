"""The command line: one module a command, each with `add_parser` and `run`.

Exit codes: 0 yes, 1 no (denied, differs, invalid, failed), 2 wrong use.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from authz_server import __version__
from authz_server.errors import AuthzError

COMMANDS = (
    "serve",
    "health",
    "doctor",
    "svid",
    "revoke",
    "decide",
    "policy",
    "audit",
    "emit",
    "plan",
    "apply",
    "verify",
    "map",
    "controller",
    "triton-flags",
    "demo",
)
"""In the order that ``--help`` lists them."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="authz-server",
        description="Zero-trust access control for model servers behind Envoy.",
    )
    parser.add_argument(
        "--version", action="version", version=f"authz-server {__version__}"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = f"authz_server.cli.{name.replace('-', '_')}"
        importlib.import_module(module).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except AuthzError as error:
        print(f"authz-server {args.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
