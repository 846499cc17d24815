"""Where audit events go: on record before the answer leaves, or the answer is no."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from authz_server._native.choice import is_pure
from authz_server.audit.spool import recover
from authz_server.errors import AuditError, ConfigError

if TYPE_CHECKING or is_pure():
    from authz_server.audit.file import AuditFile
else:
    from authz_server._native._core import AuditFile

STANDARD_OUTPUT: Final = "-"


class Sink(Protocol):
    """Takes whole events."""

    def write(self, event: bytes) -> None:
        """Take `event`, one line, or raise `AuditError`."""

    def close(self) -> None:
        """Release what is held."""


class FileSink:
    """Appends each event to a file with one write, in the order of the answers.

    First of all, what a server that was killed has left in its spool.

    Args:
        path: the file, or ``-`` for standard output.

    Raises:
        ConfigError: if the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        try:
            if path != STANDARD_OUTPUT:
                recover(Path(path))
            self.file = AuditFile(None if path == STANDARD_OUTPUT else path)
        except OSError as error:
            raise ConfigError(
                [f"audit.file: cannot append to {path}: {error.strerror}"]
            ) from error

    def write(self, event: bytes) -> None:
        """Append `event`.

        Raises:
            AuditError: if not all of it could be written.
        """
        try:
            self.file.write(event)
        except OSError as error:
            raise AuditError(f"cannot write an event: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; standard output stays open."""
        self.file.close()
