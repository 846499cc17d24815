"""``authz-server triton-flags``: what Triton's command line needs to match ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from authz_server.cli.serve import add_config_arguments, config_from

PLACEHOLDER: Final = "$(TRITON_ACCESS_SECRET)"
"""In a container's ``args`` Kubernetes puts the environment variable here."""


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "triton-flags",
        help="print the flags that lock Triton for whoever comes past this server",
        description="Prints, one a line, the flags of tritonserver that match the "
        "section 'triton' of the configuration.",
    )
    parser.add_argument(
        "--reveal",
        action="store_true",
        help=f"print the secret itself instead of {PLACEHOLDER}",
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the flags.

    Raises:
        ConfigError: if there is nothing to match.
        AccessSecretError: if the secret is to be revealed and cannot be read.
    """
    from authz_server.emit.triton_flags import triton_flags
    from authz_server.second_lock import read_secret

    settings = config_from(args).triton
    secret = PLACEHOLDER
    if args.reveal and settings.access_secret:
        secret = read_secret(Path(settings.access_secret))
    for flag in triton_flags(settings, secret):
        print(flag)
    return 0
