"""``authz-server verify``: do the other enforcement points enforce the policy?"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz_server.cli.progress import Progress
from authz_server.cli.source import add_arguments, load_source
from authz_server.errors import SetupError

if TYPE_CHECKING:
    from authz_server.policy.model import AccessPolicy
    from authz_server.site.model import Site
    from authz_server.verify.difference import Difference, Layer
    from authz_server.verify.objects import Found

_LAYERS: Final = ("kubernetes", "cilium", "istio", "spire", "openziti")
_SHOWN: Final = 3


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "verify",
        help="compare what other enforcement points enforce with the policy",
        description="Holds manifests, edited or not, or a cluster's objects against "
        "the policy: for every kind of caller and every operation, Rego's answer "
        "against what packet filter, mesh, SPIRE and OpenZiti make of it. Ends with 1 "
        "on any difference that is no known limit of its layer.",
    )
    parser.add_argument(
        "layers",
        nargs="*",
        metavar="TARGET",
        help=f"what to compare, of: {', '.join(_LAYERS)}; left out, whatever policy, "
        "site and objects call for",
    )
    add_arguments(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--manifests",
        type=Path,
        metavar="DIR",
        help="a folder of manifests, e.g. from 'emit --out DIR'",
    )
    where.add_argument(
        "--live", action="store_true", help="read a Kubernetes cluster's objects"
    )
    parser.add_argument(
        "--context",
        metavar="NAME",
        help="with --live: of the kubeconfig; left out, its current one",
    )
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="with --live; left out, what kubectl would take, or else this pod's "
        "service account",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="own Rego from `policy build`"
    )
    parser.add_argument(
        "--limits",
        action="store_true",
        help="list each known limit with its witnesses, too",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Compare, print, and return whether anything differs that is not known.

    Raises:
        PolicyError: if policy or site can't be read, or the policy tells too many
            kinds of caller apart.
        SetupError: if a file or the cluster can't be read.
    """
    from authz_server.policy.building import read_wasm
    from authz_server.verify.agreement import (
        check_layers,
        disagreements,
        layers_of,
        passed_over,
    )
    from authz_server.verify.difference import Layer

    unknown = sorted(set(args.layers) - set(_LAYERS))
    if unknown:
        args.usage_error(f"{unknown[0]!r} is none of: {', '.join(_LAYERS)}")
    source = load_source(args, args.layers)
    asked = [Layer(name) for name in args.layers]
    check_layers(source.site, asked)
    if args.live and Layer.OPENZITI in asked:
        raise SetupError("openziti: not in a cluster; compare its file: --manifests")
    found = _found(args, source.policy, source.site, asked)
    layers = asked or layers_of(source.policy, source.site, found)
    if not layers:
        raise SetupError("nothing to compare: no upstream runs in Kubernetes")
    for layer in passed_over(found, layers) if not asked else ():
        print(f"not compared, as the site has none: {layer}", file=sys.stderr)
    wasm = None if args.bundle is None else read_wasm(args.bundle)
    with closing(Progress("layers compared")) as progress:
        differences = disagreements(
            source.policy, source.site, found, layers, wasm, progress
        )
    if args.output == "json":
        _print_json(layers, differences)
    else:
        _print_table(layers, differences, with_limits=args.limits)
    return 0 if all(item.is_known_limit for item in differences) else 1


def _found(
    args: argparse.Namespace, policy: AccessPolicy, site: Site, asked: list[Layer]
) -> Found:
    from authz_server.verify.objects import read_folder

    if args.manifests is not None:
        return read_folder(args.manifests)
    from authz_server.cluster.client import connect
    from authz_server.verify.difference import Layer
    from authz_server.verify.live import read_cluster

    with connect(args.context, args.kubeconfig) as cluster:
        return read_cluster(cluster, policy, site, asked or list(Layer))


def _print_table(
    layers: Sequence[Layer], differences: Sequence[Difference], *, with_limits: bool
) -> None:
    from authz_server.verify.limits import MEANING, Limit

    known = [item for item in differences if item.is_known_limit]
    for item in differences:
        if with_limits or not item.is_known_limit:
            print(_text(item))
    counts = Counter((item.limit, item.layer) for item in known)
    for limit in Limit:
        of_limit = [layer for layer in layers if counts[limit, layer]]
        if of_limit:
            print(f"known limit {limit} ({', '.join(of_limit)}): {MEANING[limit]}")
    total = len(differences) - len(known)
    print(
        f"{total or 'no'} difference{'' if total == 1 else 's'} beside known limits "
        f"({len(known)}) between the policy and: {', '.join(layers)}",
        file=sys.stderr,
    )


def _text(item: Difference) -> str:
    who = list(item.who[:_SHOWN])
    if len(item.who) > _SHOWN:
        who.append(f"and {len(item.who) - _SHOWN} more")
    limit = f", known limit {item.limit}" if item.limit else ""
    lines = [f"{item.kind} in {item.layer}{limit}: {item.target}, {item.what}"]
    lines += [f"  for     {', '.join(who)}"] if who else []
    lines += [f"  policy  {item.policy}"] if item.policy else []
    lines.append(f"  {item.layer}  {item.enforced}")
    return "\n".join(lines)


def _print_json(layers: Sequence[Layer], differences: Sequence[Difference]) -> None:
    print(
        json.dumps(
            {
                "layers": list(layers),
                "differences": [
                    {
                        "layer": item.layer,
                        "kind": item.kind,
                        "limit": item.limit,
                        "target": item.target,
                        "what": item.what,
                        "who": list(item.who),
                        "policy": item.policy,
                        "enforced": item.enforced,
                    }
                    for item in differences
                ],
            },
            indent=2,
        )
    )
