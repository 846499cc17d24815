"""Whatever is to be recorded: the core writes what its twin in Python writes."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_server._native import _core
from authz_server.audit import native
from authz_server.audit.event import MAX_TEXT_CHARACTERS, Occurrence, complete_event

RECORD = b'{"decision":"allow"'
YEAR_10000_S = 253_402_300_800

# What an annotation can hold: UTF-8, hence no half of a surrogate pair.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
LONG_TEXTS = st.builds(
    lambda text, times: text * times, TEXTS, st.sampled_from([1, 50, 500])
)
TIMES_S = st.one_of(
    st.floats(0, YEAR_10000_S - 1),
    st.floats(1.7e9, 1.9e9),
    # Halves of a microsecond, and the last one of a second.
    st.builds(
        lambda second, micro: second + micro / 2e6,
        st.integers(0, 2**31),
        st.integers(0, 2_000_000),
    ),
    st.builds(math.nextafter, st.integers(1, 2**31).map(float), st.just(0.0)),
)
LATENCIES_S = st.one_of(
    st.floats(-1, 1e6), st.integers(0, 10_000).map(lambda halves: halves / 2e6)
)


@given(TIMES_S, LATENCIES_S, st.booleans(), LONG_TEXTS, LONG_TEXTS)
@example(0.0, 0.0, False, "", "")  # noqa: FBT003
@example(1.7e9, 0.0, True, "\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff", '"\\/\b\f')  # noqa: FBT003
@example(1.7e9, 0.0, True, "x" * (MAX_TEXT_CHARACTERS + 1), "\0" * MAX_TEXT_CHARACTERS)  # noqa: FBT003
@example(1.7e9, 0.0, True, "😀" * (MAX_TEXT_CHARACTERS + 1), "é")  # noqa: FBT003
@example(1.7e9, 0.0, True, "é" + "x" * MAX_TEXT_CHARACTERS, "")  # noqa: FBT003
@example(1767225599.9999996, 0.0000005, True, "", "")  # noqa: FBT003
def test_events_are_the_same(
    wall_s: float, latency_s: float, cache_hit: bool, request_id: str, source: str
) -> None:
    occurrence = Occurrence(wall_s, latency_s, cache_hit, request_id, source)
    ours = native.complete_event(RECORD, occurrence)
    twins = complete_event(RECORD, occurrence)
    assert ours == twins
    assert ours.count(b"\n") == 1
    assert ours.isascii()
    event = json.loads(ours)
    assert event["request_id"] == request_id[:MAX_TEXT_CHARACTERS]
    assert event["source"] == source[:MAX_TEXT_CHARACTERS]


@pytest.mark.parametrize("place", range(17))
def test_every_character_is_the_same_anywhere_in_a_plain_text(place: int) -> None:
    # The core reads eight bytes at a time, of which any may be one to escape.
    for character in map(chr, range(256)):
        text = "x" * place + character + "~ " * 8
        occurrence = Occurrence(0.0, 0.0, True, text, character + text)  # noqa: FBT003
        ours = native.complete_event(RECORD, occurrence)
        assert ours == complete_event(RECORD, occurrence)


@pytest.mark.parametrize("wall_s", [math.nan, math.inf, -math.inf, 1e18, YEAR_10000_S])
def test_a_time_without_a_date_is_an_error_in_both(wall_s: float) -> None:
    with pytest.raises((ValueError, OverflowError, OSError)):
        complete_event(
            RECORD, Occurrence(wall_s, 0.0, cache_hit=True, request_id="", source="")
        )
    with pytest.raises(ValueError, match="no date"):
        _core.audit_event(RECORD, wall_s, 0.0, True, "", "")  # noqa: FBT003


@pytest.mark.parametrize("latency_s", [math.nan, math.inf])
def test_a_latency_that_is_no_number_is_an_error_in_both(latency_s: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        complete_event(
            RECORD, Occurrence(0.0, latency_s, cache_hit=True, request_id="", source="")
        )
    with pytest.raises(ValueError, match="no date"):
        _core.audit_event(RECORD, 0.0, latency_s, True, "", "")  # noqa: FBT003
