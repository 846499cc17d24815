"""Strict reading of the Protocol Buffers wire format, without schemas or copies.

Encoding: https://protobuf.dev/programming-guides/encoding/. Where readers may differ
(a length in more bytes than it needs, a group, a tag past 32 bits) this one refuses, so
that it can never see another message than the process behind it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz_server.errors import RequestError

VARINT: Final = 0
FIXED64: Final = 1
LEN: Final = 2
FIXED32: Final = 5

FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}
MAX_TAG: Final = 0xFFFF_FFFF
MAX_VARINT_BYTES: Final = 10
_MAX_VARINT: Final = 0xFFFF_FFFF_FFFF_FFFF

Field = tuple[int, int, int, int]
"""(number, wire type, start, end) of a value; for a varint (number, 0, value, 0)."""


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return (value, position after it) of the varint at `position`.

    Raises:
        RequestError: if it is cut off, longer than 64 bits or not minimal.
    """
    value = shift = 0
    for index in range(position, min(end, position + MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            if (byte == 0 and index > position) or value > _MAX_VARINT:
                raise RequestError("varint is not minimal or exceeds 64 bits")
            return value, index + 1
        shift += 7
    raise RequestError("varint is cut off or too long")


def read_fields(data: bytes, position: int, end: int) -> Iterator[Field]:
    """Yield every field of the message in ``data[position:end]``, to its last byte.

    Raises:
        RequestError: while iterating, if the bytes are not a well-formed message. What
            was yielded before must then be thrown away.
    """
    while position < end:
        tag = data[position]
        if tag < 0x80:  # noqa: PLR2004 - one byte, the usual case
            position += 1
        else:
            tag, position = read_varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag > MAX_TAG:
            raise RequestError("field number is out of range")
        if wire_type == LEN:
            length, position = read_varint(data, position, end)
            stop = position + length
            if stop > end:
                raise RequestError("field is longer than its message")
            yield number, LEN, position, stop
            position = stop
        elif wire_type == VARINT:
            value, position = read_varint(data, position, end)
            yield number, VARINT, value, 0
        elif wire_type in FIXED_BYTES:
            stop = position + FIXED_BYTES[wire_type]
            if stop > end:
                raise RequestError("field is longer than its message")
            yield number, wire_type, position, stop
            position = stop
        else:
            # Groups (3, 4) are read by some parsers and skipped by others.
            raise RequestError(f"wire type {wire_type} is not accepted")
