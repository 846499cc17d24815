import gzip
import tracemalloc
import zlib

import pytest
from checks import frame, len_field

from authz_server.facts import Body, BodyState, Keep
from authz_server.facts.message_scanner import (
    MAX_FIELDS,
    MAX_KEPT_FIELDS,
    MAX_VALUE_BYTES,
    MessageScanner,
)

OUTLINE = {1: Keep.VALUE, 2: Keep.PRESENCE, 3: Keep.EACH}

MALFORMED = Body(BodyState.MALFORMED)
COMPRESSED = Body(BodyState.COMPRESSED)
EMPTY = Body(BodyState.COMPLETE)

NAME = len_field(1, b"name")
NAMED = Body(BodyState.COMPLETE, ((1, b"name"),))
OTHER = len_field(1, b"other")
OTHER_NAMED = Body(BodyState.COMPLETE, ((1, b"other"),))


def scan(*chunks: bytes, encoding: bytes = b"") -> list[list[Body]]:
    """Return what each chunk brought."""
    scanner = MessageScanner(OUTLINE, encoding)
    return [scanner.feed(chunk) for chunk in chunks]


def test_every_message_is_answered_for_in_the_chunk_with_its_last_byte() -> None:
    first, second = frame(NAME), frame(OTHER)
    assert scan(first + second[:3], second[3:-1], second[-1:], first + second) == [
        [NAMED],
        [],
        [OTHER_NAMED],
        [NAMED, OTHER_NAMED],
    ]


def test_a_message_cut_at_every_byte_is_read_as_a_whole_one() -> None:
    message = (
        len_field(3, b"x")
        + b"\x20\xff\x01"
        + len_field(2, b"anything")
        + b"\x29" + b"8" * 8
        + len_field(5, b"t" * 300)
        + b"\x35" + b"4" * 4
        + NAME
        + len_field(3, b"")
        + len_field(2, b"again")
        + b"\x82\x01\x00"
    )  # fmt: skip
    answers = scan(*(bytes((byte,)) for byte in frame(message)))
    assert answers.pop() == [
        Body(BodyState.COMPLETE, ((3, b"x"), (2, b""), (1, b"name"), (3, b"")))
    ]
    assert answers == [[]] * len(answers)


def test_a_message_of_no_bytes_is_a_message() -> None:
    assert scan(frame(b"") + frame(b""), b"\0\0", b"\0\0\0") == [
        [EMPTY, EMPTY],
        [],
        [EMPTY],
    ]


def test_a_call_may_end_between_messages_alone() -> None:
    scanner = MessageScanner(OUTLINE)
    assert scanner.is_between_messages
    for byte in frame(NAME)[:-1]:
        assert scanner.feed(bytes((byte,))) == []
        assert not scanner.is_between_messages
    assert scanner.feed(frame(NAME)[-1:]) == [NAMED]
    assert scanner.is_between_messages
    assert scanner.feed(b"") == []
    assert scanner.is_between_messages


def test_after_a_malformed_message_everything_is_malformed() -> None:
    scanner = MessageScanner(OUTLINE)
    assert scanner.feed(frame(NAME) + frame(b"\x0b\x0c") + frame(NAME)) == [
        NAMED,
        MALFORMED,
    ]
    assert not scanner.is_between_messages
    assert scanner.feed(b"") == []
    assert scanner.feed(frame(NAME)) == [MALFORMED]
    assert scanner.feed(b"\0") == [MALFORMED]


def test_an_unknown_flag_is_refused_before_anything_else_has_come() -> None:
    assert scan(b"\x02") == [[MALFORMED]]


def test_a_malformed_message_is_answered_for_before_its_end() -> None:
    assert scan(frame(NAME + NAME + b"\x2a\x05later")[:-6]) == [[MALFORMED]]


@pytest.mark.parametrize(
    "body",
    [
        frame(NAME, flag=2),
        frame(NAME, flag=0x80),
        frame(NAME + NAME),
        frame(b"\x08\x01"),
        frame(b"\x15abcd"),
        frame(b"\x11abcdefgh"),
        frame(len_field(1, b"a" * (MAX_VALUE_BYTES + 1))),
        frame(len_field(3, b"") * (MAX_KEPT_FIELDS + 1)),
        frame(b"\x78\x00" * (MAX_FIELDS + 1)),
        frame(b"\x0b\x0c"),
        frame(b"\x2e"),
        frame(b"\x2f"),
        frame(b"\x02\x00"),
        frame(b"\x82\x80\x80\x80\x80\x01\x00"),
        frame(b"\xaa\x00\x00"),
        frame(b"\x2a\x81\x00a"),
        frame(b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
        frame(b"\x28\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
        frame(NAME + b"\x2a\x7f"),
        frame(NAME + b"\x2a"),
        frame(NAME + b"\x2a\x80"),
        frame(NAME + b"\xaa"),
        frame(b"\x29abc"),
        frame(b"\x2dabc"),
        frame(b"\x0a\x05name"),
    ],
    ids=[
        "unknown flag",
        "flag of another bit",
        "singular field twice, though equal",
        "value of another wire type",
        "presence of another wire type",
        "name as a fixed64",
        "value too long",
        "too many entries",
        "too many fields",
        "group",
        "wire type 6",
        "wire type 7",
        "field number zero",
        "tag past 32 bits",
        "tag in more bytes than needed",
        "length in more bytes than needed",
        "length past 64 bits",
        "varint of eleven bytes",
        "value past the end",
        "no length",
        "length cut off",
        "tag cut off",
        "fixed64 cut off",
        "fixed32 cut off",
        "kept value cut off",
    ],
)
def test_a_message_that_two_readers_may_read_differently_is_malformed(
    body: bytes,
) -> None:
    assert scan(body) == [[MALFORMED]]
    answers = scan(*(bytes((byte,)) for byte in body))
    assert next(answer for answer in answers if answer) == [MALFORMED]


def test_bounds_are_inclusive() -> None:
    longest = len_field(1, b"a" * MAX_VALUE_BYTES)
    most = len_field(3, b"") * (MAX_KEPT_FIELDS - 1)
    rest = b"\x78\x00" * (MAX_FIELDS - MAX_KEPT_FIELDS)
    ((body,),) = scan(frame(longest + most + rest))
    assert body.state is BodyState.COMPLETE
    assert len(body.fields) == MAX_KEPT_FIELDS


def test_each_message_has_its_own_bounds() -> None:
    message = frame(len_field(3, b"") * MAX_KEPT_FIELDS)
    ((first, second),) = scan(message + message)
    assert first == second
    assert first.state is BodyState.COMPLETE


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_compressed_messages_are_read_among_plain_ones(
    encoding: bytes, compress: type[bytes]
) -> None:
    stream = (
        frame(compress(len_field(5, b"\0" * (1 << 20)) + NAME), flag=1)
        + frame(OTHER)
        + frame(compress(b""), flag=1)
    )
    expected = [NAMED, OTHER_NAMED, EMPTY]
    assert scan(stream, encoding=encoding) == [expected]
    answers = scan(*(bytes((byte,)) for byte in stream), encoding=encoding)
    assert [body for answer in answers for body in answer] == expected


@pytest.mark.parametrize("encoding", [b"", b"identity", b"snappy", b"GZIP", b"x-gzip"])
def test_a_compressed_message_in_no_known_coding_cannot_be_judged(
    encoding: bytes,
) -> None:
    stream = frame(gzip.compress(NAME), flag=1) + frame(OTHER) + frame(b"", flag=1)
    expected = [COMPRESSED, OTHER_NAMED, COMPRESSED]
    assert scan(stream, encoding=encoding) == [expected]


def test_a_plain_message_that_looks_compressed_is_read_as_it_stands() -> None:
    assert scan(frame(gzip.compress(NAME)), encoding=b"gzip") == [[MALFORMED]]


@pytest.mark.parametrize(
    "message",
    [
        gzip.compress(NAME) + gzip.compress(NAME),
        gzip.compress(NAME) + b"\0",
        gzip.compress(NAME)[:-1],
        b"",
        gzip.compress(NAME + NAME),
        gzip.compress(NAME[:-1]),
        zlib.compress(NAME),
    ],
    ids=[
        "second member",
        "trailing byte",
        "cut off",
        "nothing",
        "name twice",
        "message cut off within the stream",
        "other coding",
    ],
)
def test_a_compressed_message_must_be_one_stream_of_one_message(message: bytes) -> None:
    assert scan(frame(message, flag=1), encoding=b"gzip") == [[MALFORMED]]


def test_a_message_that_grows_too_long_cannot_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("authz_server.facts.inflate.MAX_INFLATED_BYTES", 100)
    tensor = len_field(5, b"\0" * 98)
    within = frame(zlib.compress(tensor), flag=1)
    beyond = frame(zlib.compress(tensor + b"\x2a\x00") + b"junk", flag=1)
    assert scan(within + beyond + within, encoding=b"deflate") == [
        [EMPTY, COMPRESSED, EMPTY]
    ]


def test_no_more_than_the_kept_values_is_ever_stored() -> None:
    chunk = b"\0" * (1 << 20)
    tensor = b"\x2a\x80\x80\x80\x20"  # 64 MiB
    message = NAME + tensor
    prefix = b"\0" + (len(message) + (64 << 20)).to_bytes(4, "big")
    scanner = MessageScanner(OUTLINE)
    tracemalloc.start()
    try:
        assert scanner.feed(prefix + message) == []
        answers = [scanner.feed(chunk) for _ in range(64)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answers == [[]] * 63 + [[NAMED]]
    assert peak < 64 << 10
