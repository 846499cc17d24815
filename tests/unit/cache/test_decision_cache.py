import gc
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from caches import BOTH, AnyCache, AnyCacheType

from authz_server._native import _core
from authz_server.cache import Entry
from authz_server.cache.decision_cache import HAND_PASSES, MAX_VALUE_BYTES
from authz_server.clock import Instant
from authz_server.errors import Reason

NOW = Instant(wall_s=1000.0, steady_s=50.0)

ONE = Entry(b"r", b"", Reason.GRANTED, "one", 60.0, 900.0, 1100.0)

Make = Callable[..., AnyCache]


@pytest.fixture(params=BOTH)
def kind(request: pytest.FixtureRequest) -> AnyCacheType:
    chosen: AnyCacheType = request.param
    return chosen


@pytest.fixture
def cache(kind: AnyCacheType) -> Make:
    def make(max_entries: int = 10, max_bytes: int = 100_000) -> AnyCache:
        return kind(max_entries=max_entries, max_bytes=max_bytes)

    return make


def entry(
    response: bytes = b"r",
    *,
    record: bytes = b"",
    reason: Reason = Reason.GRANTED,
    revision: str = "one",
    expires_s: float = 60.0,
    valid_from_s: float = 900.0,
    valid_until_s: float = 1100.0,
) -> Entry:
    return Entry(
        response, record, reason, revision, expires_s, valid_from_s, valid_until_s
    )


def is_there(decisions: AnyCache, key: bytes) -> bool:
    return decisions.get(key, "one", NOW) is not None


def test_an_entry_is_found_by_its_whole_key(cache: Make) -> None:
    decisions = cache()
    decisions.put(b"key", entry())
    assert decisions.get(b"key", "one", NOW) == entry()
    assert decisions.get(b"key2", "one", NOW) is None


@pytest.mark.parametrize("reason", Reason)
def test_an_entry_comes_back_as_it_was_put(cache: Make, reason: Reason) -> None:
    decisions = cache()
    put = entry(
        bytes(range(256)) * 20,
        record=b"\0record\0",
        reason=reason,
        revision="größer/\0",
        expires_s=1e300,
        valid_from_s=-float("inf"),
        valid_until_s=float("inf"),
    )
    decisions.put(b"", put)
    found = decisions.get(b"", "größer/\0", NOW)
    assert found == put
    assert type(found) is Entry
    assert found.reason is reason
    assert hash(found) == hash(put)


def test_keys_with_equal_hashes_do_not_share_an_entry(cache: Make) -> None:
    class Colliding(bytes):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    decisions = cache()
    decisions.put(Colliding(b"a"), entry(b"for a"))
    assert decisions.get(Colliding(b"b"), "one", NOW) is None
    assert decisions.get(Colliding(b"a"), "one", NOW) is not None


ENDS = pytest.mark.parametrize(
    ("revision", "now"),
    [
        ("two", NOW),
        ("on", NOW),
        ("", NOW),
        ("one", Instant(1000.0, 60.0)),
        ("one", Instant(1100.1, 50.0)),
        ("one", Instant(899.9, 50.0)),
        ("one", Instant(float("nan"), 50.0)),
        ("one", Instant(1000.0, float("nan"))),
    ],
    ids=[
        "another revision",
        "a shorter revision",
        "no revision",
        "lifetime over",
        "certificate expired",
        "not yet valid",
        "no wall clock",
        "no steady clock",
    ],
)


@ENDS
def test_an_entry_that_did_not_hold_once_never_will_again(
    cache: Make, revision: str, now: Instant
) -> None:
    decisions = cache()
    decisions.put(b"key", entry())
    assert decisions.get(b"key", revision, now) is None
    assert decisions.get(b"key", "one", NOW) is None
    assert b"key" in decisions.latest(1)  # it is asked for, so it will be put again
    decisions.put(b"key", entry(b"new"))
    assert decisions.get(b"key", "one", NOW) == entry(b"new")
    assert len(decisions) == 1
    decisions.check()


@pytest.mark.parametrize("wall_s", [900.0, 1100.0])
def test_the_dates_of_a_certificate_are_inclusive(cache: Make, wall_s: float) -> None:
    decisions = cache()
    decisions.put(b"key", entry())
    assert decisions.get(b"key", "one", Instant(wall_s, 50.0)) is not None


def test_what_was_not_asked_for_goes_before_what_was(cache: Make) -> None:
    decisions = cache(max_entries=2)
    decisions.put(b"a", entry())
    decisions.put(b"b", entry())
    decisions.get(b"a", "one", NOW)
    decisions.put(b"c", entry())
    assert not is_there(decisions, b"b")
    assert is_there(decisions, b"a")
    assert is_there(decisions, b"c")


def test_what_was_asked_for_is_spared_once_for_each_round_of_the_hand(
    cache: Make,
) -> None:
    decisions = cache(max_entries=3)
    for key in (b"a", b"b", b"c"):
        decisions.put(key, entry())
        decisions.get(key, "one", NOW)
    decisions.put(b"d", entry())  # clears all three marks, and comes back to the oldest
    decisions.put(b"e", entry())
    assert set(decisions.latest(3)) == {b"c", b"d", b"e"}


def test_the_hand_passes_no_more_than_a_bounded_number(cache: Make) -> None:
    """Or one put, under the lock, would clear the marks of a million entries."""
    size = HAND_PASSES + 2
    decisions = cache(max_entries=size, max_bytes=1_000_000)
    for number in range(size):
        decisions.put(b"%d" % number, entry())
        decisions.get(b"%d" % number, "one", NOW)
    decisions.put(b"new", entry())
    left = set(decisions.latest(size))
    assert {b"%d" % number for number in range(size)} - left == {b"%d" % HAND_PASSES}
    assert b"new" in left
    decisions.check()


@pytest.mark.parametrize(
    "changed",
    [
        {"expires_s": float("nan")},
        {"valid_from_s": float("nan")},
        {"valid_until_s": float("nan")},
    ],
)
def test_a_date_that_is_no_number_never_answers(
    cache: Make, changed: dict[str, float]
) -> None:
    decisions = cache()
    decisions.put(b"a", replace(entry(), **changed))  # type: ignore[arg-type]
    assert not is_there(decisions, b"a")


def test_a_cache_of_one_entry_keeps_the_last(cache: Make) -> None:
    decisions = cache(max_entries=1)
    for key in (b"a", b"", b"b"):
        decisions.put(key, entry())
        assert is_there(decisions, key)
        assert decisions.latest(2) == [key]
    decisions.check()


def test_what_was_just_put_is_never_what_has_to_go(cache: Make) -> None:
    decisions = cache(max_entries=2)
    for number in range(20):
        key = b"%d" % number
        decisions.put(key, entry())
        assert is_there(decisions, key)


def test_a_scan_does_not_sweep_away_what_is_asked_for(cache: Make) -> None:
    decisions = cache(max_entries=10)
    popular = [b"popular %d" % number for number in range(5)]
    for key in popular:
        decisions.put(key, entry())
    for number in range(1000):
        decisions.put(b"%d" % number, entry())
        assert is_there(decisions, popular[number % 5])
    assert all(is_there(decisions, key) for key in popular)


def test_a_key_that_is_put_again_counts_as_asked_for(cache: Make) -> None:
    decisions = cache(max_entries=2)
    decisions.put(b"a", entry())
    decisions.get(b"a", "two", NOW)  # ended
    decisions.put(b"a", entry(revision="two"))
    decisions.put(b"b", entry())
    decisions.put(b"c", entry())
    assert decisions.get(b"a", "two", NOW) is not None
    assert not is_there(decisions, b"b")


def test_an_ended_entry_that_nobody_puts_again_goes_first(cache: Make) -> None:
    decisions = cache(max_entries=2)
    decisions.put(b"a", entry())
    is_there(decisions, b"a")
    decisions.get(b"a", "two", NOW)
    decisions.put(b"b", entry())
    decisions.put(b"c", entry())
    assert is_there(decisions, b"b")
    assert is_there(decisions, b"c")


def test_the_latest_keys_are_those_used_last(cache: Make) -> None:
    decisions = cache()
    for key in (b"a", b"b", b"c", b"d"):
        decisions.put(key, entry())
    decisions.get(b"b", "one", NOW)
    decisions.get(b"nobody", "one", NOW)
    decisions.put(b"a", entry())
    assert decisions.latest(3) == [b"a", b"b", b"d"]
    assert decisions.latest(100) == [b"a", b"b", b"d", b"c"]
    assert decisions.latest(0) == []


def test_bytes_are_bounded_and_accounted_for(cache: Make, kind: AnyCacheType) -> None:
    cost = 1 + 1 + kind.entry_overhead_bytes
    decisions = cache(max_bytes=2 * cost)
    for key in (b"a", b"b", b"c"):
        decisions.put(key, entry())
    assert len(decisions) == 2
    assert decisions.size_bytes == 2 * cost


def test_an_entry_larger_than_the_cache_is_not_kept_and_evicts_nobody(
    cache: Make,
) -> None:
    decisions = cache(max_bytes=1000)
    decisions.put(b"a", entry())
    decisions.put(b"b", entry(b"x" * 1000))
    assert not is_there(decisions, b"b")
    assert is_there(decisions, b"a")


def test_an_older_entry_does_not_outlive_a_newer_one_that_is_too_large(
    cache: Make,
) -> None:
    decisions = cache(max_bytes=1000)
    decisions.put(b"a", entry())
    decisions.put(b"a", entry(b"x" * 1000))
    assert not is_there(decisions, b"a")
    assert (len(decisions), decisions.size_bytes) == (0, 0)


def test_longer_values_than_the_limit_are_not_kept(cache: Make) -> None:
    decisions = cache(max_bytes=10 * MAX_VALUE_BYTES)
    decisions.put(b"a", entry(b"x" * MAX_VALUE_BYTES))
    decisions.put(b"b", entry(b"x" * (MAX_VALUE_BYTES + 1)))
    decisions.put(b"c", entry(record=b"x" * (MAX_VALUE_BYTES + 1)))
    assert decisions.latest(3) == [b"a"]


def test_a_newer_entry_replaces_an_older_one(cache: Make, kind: AnyCacheType) -> None:
    decisions = cache()
    decisions.put(b"a", entry(b"old"))
    decisions.put(b"a", entry(b"new!"))
    found = decisions.get(b"a", "one", NOW)
    assert found is not None
    assert found.response == b"new!"
    assert decisions.size_bytes == 1 + 4 + kind.entry_overhead_bytes


def test_no_entries_at_all_turns_the_cache_off(cache: Make) -> None:
    decisions = cache(max_entries=0)
    decisions.put(b"a", entry())
    assert not is_there(decisions, b"a")
    assert len(decisions) == 0


def test_a_cleared_cache_is_empty_and_usable(cache: Make) -> None:
    decisions = cache(max_entries=5)
    for number in range(9):
        decisions.put(b"%d" % number, entry())
        is_there(decisions, b"%d" % number)
    decisions.clear()
    assert (len(decisions), decisions.size_bytes, decisions.latest(9)) == (0, 0, [])
    decisions.put(b"a", entry())
    assert is_there(decisions, b"a")
    decisions.check()


@pytest.mark.parametrize(
    "bounds",
    [{"max_entries": -1, "max_bytes": 1}, {"max_entries": 1, "max_bytes": -1}],
)
def test_a_cache_cannot_hold_less_than_nothing(
    kind: AnyCacheType, bounds: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="less than nothing"):
        kind(**bounds)
    with pytest.raises(ValueError, match="fewer keys"):
        kind(max_entries=1, max_bytes=1).latest(-1)


def test_arguments_may_be_named(cache: Make) -> None:
    decisions = cache()
    decisions.put(key=b"a", entry=entry())
    assert decisions.get(now=NOW, key=b"a", revision="one") == entry()
    assert decisions.get(b"a", revision="one", now=NOW) == entry()
    assert decisions.latest(count=1) == [b"a"]


def test_threads_never_get_another_keys_answer(cache: Make, kind: AnyCacheType) -> None:
    decisions = cache(max_entries=8)
    wrong: list[bytes] = []

    def work(seed: int) -> None:
        for step in range(2000):
            key = bytes(((seed + step) % 16,))
            decisions.put(key, entry(key))
            found = decisions.get(key, "one", NOW)
            if found is not None and found.response != key:
                wrong.append(key)
            if step % 500 == 0:
                decisions.latest(4)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(decisions) <= 8
    assert decisions.size_bytes == len(decisions) * (2 + kind.entry_overhead_bytes)
    decisions.check()


# What only the native one has to be asked.


NONSENSE: dict[str, Callable[[Any], object]] = {
    "a key of text": lambda cache: cache.get("text", "one", NOW),
    "a revision of bytes": lambda cache: cache.get(b"a", b"one", NOW),
    "no time": lambda cache: cache.get(b"a", "one", None),
    "too little": lambda cache: cache.get(b"a", "one"),
    "too much": lambda cache: cache.get(b"a", "one", NOW, NOW),
    "another name": lambda cache: cache.get(b"a", "one", when=NOW),
    "a time of text": lambda cache: cache.get(b"a", "one", Instant("soon", 1.0)),  # type: ignore[arg-type]
    "half a character": lambda cache: cache.get(b"a", "\ud800", NOW),
    "put a key of text": lambda cache: cache.put("text", entry()),
    "no entry": lambda cache: cache.put(b"a", None),
    "a response of text": lambda cache: cache.put(b"a", replace(ONE, response="text")),
    "no record": lambda cache: cache.put(b"a", replace(ONE, record=None)),
    "a reason of text": lambda cache: cache.put(b"a", replace(ONE, reason="granted")),
    "put a revision of bytes": lambda cache: cache.put(
        b"a", replace(ONE, revision=b"one")
    ),
    "an end of text": lambda cache: cache.put(b"a", replace(ONE, expires_s="soon")),
    "few": lambda cache: cache.latest("few"),
    "more than there is": lambda cache: cache.latest(1 << 80),
    "bounds without names": lambda _: _core.DecisionCache(10, 10),  # type: ignore[misc, call-arg]
    "one bound": lambda _: _core.DecisionCache(max_entries=1),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("call", NONSENSE.values(), ids=NONSENSE.keys())
def test_the_native_cache_refuses_what_it_was_not_made_for(
    call: Callable[[Any], object],
) -> None:
    decisions = _core.DecisionCache(max_entries=10, max_bytes=10_000)
    decisions.put(b"a", entry())
    with pytest.raises((TypeError, AttributeError, UnicodeEncodeError, OverflowError)):
        call(decisions)
    assert is_there(decisions, b"a")
    decisions.check()


def test_the_native_cache_keeps_no_object_and_gives_none_away() -> None:
    decisions = _core.DecisionCache(max_entries=10, max_bytes=100_000)
    put = entry(b"response" * 1000, record=b"record" * 1000, revision="revision" * 9)
    key = b"key" * 1000
    objects: list[object] = [put, key, put.response, put.record, put.revision, NOW]
    objects += [put.reason, Entry, _core.DecisionCache]

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(one) for one in objects]

    decisions.put(key, put)
    before = counts()
    for _ in range(50):
        decisions.put(key, put)
        assert decisions.get(key, put.revision, NOW) == put
        assert decisions.get(key, "other" * 9, NOW) is None
        assert decisions.latest(1) == [key]
        for name in ("no entry", "a reason of text", "an end of text"):
            with pytest.raises((TypeError, AttributeError)):
                NONSENSE[name](decisions)
    assert counts() == before


def test_the_native_cache_is_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.cache = _core.DecisionCache(max_entries=10, max_bytes=10_000)
            self.me = self

    assert gc.is_tracked(Holder().cache)
    before = sys.getrefcount(_core.DecisionCache)
    holder = Holder()
    holder.cache.put(b"a", entry())
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None
    assert sys.getrefcount(_core.DecisionCache) <= before
