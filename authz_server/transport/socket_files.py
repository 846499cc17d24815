"""Unix sockets as files: whose place they take, and who may open them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def clear_path(path: Path) -> None:
    """Return when nothing is at `path`, having removed a socket that nobody listens on.

    Raises:
        OSError: if the path is taken, by a live server or by something else.
    """
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError("the path exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError("another server is listening there")
    path.unlink()


@contextlib.contextmanager
def bound_with_mode(mode: int) -> Iterator[None]:
    """Sockets that are bound inside never have wider permissions than `mode`."""
    previous = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(previous)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a bound unix socket.

    Attributes:
        inode: tells it from a file that took its place.
    """

    path: Path
    inode: int

    @classmethod
    def bind(cls, listener: socket.socket, path: Path, mode: int) -> SocketFile:
        """Bind `listener` to `path`, with permissions `mode` from the first moment.

        Raises:
            OSError: if the path is taken or cannot be bound.
        """
        clear_path(path)
        with bound_with_mode(mode):
            listener.bind(str(path))
        return cls(path, path.stat().st_ino)

    def remove(self) -> None:
        """Free the path, if it is still this socket's."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()
