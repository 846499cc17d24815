"""``authz-server map``: the segmentation as a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from authz_server.cli.source import add_arguments, load_source
from authz_server.errors import SetupError


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "map",
        help="draw who reaches what, and what a compromised node could touch",
        description="Draws who reaches what and through which layer, as SVG; as HTML "
        "also what a compromised node could touch, before and after.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=_picture,
        metavar="FILE",
        help="where to write it: NAME.svg or NAME.html",
    )
    parser.set_defaults(run=run)


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".svg", ".html"}:
        raise argparse.ArgumentTypeError(f"{text}: name it NAME.svg or NAME.html")
    return path


def run(args: argparse.Namespace) -> int:
    """Write the picture.

    Raises:
        PolicyError: if policy or site can't be read, or the policy tells too many
            kinds of caller apart.
        SetupError: if the file can't be written.
    """
    from authz_server.segmentation.drawing import svg
    from authz_server.segmentation.page import page
    from authz_server.segmentation.segments import segmentation

    source = load_source(args)
    segments = segmentation(source.policy, source.site)
    text = svg(segments) if args.out.suffix == ".svg" else page(segments)
    try:
        args.out.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SetupError(f"{args.out}: cannot be written: {error.strerror}") from error
    print(f"wrote {args.out}: {len(segments.callers)} kinds of caller", file=sys.stderr)
    return 0
