"""Where audit events go: written before the answer leaves, or the answer is no."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final, Protocol

from authz_server.errors import AuditError, ConfigError

STANDARD_OUTPUT: Final = "-"


class Sink(Protocol):
    """Takes whole events."""

    def write(self, event: bytes) -> None:
        """Take `event`, one line, or raise `AuditError`."""

    def close(self) -> None:
        """Release what is held."""


class FileSink:
    """Appends each event to a file with one write, in the order of the answers.

    The file is opened for appending, so that log rotation by truncation works; a file
    that was renamed away is left, and a new one made, at the next event.

    Args:
        path: the file, or ``-`` for standard output.

    Raises:
        ConfigError: if the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = None if path == STANDARD_OUTPUT else Path(path)
        self._lock = threading.Lock()
        self._is_torn = False
        self._descriptor = -1
        self._inode = (0, 0)
        try:
            self._open()
        except OSError as error:
            raise ConfigError(
                [f"audit.file: cannot append to {path}: {error.strerror}"]
            ) from error

    def write(self, event: bytes) -> None:
        """Append `event`.

        Raises:
            AuditError: if not all of it could be written.
        """
        with self._lock:
            try:
                self._reopen_if_moved()
                # What a failed write left of a line must not swallow the next event.
                data = b"\n" + event if self._is_torn else event
                written = os.write(self._descriptor, data)
                while written < len(data):
                    self._is_torn = True
                    written += os.write(self._descriptor, data[written:])
            except OSError as error:
                raise AuditError(f"cannot write an event: {error.strerror}") from error
            self._is_torn = False

    def close(self) -> None:
        """Close the file; standard output stays open."""
        with self._lock:
            if self._path is not None and self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

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
