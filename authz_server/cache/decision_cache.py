"""A bounded cache of decisions, keyed by whole canonical facts: the Python twin.

A hit must prove as much as a fresh decision. So a key is compared in full (never by its
hash alone), an entry answers only under the revision that made it, and both clocks are
asked: the steady one for the lifetime, the wall clock for the dates of a certificate.

Who has to go when room is short is told by SIEVE, as in the native core, whose
`cache_order.h` has the reasons: entries stay in the order in which they came, a hit
marks its entry as visited, and a hand that goes round from the oldest to the newest
clears the marks and takes the first entry without one, or whom it has come to after
`HAND_PASSES`.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from authz_server.clock import Instant
from authz_server.errors import Reason

MAX_VALUE_BYTES: Final = 2**24 - 1
"""A longer response or record is not kept."""

HAND_PASSES: Final = 256
"""Whom the hand passes at most for one victim: then it takes whom it has come to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One remembered decision.

    Attributes:
        response: bytes of the CheckResponse.
        record: the part of the audit event that is the same for every hit.
        reason: of the decision, for counting.
        revision: what the decision was made under; another one never sees it.
        expires_s: on the steady clock, the first moment at which it no longer answers.
        valid_from_s, valid_until_s: on the wall clock, the dates of the certificate,
            both inclusive (RFC 5280 §4.1.2.5).
    """

    response: bytes
    record: bytes
    reason: Reason
    revision: str
    expires_s: float
    valid_from_s: float
    valid_until_s: float

    def answers(self, revision: str, now: Instant) -> bool:
        """Return whether the entry may be used under `revision` at `now`."""
        return (
            self.revision == revision
            and now.steady_s < self.expires_s
            and self.valid_from_s <= now.wall_s <= self.valid_until_s
        )


class _Place:
    """An entry's place in the order in which entries came."""

    __slots__ = ("cost", "entry", "is_visited", "key", "newer", "older", "used")

    def __init__(self, key: bytes, entry: Entry, cost: int) -> None:
        self.key = key
        self.entry: Entry | None = entry
        """None once it did not hold: it never answers again."""
        self.cost = cost
        self.newer: _Place | None = None
        self.older: _Place | None = None
        self.is_visited = False
        self.used = 0


class DecisionCache:
    """Cache of `Entry` by facts. Safe to share between threads.

    Args:
        max_entries: number of entries that are kept at most; 0 turns the cache off.
        max_bytes: bytes of keys, values and overhead that are kept at most.
    """

    entry_overhead_bytes: ClassVar[int] = 400
    """What an entry is charged beside its byte strings: here objects, a dictionary
    slot, links; the native core needs less."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        if max_entries < 0 or max_bytes < 0:
            raise ValueError("a cache can't hold less than nothing")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._places: dict[bytes, _Place] = {}
        self._bytes = 0
        self._newest: _Place | None = None
        self._oldest: _Place | None = None
        self._hand: _Place | None = None
        self._uses = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size_bytes(self) -> int:
        """Bytes accounted for now."""
        return self._bytes

    def get(self, key: bytes, revision: str, now: Instant) -> Entry | None:
        """Return the entry of `key` if it still answers.

        One that does not now never will again. It keeps its place until the key is put
        anew, as who asks is about to do, or until the hand takes it.
        """
        with self._lock:
            place = self._places.get(key)
            if place is None or place.entry is None:
                return None
            if not place.entry.answers(revision, now):
                place.entry = None
                place.is_visited = False
                return None
            place.is_visited = True
            self._use(place)
            return place.entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Remember `entry`, and forget others if room is short.

        If there was an entry of that key, the new one begins as visited: it has been
        asked for again.
        """
        cost = len(key) + len(entry.response) + len(entry.record)
        place = _Place(key, entry, cost + self.entry_overhead_bytes)
        has_room = (
            self._max_entries > 0
            and place.cost <= self._max_bytes
            and len(entry.response) <= MAX_VALUE_BYTES
            and len(entry.record) <= MAX_VALUE_BYTES
        )
        with self._lock:
            older = self._places.get(key)
            if older is not None:
                self._remove(older)
                place.is_visited = True
            if not has_room:
                return
            while (
                len(self._places) >= self._max_entries
                or self._bytes + place.cost > self._max_bytes
            ):
                self._evict()
            self._insert(place)
            self._use(place)

    def latest(self, count: int) -> list[bytes]:
        """Return up to `count` keys, the last used (put, or hit) first."""
        if count < 0:
            raise ValueError("there are no fewer keys than none")
        with self._lock:
            places = heapq.nlargest(
                count, self._places.values(), key=lambda place: place.used
            )
        return [place.key for place in places]

    def clear(self) -> None:
        """Forget every entry."""
        with self._lock:
            self._places.clear()
            self._bytes = 0
            self._newest = self._oldest = self._hand = None

    def check(self) -> None:
        """Raise AssertionError if the structure is not whole."""
        with self._lock:
            order = list(self._walk())
            if order != list(self._places.values()):
                raise AssertionError("the order of entries is not that of their coming")
            if self._newest is not (order[-1] if order else None):
                raise AssertionError("the order of entries ends at another")
            if self._hand is not None and self._hand not in order:
                raise AssertionError("the hand points at no entry")
            if self._bytes != sum(place.cost for place in order):
                raise AssertionError("the bytes are not those of the entries")
            if self._bytes > self._max_bytes or len(order) > self._max_entries:
                raise AssertionError("the cache is larger than it may be")

    def _use(self, place: _Place) -> None:
        self._uses += 1
        place.used = self._uses

    def _walk(self) -> Iterator[_Place]:
        place = self._oldest
        while place is not None:
            yield place
            place = place.newer

    def _insert(self, place: _Place) -> None:
        self._places[place.key] = place
        self._bytes += place.cost
        place.older = self._newest
        if self._newest is None:
            self._oldest = place
        else:
            self._newest.newer = place
        self._newest = place

    def _remove(self, place: _Place) -> None:
        del self._places[place.key]
        self._bytes -= place.cost
        if self._hand is place:
            self._hand = place.newer
        if place.newer is None:
            self._newest = place.older
        else:
            place.newer.older = place.older
        if place.older is None:
            self._oldest = place.newer
        else:
            place.older.newer = place.newer

    def _evict(self) -> None:
        place = self._hand or self._oldest
        for _ in range(HAND_PASSES):
            if place is None or not place.is_visited:
                break
            place.is_visited = False
            place = place.newer or self._oldest
        if place is not None:
            self._hand = place
            self._remove(place)
