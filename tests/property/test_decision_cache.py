"""Both caches against a model that has no bounds, and side by side."""

from __future__ import annotations

from random import Random

from caches import AnyCache, AnyCacheType, CheapTwin
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from authz_server._native import _core
from authz_server.cache import Entry
from authz_server.cache.decision_cache import DecisionCache as Twin
from authz_server.clock import Instant
from authz_server.errors import Reason

KEYS = st.sampled_from([b"a", b"bb", b"ccc", b"dddd", b"eeeee"])
REVISIONS = st.sampled_from(["one", "two"])
MAX_ENTRIES = 3


class CacheMachine(RuleBasedStateMachine):
    """Whatever the cache gives back is the last entry put, and it still holds."""

    kind: AnyCacheType = Twin

    def __init__(self) -> None:
        super().__init__()
        self.max_bytes = 3 * self.kind.entry_overhead_bytes + 12
        self.cache: AnyCache = self.kind(
            max_entries=MAX_ENTRIES, max_bytes=self.max_bytes
        )
        self.last: dict[bytes, Entry] = {}
        self.now = Instant(1000.0, 0.0)
        self.count = 0

    @rule(
        key=KEYS,
        revision=REVISIONS,
        lifetime_s=st.floats(0, 10),
        until_s=st.floats(-5, 10),
    )
    def put(self, key: bytes, revision: str, lifetime_s: float, until_s: float) -> None:
        self.count += 1
        entry = Entry(
            response=b"%d" % self.count,
            record=b"",
            reason=Reason.GRANTED,
            revision=revision,
            expires_s=self.now.steady_s + lifetime_s,
            valid_from_s=self.now.wall_s - 1,
            valid_until_s=self.now.wall_s + until_s,
        )
        self.cache.put(key, entry)
        self.last[key] = entry

    @rule(key=KEYS, revision=REVISIONS)
    def get(self, key: bytes, revision: str) -> None:
        found = self.cache.get(key, revision, self.now)
        if found is None:
            return
        assert found == self.last[key]
        assert found.revision == revision
        assert self.now.steady_s < found.expires_s
        assert found.valid_from_s <= self.now.wall_s <= found.valid_until_s

    @rule(steady_s=st.floats(0, 5), wall_s=st.floats(-5, 5))
    def pass_time(self, steady_s: float, wall_s: float) -> None:
        self.now = Instant(self.now.wall_s + wall_s, self.now.steady_s + steady_s)

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.cache) <= MAX_ENTRIES
        assert 0 <= self.cache.size_bytes <= self.max_bytes
        assert (self.cache.size_bytes == 0) == (len(self.cache) == 0)
        self.cache.check()


class NativeMachine(CacheMachine):
    """The same of the native one."""

    kind = _core.DecisionCache


MANY_KEYS = st.binary(max_size=2) | st.integers(0, 40).map(lambda n: b"k" * n)


class SideBySideMachine(RuleBasedStateMachine):
    """At every step both do the same: answers, order, sizes, and whom they evict."""

    @initialize(max_entries=st.integers(0, 12), max_bytes=st.integers(0, 2000))
    def make(self, max_entries: int, max_bytes: int) -> None:
        self.twin = CheapTwin(max_entries=max_entries, max_bytes=max_bytes)
        self.native = _core.DecisionCache(max_entries=max_entries, max_bytes=max_bytes)
        self.now = Instant(1000.0, 0.0)

    @rule(
        key=MANY_KEYS,
        response=st.binary(max_size=30),
        record=st.binary(max_size=30),
        reason=st.sampled_from(Reason),
        revision=REVISIONS,
        lifetime_s=st.floats(),
        since_s=st.floats(),
        until_s=st.floats(),
    )
    def put_anything(  # noqa: PLR0917 - an entry has that many parts
        self,
        key: bytes,
        response: bytes,
        record: bytes,
        reason: Reason,
        revision: str,
        lifetime_s: float,
        since_s: float,
        until_s: float,
    ) -> None:
        entry = Entry(response, record, reason, revision, lifetime_s, since_s, until_s)
        self.twin.put(key, entry)
        self.native.put(key, entry)

    @rule(key=MANY_KEYS, revision=REVISIONS, lifetime_s=st.integers(1, 9))
    def put(self, key: bytes, revision: str, lifetime_s: int) -> None:
        entry = Entry(
            response=b"r" * (7 * len(key) % 5),
            record=b"",
            reason=Reason.GRANTED,
            revision=revision,
            expires_s=self.now.steady_s + lifetime_s,
            valid_from_s=self.now.wall_s - 1,
            valid_until_s=self.now.wall_s + 5,
        )
        self.twin.put(key, entry)
        self.native.put(key, entry)

    @rule(key=MANY_KEYS, revision=REVISIONS)
    def get(self, key: bytes, revision: str) -> None:
        expected = self.twin.get(key, revision, self.now)
        assert self.native.get(key, revision, self.now) == expected

    @rule(place=st.integers(0, 11))
    def get_one_that_is_there(self, place: int) -> None:
        keys = self.twin.latest(12)
        if keys:
            self.get(keys[place % len(keys)], "one")

    @rule(count=st.integers(0, 15))
    def ask_for_the_latest(self, count: int) -> None:
        assert self.native.latest(count) == self.twin.latest(count)

    @rule(steady_s=st.integers(0, 3), wall_s=st.integers(-2, 3))
    def pass_time(self, steady_s: int, wall_s: int) -> None:
        self.now = Instant(self.now.wall_s + wall_s, self.now.steady_s + steady_s)

    @rule()
    def clear(self) -> None:
        self.twin.clear()
        self.native.clear()

    @invariant()
    def are_the_same(self) -> None:
        if not hasattr(self, "twin"):
            return
        assert len(self.native) == len(self.twin)
        assert self.native.size_bytes == self.twin.size_bytes
        assert self.native.latest(20) == self.twin.latest(20)
        self.native.check()
        self.twin.check()


SETTINGS = settings(max_examples=100, stateful_step_count=40)


def test_the_twin_gives_back_only_what_holds() -> None:
    run_state_machine_as_test(CacheMachine, settings=SETTINGS)


def test_the_native_cache_gives_back_only_what_holds() -> None:
    run_state_machine_as_test(NativeMachine, settings=SETTINGS)


def test_both_caches_do_the_same_at_every_step() -> None:
    run_state_machine_as_test(SideBySideMachine, settings=SETTINGS)


def test_both_caches_do_the_same_when_they_are_large() -> None:
    random = Random(3)
    twin, native = (
        kind(max_entries=3000, max_bytes=600_000)
        for kind in (CheapTwin, _core.DecisionCache)
    )
    for step in range(40_000):
        now = Instant(1000.0, step / 1000)
        key = b"%d" % int(random.paretovariate(0.25) % 20_000)
        key *= 1 + len(key) % 7
        found = native.get(key, "one", now)
        assert found == twin.get(key, "one", now)
        if found is None:
            entry = Entry(
                b"r" * random.randrange(200),
                key,
                random.choice(list(Reason)),
                "one",
                now.steady_s + random.randrange(20),
                0.0,
                2000.0,
            )
            native.put(key, entry)
            twin.put(key, entry)
    assert len(native) == len(twin) > 2000
    assert native.latest(5000) == twin.latest(5000)
    native.check()
    twin.check()
