"""A bounded cache of decisions, keyed by whole canonical facts.

A hit must prove as much as a fresh decision. So a key is compared in full (never by its
hash alone), an entry answers only under the revision that made it, and both clocks are
asked: the steady one for the lifetime, the wall clock for the dates of a certificate.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from authz_server.clock import Instant
from authz_server.errors import Reason

ENTRY_OVERHEAD_BYTES: Final = 400
"""What an entry costs beside its byte strings: objects, a dictionary slot, links."""


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


class DecisionCache:
    """Least-recently-used cache of `Entry` by facts. Safe to share between threads.

    Args:
        max_entries: number of entries that are kept at most; 0 turns the cache off.
        max_bytes: bytes of keys, values and overhead that are kept at most.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes accounted for now."""
        return self._bytes

    def get(self, key: bytes, revision: str, now: Instant) -> Entry | None:
        """Return the entry of `key` if it still answers; drop it if it does not."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if not entry.answers(revision, now):
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Remember `entry`, and forget the longest unused ones if room is short."""
        cost = _cost(key, entry)
        with self._lock:
            if key in self._entries:
                self._remove(key)
            if cost > self._max_bytes:
                return
            self._entries[key] = entry
            self._bytes += cost
            while (
                len(self._entries) > self._max_entries or self._bytes > self._max_bytes
            ):
                self._remove(next(iter(self._entries)))

    def latest(self, count: int) -> list[bytes]:
        """Return up to `count` keys, the last used first."""
        with self._lock:
            return list(itertools.islice(reversed(self._entries), count))

    def _remove(self, key: bytes) -> None:
        self._bytes -= _cost(key, self._entries.pop(key))


def _cost(key: bytes, entry: Entry) -> int:
    return len(key) + len(entry.response) + len(entry.record) + ENTRY_OVERHEAD_BYTES
