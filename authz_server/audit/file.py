"""The file that audit events go to: the twin of the core's `AuditFile`."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path


class AuditFile:
    """Whole lines, in the order in which they were written. Safe to share.

    The file is opened for appending, so that log rotation by truncation works; a file
    that was renamed away is left, and a new one made, at the next event. All errors are
    OSErrors. Every event is in the file at once: only the core uses a spool.

    Args:
        path: None for standard output.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._is_torn = False
        self._descriptor = -1
        self._inode = (0, 0)
        self._open()

    def write(self, events: bytes) -> None:
        """Append one or more whole lines."""
        with self._lock:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._reopen_if_moved()
            # What a failed write left of a line must not swallow the next event.
            if self._is_torn:
                self._write_all(b"\n")
            self._write_all(events)

    def close(self) -> None:
        """Close the file; standard output stays open."""
        with self._lock:
            if self._path is not None and self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1

    def _write_all(self, data: bytes) -> None:
        while data:
            written = os.write(self._descriptor, data)
            if written:
                self._is_torn = data[written - 1] != ord("\n")
            data = data[written:]

    def _open(self) -> None:
        if self._path is None:
            self._descriptor = 1
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        status = os.fstat(self._descriptor)
        self._inode = (status.st_dev, status.st_ino)

    def _reopen_if_moved(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
        except FileNotFoundError:
            moved = True
        else:
            moved = (status.st_dev, status.st_ino) != self._inode
        if moved:
            old = self._descriptor
            self._open()
            os.close(old)
