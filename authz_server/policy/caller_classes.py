"""Every kind of workload that some patterns can tell apart, each with a witness.

SPIFFE IDs are endless, but a policy sees of one only which of its patterns match. This
walks all patterns of a trust domain at once, segment by segment, as an automaton does
(subset construction): from each set of live patterns the literal segments that one of
them wants, and one segment that none does. What holds of all witnesses holds of all
IDs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Final, TypeVar

from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern

_Label = TypeVar("_Label", bound=Hashable)

# A pattern's number, and how many segments of it have come; behind its last segment
# one more stands for the rest, of which at least one segment must have come.
_Live = tuple[int, int]

_FRESH: Final = "other"


def caller_classes(
    patterns: Sequence[SpiffePattern],
    trust_domains: Collection[TrustDomain],
    label: Callable[[frozenset[int]], _Label],
) -> dict[_Label, SpiffeId]:
    """Return a witness for each label that some workload gets.

    Args:
        patterns: by which workloads are told apart.
        trust_domains: whose workloads there can be.
        label: of the numbers of those patterns that match.
    """
    words = {segment for pattern in patterns for segment in pattern.segments}
    fresh = _FRESH
    while fresh in words:
        fresh += "-"
    witnesses: dict[_Label, SpiffeId] = {}
    for trust_domain in sorted(trust_domains):
        numbers = [
            number
            for number, pattern in enumerate(patterns)
            if pattern.trust_domain == trust_domain
        ]
        for path, matching in _walk(patterns, numbers, fresh):
            witnesses.setdefault(label(matching), SpiffeId(trust_domain, path))
    return witnesses


def _walk(
    patterns: Sequence[SpiffePattern], numbers: Sequence[int], fresh: str
) -> Iterator[tuple[tuple[str, ...], frozenset[int]]]:
    """Yield a path, and the patterns that match it, for each set that can match."""
    start = frozenset((number, 0) for number in numbers)
    seen = {start}
    waiting: list[tuple[tuple[str, ...], frozenset[_Live]]] = [((), start)]
    while waiting:
        path, live = waiting.pop()
        for segment, following in _steps(patterns, live, fresh):
            if following in seen:
                continue
            seen.add(following)
            longer = (*path, segment)
            yield longer, _matching(patterns, following)
            waiting.append((longer, following))


def _steps(
    patterns: Sequence[SpiffePattern], live: frozenset[_Live], fresh: str
) -> Iterator[tuple[str, frozenset[_Live]]]:
    """Yield each segment that makes a difference, and what is live behind it."""
    whatever: set[_Live] = set()
    literal: dict[str, set[_Live]] = {}
    for number, position in live:
        pattern = patterns[number]
        if position < len(pattern.segments):
            segment = pattern.segments[position]
            into = (
                whatever
                if segment == ANY_SEGMENT
                else literal.setdefault(segment, set())
            )
            into.add((number, position + 1))
        elif pattern.has_rest:
            whatever.add((number, len(pattern.segments) + 1))
    yield fresh, frozenset(whatever)
    for segment, following in sorted(literal.items()):
        yield segment, frozenset(following | whatever)


def _matching(
    patterns: Sequence[SpiffePattern], live: frozenset[_Live]
) -> frozenset[int]:
    return frozenset(
        number
        for number, position in live
        if position == len(patterns[number].segments) + patterns[number].has_rest
    )
