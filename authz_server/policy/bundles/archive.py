"""The files of a bundle, out of the archive and into it. Nothing touches a disk.

A bundle may come over a link that others write to, so every limit holds before what it
limits is there: bytes before they are unpacked, members before they are read.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from typing import Final

from authz_server.errors import PolicyError
from authz_server.policy.bundles.tar import read_members

MAX_MEMBERS: Final = 4096
MAX_PATH: Final = 512
"""Characters of a path in the bundle."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_FORBIDDEN: Final = frozenset({"", ".", ".."})


class DamagedError(PolicyError):
    """Not what its maker packed: something of it was lost or changed on the way."""


def read_archive(raw: bytes, max_bytes: int) -> dict[str, bytes]:
    """Return the content of each file by its path, without a slash in front.

    Args:
        raw: a tar archive, compressed by gzip.
        max_bytes: of the archive once it is unpacked.

    Raises:
        PolicyError: a `DamagedError` if it did not come as it was packed; and if it is
            anything else, is too large, holds more than files and
            folders, or a path twice or outside of it.
    """
    plain = _unpack(raw, max_bytes)
    files: dict[str, bytes] = {}
    try:
        for count, (name, content) in enumerate(read_members(plain)):
            if count >= MAX_MEMBERS:
                raise PolicyError(f"the bundle has more than {MAX_MEMBERS} members")
            if content is None:
                continue
            path = _path(name)
            if path in files:
                raise PolicyError(f"the bundle has {path!r} twice")
            files[path] = content
    except ValueError as error:
        raise PolicyError(f"the bundle is no tar archive: {error}") from error
    return files


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Return the archive of `files`; equal files give equal bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files):
            # OPA writes them with a slash in front.
            member = tarfile.TarInfo("/" + path)
            member.size = len(files[path])
            member.mode = 0o600
            archive.addfile(member, io.BytesIO(files[path]))
    return gzip.compress(plain.getvalue(), mtime=0)


def _unpack(raw: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        plain = stream.decompress(raw, max_bytes + 1)
    except zlib.error as error:
        raise DamagedError(f"the bundle is not compressed by gzip: {error}") from error
    if len(plain) > max_bytes:
        raise PolicyError(f"the bundle has more than {max_bytes} bytes unpacked")
    if not stream.eof or stream.unused_data:
        raise DamagedError("the bundle is cut off, or something follows it")
    return plain


def _path(name: str) -> str:
    path = name.removeprefix("./").removeprefix("/")
    if (
        len(path) > MAX_PATH
        or not path.isprintable()
        or not _FORBIDDEN.isdisjoint(path.split("/"))
    ):
        raise PolicyError(f"the bundle has an impossible path: {name[:80]!r}")
    return path
