import datetime as dt
import json

from hypothesis import example, given
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


# With what `st.text` leaves out: half characters, which a decoder may hand on.
ODD_TEXT = st.text(st.characters() | st.sampled_from('"\\\x00\x1f\x7f\ud800\udc00/<'))


def cut(value: str | bool) -> str | bool:
    return value if isinstance(value, bool) else value[:MAX_TEXT_CHARACTERS]


@given(
    st.dictionaries(
        st.sampled_from(["decision", "principal", "path", "role", "verified"]),
        ODD_TEXT | st.booleans() | ODD_TEXT.map(lambda text: text * 300),
        min_size=1,
    )
)
@example({"path": "\U0001f600" * MAX_TEXT_CHARACTERS, "verified": True})
@example({"path": "\n" * (MAX_TEXT_CHARACTERS + 1), "principal": "\ud800"})
def test_a_record_is_what_json_makes_of_it(fields: dict[str, str | bool]) -> None:
    expected = json.dumps(
        {name: cut(value) for name, value in fields.items()}, separators=(",", ":")
    )
    assert encode_record(fields) + b"}" == expected.encode("ascii")


@given(
    wall_s=st.floats(0, 4e9)
    | st.floats(-1e9, 2e11)
    | st.integers(0, 4_000_000_000).map(lambda second: second + 0.999_999_7),
    latency_s=st.floats(0, 1e4),
    cache_hit=st.booleans(),
    request_id=ODD_TEXT | ODD_TEXT.map(lambda text: text * 300),
    source=ODD_TEXT,
)
@example(1.5e-6, 5e-7, False, "", "")  # noqa: FBT003 - as the strategies have it
@example(-1e-7, 1e-6, True, "", "")  # noqa: FBT003
def test_an_event_is_what_json_and_datetime_make_of_it(
    wall_s: float, latency_s: float, cache_hit: bool, request_id: str, source: str
) -> None:
    moment = dt.datetime.fromtimestamp(wall_s, tz=dt.UTC)
    expected = {
        "decision": "allow",
        "time": moment.isoformat(timespec="microseconds"),
        "cache_hit": cache_hit,
        "latency_us": round(latency_s * 1e6),
        "request_id": cut(request_id),
        "source": cut(source),
    }
    event = complete_event(
        encode_record({"decision": "allow"}),
        Occurrence(wall_s, latency_s, cache_hit, request_id, source),
    )
    assert event == json.dumps(expected, separators=(",", ":")).encode() + b"\n"
