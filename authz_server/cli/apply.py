"""``authz-server apply``: make a Kubernetes cluster hold what the policy emits."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from authz_server.cli.plan import Wanted, add_cluster_arguments, planned
from authz_server.cli.progress import Progress
from authz_server.cli.source import load_source

if TYPE_CHECKING:
    from authz_server.cluster.steps import Plan, Step


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "apply",
        help="apply the policy to a Kubernetes cluster",
        description="Creates and changes what 'plan' shows, by server-side apply, and "
        "stops where the API server refuses something. Asks nothing: look at 'plan' "
        "first. Run twice, it changes nothing.",
    )
    add_cluster_arguments(parser)
    parser.add_argument(
        "--prune",
        action="store_true",
        help="delete what carries the labels of this policy and is no longer emitted; "
        "never a namespace",
    )
    parser.add_argument(
        "--force-conflicts",
        action="store_true",
        help="take over what others have set otherwise",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="have the API server check every request, and change nothing",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plan, apply, and print each step that was done.

    Raises:
        PolicyError: if the policy can't be read, is invalid, or can't be expressed.
        SetupError: if the cluster can't be asked or refuses something; the message
            says what was done until then.
    """
    from authz_server.cli.plan_text import action
    from authz_server.cluster.applying import apply_plan
    from authz_server.cluster.client import connect
    from authz_server.cluster.steps import Change, Create

    wanted = Wanted.of(load_source(args, args.targets), args.targets)
    wanted.say_what_is_no_object()
    done: list[Step] = []
    with (
        connect(args.context, args.kubeconfig) as cluster,
        closing(Progress("steps done")) as progress,
    ):
        plan = planned(cluster, wanted)
        total = sum(isinstance(step, Create | Change) for step in plan.steps)

        def tell(step: Step) -> None:
            done.append(step)
            if args.output == "table":
                print(f"{action(step):<8}{step.key}")
            progress(len(done), max(total, len(done)))

        try:
            apply_plan(
                cluster,
                plan,
                prune=args.prune,
                force=args.force_conflicts,
                dry_run=args.dry_run,
                done=tell,
            )
        finally:
            if args.output == "json":
                _print_json(done)
    _say_rest(plan, args)
    return 0


def _print_json(done: list[Step]) -> None:
    from authz_server.cli.plan_text import action

    rows = [
        {
            "action": action(step),
            "apiVersion": step.key.api_version,
            "kind": step.key.kind,
            "namespace": step.key.namespace,
            "name": step.key.name,
        }
        for step in done
    ]
    print(json.dumps({"done": rows}, indent=2))


def _say_rest(plan: Plan, args: argparse.Namespace) -> None:
    from authz_server.cluster.steps import Delete, Leave

    for step in plan.steps:
        if isinstance(step, Delete) and not args.prune:
            print(f"left over: {step.key}; --prune deletes it", file=sys.stderr)
        if isinstance(step, Leave):
            print(f"left over: {step.key}: {step.why}", file=sys.stderr)
    if args.dry_run:
        print("nothing was changed: this was a dry run", file=sys.stderr)
    elif not plan.differs:
        print("nothing to do: the cluster is as it should be", file=sys.stderr)
