"""Signals that end the demo without leaving anything behind.

SIGINT, SIGTERM and SIGHUP raise `KeyboardInterrupt` in the main thread, so that the
`with` blocks underway clean up; but only once, and never in between starting a process
and taking charge of it.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context manager that holds the three signals' handlers while it is open.

    Only the main thread may enter it (Python delivers signals there alone).
    """

    def __init__(self) -> None:
        self._held = 0
        self._waiting = False
        self._closed = False
        self._came = False
        self._before: dict[signal.Signals, signal.Handlers | object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as signal() gave it

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Put a signal off until the block has ended."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._waiting and not self._held:
            self._raise()

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal came and was lost.

        What is raised in a callback of a C library goes no further than that.
        """
        if self._came:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Ignore signals from now on: cleaning up is underway and bounded in time."""
        self._closed = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._held:
            self._waiting = True
        else:
            self._raise()

    def _raise(self) -> None:
        if self._closed:
            return
        self._closed = self._came = True
        raise KeyboardInterrupt
