"""The two decision caches, for suites that run on both."""

from __future__ import annotations

import pytest

from authz_server._native import _core
from authz_server.cache import decision_cache

AnyCache = decision_cache.DecisionCache | _core.DecisionCache
AnyCacheType = type[decision_cache.DecisionCache] | type[_core.DecisionCache]

BOTH = [
    pytest.param(decision_cache.DecisionCache, id="twin"),
    pytest.param(_core.DecisionCache, id="native"),
]


class CheapTwin(decision_cache.DecisionCache):
    """The twin, at the native core's price for an entry: so both evict alike."""

    entry_overhead_bytes = _core.DecisionCache.entry_overhead_bytes
