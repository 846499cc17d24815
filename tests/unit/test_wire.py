import pytest

from authz_server.errors import RequestError
from authz_server.wire import FIXED32, FIXED64, LEN, VARINT, read_fields, read_varint


def fields(data: bytes) -> list[tuple[int, int, int, int]]:
    return list(read_fields(data, 0, len(data)))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\x80\x01", 128),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 2**64 - 1),
    ],
)
def test_a_minimal_varint_is_read(data: bytes, value: int) -> None:
    assert read_varint(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x00",
        b"\x81\x80\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
    ids=["nothing", "cut off", "zero in two bytes", "one in three", "65 bits", "long"],
)
def test_any_other_varint_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        read_varint(data, 0, len(data))


def test_every_wire_type_is_read_to_the_last_byte() -> None:
    data = b"\x08\x05\x12\x02ab\x19" + b"x" * 8 + b"\x25" + b"y" * 4
    assert fields(data) == [
        (1, VARINT, 5, 0),
        (2, LEN, 4, 6),
        (3, FIXED64, 7, 15),
        (4, FIXED32, 16, 20),
    ]


def test_a_field_number_of_several_bytes_is_read() -> None:
    assert fields(b"\x82\x01\x00") == [(16, LEN, 3, 3)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",
        b"\x02\x00",
        b"\x0b\x0c",
        b"\x0c",
        b"\x0e",
        b"\x0f",
        b"\x12\x05ab",
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x12\x81\x00a",
        b"\x8a\x00\x00",
        b"\x82\x80\x80\x80\x80\x01\x00",
        b"\x19abc",
        b"\x25abc",
        b"\x08",
    ],
    ids=[
        "field number zero",
        "field number zero, length-delimited",
        "group",
        "end of a group that never began",
        "wire type 6",
        "wire type 7",
        "length past the end",
        "length near 2^32",
        "length in more bytes than needed",
        "tag in more bytes than needed",
        "tag past 32 bits",
        "fixed64 cut off",
        "fixed32 cut off",
        "varint missing",
    ],
)
def test_what_parsers_read_in_two_ways_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        fields(data)
