"""What a server that was killed left in its spool, put into the audit file.

Events that come fast are on record in a spool before they are in the file
(`_native/core/audit_spool.h`, whose form this reads).
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

MAGIC: Final = b"authz-spool 1\n"
HEAD: Final = struct.Struct("=16s40sII")
"""Magic, boot, and then end and start of what is pending in the text that follows.

The last two are one number, the start in its upper half, on a little-endian machine.
"""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def spool_of(path: Path) -> Path:
    """Return where the spool of the audit file at `path` is.

    It is hidden from whoever rotates or ships all files of the folder: a file that is
    mapped must not be truncated.
    """
    return path.with_name(f".{path.name}.spool")


def recover(path: Path) -> None:
    """Append to the audit file at `path` what its spool has and it has not.

    Nothing, if there is no spool, or another process is using it.

    Raises:
        OSError: if the file cannot be read or written; the spool stays as it is then.
    """
    spool = spool_of(path)
    try:
        descriptor = os.open(spool, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # There is none, or none of ours.
    with os.fdopen(descriptor, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        pending = pending_of(held.read(), boot_id())
        if pending is None:
            kept = spool.with_name(f"{spool.name}.old")
            _log.warning("%s is of another boot, or no spool: see %s", spool, kept)
            spool.replace(kept)
            return
        if pending:
            _log.warning("%s: %d bytes came from its spool", path, _add(path, pending))
        spool.unlink()


def _add(path: Path, pending: bytes) -> int:
    """Append what is missing, and return how many bytes that were."""
    # Append-only files (chattr +a) open in no other way.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o640), "r+b", buffering=0) as file:
        start = max(0, file.seek(0, os.SEEK_END) - len(pending) - 1)
        file.seek(start)
        missing = missing_of(pending, file.read(), is_whole=start == 0)
        done = 0
        while done < len(missing):
            done += file.write(missing[done:])
    return done


def pending_of(data: bytes, boot: str) -> bytes | None:
    """Return what is pending in the spool `data`; None if it cannot be relied on.

    Args:
        boot: the machine's boot; parts of a spool that is of another one may be older
            than others, since the kernel had not written all of it.
    """
    if len(data) < HEAD.size or not data.strip(b"\0"):
        return b""  # It was killed before anything was put into it.
    magic, written, end, start = HEAD.unpack_from(data)
    is_ours = written.rstrip(b"\0") == boot.encode("ascii") != b""
    if magic.rstrip(b"\0") != MAGIC or not is_ours:
        return None
    return data[HEAD.size :][start:end]


def missing_of(pending: bytes, tail: bytes, *, is_whole: bool) -> bytes:
    """Return what of `pending` the file lacks that ends with `tail`.

    It was killed before it wrote `pending`, amid it, or before it noted that it had.

    Args:
        tail: at least one byte longer than `pending`, or all of the file.
        is_whole: whether `tail` is all of the file.
    """
    # Where a line begins that what is pending may begin at, the earliest first.
    starts = [0] if is_whole else []
    at = tail.find(b"\n")
    while at >= 0:
        starts.append(at + 1)
        at = tail.find(b"\n", at + 1)
    for start in starts:
        there = tail[start:]
        if there and pending.startswith(there):
            return pending[len(there) :]
    # What was torn before is no part of it.
    is_torn = bool(tail) and not tail.endswith(b"\n")
    return b"\n" * is_torn + pending


def boot_id() -> str:
    """Return the kernel's name for the time since the machine was started.

    Nothing, if it can't be read: no spool is of that boot.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
