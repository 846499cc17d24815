"""``authz-server decide``: what would the server answer, and why.

Reads CheckRequests (protobuf JSON, one a line) and sends each through the very pipeline
that ``serve`` uses; only the audit trail is the output instead of a file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from authz_server.cli.serve import add_config_arguments, config_from
from authz_server.errors import PolicyError, RequestError


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "decide", help="answer CheckRequests from a file, with the reason"
    )
    parser.add_argument(
        "requests",
        nargs="?",
        default="-",
        metavar="FILE",
        help="CheckRequests as protobuf JSON, one a line; - for standard input",
    )
    parser.add_argument(
        "--output",
        choices=("json", "yaml", "table"),
        default="json",
        help="how to print",
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run)


class _Capture:
    """A sink that keeps the last event."""

    def __init__(self) -> None:
        self.event: dict[str, Any] = {}

    def write(self, event: bytes) -> None:
        self.event = json.loads(event)

    def close(self) -> None:
        """Nothing is held."""


def run(args: argparse.Namespace) -> int:
    """Print a line for each request; 0 if all were allowed."""
    from authz_server.assembly import (
        build_pipeline,
        load_now,
        open_identities,
        open_policies,
    )

    config = config_from(args)
    policies = open_policies(config)
    try:
        if not load_now(policies):
            raise PolicyError(policies.error or "the policy cannot be loaded")
        identities = open_identities(config)
        identities.reload()
        capture = _Capture()
        # Without the second lock: an answer that is printed holds no secret.
        pipeline = build_pipeline(config, policies, capture, identities)
        show = _PRINTERS[args.output]
        is_allowed = True
        for raw in _read(args.requests):
            answer = _explain(pipeline.check(raw), capture.event)
            is_allowed &= answer["decision"] == "allow"
            show(answer)
    finally:
        policies.stop()
    return 0 if is_allowed else 1


def _read(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from _requests(sys.stdin, "standard input")
        return
    try:
        with open(name, encoding="utf-8") as lines:  # noqa: PTH123 - a name or "-"
            yield from _requests(lines, name)
    except OSError as error:
        raise RequestError(f"{name}: cannot be read: {error.strerror}") from error


def _requests(lines: TextIO, source: str) -> Iterator[bytes]:
    from envoy_data_plane.envoy.service.auth import v3 as auth

    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield bytes(auth.CheckRequest.from_json(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise RequestError(
                    f"{source}:{number}: not a CheckRequest in protobuf JSON: {error}"
                ) from error


_OPERATION = ("action", "scope", "model", "version", "adapter", "upstream")
_EXPLANATION = ("decision", "reason", "role", "principal", "verified")


def _explain(response: bytes, event: dict[str, Any]) -> dict[str, Any]:
    from envoy_data_plane.envoy.service.auth import v3 as auth

    return {
        **{name: event[name] for name in _EXPLANATION},
        "operation": {name: event[name] for name in _OPERATION},
        "policy_revision": event["policy_revision"],
        "response": auth.CheckResponse.parse(response).to_dict(),
    }


def _print_json(answer: dict[str, Any]) -> None:
    print(json.dumps(answer))


def _print_yaml(answer: dict[str, Any]) -> None:
    import yaml

    print("---")
    print(yaml.safe_dump(answer, sort_keys=False), end="")


def _print_table(answer: dict[str, Any]) -> None:
    operation = answer["operation"]
    target = operation["model"] or operation["scope"]
    if operation["version"]:
        target += "@" + operation["version"]
    if operation["adapter"]:
        target += "+" + operation["adapter"]
    print(
        f"{answer['decision']:<6} {answer['reason']:<22} {operation['action']:<20} "
        f"{target:<28} {answer['principal']}"
    )


_PRINTERS = {"json": _print_json, "yaml": _print_yaml, "table": _print_table}
