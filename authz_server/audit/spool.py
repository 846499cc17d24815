"""What a server that was killed left in its spool, put into the audit file.

Events that come fast are on record in a spool before they are in the file
(`_native/core/audit_spool.h`, whose form this reads).
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import struct
from itertools import count
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

    A spool that somebody else could have written, or is using, is left alone, with a
    warning.

    Raises:
        OSError: if the file cannot be read or written; the spool stays as it is then.
    """
    spool = spool_of(path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(spool, flags)
    except FileNotFoundError:
        return
    except OSError as error:
        _warn(spool, f"it cannot be opened ({error.strerror})")
        return
    try:
        obstacle = _obstacle(descriptor)
        if obstacle:
            _warn(spool, obstacle)
            return
        with os.fdopen(descriptor, "rb", closefd=False) as held:
            pending = pending_of(held.read(), boot_id())
        if pending is None:
            kept = _free_name(spool)
            spool.rename(kept)
            _warn(kept, "it is of another boot, or no spool")
            return
        if pending:
            _log.warning("%s: %d bytes came from its spool", path, _add(path, pending))
        spool.unlink()
    finally:
        os.close(descriptor)


def _warn(spool: Path, why: str) -> None:
    _log.warning("%s: what it may hold is not in the trail: %s", spool, why)


def _obstacle(descriptor: int) -> str:
    """Return why an open file is not to be used as our spool; empty if it is.

    Our group may write it: Kubernetes grants that on volumes (`fsGroup`), to the trail
    as well.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if (
        status.st_uid != os.geteuid()
        or status.st_nlink != 1
        or status.st_mode & stat.S_IWOTH
    ):
        return "others can write it"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"it cannot be locked ({error.strerror}); is another process using it?"
    return ""


def _free_name(spool: Path) -> Path:
    names = (spool.with_name(f"{spool.name}.{number}") for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


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
    if not data.strip(b"\0"):
        return b""  # It was killed before it was a spool.
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        return None
    _, written, end, start = HEAD.unpack_from(data)
    pending = data[HEAD.size :][start:end]
    is_of_boot = written.rstrip(b"\0") == boot.encode("ascii") != b""
    return pending if is_of_boot or not pending else None


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
