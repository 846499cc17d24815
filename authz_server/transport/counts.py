"""Decisions that were answered without Python, and counted where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from authz_server.errors import Reason

BUCKETS_S: Final = (
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)
"""Upper bounds, inclusive, of a decision's seconds: a hit is in the first few."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Decisions that were answered from memory, and counted elsewhere.

    Attributes:
        reasons: how many by reason.
        buckets: by their time: one for each of `BUCKETS_S`, and one for more.
        sum_s: their time in all.
    """

    reasons: Mapping[Reason, int] = field(default_factory=dict)
    buckets: Sequence[int] = (0,) * (len(BUCKETS_S) + 1)
    sum_s: float = 0.0
