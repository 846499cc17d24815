"""``authz-server policy``: check policy files, build and test Rego."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz_server.cli import (
    policy_bundle,
    policy_diff,
    policy_explain,
    policy_learn,
    policy_shadow,
    policy_test,
)
from authz_server.errors import SetupError

if TYPE_CHECKING:
    import argparse

    from authz_server.policy.nodes import Problem


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "policy",
        help="check an access policy, build and test Rego",
        description="Works on access policies and on the Rego that evaluates them.",
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = commands.add_parser(
        "check",
        help="say whether access policies are valid, and every problem if not",
        description="Reads access policies as the server would. Ends with 1 if any is "
        "invalid.",
    )
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.add_argument("--output", choices=("table", "json"), default="table")
    check.add_argument(
        "--strict",
        action="store_true",
        help="end with 1 also for what is valid and yet hardly meant",
    )
    check.set_defaults(run=run, task=_check)

    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of the policy file",
        description="Prints the JSON Schema by which editors complete and check an "
        "access policy.",
    )
    schema.set_defaults(run=run, task=_schema)

    build = commands.add_parser(
        "build",
        help="build Rego into a bundle that the server loads",
        description="Builds the shipped Rego, or your own together with the library "
        "(import data.authz.access). Needs the pinned OPA.",
    )
    build.add_argument(
        "--policy-dir",
        type=Path,
        metavar="DIR",
        help="your own Rego, instead of the shipped policy",
    )
    build.add_argument(
        "--form",
        choices=("access", "opa-envoy"),
        default="access",
        help="opa-envoy: Rego that is written for opa-envoy-plugin",
    )
    build.add_argument(
        "--entrypoint",
        metavar="PATH",
        help="the rule to ask, default authz/decision, or envoy/authz/allow",
    )
    build.add_argument("-o", "--out", type=Path, required=True, metavar="OUT")
    build.set_defaults(run=run, task=_build)

    policy_bundle.add_action(commands)
    policy_test.add_action(commands)
    policy_diff.add_action(commands)
    policy_explain.add_action(commands)
    policy_learn.add_action(commands)
    policy_shadow.add_action(commands)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action and return the exit code."""
    return int(args.task(args))


def _check(args: argparse.Namespace) -> int:
    reports = [_report(path) for path in args.files]
    if args.output == "json":
        print(json.dumps(reports, indent=2))
    else:
        for report in reports:
            _print_report(report)
    is_good = all(report["valid"] for report in reports)
    if args.strict:
        is_good &= not any(report["findings"] for report in reports)
    return 0 if is_good else 1


def _schema(_: argparse.Namespace) -> int:
    from authz_server.policy.schema import schema_text

    print(schema_text(), end="")
    return 0


def _report(path: Path) -> dict[str, Any]:
    import hashlib

    from authz_server.policy.building import shipped_wasm
    from authz_server.policy.compiler import compile_policy
    from authz_server.policy.document import PolicyDocumentError, load_with_nodes
    from authz_server.policy.lint import lint

    try:
        policy, root = load_with_nodes(path)
    except PolicyDocumentError as error:
        return {
            "file": str(path),
            "valid": False,
            "problems": list(map(_shown, error.problems)),
            "findings": [],
        }
    digest = hashlib.sha256(shipped_wasm()).digest()
    return {
        "file": str(path),
        "valid": True,
        "problems": [],
        "findings": [
            {"code": finding.code, **_shown(finding.problem)}
            for finding in lint(policy, root, time.time())
        ],
        "name": policy.name,
        "revision": compile_policy(policy, digest).revision,
        "upstreams": len(policy.upstreams),
        "groups": len(policy.groups),
        "roles": len(policy.roles),
        "grants": len(policy.grants),
    }


def _shown(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.source,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "mend": problem.mend,
        "text": str(problem),
    }


def _print_report(report: dict[str, Any]) -> None:
    if not report["valid"]:
        for problem in report["problems"]:
            print(problem["text"])
        return
    for finding in report["findings"]:
        print(f"{finding['text']} [{finding['code']}]")
    counts = ", ".join(
        f"{report[key]} {key}" for key in ("upstreams", "groups", "roles", "grants")
    )
    print(
        f"{report['file']}: valid: policy {report['name']} "
        f"revision {report['revision']}, {counts}"
    )


def _build(args: argparse.Namespace) -> int:
    from authz_server.policy.building import (
        ENTRYPOINT,
        LIBRARY,
        SHIPPED_POLICY,
        build_bundle,
        find_opa,
        read_wasm,
        replace_file,
    )
    from authz_server.policy.engine import Engine

    out: Path = args.out
    if not out.parent.is_dir():
        raise SetupError(f"cannot write {out}: there is no folder {out.parent}")
    opa = find_opa()
    own = args.policy_dir
    if args.form == "opa-envoy" and own is None:
        raise SetupError("--form opa-envoy needs --policy-dir, your Rego")
    with tempfile.TemporaryDirectory(prefix="authz-server-build-") as folder:
        trial = Path(folder, "bundle.tar.gz")
        # Tried before it is delivered: what the server would refuse is no result.
        if args.form == "opa-envoy":
            reads = _build_opa_envoy(own, args.entrypoint, trial, opa)
            print("reads:", ", ".join(reads) or "nothing of the input")
        else:
            build_bundle(
                [LIBRARY, SHIPPED_POLICY if own is None else own],
                args.entrypoint or ENTRYPOINT,
                trial,
                opa,
            )
            Engine(
                read_wasm(trial), b'{"access":{}}', timeout_s=5.0, instances=1
            ).close()
        replace_file(trial, out)
    print(f"wrote {out}")
    return 0


def _build_opa_envoy(
    own: Path, entrypoint: str | None, trial: Path, opa: Path
) -> list[str]:
    """Build Rego for opa-envoy-plugin; return which parts of its input it reads."""
    import dataclasses

    from authz_server.policy.building import MAX_WASM_BYTES, build_bundle, build_plan
    from authz_server.policy.bundles.bundle import read_bundle, write_bundle
    from authz_server.policy.bundles.content import inputs_metadata, opa_envoy_policy
    from authz_server.policy.envoy_decision import OPA_ENVOY
    from authz_server.policy.in_force import InForce
    from authz_server.policy.plan_inputs import inputs_of

    entrypoint = entrypoint or OPA_ENVOY.entrypoint
    build_bundle([own], entrypoint, trial, opa)
    reads = inputs_of(build_plan([own], entrypoint, opa))
    built = read_bundle(trial.read_bytes(), MAX_WASM_BYTES, None)
    manifest = dataclasses.replace(built.manifest, metadata=inputs_metadata(reads))
    bundle = dataclasses.replace(built, manifest=manifest)
    in_force = InForce(timeout_s=5.0, instances=1)
    in_force.put(opa_envoy_policy(bundle, None))
    in_force.close()
    trial.write_bytes(write_bundle(bundle))
    return reads.texts()
