"""``authz-server plan``: what `apply` would do, and changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authz_server.cli.progress import Progress
from authz_server.cli.source import add_arguments, load_source
from authz_server.emit import TARGET_NAMES
from authz_server.errors import PolicyError, SetupError

if TYPE_CHECKING:
    from authz_server.cluster.client import Cluster
    from authz_server.cluster.kinds import Key
    from authz_server.cluster.steps import Plan
    from authz_server.emit.manifest import Manifest, Object
    from authz_server.emit.targets import Source


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "plan",
        help="show what applying the policy would change",
        description="Compares what the policy emits with a Kubernetes cluster: with "
        "what the API server itself says applying would make of each object. Ends "
        "with 1 if anything differs.",
    )
    add_cluster_arguments(parser)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="compare with what 'emit --out DIR' wrote last instead, and list what to "
        "run: for targets that are no objects of a cluster",
    )
    parser.add_argument(
        "--live",
        type=Path,
        metavar="FILE",
        help="with --against: what 'spire-server entry show -output json' prints now",
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` and `apply` have in common."""
    parser.add_argument(
        "targets",
        nargs="+",
        choices=TARGET_NAMES,
        metavar="TARGET",
        help=f"one or more of: {', '.join(TARGET_NAMES)}",
    )
    add_arguments(parser)
    parser.add_argument(
        "--context", metavar="NAME", help="of the kubeconfig; left out, its current one"
    )
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="left out, what kubectl would take, or else this pod's service account",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Print what differs, and return whether anything does.

    Raises:
        PolicyError: if the policy can't be read, is invalid, or can't be expressed.
        SetupError: if a file can't be read, or the cluster can't be asked or refuses
            an object.
    """
    from authz_server.cli.plan_text import print_plan
    from authz_server.cluster.client import connect

    if args.against is not None:
        return _against(args)
    if args.live is not None:
        args.usage_error("--live says what is there now: add --against")
    wanted = Wanted.of(load_source(args, args.targets), args.targets)
    wanted.say_what_is_no_object()
    with connect(args.context, args.kubeconfig) as cluster:
        plan = planned(cluster, wanted)
    print_plan(plan, args.output)
    return 1 if plan.differs else 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the named targets emit.

    Attributes:
        objects: each once.
        others: names of files, ``TARGET/FILE``, that are no Kubernetes objects.
        emitted: keys of the objects of all targets there are.
    """

    objects: tuple[Object, ...]
    others: tuple[str, ...]
    emitted: frozenset[Key]

    @classmethod
    def of(cls, source: Source, targets: Collection[str]) -> Wanted:
        """Emit `targets`, and look at what the others would give.

        Raises:
            PolicyError: if one of `targets` can't express the policy, or two of them
                want different things of one object.
            SetupError: if they give no objects at all.
        """
        from authz_server.cluster.kinds import Key
        from authz_server.emit.manifest import KUSTOMIZATION

        objects: dict[Key, Object] = {}
        others: list[str] = []
        emitted: set[Key] = set()
        for name in TARGET_NAMES:
            files = _emit(source, name, is_named=name in targets)
            emitted |= {Key.of(o) for file in files.values() for o in file.objects}
            if name not in targets:
                continue
            for path, file in files.items():
                if not file.objects and file.name != KUSTOMIZATION:
                    others.append(path)
                for item in file.objects:
                    key = Key.of(item)
                    if objects.setdefault(key, item) != item:
                        raise PolicyError(
                            f"{path}: another target emits a different {key}; apply "
                            "one of the two"
                        )
        if not objects:
            raise SetupError(
                f"{', '.join(sorted(targets))}: emits no Kubernetes objects; see plan "
                "--against DIR"
            )
        return cls(tuple(objects.values()), tuple(others), frozenset(emitted))

    def say_what_is_no_object(self) -> None:
        """Print the names of the files that no API server takes."""
        for name in self.others:
            print(f"not for the cluster's API: {name} (see emit)", file=sys.stderr)


def planned(cluster: Cluster, wanted: Wanted) -> Plan:
    """Return what is to be done; says how far it is.

    Raises:
        SetupError: as `make_plan`.
    """
    from authz_server.cluster.planning import make_plan

    with closing(Progress("objects checked")) as progress:
        return make_plan(cluster, wanted.objects, wanted.emitted, progress=progress)


def _emit(source: Source, target: str, *, is_named: bool) -> dict[str, Manifest]:
    from authz_server.emit.targets import emit

    try:
        return emit(source, (target,))
    except PolicyError:
        if is_named:
            raise
        # It can't express the policy, so nothing of it is emitted.
        return {}


def _against(args: argparse.Namespace) -> int:
    from authz_server.cli.plan_text import print_records
    from authz_server.cluster.records import (
        against_live,
        compare,
        live_entries,
        read_records,
    )
    from authz_server.emit.manifest import KUSTOMIZATION
    from authz_server.emit.targets import emit

    if not args.against.is_dir():
        raise SetupError(f"{args.against}: is no folder; make it with emit --out")
    files = emit(load_source(args, args.targets), args.targets)
    new = read_records(
        {name: file.text for name, file in files.items() if file.name != KUSTOMIZATION}
    )
    old = read_records(
        {
            path.relative_to(args.against).as_posix(): _text(path)
            for target in args.targets
            for path in sorted((args.against / target).rglob("*"))
            if path.is_file() and path.name != KUSTOMIZATION
        }
    )
    steps = compare(old, new)
    if args.live is not None:
        live = live_entries(_text(args.live), str(args.live))
        steps = against_live(steps, new, live)
    print_records(steps, args.output)
    return 1 if steps else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise SetupError(f"{path}: can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise SetupError(f"{path}: is no text in UTF-8; emit it again") from exc
