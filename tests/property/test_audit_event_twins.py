"""The audit event of the core and of its twin: the same bytes, whatever the request."""

# ruff: noqa: FBT003 - the flag is one of six fields

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz_server._native.choice import is_pure
from authz_server.audit import Occurrence, complete_event, encode_record
from authz_server.audit.event import MAX_TEXT_CHARACTERS

if is_pure():
    pytest.skip("the core is turned off", allow_module_level=True)

from authz_server._native._core import audit_event

RECORD = encode_record({"decision": "deny", "verified": False})
# What the extraction lets through is UTF-8, so no lone surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# From the year 1 to the last microsecond of 9999.
MOMENTS = st.floats(-62135596800, 253402300799.5)


@given(MOMENTS, st.floats(-1e6, 1e6), st.booleans(), TEXTS, TEXTS)
@example(0.0, 0.0, True, "", "")
@example(1700000000.9999996, 0.0000015, False, '"\\\b\f\n\r\t\x00\x7f', "\U0001f600é")
@example(-0.0000005, 2.5e-6, True, "x" * MAX_TEXT_CHARACTERS + "y", "é" * 3000)
@example(1700000000.0000005, -0.0, True, "\U0001f600" * 2049, "10.0.0.1:1")
def test_an_event_is_the_same_from_both(
    wall_s: float, latency_s: float, cache_hit: bool, request_id: str, source: str
) -> None:
    occurrence = Occurrence(wall_s, latency_s, cache_hit, request_id, source)
    assert audit_event(RECORD, *occurrence) == complete_event(RECORD, occurrence)


@pytest.mark.parametrize("wall_s", [float("nan"), float("inf"), 1e18, -1e18])
def test_a_time_without_a_date_is_no_event(wall_s: float) -> None:
    with pytest.raises(ValueError, match="no date"):
        audit_event(RECORD, wall_s, 0.0, True, "", "")
