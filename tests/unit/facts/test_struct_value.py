import json

import pytest
from checks import check_request, len_field
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.facts.struct_value import payload_in

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def struct(value: dict[str, object]) -> bytes:
    message = Struct()
    message.update(value)
    return message.SerializeToString()


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_an_object_reads_as_protobufs_own_library_wrote_it(
    value: dict[str, object],
) -> None:
    assert json.loads(payload_in(struct({"jwt": value}), "jwt")) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_request_error(data: bytes) -> None:
    try:
        payload_in(data, "jwt")
    except RequestError:
        return


def test_equal_objects_are_equal_bytes_in_whatever_order_they_came() -> None:
    one = len_field(1, len_field(1, b"a") + len_field(2, b"\x20\x01"))
    other = len_field(1, len_field(1, b"b") + len_field(2, b"\x20\x00"))

    def whole(fields: bytes) -> bytes:
        entry = len_field(1, b"jwt") + len_field(2, len_field(5, fields))
        return payload_in(len_field(1, entry), "jwt")

    assert whole(one + other) == whole(other + one) == b'{"a":true,"b":false}'


def test_what_is_not_there_is_nothing() -> None:
    assert payload_in(struct({"other": {}}), "jwt") == b""
    assert payload_in(b"", "jwt") == b""


def nested(depth: int) -> bytes:
    value = len_field(5, b"")
    for _ in range(depth):
        entry = len_field(1, b"x") + len_field(2, value)
        value = len_field(5, len_field(1, entry))
    return len_field(1, len_field(1, b"jwt") + len_field(2, value))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct({"jwt": "text"}), "no object"),
        (struct({"jwt": {"a": float("inf")}}), "JSON has not"),
        (struct({"jwt": {}}) * 2, "key twice"),
        (len_field(2, b""), "no Struct"),
        (len_field(1, len_field(3, b"")), "entry that is none"),
        (len_field(1, len_field(1, b"a") * 2), "entry that is none"),
        (len_field(1, len_field(1, b"\xff")), "not UTF-8"),
        (len_field(1, len_field(2, b"")), "not exactly one"),
        (len_field(1, len_field(2, b"\x20\x01\x20\x00")), "not exactly one"),
        (len_field(1, len_field(2, b"\x18\x01")), "not exactly one"),
        (len_field(1, len_field(2, len_field(6, len_field(2, b"")))), "list that is"),
        (nested(20), "too deeply"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        payload_in(data, "jwt")


def test_deep_lists_are_refused_too() -> None:
    value = len_field(6, b"")
    for _ in range(20):
        value = len_field(6, len_field(1, value))
    with pytest.raises(RequestError, match="too deeply"):
        payload_in(len_field(1, len_field(1, b"j") + len_field(2, value)), "j")


def with_metadata(*filters: tuple[str, dict[str, object]]) -> bytes:
    entries = b"".join(
        len_field(1, len_field(1, name.encode()) + len_field(2, struct(value)))
        for name, value in filters
    )
    attributes = bytes(check_request().attributes) + len_field(11, entries)
    return len_field(1, attributes)


JWT_AUTHN = "envoy.filters.http.jwt_authn"


def claims(raw: bytes, name: str = "jwt") -> bytes:
    key, _ = extract(raw, Plan(jwt_payload=name))
    return Facts.decode(key).claims


def test_the_claims_that_jwt_authn_verified_are_a_fact_if_they_are_asked_for() -> None:
    raw = with_metadata(("other", {"jwt": {"sub": "x"}}), (JWT_AUTHN, {"jwt": {}}))
    assert claims(raw) == b"{}"
    raw = with_metadata((JWT_AUTHN, {"jwt": {"sub": "ann", "aud": ["a"]}}))
    assert claims(raw) == b'{"aud":["a"],"sub":"ann"}'
    assert claims(raw, "") == b""
    assert claims(bytes(check_request())) == b""


def test_metadata_of_one_filter_that_comes_twice_is_refused() -> None:
    twice = (JWT_AUTHN, {"jwt": {"sub": "ann"}})
    with pytest.raises(RequestError, match="comes twice"):
        claims(with_metadata(twice, twice))
