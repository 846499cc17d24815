"""``authz-server emit``: write, print or check manifests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from authz_server.cli.source import add_arguments, load_source
from authz_server.emit import TARGET_NAMES
from authz_server.errors import SetupError

if TYPE_CHECKING:
    from authz_server.emit.manifest import Manifest

Files = Mapping[str, "Manifest"]
"""Manifests by ``TARGET/FILE``."""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "emit",
        help="write NetworkPolicies, Istio objects and the server's own manifests",
        description="Turns an access policy into what other enforcement points need. "
        "Without --out and --check, prints the Kubernetes objects, ready for "
        "'kubectl apply -f -'.",
        epilog="Without a site file, 'istio' among the targets makes the Kubernetes "
        "objects those of a mesh: application ports, and a server behind a sidecar.",
    )
    parser.add_argument(
        "targets",
        nargs="+",
        choices=TARGET_NAMES,
        metavar="TARGET",
        help=f"one or more of: {', '.join(TARGET_NAMES)}",
    )
    add_arguments(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write a folder for each target into DIR",
    )
    where.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="compare with what --out wrote into DIR; exit code 1 and "
        "the names if a file differs, is missing or is left over",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write, print or check the manifests of ``args.targets``.

    Raises:
        PolicyError: if the policy can't be read, is invalid, or can't be expressed.
        SetupError: if a file can't be read or written.
    """
    from authz_server.emit.targets import emit

    files = emit(load_source(args, args.targets), args.targets)
    if args.check:
        return _check(files, args.check)
    if args.out:
        _write(files, args.out)
    else:
        print(_stream(files), end="")
    return 0


def _stream(files: Files) -> str:
    """Return one stream that ``kubectl apply -f -`` takes.

    What is no Kubernetes object stays readable, as a comment.
    """
    from authz_server.emit.manifest import KUSTOMIZATION

    parts: list[str] = []
    for name, manifest in files.items():
        text = manifest.text
        if not manifest.objects:
            text = "".join(
                line if line.startswith("#") else f"#   {line}"
                for line in text.splitlines(keepends=True)
            )
        if manifest.name != KUSTOMIZATION:
            parts.append(f"# {name}\n{text}")
    return "---\n".join(parts)


def _write(files: Files, directory: Path) -> None:
    try:
        for name, manifest in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(manifest.text, encoding="utf-8", newline="\n")
    except OSError as exc:
        raise SetupError(f"{exc.filename}: cannot be written: {exc.strerror}") from exc
    print(f"wrote {len(files)} files into {directory}", file=sys.stderr)
    for name in _left_over(files, directory):
        print(f"left over, no longer emitted: {directory / name}", file=sys.stderr)


def _check(files: Files, directory: Path) -> int:
    wrong: list[str] = []
    for name, manifest in files.items():
        path = directory / name
        try:
            if path.read_bytes() != manifest.text.encode():
                wrong.append(f"differs: {path}")
        except FileNotFoundError:
            wrong.append(f"missing: {path}")
        except OSError as exc:
            raise SetupError(f"{path}: cannot be read: {exc.strerror}") from exc
    wrong += [f"left over: {directory / name}" for name in _left_over(files, directory)]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _left_over(files: Files, directory: Path) -> list[str]:
    """Return the files in the targets' folders that are not emitted."""
    folders = sorted({name.partition("/")[0] for name in files})
    return [
        name
        for folder in folders
        for path in sorted((directory / folder).rglob("*"))
        if path.is_file()
        and (name := path.relative_to(directory).as_posix()) not in files
    ]
