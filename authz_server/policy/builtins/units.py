"""units.*, semver.* and numbers.range_step."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from authz_server.policy.builtins.operands import number, string
from authz_server.policy.builtins.values import (
    MAX_ITEMS,
    Number,
    RefusedError,
    UndefinedError,
    to_integer,
)

_MAX_AMOUNT_CHARACTERS: Final = 200
_MAX_EXPONENT: Final = 400
_MAX_EXPONENT_DIGITS: Final = 6
_STEPS: Final = ("k", "m", "g", "t", "p", "e")
_BYTES: Final = {
    "": 1,
    **{step: 1000**n for n, step in enumerate(_STEPS, 1)},
    **{step + "b": 1000**n for n, step in enumerate(_STEPS, 1)},
    **{step + "i": 1024**n for n, step in enumerate(_STEPS, 1)},
    **{step + "ib": 1024**n for n, step in enumerate(_STEPS, 1)},
}
_UNITS: Final = {
    "": Fraction(1),
    # As a float has it, which is what OPA multiplies by.
    "m": Fraction(0.001),
    "M": Fraction(1000**2),
    **{step: Fraction(1000**n) for n, step in enumerate(_STEPS, 1) if step != "m"},
    **{s.upper(): Fraction(1000**n) for n, s in enumerate(_STEPS, 1) if s != "m"},
    **{step + "i": Fraction(1024**n) for n, step in enumerate(_STEPS, 1)},
    **{step.upper() + "i": Fraction(1024**n) for n, step in enumerate(_STEPS, 1)},
}
# An e is an exponent only if a digit or a sign follows.
_AMOUNT: Final = re.compile(r"((?:[0-9.+-]|[eE](?=[0-9+-])[+-]?)*)(.*)", re.DOTALL)
_EXPONENT: Final = re.compile("[eE][+-]?([0-9]+)")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_VERSION: Final = re.compile(
    r"v?(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_INT64: Final = 1 << 63
_PRECISION: Final = 10
"""Decimal places that `units.parse` gives."""


def parse_bytes(text: object) -> int:
    """Return how many bytes `text` says, such as 10Mi or 1.5GB."""
    amount, unit = _split(string(text).lower())
    if unit not in _BYTES:
        raise UndefinedError
    # OPA reads the amount as a float of 64 bits of mantissa, and cuts the rest off.
    exact = _rounded(_amount(amount), 64) * _BYTES[unit]
    return int(_rounded(exact, 64))


def parse(text: object) -> int | Number:
    """Return the amount that `text` says, such as 100m or 2Ki."""
    amount, unit = _split(string(text))
    unit = unit[:1] + unit[1:].lower()
    if unit not in _UNITS:
        raise UndefinedError
    exact = _amount(amount) * _UNITS[unit]
    if exact.denominator == 1:
        return exact.numerator
    scaled = exact * 10**_PRECISION
    # Half is rounded away from zero.
    whole = (2 * abs(scaled.numerator) + scaled.denominator) // (2 * scaled.denominator)
    digits = f"{whole:0{_PRECISION + 1}}"
    sign = "-" if exact < 0 else ""
    return Number(f"{sign}{digits[:-_PRECISION]}.{digits[-_PRECISION:]}")


def compare_versions(one: object, other: object) -> int:
    """Return -1, 0 or 1: how the semantic versions are ordered."""
    first, second = _version(string(one)), _version(string(other))
    return (first > second) - (first < second)


def is_version(text: object) -> bool:
    """Return whether `text` is a semantic version; it may begin with a v."""
    try:
        _version(string(text))
    except UndefinedError:
        return False
    return True


def range_step(start: object, end: object, step: object) -> list[int]:
    """Return the numbers from `start` to `end`, both included, in steps of `step`."""
    first, last, by = (to_integer(number(value)) for value in (start, end, step))
    if by <= 0:
        raise UndefinedError
    if abs(last - first) // by > MAX_ITEMS:
        raise RefusedError("an array gets too long")
    if first <= last:
        return list(range(first, last + 1, by))
    return list(range(first, last - 1, -by))


def _split(text: str) -> tuple[str, str]:
    text = text.replace('"', "")
    found = _AMOUNT.fullmatch(text)
    if " " in text or found is None or not found[1]:
        raise UndefinedError
    if any(len(e[1]) > _MAX_EXPONENT_DIGITS for e in _EXPONENT.finditer(found[1])):
        raise UndefinedError
    return found[1], found[2]


def _amount(text: str) -> Fraction:
    if not _DECIMAL.fullmatch(text):
        raise UndefinedError
    if len(text) > _MAX_AMOUNT_CHARACTERS:
        raise RefusedError("a number has too many digits")
    value = Decimal(text)
    if value and abs(value.adjusted()) > _MAX_EXPONENT:
        raise RefusedError("a number is too large, or too small")
    return Fraction(value)


def _rounded(value: Fraction, bits: int) -> Fraction:
    """Return the number of `bits` bits that is nearest to `value`."""
    if not value:
        return value
    size = abs(value.numerator).bit_length() - value.denominator.bit_length()
    scale = Fraction(2) ** (bits - size)
    # One bit more or less at first, as the sizes say the length to within one.
    if abs(value * scale) >= Fraction(2) ** bits:
        scale /= 2
    return Fraction(round(value * scale)) / scale


def _version(text: str) -> tuple[int, int, int, bool, list[tuple[int, int, str]]]:
    """Return what versions are ordered by."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise UndefinedError
    numbers = [part for part in found.groups()[:3] if part is not None]
    if any(len(part) > len(str(_INT64)) for part in numbers):
        raise UndefinedError
    major, minor, patch = map(int, numbers)
    if max(major, minor, patch) >= _INT64:
        raise UndefinedError
    identifiers = found[4].split(".") if found[4] else []
    return major, minor, patch, not identifiers, [_identifier(i) for i in identifiers]


def _identifier(text: str) -> tuple[int, int, str]:
    if not text.isdigit():
        return 1, 0, text
    if len(text) > 1 and text[0] == "0":
        raise UndefinedError
    # OPA takes a larger number for the largest.
    return 0, min(int(text[:30]), _INT64 - 1), ""
