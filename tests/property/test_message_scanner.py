"""However a call is cut, its messages are read as the whole of each would be."""

import gzip
import zlib
from itertools import pairwise

from checks import frame, len_field
from hypothesis import example, given
from hypothesis import strategies as st

from authz_server.errors import RequestError
from authz_server.facts import Body, BodyState, Keep
from authz_server.facts.grpc_body import outline_body
from authz_server.facts.message_scanner import (
    MAX_KEPT_FIELDS,
    MAX_VALUE_BYTES,
    MessageScanner,
)
from authz_server.wire import LEN, read_fields

OUTLINE = {1: Keep.VALUE, 2: Keep.VALUE, 3: Keep.EACH, 4: Keep.PRESENCE}

MALFORMED = Body(BodyState.MALFORMED)

VARINTS = [
    b"\x00",
    b"\x7f",
    b"\x80\x01",
    b"\x80\x00",
    b"\x81\x80\x00",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 9 + b"\x02",
    b"\xff" * 10 + b"\x01",
    b"\x80",
]

FIELDS = st.one_of(
    st.builds(
        len_field,
        st.integers(1, 15),
        st.one_of(
            st.binary(max_size=4),
            st.sampled_from([b"v" * MAX_VALUE_BYTES, b"v" * (MAX_VALUE_BYTES + 1)]),
        ),
    ),
    st.builds(len_field, st.integers(5, 15), st.binary(min_size=100, max_size=200)),
    st.builds(
        bytes.__add__, st.sampled_from([b"\x28", b"\x78"]), st.binary(max_size=2)
    ),
    st.builds(bytes.__add__, st.just(b"\x28"), st.sampled_from(VARINTS)),
    st.builds(bytes.__add__, st.just(b"\x2a"), st.sampled_from(VARINTS)),
    st.builds(bytes.__add__, st.just(b"\x29"), st.binary(min_size=8, max_size=8)),
    st.builds(bytes.__add__, st.just(b"\x2d"), st.binary(min_size=4, max_size=4)),
    st.binary(max_size=3),
    st.sampled_from(VARINTS),
)

MESSAGES = st.lists(FIELDS, max_size=6).map(b"".join)

CUTS = st.lists(st.integers(0, 400), max_size=8)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return `data` in pieces, empty ones among them."""
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def outline_of(message: bytes) -> Body:
    """Return what the scanner must find, by way of the reader of whole messages."""
    kept: list[tuple[int, bytes]] = []
    try:
        for number, wire_type, start, end in read_fields(message, 0, len(message)):
            keep = OUTLINE.get(number)
            if keep is None:
                continue
            is_again = any(number == other for other, _ in kept)
            if wire_type != LEN or (is_again and keep is Keep.VALUE):
                return MALFORMED
            if keep is Keep.PRESENCE:
                if not is_again:
                    kept.append((number, b""))
                continue
            if end - start > MAX_VALUE_BYTES or len(kept) == MAX_KEPT_FIELDS:
                return MALFORMED
            kept.append((number, message[start:end]))
    except RequestError:
        return MALFORMED
    return Body(BodyState.COMPLETE, tuple(kept))


@given(MESSAGES, CUTS)
@example(b"\x0a\x80\x08" + b"v" * MAX_VALUE_BYTES, [6, 8, 9])
@example(b"\x1a\x00" * (MAX_KEPT_FIELDS + 1), [])
def test_one_message_is_read_as_strictly_as_a_whole_one(
    message: bytes, cuts: list[int]
) -> None:
    expected = outline_of(message)
    raw = frame(message)
    assert outline_body(raw, OUTLINE, b"") == expected
    scanner = MessageScanner(OUTLINE)
    found = [body for chunk in cut(raw, cuts) for body in scanner.feed(chunk)]
    assert found[:1] == [expected]
    assert set(found[1:]) <= {MALFORMED}
    assert scanner.is_between_messages == (expected != MALFORMED)


@given(
    st.lists(
        st.tuples(
            MESSAGES.filter(lambda message: outline_of(message) != MALFORMED),
            st.sampled_from([None, gzip.compress]),
        ),
        max_size=4,
    ),
    CUTS,
)
def test_the_messages_of_a_call_come_out_in_order_wherever_it_is_cut(
    messages: list[tuple[bytes, type[bytes] | None]], cuts: list[int]
) -> None:
    frames = [
        frame(message) if compress is None else frame(compress(message), flag=1)
        for message, compress in messages
    ]
    scanner = MessageScanner(OUTLINE, b"gzip")
    found: list[Body] = []
    passed = 0
    for chunk in cut(b"".join(frames), cuts):
        found += scanner.feed(chunk)
        passed += len(chunk)
        ends = [sum(map(len, frames[: count + 1])) for count in range(len(frames))]
        assert len(found) == sum(end <= passed for end in ends)
    assert found == [outline_of(message) for message, _ in messages]
    assert scanner.is_between_messages


@given(MESSAGES, st.binary(max_size=3), CUTS)
def test_a_compressed_message_says_what_the_plain_one_says(
    message: bytes, behind: bytes, cuts: list[int]
) -> None:
    raw = frame(zlib.compress(message) + behind, flag=1)
    expected = MALFORMED if behind else outline_of(message)
    scanner = MessageScanner(OUTLINE, b"deflate")
    found = [body for chunk in cut(raw, cuts) for body in scanner.feed(chunk)]
    assert found[:1] == [expected]
    assert outline_body(raw, OUTLINE, b"deflate") == expected


@given(
    st.binary(max_size=60),
    CUTS,
    st.sampled_from([b"", b"gzip", b"deflate", b"identity"]),
)
@example(b"\x00\x00\x00\x00\x00" * 3 + b"\x02", [3, 7], b"")
def test_any_bytes_are_read_alike_however_they_are_cut(
    raw: bytes, cuts: list[int], encoding: bytes
) -> None:
    whole, parts = MessageScanner(OUTLINE, encoding), MessageScanner(OUTLINE, encoding)
    expected = whole.feed(raw)
    found = [body for chunk in cut(raw, cuts) for body in parts.feed(chunk)]
    assert found[: len(expected)] == expected
    assert set(found[len(expected) :]) <= {MALFORMED}
    assert parts.is_between_messages == whole.is_between_messages
