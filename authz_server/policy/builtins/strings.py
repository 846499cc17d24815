"""Searching and splitting strings."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from authz_server.policy.builtins.operands import int64, members, string
from authz_server.policy.builtins.values import (
    MAX_ITEMS,
    RefusedError,
    UndefinedError,
)

_MAX_WORK: Final = 10_000_000
"""Characters that are compared where what is searched overlaps with itself."""
_GLOB_SIGNS: Final = frozenset("\\*?[]{}")


def index_of_all(base: object, search: object) -> list[int]:
    """Return where `search` is in `base`; the places may overlap."""
    text, wanted = string(base), string(search)
    if not wanted:
        raise UndefinedError
    found: list[int] = []
    at = text.find(wanted)
    while at >= 0:
        found.append(at)
        if len(found) > MAX_ITEMS or len(found) * len(wanted) > _MAX_WORK:
            raise RefusedError("a text is found too often")
        at = text.find(wanted, at + 1)
    return found


def any_prefix_match(search: object, base: object) -> bool:
    """Return whether one of `search`, or it itself, starts with one of `base`."""
    return _start_with(_strings(search), _strings(base))


def any_suffix_match(search: object, base: object) -> bool:
    """Return whether one of `search`, or it itself, ends with one of `base`."""
    return _start_with(
        [text[::-1] for text in _strings(search)],
        [text[::-1] for text in _strings(base)],
    )


def count(search: object, part: object) -> int:
    """Return how often `part` is in `search`, without overlap."""
    return string(search).count(string(part))


def split_n(text: object, delimiter: object, limit: object) -> list[str]:
    """Return the first `limit` parts of `text`, or the last if it is negative."""
    whole, between, most = string(text), string(delimiter), int64(limit)
    # Go splits at nothing between all characters.
    parts = whole.split(between) if between else list(whole)
    return parts[:most] if most >= 0 else parts[most:]


def quote_glob(pattern: object) -> str:
    """Return the glob pattern that matches `pattern` and nothing else."""
    return "".join("\\" + s if s in _GLOB_SIGNS else s for s in string(pattern))


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [string(member) for member in members(value)]


def _start_with(texts: list[str], starts: list[str]) -> bool:
    # Texts with one start are beside each other when sorted, and right after it.
    texts = sorted(texts)
    for start in starts:
        at = bisect_left(texts, start)
        if at < len(texts) and texts[at].startswith(start):
            return True
    return False
