"""All cases of a seed."""

from __future__ import annotations

import random

from differential.case import Case
from differential.grpc_cases import grpc_case
from differential.http_cases import http_case


def generate(seed: int, count: int) -> list[Case]:
    """Return `count` cases, always the same ones for a seed."""
    rng = random.Random(seed)
    return [
        grpc_case(rng) if rng.random() < 0.6 else http_case(rng) for _ in range(count)
    ]
