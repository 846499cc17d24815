"""Finds which patterns over SPIFFE IDs cover which, without comparing pair by pair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern


class _Shape(NamedTuple):
    """What patterns have in common that differ in their literal segments alone.

    Attributes:
        literals: which segments are literal.
    """

    domain: str
    length: int
    has_rest: bool
    literals: tuple[int, ...]

    def takes(self, pattern: SpiffePattern) -> bool:
        """Whether each ID of `pattern` has a length and a domain of this shape."""
        length = len(pattern.segments)
        return self.domain == pattern.trust_domain.name and (
            length + pattern.has_rest > self.length
            if self.has_rest
            else length == self.length and not pattern.has_rest
        )

    def words(self, pattern: SpiffePattern) -> tuple[str, ...]:
        """Return the segments of `pattern` where this shape has its literals."""
        return tuple([pattern.segments[at] for at in self.literals])


class Cover:
    """Finds the owners of patterns that hold every ID which another pattern holds.

    Patterns of one shape are one lookup, so the cost grows with the shapes only.
    """

    def __init__(self) -> None:
        # Nearly all patterns of a large policy are exact; they need no shape.
        self._exact: dict[SpiffePattern, list[str]] = {}
        self._shapes: dict[_Shape, dict[tuple[str, ...], list[str]]] = {}

    def add(self, pattern: SpiffePattern, owner: str) -> None:
        """Note that `owner` has `pattern`."""
        if pattern.is_exact:
            self._exact.setdefault(pattern, []).append(owner)
            return
        segments = pattern.segments
        literals = [at for at, segment in enumerate(segments) if segment != ANY_SEGMENT]
        shape = _Shape(
            pattern.trust_domain.name, len(segments), pattern.has_rest, tuple(literals)
        )
        owners = self._shapes.setdefault(shape, {})
        owners.setdefault(shape.words(pattern), []).append(owner)

    def owners(self, pattern: SpiffePattern) -> Iterator[str]:
        """Yield the owner of each pattern that covers `pattern`."""
        yield from self._exact.get(pattern, ())
        for shape, owners in self._shapes.items():
            if shape.takes(pattern):
                # A wildcard is no literal, so where one stands nothing is found.
                yield from owners.get(shape.words(pattern), ())
