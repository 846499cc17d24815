"""regex.*: what OPA's Wasm does not do itself, on the same library that it has inside.

RE2 takes a time that grows with pattern and text as their product at most. Python's own
expressions can take exponential time, and read some patterns otherwise.

See https://pkg.go.dev/regexp for the order in which matches are found.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Final

import re2

from authz_server.policy.builtins.operands import int64, string
from authz_server.policy.builtins.values import (
    MAX_TEXT_BYTES,
    RefusedError,
    UndefinedError,
)

_MAX_PATTERN_CHARACTERS: Final = 1000
_MAX_TEXT_CHARACTERS: Final = 64 * 1024
_MAX_WORK: Final = 100_000_000
"""Of searches, as characters times the size of the pattern: about a second at worst.

Each search, for the next match, may go to the end of the text.
"""
_MAX_MEMORY_BYTES: Final = 1 << 20
"""Of a compiled pattern."""
_REFERENCE: Final = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")
_BYTE_CLASS: Final = re.compile(r"(?<!\\)(?:\\\\)*\\C")


def replace(text: object, pattern: object, template: object) -> str:
    """Return `text` with each match of `pattern` replaced by `template`.

    In it ``$1`` and ``${name}`` stand for what a group matched.
    """
    whole, by = string(text), string(template)
    expression = _compile(string(pattern))
    parts: list[str] = []
    at = size = 0
    for match in _matches(expression, whole):
        part = whole[at : match.start()] + _expand(by, match)
        size += len(part)
        if size > MAX_TEXT_BYTES:
            raise RefusedError("a text gets too long")
        parts.append(part)
        at = match.end()
    return "".join([*parts, whole[at:]])


def split(pattern: object, text: object) -> list[str]:
    """Return what is between the matches of `pattern`."""
    expression, whole = _compile(string(pattern)), string(text)
    if string(pattern) and not whole:
        return [""]
    parts: list[str] = []
    start = end = 0
    for match in _matches(expression, whole):
        # A match of nothing at the very end separates nothing.
        end = match.start()
        if match.end():
            parts.append(whole[start:end])
        start = match.end()
    if end != len(whole):
        parts.append(whole[start:])
    return parts


def find_n(pattern: object, text: object, limit: object) -> list[str]:
    """Return the first matches of `pattern`, all of them if `limit` is negative."""
    expression, whole, most = _compile(string(pattern)), string(text), int64(limit)
    found: list[str] = []
    for match in _matches(expression, whole):
        if 0 <= most <= len(found):
            break
        found.append(match.group())
    return found


@functools.lru_cache(maxsize=100)
def _compile(pattern: str) -> Any:  # noqa: ANN401 - an expression; untyped there
    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        raise RefusedError("a pattern is too long")
    if _BYTE_CLASS.search(pattern):
        # RE2 knows a class of single bytes, and Go does not.
        raise UndefinedError
    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        if b"pattern too large" in error.args[0]:
            raise RefusedError("a pattern is too large") from error
        raise UndefinedError from error


def _matches(expression: Any, text: str) -> Iterator[Any]:  # noqa: ANN401 - untyped
    if len(text) > _MAX_TEXT_CHARACTERS:
        raise RefusedError("a text is too long for a regular expression")
    last = -1
    size = expression.programsize
    work = size * len(text)
    if work > _MAX_WORK:
        raise RefusedError("a pattern is too large for a text")
    for match in expression.finditer(text):
        work += size * (len(text) - match.end())
        if work > _MAX_WORK:
            raise RefusedError("a pattern has too many matches")
        # To Go nothing, right after a match, is no match.
        if match.start() == match.end() == last:
            continue
        last = match.end()
        yield match


def _expand(template: str, match: Any) -> str:  # noqa: ANN401 - untyped
    names = match.re.groupindex

    def group(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name is None:
            return "$"
        if name.isascii() and name.isdigit():
            number = int(name) if len(name) < 5 else -1  # noqa: PLR2004
            is_there = 0 <= number <= match.re.groups
            # A number with a zero before it is a name to Go.
            if name != "0" and name.startswith("0"):
                is_there = False
            return (match.group(number) or "") if is_there else ""
        return (match.group(names[name]) or "") if name in names else ""

    return _REFERENCE.sub(group, template)
