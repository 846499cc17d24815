import gzip

import pytest
from checks import frame, len_field

from authz_server.facts import BodyState, Keep
from authz_server.facts.grpc_body import outline_body

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
    body = outline_body(frame(message), OUTLINE, b"")
    assert body.state is BodyState.COMPLETE
    assert body.fields == ((3, b"x"), (2, b""), (1, b"name"), (3, b"y"))
    assert body.value(1) == b"name"
    assert body.value(7) == b""
    assert body.values(3) == (b"x", b"y")
    assert body.has(2)
    assert not body.has(5)


def test_an_empty_message_is_complete() -> None:
    assert outline_body(frame(b""), OUTLINE, b"").state is BodyState.COMPLETE


def test_no_body_is_absent() -> None:
    assert outline_body(b"", OUTLINE, b"").state is BodyState.ABSENT


def test_a_compressed_message_is_read_in_the_coding_of_the_call() -> None:
    raw = frame(gzip.compress(len_field(1, b"name")), flag=1)
    assert outline_body(raw, OUTLINE, b"gzip").value(1) == b"name"
    assert outline_body(raw, OUTLINE, b"deflate").state is BodyState.MALFORMED
    assert outline_body(raw, OUTLINE, b"").state is BodyState.COMPRESSED


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x00",
        frame(b"", flag=2),
        frame(b"ab")[:-1],
        frame(b"") + frame(b""),
        frame(b"") + b"x",
        frame(gzip.compress(b""), flag=1) * 2,
        frame(len_field(1, b"a") + len_field(1, b"a")),
        frame(len_field(1, b"a") + b"\x2a\x7f"),
    ],
    ids=[
        "shorter than a frame's prefix",
        "unknown flag",
        "cut off",
        "two frames",
        "bytes behind the frame",
        "two compressed frames",
        "singular field twice, though equal",
        "unkept field past the end",
    ],
)
def test_a_body_that_two_readers_may_read_differently_is_malformed(raw: bytes) -> None:
    body = outline_body(raw, OUTLINE, b"gzip")
    assert body.state is BodyState.MALFORMED
    assert body.fields == ()
