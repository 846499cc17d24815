"""Stages 2 and 7, recall and remember: the decision cache.

`DecisionCache` is the seam. There are two of it, which behave the same: the native
core's, and its twin in Python (`decision_cache.py`), which is the oracle of the tests
and runs where ``AUTHZ_SERVER_PURE=1`` asks for it.
"""

from typing import TYPE_CHECKING

from authz_server._native.choice import is_pure
from authz_server.cache.decision_cache import Entry

if TYPE_CHECKING or is_pure():
    from authz_server.cache.decision_cache import DecisionCache
else:
    from authz_server._native._core import DecisionCache

__all__ = ["DecisionCache", "Entry"]
