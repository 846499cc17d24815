"""Progress of what takes longer than a second, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

_FIRST_S: Final = 1.0
_PLAIN_EVERY_S: Final = 10.0


class Progress:
    """Says how far something is: on a terminal on one line, else now and then.

    Args:
        what: what is counted, e.g. ``objects checked``.
    """

    def __init__(
        self,
        what: str,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._stream = stream
        self._clock = clock
        self._next = clock() + _FIRST_S
        self._is_open = False

    def __call__(self, done: int, total: int) -> None:
        """Take note that `done` of `total` are done."""
        now = self._clock()
        if now < self._next:
            return
        if self._stream.isatty():
            self._stream.write(f"\r{done} of {total} {self._what}")
            self._is_open = True
            self._next = now + _FIRST_S
        else:
            self._stream.write(f"{done} of {total} {self._what}\n")
            self._next = now + _PLAIN_EVERY_S
        self._stream.flush()

    def close(self) -> None:
        """End the line, if one was begun."""
        if self._is_open:
            self._stream.write("\n")
            self._is_open = False
