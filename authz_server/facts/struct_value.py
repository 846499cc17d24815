"""google.protobuf.Struct, the JSON object of protobuf, as JSON text.

Messages: google/protobuf/struct.proto. Envoy hands over dynamic metadata in this form.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, Final

from authz_server.errors import RequestError
from authz_server.wire import FIXED64, LEN, VARINT, read_fields

_FIELDS: Final = 1  # Struct.fields, a map
_VALUES: Final = 1  # ListValue.values
_ENTRY_KEY: Final = 1
_ENTRY_VALUE: Final = 2
# Value.kind
_NULL: Final = 1
_NUMBER: Final = 2
_STRING: Final = 3
_BOOL: Final = 4
_STRUCT: Final = 5
_LIST: Final = 6

_WIRE_TYPES: Final = {
    _NULL: VARINT,
    _NUMBER: FIXED64,
    _STRING: LEN,
    _BOOL: VARINT,
    _STRUCT: LEN,
    _LIST: LEN,
}

_MAX_DEPTH: Final = 16
_MAX_EXACT: Final = 2**53


def payload_in(raw: bytes, name: str) -> bytes:
    """Return the object under `name` in the Struct `raw`, as JSON with sorted keys.

    Empty if it is not there.

    Raises:
        RequestError: if `raw` is no well-formed Struct, or the value is no object.
    """
    value = read_struct(raw, 0, len(raw)).get(name)
    if value is None:
        return b""
    if not isinstance(value, dict):
        raise RequestError("the claims in the metadata are no object")
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def text_in(raw: bytes, name: str) -> str:
    """Return the text under `name` in the Struct `raw`; empty if there is none.

    Raises:
        RequestError: if `raw` is no well-formed Struct.
    """
    value = read_struct(raw, 0, len(raw)).get(name)
    return value if isinstance(value, str) else ""


def read_struct(raw: bytes, start: int, end: int, depth: int = 0) -> dict[str, Any]:
    """Return the Struct between `start` and `end` of `raw`.

    Raises:
        RequestError: if it is no well-formed one, or nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise RequestError("metadata is nested too deeply")
    found: dict[str, Any] = {}
    for number, wire_type, begin, stop in read_fields(raw, start, end):
        if number != _FIELDS or wire_type != LEN:
            raise RequestError("metadata is no Struct")
        key, value = "", None
        seen: set[int] = set()
        for part, part_type, first, last in read_fields(raw, begin, stop):
            if part_type != LEN or part in seen:
                raise RequestError("metadata has an entry that is none")
            seen.add(part)
            if part == _ENTRY_KEY:
                key = _text(raw[first:last])
            elif part == _ENTRY_VALUE:
                value = _value(raw, first, last, depth)
            else:
                raise RequestError("metadata has an entry that is none")
        if key in found:
            raise RequestError("metadata has a key twice")
        found[key] = value
    return found


def _value(raw: bytes, start: int, end: int, depth: int) -> object:
    fields = list(read_fields(raw, start, end))
    # A oneof: the last of several would win, which nobody writes on purpose.
    if len(fields) != 1 or _WIRE_TYPES.get(fields[0][0]) != fields[0][1]:
        raise RequestError("metadata has a value that is not exactly one")
    kind, _, begin, stop = fields[0]
    if kind == _NULL:
        return None
    if kind == _BOOL:
        return bool(begin)
    if kind == _NUMBER:
        return _number(raw[begin:stop])
    if kind == _STRING:
        return _text(raw[begin:stop])
    if kind == _STRUCT:
        return read_struct(raw, begin, stop, depth + 1)
    return _list(raw, begin, stop, depth + 1)


def _list(raw: bytes, start: int, end: int, depth: int) -> list[object]:
    if depth > _MAX_DEPTH:
        raise RequestError("metadata is nested too deeply")
    found: list[object] = []
    for number, wire_type, begin, stop in read_fields(raw, start, end):
        if number != _VALUES or wire_type != LEN:
            raise RequestError("metadata has a list that is none")
        found.append(_value(raw, begin, stop, depth))
    return found


def _number(raw: bytes) -> int | float:
    value: float = struct.unpack("<d", raw)[0]
    if not math.isfinite(value):
        raise RequestError("metadata has a number that JSON has not")
    # JSON does not tell 1 from 1.0, and times are compared as whole seconds.
    return int(value) if value.is_integer() and abs(value) <= _MAX_EXACT else value


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError("metadata has text that is not UTF-8") from error
