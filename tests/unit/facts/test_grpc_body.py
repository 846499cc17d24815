import pytest
from checks import frame, len_field

from authz_server.facts import BodyState, Keep
from authz_server.facts.grpc_body import (
    MAX_FIELDS,
    MAX_KEPT_FIELDS,
    MAX_VALUE_BYTES,
    outline_body,
)

OUTLINE = {1: Keep.VALUE, 2: Keep.PRESENCE, 3: Keep.EACH}


def test_kept_fields_come_in_their_order_and_others_are_left_out() -> None:
    message = (
        len_field(5, b"tensor")
        + len_field(3, b"x")
        + len_field(2, b"anything")
        + len_field(1, b"name")
        + len_field(3, b"y")
        + len_field(2, b"again")
        + b"\x20\x01"
    )
    body = outline_body(frame(message), OUTLINE)
    assert body.state is BodyState.COMPLETE
    assert body.fields == ((3, b"x"), (2, b""), (1, b"name"), (3, b"y"))
    assert body.value(1) == b"name"
    assert body.value(7) == b""
    assert body.values(3) == (b"x", b"y")
    assert body.has(2)
    assert not body.has(5)


def test_a_message_of_very_many_fields_is_not_walked_to_its_end() -> None:
    tiny = b"\x78\x00"
    name = len_field(1, b"m")
    within = outline_body(frame(name + tiny * (MAX_FIELDS - 1)), OUTLINE)
    assert within.state is BodyState.COMPLETE
    beyond = outline_body(frame(name + tiny * MAX_FIELDS), OUTLINE)
    assert beyond.state is BodyState.MALFORMED


def test_an_empty_message_is_complete() -> None:
    assert outline_body(frame(b""), OUTLINE).state is BodyState.COMPLETE


def test_no_body_is_absent() -> None:
    assert outline_body(b"", OUTLINE).state is BodyState.ABSENT


def test_a_compressed_message_is_opaque() -> None:
    assert outline_body(frame(b"x", flag=1), OUTLINE).state is BodyState.COMPRESSED


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x00",
        frame(b"", flag=2),
        frame(b"ab")[:-1],
        frame(b"") + frame(b""),
        frame(b"") + b"x",
        frame(len_field(1, b"a") + len_field(1, b"a")),
        frame(b"\x08\x01"),
        frame(b"\x15abcd"),
        frame(len_field(1, b"a" * (MAX_VALUE_BYTES + 1))),
        frame(len_field(3, b"") * (MAX_KEPT_FIELDS + 1)),
        frame(b"\x0b\x0c"),
        frame(len_field(1, b"a") + b"\x2a\x7f"),
    ],
    ids=[
        "shorter than a frame's prefix",
        "unknown flag",
        "cut off",
        "two frames",
        "bytes behind the frame",
        "singular field twice, though equal",
        "value of another wire type",
        "presence of another wire type",
        "value too long",
        "too many entries",
        "group",
        "unkept field past the end",
    ],
)
def test_a_body_that_two_readers_may_read_differently_is_malformed(raw: bytes) -> None:
    body = outline_body(raw, OUTLINE)
    assert body.state is BodyState.MALFORMED
    assert body.fields == ()
