"""The cache against a model that has no bounds."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from authz_server.cache import DecisionCache, Entry
from authz_server.cache.decision_cache import ENTRY_OVERHEAD_BYTES
from authz_server.clock import Instant
from authz_server.errors import Reason

KEYS = st.sampled_from([b"a", b"bb", b"ccc", b"dddd", b"eeeee"])
REVISIONS = st.sampled_from(["one", "two"])
MAX_ENTRIES = 3
MAX_BYTES = 3 * ENTRY_OVERHEAD_BYTES + 12


class CacheMachine(RuleBasedStateMachine):
    """Whatever the cache gives back is the last entry put, and it still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = DecisionCache(max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES)
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
        assert 0 <= self.cache.size_bytes <= MAX_BYTES
        assert (self.cache.size_bytes == 0) == (len(self.cache) == 0)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=100, stateful_step_count=40)
