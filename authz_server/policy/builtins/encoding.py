"""Texts that stand for other texts: base64url, hexadecimal, URL queries, JSON."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from typing import Any, Final

from authz_server.policy.builtins.operands import pairs as object_pairs
from authz_server.policy.builtins.operands import string
from authz_server.policy.builtins.values import (
    MAX_DEPTH,
    Number,
    RefusedError,
    RegoSet,
    UndefinedError,
    bounded,
    entries,
    order_key,
    to_text,
)

_BASE64URL: Final = re.compile("[A-Za-z0-9_-]*={0,2}")
_HEX: Final = re.compile("(?:[0-9a-fA-F]{2})*")
_BAD_PERCENT: Final = re.compile("%(?![0-9a-fA-F]{2})")
_FOR_HTML: Final = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    "\x7f": "\x7f",
}
_MAX_PARAMETERS: Final = 10_000


def encode_base64url_no_pad(text: object) -> str:
    """Return `text` in base64url without padding."""
    return base64.urlsafe_b64encode(string(text).encode()).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Return what the base64url `text` stands for, with padding or without.

    Raises:
        UndefinedError: if it is no base64url.
    """
    padded = text if text.endswith("=") else text + "=" * (-len(text.encode()) % 4)
    # Go skips line ends.
    plain = padded.replace("\r", "").replace("\n", "")
    if len(plain) % 4 or not _BASE64URL.fullmatch(plain):
        raise UndefinedError
    try:
        return base64.urlsafe_b64decode(plain)
    except ValueError as error:
        raise UndefinedError from error


def encode_hex(text: object) -> str:
    """Return the bytes of `text` in hexadecimal."""
    return string(text).encode().hex()


def decode_hex(text: object) -> str:
    """Return the text whose bytes `text` has in hexadecimal."""
    digits = string(text)
    if not _HEX.fullmatch(digits):
        raise UndefinedError
    return to_text(bytes.fromhex(digits))


def encode_query(text: object) -> str:
    """Return `text` as it may be in a URL's query."""
    return urllib.parse.quote_plus(string(text), safe="")


def decode_query(text: object) -> str:
    """Return what `text` stands for in a URL's query."""
    return _unescape(string(text))


def encode_query_object(value: object) -> str:
    """Return the query with the object's keys and values, ordered by key."""
    pairs: list[tuple[str, str]] = []
    for key, found in object_pairs(value):
        name = key if isinstance(key, str) else to_json(key)
        if isinstance(found, RegoSet):
            found = [item for _, item in sorted((order_key(i), i) for i in found)]  # noqa: PLW2901
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list):
            raise UndefinedError
        pairs.extend((name, string(item)) for item in texts)
    pairs.sort(key=lambda pair: pair[0].encode())
    return bounded(urllib.parse.urlencode(pairs))


def decode_query_object(text: object) -> dict[str, list[str]]:
    """Return the keys of a query with the values that each has."""
    found: dict[str, list[str]] = {}
    query = string(text)
    if query.count("&") > _MAX_PARAMETERS:
        raise RefusedError("a query has too many parameters")
    for pair in query.split("&"):
        if ";" in pair:
            # What a semicolon separates is unclear between proxies: Go refuses it.
            raise UndefinedError
        if pair:
            key, _, value = pair.partition("=")
            found.setdefault(_unescape(key), []).append(_unescape(value))
    return found


def marshal_with_options(value: object, options: object) -> str:
    """Return `value` as JSON, in one line or many."""
    prefix, indent = "", "\t"
    is_asked = False
    is_pretty: bool | None = None
    for key, option in object_pairs(options):
        if key == "pretty" and isinstance(option, bool):
            is_pretty = option
        elif key == "prefix":
            prefix, is_asked = string(option), True
        elif key == "indent":
            indent, is_asked = string(option), True
        else:
            raise UndefinedError
    if not (is_asked if is_pretty is None else is_pretty):
        return to_json(value)
    parts: list[str] = [prefix]
    _write_indented(_plain(value, 0), parts, "\n" + prefix, indent)
    return bounded("".join(parts))


def to_json(value: Any) -> str:  # noqa: ANN401 - any value
    """Return `value` as Go writes JSON: keys in order, and fit to be put into HTML."""
    parts: list[str] = []
    _write_compact(_plain(value, 0), parts)
    return bounded("".join(parts))


def _unescape(text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise UndefinedError
    return to_text(urllib.parse.unquote_to_bytes(text.replace("+", " ")))


def _plain(value: Any, depth: int) -> Any:  # noqa: ANN401 - any value
    """Return `value` as JSON has it: a set is an array, every key a string."""
    if depth > MAX_DEPTH:
        raise RefusedError("a value is nested too deep")
    if isinstance(value, RegoSet):
        ordered = sorted(value, key=order_key)
        return [_plain(item, depth + 1) for item in ordered]
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    pairs = entries(value)
    if pairs is None:
        return value
    named = {
        key if isinstance(key, str) else to_json(key): _plain(item, depth + 1)
        for key, item in pairs
    }
    return dict(sorted(named.items()))


def _write_compact(value: Any, parts: list[str]) -> None:  # noqa: ANN401 - any value
    if isinstance(value, list | dict):
        is_object = isinstance(value, dict)
        parts.append("{" if is_object else "[")
        for position, item in enumerate(value):
            parts.append("," if position else "")
            if isinstance(value, dict):
                parts.append(_scalar(item) + ":")
                _write_compact(value[item], parts)
            else:
                _write_compact(item, parts)
        parts.append("}" if is_object else "]")
    else:
        parts.append(_scalar(value))


def _write_indented(value: Any, parts: list[str], line: str, indent: str) -> None:  # noqa: ANN401 - any value
    if not isinstance(value, list | dict):
        parts.append(_scalar(value))
        return
    is_object = isinstance(value, dict)
    parts.append("{" if is_object else "[")
    inner = line + indent
    bounded(inner)
    for position, item in enumerate(value):
        parts.append("," + inner if position else inner)
        if isinstance(value, dict):
            parts.append(_scalar(item) + ": ")
            _write_indented(value[item], parts, inner, indent)
        else:
            _write_indented(item, parts, inner, indent)
    if value:
        parts.append(line)
    parts.append("}" if is_object else "]")


def _scalar(value: Any) -> str:  # noqa: ANN401 - null, a boolean, a number or a string
    if isinstance(value, Number):
        return value.text
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        text = "".join(_FOR_HTML.get(sign, sign) for sign in text)
    return text
