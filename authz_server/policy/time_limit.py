"""When a grant or a denial holds: parts of every week, and dates.

Time is no input of a decision that is remembered. So what holds is worked out beside
the policy, together with the moment until which it stays so, and that bounds how long
a decision may be reused. Pure: the time comes from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

MINUTES: Final = 24 * 60
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_WEEK: Final = 7


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """A part of every week, by the clocks of one time zone.

    Attributes:
        days: on which it begins; 0 is Monday.
        start_min, end_min: minutes after midnight, `end_min` not included. It ends on
            the next day if `end_min` is not greater.
        zone: a key of the IANA time zone database.
    """

    days: frozenset[int]
    start_min: int
    end_min: int
    zone: str

    def spans(self, day: date) -> Iterator[tuple[float, float]]:
        """Yield begin and end, in seconds since the epoch, if it begins on `day`.

        A time that a change to summer time leaves out counts as the one an hour on;
        one that comes twice counts the first time.
        """
        if day.weekday() in self.days:
            last = day + timedelta(days=int(self.end_min <= self.start_min))
            yield self._moment(day, self.start_min), self._moment(last, self.end_min)

    def _moment(self, day: date, minutes: int) -> float:
        day += timedelta(days=minutes // MINUTES)
        hour, minute = divmod(minutes % MINUTES, 60)
        local = datetime(
            day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(self.zone)
        )
        return local.timestamp()

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days))
        hours = f"{clock_text(self.start_min)}-{clock_text(self.end_min)}"
        return f"{days} {hours} {self.zone}"


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The times at which something holds.

    Attributes:
        windows: any of which will do; empty for all the time.
        since_s, until_s: seconds since the epoch; `until_s` is not included.
    """

    windows: tuple[TimeWindow, ...] = ()
    since_s: float | None = None
    until_s: float | None = None

    def holds(self, now_s: float) -> bool:
        """Return whether it holds at `now_s`."""
        if self.since_s is not None and now_s < self.since_s:
            return False
        if self.until_s is not None and now_s >= self.until_s:
            return False
        return not self.windows or any(
            begin <= now_s < end for begin, end in self._spans(now_s)
        )

    def changes_after(self, now_s: float) -> float:
        """Return when `holds` may change next, after `now_s`; infinity for never."""
        edges = [edge for edge in (self.since_s, self.until_s) if edge is not None] + [
            edge for span in self._spans(now_s) for edge in span
        ]
        return min((edge for edge in edges if edge > now_s), default=math.inf)

    def _spans(self, now_s: float) -> Iterator[tuple[float, float]]:
        for window in self.windows:
            today = datetime.fromtimestamp(now_s, ZoneInfo(window.zone)).date()
            # One that began yesterday may still last; the next is a week off at most.
            for offset in range(-1, _WEEK + 1):
                yield from window.spans(today + timedelta(days=offset))

    def __str__(self) -> str:
        parts = [" or ".join(map(str, self.windows))] if self.windows else []
        if self.since_s is not None:
            parts.append(f"since {date_text(self.since_s)}")
        if self.until_s is not None:
            parts.append(f"until {date_text(self.until_s)}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Moment:
    """What holds from `since_s` until before `until_s`, in seconds since the epoch.

    Without anything that depends on the time it is from the beginning to the end.
    """

    open: tuple[str, ...] = ()
    since_s: float = -math.inf
    until_s: float = math.inf

    @property
    def last_s(self) -> float:
        """The last instant before `until_s`."""
        return math.nextafter(self.until_s, -math.inf)


class Schedule:
    """Which of some time limits hold. Safe to share between threads."""

    def __init__(self, limits: Iterable[TimeLimit]) -> None:
        self._limits = tuple(sorted(limits, key=str))
        # Until it is worked out for the first time, it is that of no time at all.
        self._last = Moment(until_s=-math.inf if self._limits else math.inf)

    def at(self, now_s: float) -> Moment:
        """Return what holds at `now_s`."""
        last = self._last
        if last.since_s <= now_s < last.until_s:
            return last
        moment = Moment(
            tuple(str(limit) for limit in self._limits if limit.holds(now_s)),
            now_s,
            min(
                (limit.changes_after(now_s) for limit in self._limits),
                default=math.inf,
            ),
        )
        self._last = moment
        return moment


def clock_text(minutes: int) -> str:
    """Return minutes after midnight as a time of day."""
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}"


def date_text(seconds: float) -> str:
    """Return seconds since the epoch as a date in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
