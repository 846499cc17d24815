"""Go's layouts of dates: a text that shows how 2 January 2006, 15:04:05 is written.

See https://pkg.go.dev/time#Layout. Times are nanoseconds since the Unix epoch. The
server's own time zone has no influence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Final

from authz_server.policy.builtins.values import RefusedError, UndefinedError, bounded

SECOND_NS: Final = 1_000_000_000
RFC3339: Final = "2006-01-02T15:04:05Z07:00"
RFC3339_NANO: Final = "2006-01-02T15:04:05.999999999Z07:00"
NAMED: Final = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": RFC3339,
    "RFC3339Nano": RFC3339_NANO,
}
DAYS: Final = (
    *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
)
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_MAX_LAYOUT_CHARACTERS: Final = 1000
_EPOCH: Final = date(1970, 1, 1).toordinal()
_PIVOT: Final = 69
"""Years of two digits from here on are of the twentieth century."""

# The longer form first where one begins like the other.
_CHUNK: Final = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|002|0[1-6]|15|1|2006|__2|_2(?!006)"
    r"|2|3|4|5|PM|pm|[-Z]07(?:0000|:00:00|00|:00)?|[.,](?:0+|9+)(?![0-9])"
)


def _names(names: tuple[str, ...]) -> str:
    return "(?P<name>" + "|".join(names) + ")"


_PATTERNS: Final = {
    chunk: re.compile(pattern, re.IGNORECASE if "name" in pattern else 0)
    for chunk, pattern in {
        "2006": "(?P<year>[0-9]{4})",
        "06": "(?P<short_year>[0-9]{2})",
        "Jan": _names(tuple(name[:3] for name in _MONTHS)),
        "January": _names(_MONTHS),
        "Mon": _names(tuple(name[:3] for name in DAYS)),
        "Monday": _names(DAYS),
        "1": "(?P<month>[0-9]{1,2})",
        "01": "(?P<month>[0-9]{2})",
        "2": "(?P<day>[0-9]{1,2})",
        "_2": " ?(?P<day>[0-9]{1,2})",
        "02": "(?P<day>[0-9]{2})",
        "__2": " {0,2}(?P<year_day>[0-9]{1,3})",
        "002": "(?P<year_day>[0-9]{3})",
        "15": "(?P<hour>[0-9]{1,2})",
        "3": "(?P<hour12>[0-9]{1,2})",
        "03": "(?P<hour12>[0-9]{2})",
        "4": "(?P<minute>[0-9]{1,2})",
        "04": "(?P<minute>[0-9]{2})",
        "5": "(?P<second>[0-9]{1,2})",
        "05": "(?P<second>[0-9]{2})",
        "PM": "(?P<half>[AP]M)",
        "pm": "(?P<half>[ap]m)",
    }.items()
}
_ZONE_NAME: Final = re.compile(
    r"UTC|ChST|MeST|GMT(?P<hours>[+-][0-9]+)?|(?P<only>[+-][0-9]+)"
    r"|(?:[A-Z]{4}T|[A-Z]{3}T|WITA|[A-Z]{3})(?![A-Z])"
)
_FRACTION: Final = re.compile("[.,](?P<fraction>[0-9]+)")
_LIMITS: Final = {
    "month": range(1, 13),
    "hour": range(24),
    "hour12": range(13),
    "minute": range(60),
    "second": range(60),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time as a clock and a calendar in its zone show it.

    Attributes:
        local: to the second, with its zone.
        ns: the rest, below one second.
    """

    local: datetime
    ns: int


def parse_time(layout: str, text: str) -> int:
    """Return the time that `text` says in the form of `layout`.

    Raises:
        UndefinedError: if it is not in this form, or no such time exists.
    """
    return _Reader(text).read(list(_split(NAMED.get(layout, layout))))


def format_time(moment: Moment, layout: str) -> str:
    """Return `moment` in the form of `layout`."""
    chunks = _split(NAMED.get(layout, layout or RFC3339_NANO))
    return bounded(
        "".join(_show(moment, text) if is_chunk else text for text, is_chunk in chunks)
    )


def _split(layout: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of `layout`, and whether each stands for something."""
    if len(layout) > _MAX_LAYOUT_CHARACTERS:
        raise RefusedError("a layout is too long")
    at = 0
    for found in _CHUNK.finditer(layout):
        if found.start() > at:
            yield layout[at : found.start()], False
        yield found.group(), True
        at = found.end()
    if at < len(layout):
        yield layout[at:], False


def _show(moment: Moment, chunk: str) -> str:
    local = moment.local
    if chunk[0] in ".,":
        return _show_fraction(moment.ns, chunk)
    if chunk[0] in "-Z":
        return _show_offset(local, chunk)
    hour12 = local.hour % 12 or 12
    year_day = local.timetuple().tm_yday
    return {
        "2006": f"{local.year:04}",
        "06": f"{local.year % 100:02}",
        "Jan": _MONTHS[local.month - 1][:3],
        "January": _MONTHS[local.month - 1],
        "1": str(local.month),
        "01": f"{local.month:02}",
        "Mon": DAYS[local.weekday()][:3],
        "Monday": DAYS[local.weekday()],
        "2": str(local.day),
        "_2": f"{local.day:2}",
        "02": f"{local.day:02}",
        "__2": f"{year_day:3}",
        "002": f"{year_day:03}",
        "15": f"{local.hour:02}",
        "3": str(hour12),
        "03": f"{hour12:02}",
        "4": str(local.minute),
        "04": f"{local.minute:02}",
        "5": str(local.second),
        "05": f"{local.second:02}",
        "PM": "AM" if local.hour < 12 else "PM",  # noqa: PLR2004 - noon
        "pm": "am" if local.hour < 12 else "pm",  # noqa: PLR2004 - noon
        "MST": local.tzname() or "",
    }[chunk]


def _show_fraction(ns: int, chunk: str) -> str:
    digits = f"{ns:09}"[: len(chunk) - 1]
    if chunk[1] == "9":
        digits = digits.rstrip("0")
        return chunk[0] + digits if digits else ""
    # Go shows no more digits than there are.
    return chunk[0] + digits


def _show_offset(local: datetime, chunk: str) -> str:
    offset = local.utcoffset()
    seconds = int(offset.total_seconds()) if offset is not None else 0
    if not seconds and chunk[0] == "Z":
        return "Z"
    minutes, rest = divmod(abs(seconds), 60)
    # Go cuts the seconds off before it looks at the sign.
    sign = "-" if seconds <= -60 else "+"  # noqa: PLR2004 - a minute
    parts = [f"{minutes // 60:02}", f"{minutes % 60:02}", f"{rest:02}"]
    between = ":" if ":" in chunk else ""
    count = (len(chunk.replace(":", "")) - 1) // 2
    return sign + between.join(parts[:count])


class _Reader:
    """Reads one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._fields: dict[str, int] = {}

    def read(self, chunks: list[tuple[str, bool]]) -> int:
        for position, (chunk, is_chunk) in enumerate(chunks):
            if not is_chunk:
                self._skip(chunk)
                continue
            self._read_chunk(chunk)
            if chunk in ("5", "05"):
                following = next((t for t, is_c in chunks[position + 1 :] if is_c), "")
                if following[:1] not in (".", ","):
                    # A fraction may stand there though the layout has none.
                    self._read_fraction()
        if self._at != len(self._text):
            raise UndefinedError
        return self._time()

    def _skip(self, literal: str) -> None:
        at = 0
        while at < len(literal):
            if literal[at] == " ":
                # Any number of blanks counts as one, and as none at the end.
                if self._at < len(self._text) and self._text[self._at] != " ":
                    raise UndefinedError
                while at < len(literal) and literal[at] == " ":
                    at += 1
                while self._text.startswith(" ", self._at):
                    self._at += 1
            elif self._text.startswith(literal[at], self._at):
                at += 1
                self._at += 1
            else:
                raise UndefinedError

    def _read_chunk(self, chunk: str) -> None:
        if chunk[0] in ".,":
            if chunk[1] == "9":
                self._read_fraction()
            else:
                digits = self._take(re.compile(f"[.,]([0-9]{{{len(chunk) - 1}}})"))[1]
                self._fields["ns"] = int(digits[:9].ljust(9, "0"))
        elif chunk[0] in "-Z":
            self._read_offset(chunk)
        elif chunk == "MST":
            self._read_zone()
        else:
            for name, value in self._take(_PATTERNS[chunk]).groupdict().items():
                self._set(name, value, chunk)

    def _set(self, name: str, value: str, chunk: str) -> None:
        if name == "half":
            self._fields["half"] = 12 if value[0] in "Pp" else 0
        elif name == "name":
            if chunk.startswith("Jan"):
                short = [month[:3].lower() for month in _MONTHS]
                self._fields["month"] = short.index(value[:3].lower()) + 1
        else:
            number = int(value)
            if number not in _LIMITS.get(name, range(10_000)):
                raise UndefinedError
            if name == "short_year":
                name, number = "year", number + (1900 if number >= _PIVOT else 2000)
            self._fields["hour" if name == "hour12" else name] = number

    def _read_fraction(self) -> None:
        found = _FRACTION.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            self._fields["ns"] = int(found["fraction"][:9].ljust(9, "0"))

    def _read_offset(self, chunk: str) -> None:
        if chunk[0] == "Z" and self._text.startswith("Z", self._at):
            self._at += 1
            self._fields["utc"] = 1
            return
        between = ":" if ":" in chunk else ""
        count = (len(chunk.replace(":", "")) - 1) // 2
        form = between.join(["([0-9]{2})"] * count)
        sign, *parts = self._take(re.compile(f"([+-]){form}")).groups()
        seconds = 0
        for unit, part in zip((3600, 60, 1), parts, strict=False):
            # Some write offsets of 24 hours, or of 60 minutes.
            if int(part) > (24 if unit == 3600 else 60):  # noqa: PLR2004 - an hour
                raise UndefinedError
            seconds += unit * int(part)
        self._fields["offset"] = -seconds if sign == "-" else seconds

    def _read_zone(self) -> None:
        found = self._take(_ZONE_NAME)
        hours = found["hours"] or found["only"]
        if hours and (len(hours) > 10 or abs(int(hours)) > 23):  # noqa: PLR2004
            if found["only"]:
                raise UndefinedError
            self._at = found.start() + len("GMT")
        # Go reads a time beside any other name, even GMT+3, as if it were UTC.
        if found.group() == "UTC":
            self._fields["utc"] = 1

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise UndefinedError
        self._at = found.end()
        return found

    def _time(self) -> int:
        fields = self._fields
        hour = fields.get("hour", 0)
        half = fields.get("half")
        if half is not None:
            hour = hour + 12 if half and hour < 12 else hour  # noqa: PLR2004 - noon
            hour = 0 if not half and hour == 12 else hour  # noqa: PLR2004 - noon
        seconds = (
            86400 * self._day()
            + 3600 * hour
            + 60 * fields.get("minute", 0)
            + fields.get("second", 0)
        )
        if "utc" not in fields:
            seconds -= fields.get("offset", 0)
        return SECOND_NS * seconds + fields.get("ns", 0)

    def _day(self) -> int:
        """Return the number of days since the epoch."""
        fields = self._fields
        # Year 0 exists in Go, and lies before all times that a policy can have.
        year = fields.get("year", 0)
        try:
            first = date(year, 1, 1)
            if "year_day" not in fields:
                found = date(year, fields.get("month", 1), fields.get("day", 1))
                return found.toordinal() - _EPOCH
        except ValueError as error:
            raise UndefinedError from error
        found = date.fromordinal(first.toordinal() + fields["year_day"] - 1)
        if (
            fields["year_day"] < 1
            or found.year != year
            or fields.get("month", found.month) != found.month
            or fields.get("day", found.day) != found.day
        ):
            raise UndefinedError
        return found.toordinal() - _EPOCH


def from_ns(ns: int, zone: tzinfo = UTC) -> Moment:
    """Return the time `ns` as it is in `zone`."""
    seconds, rest = divmod(ns, SECOND_NS)
    return Moment(datetime.fromtimestamp(seconds, zone), rest)
