"""The clock by which evaluations are cut off. It ticks only while there are any."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

TICK_S: Final = 0.025
"""How often it ticks."""

REST_TICKS: Final = 40
"""After so many ticks without an evaluation it rests: one that comes within a second of
another has nobody to wake."""


class EvaluationClock:
    """A thread that calls `tick` every `TICK_S` seconds while anything is evaluated.

    An idle server would otherwise spend half a percent of a processor on it.

    Args:
        tick: takes no time, and raises nothing.
        name: of the thread.
    """

    def __init__(self, tick: Callable[[], None], name: str) -> None:
        self._tick = tick
        self._lock = threading.Lock()
        # Under the lock:
        self._running = 0
        self._was_used = False
        self._is_resting = False
        # Set by who ends the rest, cleared by the thread.
        self._is_over = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def is_resting(self) -> bool:
        """Whether it does not tick."""
        return self._is_resting

    def begin(self) -> None:
        """Tick from now on, until this evaluation has ended and for a while after."""
        with self._lock:
            self._running += 1
            self._was_used = True
            ends_rest, self._is_resting = self._is_resting, False
        if ends_rest:
            self._is_over.set()

    def end(self) -> None:
        """Note that an evaluation which began is over."""
        with self._lock:
            self._running -= 1

    def _run(self) -> None:
        quiet = 0
        while True:
            time.sleep(TICK_S)
            self._tick()
            with self._lock:
                quiet = 0 if self._running or self._was_used else quiet + 1
                self._was_used = False
                is_resting = self._is_resting = quiet >= REST_TICKS
            if is_resting:
                self._is_over.wait()
                self._is_over.clear()
                quiet = 0
