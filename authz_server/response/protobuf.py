"""Fields of Protocol Buffers messages, as bytes.

Encoding: https://protobuf.dev/programming-guides/encoding/. A message is its fields one
after the other; here they come in the order of their numbers, as protobuf's own writers
put them. The typed messages of `envoy_data_plane` would be clearer, but they cost every
server 20 MB of memory, to write a dozen messages. The tests compare with them.
"""

from __future__ import annotations

import struct
from typing import Final

_VARINT: Final = 0
_FIXED64: Final = 1
_LEN: Final = 2

_LOW_BITS: Final = 0x7F


def message(number: int, *fields: bytes) -> bytes:
    """Return the field that holds a message, or the bytes or text that `fields` are.

    It is there even if it is empty, which is not the same as no field.
    """
    content = b"".join(fields)
    return _varint(number << 3 | _LEN) + _varint(len(content)) + content


def text(number: int, value: str) -> bytes:
    """Return the field of a text; none at all for an empty one, its default.

    Raises:
        UnicodeEncodeError: if it has half a character.
    """
    return message(number, value.encode()) if value else b""


def integer(number: int, value: int) -> bytes:
    """Return the field of an integer, bool or enum of 0 or more, there even for 0."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def double(number: int, value: float) -> bytes:
    """Return the field of a double, there even for 0."""
    return _varint(number << 3 | _FIXED64) + struct.pack("<d", value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > _LOW_BITS:
        encoded.append(value & _LOW_BITS | 0x80)
        value >>= 7
    return bytes((*encoded, value))
