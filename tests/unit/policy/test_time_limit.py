"""When a condition on time holds, and when that changes."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_server.policy.time_limit import Schedule, TimeLimit, TimeWindow

BERLIN = "Europe/Berlin"
WEEKDAYS = frozenset(range(5))
NIGHT = TimeWindow(WEEKDAYS, 22 * 60, 6 * 60, BERLIN)
SHIFT = TimeWindow(WEEKDAYS, 6 * 60, 14 * 60 + 30, BERLIN)


def at(text: str) -> float:
    """Return a moment in Berlin's own time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).timestamp()


@pytest.mark.parametrize(
    ("window", "moment", "holds"),
    [
        (SHIFT, "2026-11-25T06:00", True),  # a Wednesday
        (SHIFT, "2026-11-25T05:59:59", False),
        (SHIFT, "2026-11-25T14:29:59", True),
        (SHIFT, "2026-11-25T14:30", False),
        (SHIFT, "2026-11-28T10:00", False),  # a Saturday
        (NIGHT, "2026-11-25T23:00", True),
        (NIGHT, "2026-11-26T05:59", True),
        (NIGHT, "2026-11-26T06:00", False),
        (NIGHT, "2026-11-28T05:00", True),  # Friday's night
        (NIGHT, "2026-11-28T23:00", False),
        (NIGHT, "2026-11-30T05:00", False),  # Sunday's
        (TimeWindow(frozenset({6}), 0, 24 * 60, BERLIN), "2026-11-29T23:59:59", True),
        (TimeWindow(frozenset({6}), 0, 24 * 60, BERLIN), "2026-11-30T00:00", False),
        # On this day clocks go from 02:00 to 03:00.
        (TimeWindow(frozenset({6}), 60, 180, BERLIN), "2026-03-29T01:30", True),
        (TimeWindow(frozenset({6}), 60, 180, BERLIN), "2026-03-29T03:00", False),
    ],
)
def test_a_window_holds_by_the_clocks_of_its_zone(
    window: TimeWindow, moment: str, *, holds: bool
) -> None:
    assert TimeLimit((window,)).holds(at(moment)) is holds


def test_a_window_moves_with_summer_time() -> None:
    limit = TimeLimit((SHIFT,))
    winter = datetime(2026, 1, 14, 4, 30, tzinfo=UTC).timestamp()
    summer = datetime(2026, 7, 15, 4, 30, tzinfo=UTC).timestamp()
    assert (limit.holds(winter), limit.holds(summer)) == (False, True)


def test_dates_bound_the_windows() -> None:
    limit = TimeLimit((SHIFT,), at("2026-11-25T10:00"), at("2026-11-25T12:00"))
    found = [
        limit.holds(at(f"2026-11-25T{hour}:00")) for hour in ("09", "10", "11", "12")
    ]
    assert found == [False, True, True, False]


MOMENTS = st.floats(at("2026-01-01T00:00"), at("2027-12-31T00:00"))
WINDOWS = st.builds(
    TimeWindow,
    days=st.frozensets(st.integers(0, 6), min_size=1),
    start_min=st.integers(0, 1439),
    end_min=st.integers(0, 1440),
    zone=st.sampled_from([BERLIN, "UTC", "America/New_York", "Asia/Kolkata"]),
)
LIMITS = st.builds(
    TimeLimit,
    windows=st.lists(WINDOWS, max_size=3).map(tuple),
    since_s=st.none() | MOMENTS,
    until_s=st.none() | MOMENTS,
)


@given(LIMITS, MOMENTS, st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_nothing_changes_before_the_next_change(
    limit: TimeLimit, now_s: float, shares: list[float]
) -> None:
    until_s = min(limit.changes_after(now_s), now_s + 30 * 86400)
    assert until_s > now_s
    for share in shares:
        moment = now_s + share * (until_s - now_s)
        if moment < until_s:
            assert limit.holds(moment) is limit.holds(now_s)


@given(WINDOWS, MOMENTS)
def test_a_window_is_what_a_look_at_the_clock_says(
    window: TimeWindow, now_s: float
) -> None:
    zone = ZoneInfo(window.zone)
    local = datetime.fromtimestamp(now_s, zone)
    around = {
        datetime.fromtimestamp(now_s + hours * 3600, zone).utcoffset()
        for hours in (-26, 26)
    }
    if len(around) > 1:
        return  # near a change of the clocks, which has tests of its own
    minute = local.hour * 60 + local.minute + local.second / 60
    today, yesterday = local.weekday(), (local.weekday() - 1) % 7
    if window.start_min < window.end_min:
        expected = today in window.days and window.start_min <= minute < window.end_min
    else:
        expected = (today in window.days and minute >= window.start_min) or (
            yesterday in window.days and minute < window.end_min
        )
    assert TimeLimit((window,)).holds(now_s) is expected


@given(st.lists(LIMITS, max_size=4), MOMENTS, MOMENTS)
def test_a_schedule_says_at_any_moment_what_holds(
    limits: list[TimeLimit], first_s: float, second_s: float
) -> None:
    schedule = Schedule(limits)
    for now_s in (first_s, second_s, first_s):
        moment = schedule.at(now_s)
        assert set(moment.open) == {str(one) for one in limits if one.holds(now_s)}
        assert moment.until_s > now_s


def test_a_limits_name_says_what_it_is() -> None:
    limit = TimeLimit((SHIFT, NIGHT), at("2026-11-25T10:00"), None)
    assert str(limit) == (
        "mon,tue,wed,thu,fri 06:00-14:30 Europe/Berlin or "
        "mon,tue,wed,thu,fri 22:00-06:00 Europe/Berlin, since 2026-11-25T09:00:00Z"
    )
