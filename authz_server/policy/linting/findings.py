"""What a rule reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from authz_server.policy.nodes import Node, Place, Problem

SHOWN: Final = 3
"""Of the places or names that one finding is about."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a policy that is valid and hardly meant.

    Attributes:
        code: names the rule; it stays the same when the words change.
    """

    code: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.problem} [{self.code}]"


def finding(code: str, where: Node, message: str, mend: str) -> Finding:
    """Return a finding at the place of `where`."""
    place = where.place
    return Finding(code, Problem(place.source, place.line, place.column, message, mend))


def in_words(others: Sequence[Place], place: Place) -> str:
    """Return the first of `others` in words, for a message about `place`."""
    shown = [
        f"line {other.line}" if other.source == place.source else str(other)
        for other in others[:SHOWN]
    ]
    if len(others) > SHOWN:
        shown.append("...")
    return ", ".join(shown)
