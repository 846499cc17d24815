"""The time of a decision, read once and passed along."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on two clocks.

    Attributes:
        wall_s: seconds since the Unix epoch, for what certificates say. It can jump.
        steady_s: seconds of the monotonic clock, for lifetimes and latencies.
    """

    wall_s: float
    steady_s: float


Clock = Callable[[], Instant]


def system_clock() -> Instant:
    """Return now."""
    return Instant(time.time(), time.monotonic())
