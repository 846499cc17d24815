"""The messages of Envoy that both ext_authz and ext_proc answer with, and Struct.

Messages: envoy/config/core/v3/base.proto, envoy/type/v3/http_status.proto,
google/protobuf/struct.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from authz_server.response.protobuf import double, integer, message, text

Pairs = tuple[tuple[str, str], ...]
"""Names with their values."""

# HeaderValueOption
_HEADER: Final = 1
_APPEND_ACTION: Final = 3
# HeaderValue and QueryParameter
_KEY: Final = 1
_VALUE: Final = 2
_RAW_VALUE: Final = 3
# HttpStatus
_CODE: Final = 1
# Struct and ListValue, and the entries of a Struct
_FIELDS: Final = 1
_VALUES: Final = 1
_ENTRY_KEY: Final = 1
_ENTRY_VALUE: Final = 2
# Value
_NULL: Final = 1
_NUMBER: Final = 2
_STRING: Final = 3
_BOOL: Final = 4
_STRUCT: Final = 5
_LIST: Final = 6

_MAX_DEPTH: Final = 16

FIRST_REDIRECT: Final = 300
STATUSES: Final = frozenset(
    {
        *(100, *range(200, 209), 226),
        *(*range(FIRST_REDIRECT, 306), 307, 308),
        *(*range(400, 418), *range(421, 425), 426, 428, 429, 431),
        *(*range(500, 509), 510, 511),
    }
)
"""The HTTP statuses that Envoy knows (envoy.type.v3.StatusCode)."""


class Action(IntEnum):
    """What becomes of a header that is there already (HeaderAppendAction)."""

    APPEND_IF_EXISTS_OR_ADD = 0
    OVERWRITE_IF_EXISTS_OR_ADD = 2
    OVERWRITE_IF_EXISTS = 3


def headers(
    number: int,
    pairs: Iterable[tuple[str, str]],
    action: Action = Action.APPEND_IF_EXISTS_OR_ADD,
    *,
    is_raw: bool = False,
) -> bytes:
    """Return a HeaderValueOption for each of `pairs`.

    Args:
        is_raw: for ext_proc, which reads ``raw_value`` only; ext_authz reads ``value``.
    """
    value_number = _RAW_VALUE if is_raw else _VALUE
    # The default of an enum is not written.
    what = integer(_APPEND_ACTION, action) if action else b""
    return b"".join(
        message(
            number,
            message(_HEADER, text(_KEY, name), text(value_number, value)),
            what,
        )
        for name, value in pairs
    )


def parameters(number: int, pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return a QueryParameter for each of `pairs`."""
    return b"".join(
        message(number, text(_KEY, name), text(_VALUE, value)) for name, value in pairs
    )


def texts(number: int, values: Iterable[str]) -> bytes:
    """Return a repeated field of strings."""
    return b"".join(message(number, value.encode()) for value in values)


def http_status_message(number: int, status: int) -> bytes:
    """Return an HttpStatus."""
    return message(number, integer(_CODE, status))


def struct(number: int, values: Mapping[str, Any], depth: int = 0) -> bytes:
    """Return a JSON object as a Struct.

    Args:
        values: as `json` has them.
        depth: of the object in others.

    Raises:
        ValueError: if it is nested too deeply, or has a number too large for a double.
            Quotes no value.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("the metadata is nested too deeply")
    return message(
        number,
        *(
            message(
                _FIELDS,
                # Writers of protobuf write both parts of an entry, even if empty.
                message(_ENTRY_KEY, key.encode()),
                message(_ENTRY_VALUE, _value(value, depth)),
            )
            for key, value in values.items()
        ),
    )


def _value(value: object, depth: int) -> bytes:
    if isinstance(value, bool):
        return integer(_BOOL, value)
    if isinstance(value, int | float):
        try:
            return double(_NUMBER, float(value))
        except OverflowError:
            raise ValueError("the metadata has a number that is too large") from None
    if isinstance(value, str):
        return message(_STRING, value.encode())
    if isinstance(value, Mapping):
        return struct(_STRUCT, value, depth + 1)
    if isinstance(value, list):
        if depth > _MAX_DEPTH:
            raise ValueError("the metadata is nested too deeply")
        return message(
            _LIST, *(message(_VALUES, _value(each, depth + 1)) for each in value)
        )
    return integer(_NULL, 0)
