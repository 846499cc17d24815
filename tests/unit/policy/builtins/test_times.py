"""time.*: what Go's package time does."""

# ruff: noqa: E501 -- tables, a case to a line

from __future__ import annotations

from typing import Any

import pytest

from authz_server.policy.builtins import times
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    parse_value,
)
from authz_server.policy.wasm import ReadsClock

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
MOMENT = 1_136_214_245_123_456_789
"""2 January 2006, 15:04:05.123456789 in UTC."""
BERLIN = "Europe/Berlin"
SPRING = 1_711_846_800 * SECOND
"""When clocks in Berlin go from 2:00 to 3:00, 31 March 2024."""


@pytest.mark.parametrize(
    ("layout", "text", "expected"),
    [
        ("RFC3339", "2006-01-02T15:04:05Z", MOMENT // SECOND * SECOND),
        ("2006-01-02T15:04:05Z07:00", "2006-01-02T16:04:05.123456789+01:00", MOMENT),
        ("2006-01-02 15:04:05.000", "2006-01-02 15:04:05,123", MOMENT // 10**6 * 10**6),
        ("2006-01-02 15:04:05.999", "2006-01-02 15:04:05", MOMENT // SECOND * SECOND),
        ("RFC1123", "Mon, 02 Jan 2006 15:04:05 GMT+3", MOMENT // SECOND * SECOND),
        ("RFC850", "Monday, 02-Jan-06 15:04:05 UTC", MOMENT // SECOND * SECOND),
        ("ANSIC", "mon jan  2 15:04:05 2006", MOMENT // SECOND * SECOND),
        ("RubyDate", "Mon Jan 02 15:04:05 +0000 2006", MOMENT // SECOND * SECOND),
        ("January 2, 2006 3PM", "january 1, 1970 12AM", 0),
        ("Jan 2 2006 3pm", "Jan 1 1970 12pm", 12 * HOUR),
        ("002 06", "060 24", 1_709_164_800 * SECOND),
        ("__2 2006", "  1 1970", 0),
        ("Z070000 2006", "-013000 1970", 90 * 60 * SECOND),
        ("-07 2006", "+01 1970", -HOUR),
        ("MST 2006", "WITA 1970", 0),
        ("MST 2006", "+03 1970", 0),
        ("MST 2006", "GMT+99 1970", None),
        ("MST 2006", "+99 1970", None),
        ("MST 2006", "abc 1970", None),
        ("2006", "1969", -365 * 24 * HOUR),
        ("2006  x", "1970 x", 0),
        ("2006 x", "1970x", None),
        ("2006", "1970 ", None),
        ("2006", "97", None),
        ("2006", "0000", None),
        ("2006", "1677", None),
        ("2006", "2263", None),
        ("2006-01-02", "2023-02-29", None),
        ("2006-01-02", "2023-13-01", None),
        ("002 2006", "366 2023", None),
        ("002 2006", "000 2023", None),
        ("002 Jan 2006", "060 Jan 2024", None),
        ("15 2006", "24 1970", None),
        ("3 2006", "13 1970", None),
        ("-07:00 2006", "+25:00 1970", None),
        ("-07:00 2006", "+01:61 1970", None),
    ],
)
def test_a_time_is_read_by_its_layout(
    layout: str, text: str, expected: int | None
) -> None:
    if expected is None:
        with pytest.raises(UndefinedError):
            times.parse_ns(layout, text)
    else:
        assert times.parse_ns(layout, text) == expected


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (MOMENT, "2006-01-02T15:04:05.123456789Z"),
        ([MOMENT, BERLIN], "2006-01-02T16:04:05.123456789+01:00"),
        ([MOMENT, BERLIN, "UnixDate"], "Mon Jan  2 16:04:05 CET 2006"),
        ([MOMENT, "", "RFC850"], "Monday, 02-Jan-06 15:04:05 UTC"),
        ([MOMENT, "", "1/2/06 3:4:5 PM pm 002 __2 .000 .99"],
         "1/2/06 3:4:5 PM pm 002   2 .123 .12"),
        ([0, "", "January 05.000 05.999 Monthly"], "January 00.000 00 Monthly"),
        ([0, "America/New_York", "-07 -0700 -07:00:00 Z07:00"], "-05 -0500 -05:00:00 -05:00"),
        ([0, "", "Z07 _2006"], "Z _1970"),
    ],
)  # fmt: skip
def test_a_time_is_written_by_its_layout(when: Any, expected: str) -> None:
    assert times.format_ns(when) == expected


def test_the_calendar_is_that_of_the_zone() -> None:
    late = [MOMENT + 8 * HOUR, BERLIN]
    assert times.to_date(late) == [2006, 1, 3]
    assert times.to_clock(late) == [0, 4, 5]
    assert times.weekday(late) == "Tuesday"
    assert times.weekday(parse_value("0.0")) == "Thursday"


def test_a_date_is_added_to_as_the_calendar_goes() -> None:
    leap = 951_782_400 * SECOND  # 29 February 2000
    assert times.to_date(times.add_date(leap, 1, 0, 0)) == [2001, 3, 1]
    assert times.to_date(times.add_date(leap, 0, 12, 1)) == [2001, 3, 2]
    assert times.to_date(times.add_date(leap, 0, -1, -29)) == [1999, 12, 31]
    # The hour stays as it is across a change of clocks, and moves where it is missing.
    day_before = [SPRING - 24 * HOUR, BERLIN]
    assert times.add_date(day_before, 0, 0, 2) == SPRING + 23 * HOUR
    assert times.add_date(day_before, 0, 0, 1) in (SPRING, SPRING - HOUR)
    for years in (300, -400, 10**9):
        with pytest.raises(UndefinedError):
            times.add_date(0, years, 0, 0)
    with pytest.raises(RefusedError):
        times.add_date(0, 0, 0, 2**63 - 1)


def test_the_difference_is_in_units_of_the_calendar() -> None:
    start = times.parse_rfc3339_ns("2020-01-31T23:59:59Z")
    end = times.parse_rfc3339_ns("2020-03-01T00:00:00Z")
    assert times.diff(end, start) == times.diff(start, end) == [0, 1, 0, 0, 0, 1]
    assert times.diff([0, BERLIN], 0) == [0] * 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("1h30m", 5400 * SECOND), ("-1.5h", -5400 * SECOND), ("0", 0), ("-0", 0)),
        *(("1d", 24 * HOUR), ("1.5d", 36 * HOUR), ("1w1h", 169 * HOUR), ("1y", 8760 * HOUR)),
        *(("1ms2us3µs4ns", 1_005_004), (".5s", SECOND // 2), ("1.s", SECOND)),
        *(("0.3333333333333333333h", 1_200_000_000_000), ("+1m", 60 * SECOND)),
        *((text, None) for text in ("", "1", "h", "1x", "1h-2m", "..1h", ".s", "-", "1..d")),
        *(("9999999h", None), ("1d1x", None), ("99999999999999999999h", None), (".d", None)),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_go_reads_it(text: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(UndefinedError):
            times.parse_duration_ns(text)
    else:
        assert times.parse_duration_ns(text) == expected


@pytest.mark.parametrize(
    "when",
    [
        *(None, [], "x", [None], [0, 1], [0, "Nowhere/No"], [0, "../etc/passwd"]),
        *(2**63, parse_value("1.5"), parse_value("1e300"), [0, "UTC", 1], {}),
    ],
    ids=str,
)
def test_what_is_no_time_leaves_it_undefined(when: Any) -> None:
    with pytest.raises(UndefinedError):
        times.to_date(when)


def test_where_the_server_stands_and_what_is_too_long_is_refused() -> None:
    with pytest.raises(RefusedError):
        times.to_date([0, "Local"])
    with pytest.raises(RefusedError):
        times.parse_duration_ns("1h" * 1000)
    with pytest.raises(RefusedError):
        times.format_ns([0, "UTC", "Jan" * 1000])


def test_only_what_may_read_the_clock_does() -> None:
    reading = {n for n, f in HOST_FUNCTIONS.items() if isinstance(f, ReadsClock)}
    assert reading == {"time.now_ns", "io.jwt.decode_verify"}
