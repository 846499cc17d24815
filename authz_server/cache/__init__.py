"""Stages 2 and 7, recall and remember: the decision cache.

`DecisionCache` is the seam: this Python class is one implementation of it.
"""

from authz_server.cache.decision_cache import DecisionCache, Entry

__all__ = ["DecisionCache", "Entry"]
