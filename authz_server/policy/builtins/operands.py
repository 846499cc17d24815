"""What an argument of a built-in function has to be.

OPA's compiler checks types only where it knows them, and it knows none of the input's.
Each function raises `UndefinedError` for another type, as OPA does.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from authz_server.policy.builtins.values import (
    Number,
    RegoSet,
    UndefinedError,
    entries,
)

_INT64: Final = 1 << 63
_INTEGER: Final = re.compile(r"-?(?=[0-9.]{1,19}$)[0-9]+(\.0*)?")


def string(value: object) -> str:
    """Return `value`, a string."""
    if not isinstance(value, str):
        raise UndefinedError
    return value


def number(value: object) -> int | Decimal:
    """Return `value`, a number."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UndefinedError
    return value


def int64(value: object) -> int:
    """Return `value`, a number that OPA can hold as an integer of 64 bits."""
    found = number(value)
    text = found.text if isinstance(found, Number) else str(found)
    # OPA takes 1.0 for an integer, and neither 1e0 nor 1.000000000000000000.
    if not _INTEGER.fullmatch(text):
        raise UndefinedError
    whole = int(text.partition(".")[0])
    if not -_INT64 <= whole < _INT64:
        raise UndefinedError
    return whole


def array(value: object) -> list[Any]:
    """Return `value`, an array."""
    if not isinstance(value, list):
        raise UndefinedError
    return value


def members(value: object) -> list[Any]:
    """Return what is in `value`, an array or a set."""
    if isinstance(value, list):
        return value
    if isinstance(value, RegoSet):
        return list(value)
    raise UndefinedError


def strings(value: object) -> list[str]:
    """Return what is in `value`, an array or a set of strings."""
    return [string(member) for member in members(value)]


def pairs(value: object) -> list[tuple[Any, Any]]:
    """Return the keys and values of `value`, an object."""
    found = entries(value)
    if found is None:
        raise UndefinedError
    return found
