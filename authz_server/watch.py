"""Noticing that a file has changed, and a thread that looks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

Fingerprint = tuple[int, int, int, int]


def fingerprint(path: Path) -> Fingerprint | None:
    """Return what changes when the file does; None while it cannot be read.

    Kubernetes replaces a mounted ConfigMap by turning a symbolic link to a new folder,
    so what counts is the file behind all links.
    """
    with contextlib.suppress(OSError):
        status = path.stat()
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return None


class ChangingFile:
    """A file that is read again whenever it has changed.

    Args:
        read: gets the path; must deal with its absence.
    """

    def __init__(self, path: Path, read: Callable[[Path], None]) -> None:
        self._path = path
        self._read = read
        self._seen: Fingerprint | None = None

    def read(self) -> None:
        """Read it, changed or not."""
        # Before reading: a change while it is read is then seen as one more change.
        self._seen = fingerprint(self._path)
        self._read(self._path)

    def read_if_changed(self) -> None:
        """Read it if it is another one than was read last."""
        if fingerprint(self._path) != self._seen:
            self.read()


class Watch:
    """A thread that calls `look` every so often until it is stopped.

    Args:
        look: an error in it ends the thread, which `has_died` then tells.
        name: of the thread.
    """

    def __init__(self, look: Callable[[], None], name: str) -> None:
        self._look = look
        self._name = name
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread looks."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_died(self) -> bool:
        """Whether an error ended the thread, so that changes go unseen."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self, interval_s: float) -> None:
        """Look every `interval_s` seconds from now on; nothing if it does already."""
        if self._thread is not None:
            return
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._run, args=(interval_s,), name=self._name, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it is gone when this returns."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, interval_s: float) -> None:
        while not self._stopping.wait(interval_s):
            self._look()
