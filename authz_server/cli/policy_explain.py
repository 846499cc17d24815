"""``authz-server policy explain``: why one question is answered as it is."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz_server.errors import PolicyError

if TYPE_CHECKING:
    from authz_server.policy.engine import Verdict
    from authz_server.policy.explanation import Explanation, Finding
    from authz_server.policy.inquiry import Inquiry

_TIMEOUT_S: Final = 10.0
_SHOWN: Final = 3


def add_action(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to those of ``policy``."""
    parser = commands.add_parser(
        "explain",
        help="say for one question which grant allows it, or what is missing",
        description="Asks one question of an access policy. Ends with 0 if it is "
        "allowed and with 1 if not, and says which grant or denial it is by; or what "
        "is missing from the grants that come nearest.",
    )
    parser.add_argument("policy", type=Path, metavar="FILE", help="the access policy")
    parser.add_argument("--principal", required=True, metavar="ID", help="the caller")
    parser.add_argument(
        "--issuer", default="", metavar="URL", help="of the user's token"
    )
    parser.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the user's token; more than once for more, or for a list",
    )
    parser.add_argument("--on", required=True, metavar="UPSTREAM")
    parser.add_argument("--action", dest="what", required=True, metavar="ACTION")
    for name in ("model", "version", "adapter", "dataset"):
        parser.add_argument(f"--{name}", default="", metavar=name.upper())
    parser.add_argument(
        "--at", metavar="TIME", help="ISO 8601 with a zone, for conditions; else now"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="own Rego from `policy build`"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask, explain, and return the exit code."""
    from authz_server.policy.building import read_wasm, shipped_wasm
    from authz_server.policy.compiler import compile_policy
    from authz_server.policy.document import load_policy
    from authz_server.policy.engine import Engine
    from authz_server.policy.explanation import explain
    from authz_server.policy.time_limit import Schedule

    policy = load_policy(args.policy)
    inquiry = _inquiry(args, policy)
    engine = Engine(
        shipped_wasm() if args.bundle is None else read_wasm(args.bundle),
        compile_policy(policy).data,
        timeout_s=_TIMEOUT_S,
        instances=1,
    )
    with contextlib.closing(engine):
        verdict = inquiry.ask(policy, engine)
    open_times = Schedule(policy.time_limits).at(inquiry.at_s).open
    explanation = explain(policy, inquiry, open_times)
    show = _print_json if args.output == "json" else _print_text
    show(inquiry, verdict, explanation)
    return 0 if verdict.allow else 1


def _inquiry(args: argparse.Namespace, policy: Any) -> Inquiry:  # noqa: ANN401 - loaded late
    from authz_server.identity.spiffe_id import SpiffeId
    from authz_server.policy.expectations import parse_time
    from authz_server.policy.inquiry import Inquiry, make_operation, make_user

    claims: dict[str, list[str]] = {}
    for text in args.claim:
        name, equals, value = text.partition("=")
        if not equals or not args.issuer:
            raise PolicyError("a claim is NAME=VALUE, and needs --issuer")
        claims.setdefault(name, []).append(value)
    try:
        at_s = time.time() if args.at is None else parse_time(args.at)
    except ValueError as error:
        raise PolicyError(f"--at {args.at}: {error}") from error
    return Inquiry(
        SpiffeId.parse_workload(args.principal),
        make_user(args.issuer, claims) if args.issuer else None,
        make_operation(
            policy,
            on=args.on,
            action=args.what,
            model=args.model,
            version=args.version,
            adapter=args.adapter,
            dataset=args.dataset,
        ),
        at_s,
    )


def _print_text(inquiry: Inquiry, verdict: Verdict, explanation: Explanation) -> None:
    from authz_server.policy.explanation import describe, target

    operation = inquiry.operation
    decision = "allowed" if verdict.allow else "denied"
    print(
        f"{decision} ({verdict.reason}): {operation.call.action} on "
        f"{target(operation.call, operation.dataset)} at {operation.upstream}"
    )
    print(f"  caller is in: {', '.join(explanation.groups) or 'no group'}")
    for finding in explanation.given:
        print(f"  given by: {describe(finding.grant)}")
    for finding in explanation.taken:
        print(f"  taken by the denial: {describe(finding.grant)}")
    if explanation.given:
        return
    for finding in explanation.grants[:_SHOWN]:
        print(f"  near: {describe(finding.grant)}")
        for missing in finding.missing:
            print(f"    {missing}")


def _print_json(inquiry: Inquiry, verdict: Verdict, explanation: Explanation) -> None:
    def show(finding: Finding) -> dict[str, Any]:
        grant = finding.grant
        return {
            "role": grant.role,
            "to": list(grant.to),
            "on": list(grant.on),
            "missing": list(finding.missing),
        }

    call = inquiry.operation.call
    answer = {
        "allowed": verdict.allow,
        "reason": verdict.reason,
        "role": verdict.role,
        "principal": str(inquiry.spiffe_id),
        "action": call.action,
        "scope": call.scope,
        "groups": list(explanation.groups),
        "grants": [show(finding) for finding in explanation.grants],
        "denials": [show(finding) for finding in explanation.denials],
    }
    print(json.dumps(answer, indent=2))
