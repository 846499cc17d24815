"""What `emit`, `plan`, `apply`, `verify` and `map` have in common: policy and site."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz_server.errors import PolicyError

if TYPE_CHECKING:
    from authz_server.emit.targets import Source

# What a ConfigMap's key may be made of.
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--policy`` and ``--site``."""
    parser.add_argument(
        "--policy",
        required=True,
        type=Path,
        metavar="PATH",
        help="the access policy: a file, or a folder of its parts",
    )
    parser.add_argument(
        "--site",
        type=Path,
        metavar="FILE",
        help="what the policy does not say about the plant: ports, namespaces, boxes; "
        "left out, that of docs/site.md",
    )


def load_source(args: argparse.Namespace, targets: Collection[str] = ()) -> Source:
    """Return what the files of ``args.policy`` and ``args.site`` say.

    Args:
        targets: without a site file, ``istio`` among them means sidecars.

    Raises:
        PolicyError: if one of them can't be read or is invalid.
    """
    from authz_server.emit.targets import Source
    from authz_server.policy.document import load_policy, policy_files, read_text
    from authz_server.site.document import load_site
    from authz_server.site.model import Mesh, Site

    policy = load_policy(args.policy)
    parts = {path.name: read_text(path) for path in policy_files(args.policy)}
    for name in parts:
        if _KEY.fullmatch(name) is None:
            raise PolicyError(
                f"{args.policy / name}: a ConfigMap can't have this name as a key; "
                "rename the file, using letters, digits, '-', '_' and '.'"
            )
    if args.site is not None:
        site = load_site(args.site, policy)
        return Source(policy, site, parts, read_text(args.site))
    mesh = Mesh.SIDECAR if "istio" in targets else Mesh.NONE
    return Source(policy, Site(mesh=mesh), parts)
