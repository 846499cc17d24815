"""JSON objects, read so that no other reader could see something else.

RFC 8259 leaves duplicate names to the reader, of which most take the last; Python's
adds NaN and Infinity, and other encodings than UTF-8. What is left to chance here is
what I-JSON (RFC 7493 §2) forbids.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Return the object in `data`.

    Raises:
        ValueError: if it is no JSON object in UTF-8, has a name twice at any depth, a
            number that no double can hold, or half of a surrogate pair.
    """
    try:
        document: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if b"\\u" in data:
            _refuse_halves(document)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - bad input, no bad type
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse_halves(document: object) -> None:
    """Other readers put U+FFFD for a lone surrogate: two names then become one."""
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        # Without its cause, which holds the whole document.
        raise ValueError("text has half a character") from None
