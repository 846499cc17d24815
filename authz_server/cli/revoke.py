"""``authz-server revoke``: add to the revocation list that running servers watch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from authz_server.cli.serve import add_config_arguments, config_from
from authz_server.errors import ConfigError, SetupError, SpiffeIdError, SvidError


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "revoke",
        help="stop believing a workload, a trust domain, a certificate or a token",
        description="Appends an entry to the list of identity.revocations. Servers "
        "that watch it deny within a second, remembered decisions included. To take an "
        "entry back, delete its line.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--spiffe-id", metavar="ID", help="one workload")
    what.add_argument("--subtree", metavar="ID", help="an ID and all below it")
    what.add_argument(
        "--trust-domain", metavar="NAME", help="every workload of a domain"
    )
    what.add_argument(
        "--certificate", type=Path, metavar="PEM", help="one certificate, as a PEM file"
    )
    what.add_argument("--jwt-id", metavar="JTI", help="one token, by its claim jti")
    parser.add_argument("--file", type=Path, help="the list, instead of the configured")
    parser.add_argument(
        "--note", default="", metavar="TEXT", help="a comment beside it"
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Append the entry; 0 once it is on disk."""
    from authz_server.identity.revocation import parse_revocations

    path = args.file or _configured(args)
    entry = _entry(args)
    _, problems = parse_revocations(entry)
    if problems:
        raise SvidError(f"not revoked: {problems[0].removeprefix('line 1: ')}")
    note = " ".join(args.note.split())
    line = f"{entry}  # {note}\n" if note else f"{entry}\n"
    try:
        _append(path, line)
    except OSError as error:
        raise SetupError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"revoked: {entry}")
    return 0


def _configured(args: argparse.Namespace) -> Path:
    path = config_from(args).identity.revocations
    if not path:
        raise ConfigError(["identity.revocations: missing; name the file to append to"])
    return Path(path)


def _entry(args: argparse.Namespace) -> str:
    from authz_server.identity.revocation import token_entry

    for kind in ("spiffe-id", "subtree", "trust-domain"):
        value = getattr(args, kind.replace("-", "_"))
        if value is not None:
            if not value.isprintable() or "#" in value:
                raise SpiffeIdError(f"not revoked: {value!r} is no {kind}")
            return f"{kind} {value}"
    if args.jwt_id is not None:
        return token_entry(args.jwt_id)
    return _certificate(args.certificate)


def _certificate(path: Path) -> str:
    from cryptography import x509

    from authz_server.identity.revocation import certificate_entry

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SvidError(f"{path}: is no PEM certificate") from error
    return certificate_entry(certificate)


def _append(path: Path, line: str) -> None:
    """Append `line` with one write, after ending a line that was left open."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    try:
        size = os.fstat(descriptor).st_size
        is_open = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, ("\n" * is_open + line).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
