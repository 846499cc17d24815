import json

from hypothesis import given
from hypothesis import strategies as st

from authz_server.audit import Occurrence, complete_event, encode_record
from authz_server.audit.event import MAX_TEXT_CHARACTERS

ONCE = Occurrence(
    wall_s=1_767_225_600.25,
    latency_s=0.001234,
    cache_hit=True,
    request_id="abc",
    source="10.0.0.1:5",
)


def test_an_event_is_one_json_object_on_one_line() -> None:
    event = complete_event(encode_record({"decision": "deny"}), ONCE)
    assert event.endswith(b"}\n")
    assert json.loads(event) == {
        "decision": "deny",
        "time": "2026-01-01T00:00:00.250000+00:00",
        "cache_hit": True,
        "latency_us": 1234,
        "request_id": "abc",
        "source": "10.0.0.1:5",
    }


@given(st.text())
def test_no_name_can_forge_a_line_or_another_field(name: str) -> None:
    event = complete_event(encode_record({"principal": name}), ONCE)
    assert event.count(b"\n") == 1
    assert event.isascii()
    assert json.loads(event)["principal"] == name


def test_a_long_name_is_cut() -> None:
    record = encode_record({"path": "a" * (MAX_TEXT_CHARACTERS + 1)})
    assert json.loads(record + b"}")["path"] == "a" * MAX_TEXT_CHARACTERS
