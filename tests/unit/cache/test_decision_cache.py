import threading

import pytest

from authz_server.cache import DecisionCache, Entry
from authz_server.cache.decision_cache import ENTRY_OVERHEAD_BYTES
from authz_server.clock import Instant
from authz_server.errors import Reason

NOW = Instant(wall_s=1000.0, steady_s=50.0)


def entry(
    response: bytes = b"r",
    *,
    revision: str = "one",
    expires_s: float = 60.0,
    valid_from_s: float = 900.0,
    valid_until_s: float = 1100.0,
) -> Entry:
    return Entry(
        response, b"", Reason.GRANTED, revision, expires_s, valid_from_s, valid_until_s
    )


def cache(max_entries: int = 10, max_bytes: int = 100_000) -> DecisionCache:
    return DecisionCache(max_entries=max_entries, max_bytes=max_bytes)


def test_an_entry_is_found_by_its_whole_key() -> None:
    decisions = cache()
    decisions.put(b"key", entry())
    assert decisions.get(b"key", "one", NOW) == entry()
    assert decisions.get(b"key2", "one", NOW) is None


def test_keys_with_equal_hashes_do_not_share_an_entry() -> None:
    class Colliding(bytes):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    decisions = cache()
    decisions.put(Colliding(b"a"), entry(b"for a"))
    assert decisions.get(Colliding(b"b"), "one", NOW) is None
    assert decisions.get(Colliding(b"a"), "one", NOW) is not None


@pytest.mark.parametrize(
    ("revision", "now"),
    [
        ("two", NOW),
        ("one", Instant(1000.0, 60.0)),
        ("one", Instant(1100.1, 50.0)),
        ("one", Instant(899.9, 50.0)),
    ],
    ids=["another revision", "lifetime over", "certificate expired", "not yet valid"],
)
def test_an_entry_that_no_longer_holds_is_dropped(revision: str, now: Instant) -> None:
    decisions = cache()
    decisions.put(b"key", entry())
    assert decisions.get(b"key", revision, now) is None
    assert len(decisions) == 0
    assert decisions.size_bytes == 0


@pytest.mark.parametrize("wall_s", [900.0, 1100.0])
def test_the_dates_of_a_certificate_are_inclusive(wall_s: float) -> None:
    decisions = cache()
    decisions.put(b"key", entry())
    assert decisions.get(b"key", "one", Instant(wall_s, 50.0)) is not None


def test_the_longest_unused_entry_goes_first() -> None:
    decisions = cache(max_entries=2)
    decisions.put(b"a", entry())
    decisions.put(b"b", entry())
    decisions.get(b"a", "one", NOW)
    decisions.put(b"c", entry())
    assert decisions.get(b"b", "one", NOW) is None
    assert decisions.get(b"a", "one", NOW) is not None
    assert decisions.get(b"c", "one", NOW) is not None


def test_bytes_are_bounded_and_accounted_for() -> None:
    cost = 1 + 1 + ENTRY_OVERHEAD_BYTES
    decisions = cache(max_bytes=2 * cost)
    for key in (b"a", b"b", b"c"):
        decisions.put(key, entry())
    assert len(decisions) == 2
    assert decisions.size_bytes == 2 * cost


def test_an_entry_larger_than_the_cache_is_not_kept_and_evicts_nobody() -> None:
    decisions = cache(max_bytes=1000)
    decisions.put(b"a", entry())
    decisions.put(b"b", entry(b"x" * 1000))
    assert decisions.get(b"b", "one", NOW) is None
    assert decisions.get(b"a", "one", NOW) is not None


def test_a_newer_entry_replaces_an_older_one() -> None:
    decisions = cache()
    decisions.put(b"a", entry(b"old"))
    decisions.put(b"a", entry(b"new!"))
    found = decisions.get(b"a", "one", NOW)
    assert found is not None
    assert found.response == b"new!"
    assert decisions.size_bytes == 1 + 4 + ENTRY_OVERHEAD_BYTES


def test_no_entries_at_all_turns_the_cache_off() -> None:
    decisions = cache(max_entries=0)
    decisions.put(b"a", entry())
    assert decisions.get(b"a", "one", NOW) is None


def test_threads_never_get_another_keys_answer() -> None:
    decisions = cache(max_entries=8)
    wrong: list[bytes] = []

    def work(seed: int) -> None:
        for step in range(2000):
            key = bytes(((seed + step) % 16,))
            decisions.put(key, entry(key))
            found = decisions.get(key, "one", NOW)
            if found is not None and found.response != key:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(decisions) <= 8
    assert decisions.size_bytes == len(decisions) * (2 + ENTRY_OVERHEAD_BYTES)
