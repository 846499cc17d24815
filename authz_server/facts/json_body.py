"""The outline of a JSON request body: the one top-level value that a decision needs.

Python's own reader, which Triton's OpenAI-compatible frontend has, takes the last of
two equal keys and guesses UTF-16 and UTF-32. So a body that leaves any choice to its
reader is refused here, and not only where the choice concerns the value.
"""

from __future__ import annotations

from typing import Final

from authz_server.facts.canonical import Body, BodyState
from authz_server.facts.message_scanner import MAX_VALUE_BYTES
from authz_server.strict_json import parse_json_object

VALUE: Final = 1
"""The number under which the value is in the outline."""

MAX_JSON_BYTES: Final = 4 * 1024 * 1024

MAX_JSON_MARKS: Final = 65_536
"""Commas and brackets, those in text too. Millions of empty lists fit into a body, and
reading them would hold up everybody else for half a second."""

_MALFORMED: Final = Body(BodyState.MALFORMED)


def outline_json(raw: bytes, key: str) -> Body:
    """Return what `raw`, a JSON object, has under `key` at its top.

    Never raises: a body that cannot be relied on, or has no short string there, has a
    state that says so, and no fields. Not checked: what the string says.
    """
    if not raw:
        return Body(BodyState.ABSENT)
    if len(raw) > MAX_JSON_BYTES or _marks(raw) > MAX_JSON_MARKS:
        return _MALFORMED
    try:
        value = parse_json_object(raw).get(key)
    except ValueError:
        return _MALFORMED
    if not isinstance(value, str):
        return _MALFORMED
    encoded = value.encode("utf-8")
    if len(encoded) > MAX_VALUE_BYTES:
        return _MALFORMED
    return Body(BodyState.COMPLETE, ((VALUE, encoded),))


def _marks(raw: bytes) -> int:
    return sum(raw.count(mark) for mark in (b",", b"[", b"{"))
