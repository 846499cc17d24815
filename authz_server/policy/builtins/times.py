"""time.*: the calendar, and the clock.

A time is a number of nanoseconds since the Unix epoch, or an array of one, the name of
a time zone and a layout. What depends on where the server stands is refused.
"""

from __future__ import annotations

import re
from datetime import UTC, date, tzinfo
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from authz_server.policy.builtins.layouts import (
    DAYS,
    RFC3339,
    SECOND_NS,
    Moment,
    format_time,
    from_ns,
    parse_time,
)
from authz_server.policy.builtins.operands import array, int64, number, string
from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    to_integer,
)

_INT64: Final = 1 << 63
_EPOCH: Final = date(1970, 1, 1).toordinal()
_UNITS_NS: Final = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
}
_LONG_UNITS_H: Final = {"d": 24, "w": 7 * 24, "y": 365 * 24}
_DURATION: Final = re.compile(r"[+-]?(?:[0-9.]+[^0-9.]+)+")
_SEGMENT: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_LONG_SEGMENT: Final = re.compile(r"([0-9.]+)(ms|us|µs|ns|[a-z])")
_MAX_STEP: Final = 10**9
"""Of years, months or days at once."""
_MAX_DURATION_CHARACTERS: Final = 1000


def parse_rfc3339_ns(text: object) -> int:
    """Return the time that `text` says, as RFC 3339 has it."""
    return _in_range(parse_time(RFC3339, string(text)))


def parse_ns(layout: object, text: object) -> int:
    """Return the time that `text` says in the form of `layout`."""
    return _in_range(parse_time(string(layout), string(text)))


def parse_duration_ns(text: object) -> int:
    """Return how many nanoseconds `text` is, such as 1h30m."""
    duration = string(text)
    if len(duration) > _MAX_DURATION_CHARACTERS:
        raise RefusedError("a duration is too long")
    if any(unit in duration for unit in _LONG_UNITS_H):
        duration = _in_hours(duration)
    digits = duration.removeprefix("-") if duration[:1] == "-" else duration
    digits = digits.removeprefix("+") if duration[:1] == "+" else digits
    if digits == "0":
        return 0
    if not _DURATION.fullmatch(duration):
        raise UndefinedError
    total, at = 0, len(duration) - len(digits)
    while at < len(duration):
        found = _SEGMENT.match(duration, at)
        if found is None or found[3] not in _UNITS_NS:
            raise UndefinedError
        total += _segment_ns(found[1], found[2] or "", _UNITS_NS[found[3]])
        at = found.end()
    total = -total if duration[0] == "-" else total
    if not -_INT64 <= total < _INT64:
        raise UndefinedError
    return total


def format_ns(when: object) -> str:
    """Return `when` in its layout, or in that of RFC 3339."""
    moment, layout = _moment(when)
    return format_time(moment, layout)


def to_date(when: object) -> list[int]:
    """Return year, month and day."""
    local = _moment(when)[0].local
    return [local.year, local.month, local.day]


def to_clock(when: object) -> list[int]:
    """Return hour, minute and second."""
    local = _moment(when)[0].local
    return [local.hour, local.minute, local.second]


def weekday(when: object) -> str:
    """Return the day of the week, in English."""
    return DAYS[_moment(when)[0].local.weekday()]


def add_date(when: object, years: object, months: object, days: object) -> int:
    """Return the time that many years, months and days later, at the same hour.

    A day that the month has not is one of the next.
    """
    moment, _ = _moment(when)
    local = moment.local
    more_years, more_months, more_days = (int64(n) for n in (years, months, days))
    if max(map(abs, (more_years, more_months, more_days))) > _MAX_STEP:
        # Go's sums overflow somewhere there, and may come back.
        raise RefusedError("a date is too far away")
    carry, month = divmod(local.month - 1 + more_months, 12)
    year = local.year + more_years + carry
    # Years and days may be far out and meet again.
    shift = 400 * ((year - 2000) // 400)
    first = date(year - shift, month + 1, 1).toordinal() + shift // 400 * 146_097
    day = first + local.day - 1 + more_days - _EPOCH
    wall = 86400 * day + 3600 * local.hour + 60 * local.minute + local.second
    if abs(wall) > _INT64 // SECOND_NS + 2 * 86400:
        raise UndefinedError
    return _in_range(
        SECOND_NS * (wall - _offset(wall, local.tzinfo or UTC)) + moment.ns
    )


def diff(one: object, other: object) -> list[int]:
    """Return the years, months, days, hours, minutes and seconds between two times."""
    (first, _), (second, _) = _moment(one), _moment(other)
    zone = first.local.tzinfo or UTC
    second = Moment(second.local.astimezone(zone), second.ns)
    start, end = sorted(
        (first, second), key=lambda moment: (moment.local.timestamp(), moment.ns)
    )
    low, high = start.local, end.local
    seconds, carry = _borrow(high.second - low.second, 60)
    minutes, carry = _borrow(high.minute - low.minute - carry, 60)
    hours, carry = _borrow(high.hour - low.hour - carry, 24)
    days, carry = _borrow(high.day - low.day - carry, _days_in(low.year, low.month))
    months, carry = _borrow(high.month - low.month - carry, 12)
    return [high.year - low.year - carry, months, days, hours, minutes, seconds]


def _borrow(difference: int, size: int) -> tuple[int, int]:
    return (difference + size, 1) if difference < 0 else (difference, 0)


def _days_in(year: int, month: int) -> int:
    following = date(year + month // 12, month % 12 + 1, 1)
    return (following - date(year, month, 1)).days


def _in_range(ns: int) -> int:
    if not -_INT64 <= ns < _INT64:
        raise UndefinedError
    return ns


def _moment(when: object) -> tuple[Moment, str]:
    """Return the time that `when` is, and the layout that it has or nothing."""
    zone: tzinfo = UTC
    layout = ""
    value = when
    if isinstance(when, list):
        parts = array(when)
        if not parts:
            raise UndefinedError
        value = parts[0]
        number(value)
        if len(parts) > 1:
            zone = _zone(string(parts[1]))
        if len(parts) > 2:  # noqa: PLR2004 - the third is the layout
            layout = string(parts[2])
    found = number(value)
    if isinstance(found, Decimal) and found and found.adjusted() > len(str(_INT64)):
        raise UndefinedError
    ns = to_integer(found)
    if not -_INT64 <= ns < _INT64:
        raise UndefinedError
    return from_ns(ns, zone), layout


def _zone(name: str) -> tzinfo:
    if name in ("", "UTC"):
        return UTC
    if name == "Local":
        raise RefusedError("the server's own time zone is nothing to decide by")
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise UndefinedError from error


def _offset(wall: int, zone: tzinfo) -> int:
    """Return by how many seconds `zone` is ahead when its clocks show `wall`.

    Where they show it twice or never, this is Go's choice of the two.
    """
    guess = _offset_at(wall, zone)
    return _offset_at(wall - guess, zone) if guess else 0


def _offset_at(seconds: int, zone: tzinfo) -> int:
    offset = from_ns(SECOND_NS * seconds, zone).local.utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


def _in_hours(duration: str) -> str:
    """Return `duration` with its days, weeks and years as hours."""
    sign = duration[0] if duration[:1] in ("-", "+") else ""
    parts = [sign]
    at = len(sign)
    while at < len(duration):
        found = _LONG_SEGMENT.match(duration, at)
        if found is None:
            raise UndefinedError
        at = found.end()
        digits, unit = found.groups()
        if unit in _LONG_UNITS_H:
            if digits.count(".") > 1 or digits == ".":
                raise UndefinedError
            hours = Decimal(repr(float(digits) * _LONG_UNITS_H[unit]))
            parts.append(f"{hours:f}h".removesuffix(".0h").removesuffix("h") + "h")
        else:
            parts.append(digits + unit)
    return "".join(parts)


def _segment_ns(whole: str, fraction: str, unit_ns: int) -> int:
    if not whole and not fraction:
        raise UndefinedError
    if len(whole.lstrip("0")) > len(str(_INT64)):
        raise UndefinedError
    count = int(whole or "0") * unit_ns
    # Go adds the fraction as a float, and takes digits until an integer is full.
    taken, scale = 0, 1.0
    for digit in fraction:
        if taken > (_INT64 - 1) // 10 or 10 * taken + int(digit) > _INT64:
            break
        taken = 10 * taken + int(digit)
        scale *= 10
    count += int(float(taken) * (unit_ns / scale))
    if count > _INT64:
        raise UndefinedError
    return count
