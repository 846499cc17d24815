from collections.abc import Callable, Mapping
from typing import Self

from authz_server.cache.decision_cache import Entry
from authz_server.clock import Instant
from authz_server.errors import Reason, RequestError
from authz_server.facts import Annotations, Plan

class DecisionCache:
    entry_overhead_bytes: int
    def __new__(cls, *, max_entries: int, max_bytes: int) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def get(self, key: bytes, revision: str, now: Instant) -> Entry | None: ...
    def put(self, key: bytes, entry: Entry) -> None: ...
    def latest(self, count: int) -> list[bytes]: ...
    def clear(self) -> None: ...
    def check(self) -> None: ...

class Extractor:
    def __new__(
        cls,
        compile_plan: Callable[[Plan], object],
        twin: Callable[[bytes, Plan], tuple[bytes, Annotations]],
        annotations: type[Annotations],
        error: type[RequestError],
        reasons: Mapping[str, Reason],
    ) -> Self: ...
    def extract(self, raw: bytes, plan: Plan, /) -> tuple[bytes, Annotations]: ...
    def answers(self, raw: bytes, plan: Plan, /) -> bool: ...

def compile_plan(
    headers: tuple[bytes, ...],
    credentials: tuple[bytes, ...],
    signals: tuple[bytes, ...],
    outlines: tuple[tuple[bytes, tuple[tuple[int, int], ...]], ...],
    json_models: tuple[tuple[bytes, bytes], ...],
    claims_name: bytes,
    is_for_twin: bool,
    /,
) -> object: ...
