"""Protobuf and gRPC frames written byte by byte, rightly or wrongly."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
LEN: Final = 2
GROUP: Final = 3
END_GROUP: Final = 4
FIXED32: Final = 5


def varint(value: int, padding: int = 0) -> bytes:
    """Return `value`, made longer than it needs to be by `padding` bytes."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    if padding:
        encoded[-1] |= 0x80
        encoded += b"\x80" * (padding - 1) + b"\x00"
    return bytes(encoded)


def field(number: int, value: bytes, *, tag_pad: int = 0, len_pad: int = 0) -> bytes:
    """Return a length-delimited field."""
    tag = varint(number << 3 | LEN, tag_pad)
    return tag + varint(len(value), len_pad) + value


def number_field(number: int, value: int) -> bytes:
    """Return a varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def entry(number: int, key: bytes, value: bytes) -> bytes:
    """Return an entry of a map from string to message."""
    return field(number, field(1, key) + field(2, value))


_DATA: Final = b"\x07\x00\x00\x00"
_TENSOR: Final = field(1, b"IN") + field(2, b"INT32") + field(3, b"\x01")
INPUT: Final = field(5, _TENSOR)
"""The tensor that every model here takes; `RAW` is its value."""
RAW: Final = field(7, _DATA)
INLINE: Final = field(5, _TENSOR + field(5, field(2, b"\x07")))
"""Both in one."""

OVERRIDE_MARK: Final = "differential_mark"
"""A parameter that only an overriding configuration has."""


def override(name: str) -> bytes:
    """Return a configuration of the caller's for one of `DOORS`, as Triton reads it."""
    config = {
        "name": name,
        "platform": "ensemble",
        "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}],
        "output": [{"name": "WHO0", "data_type": "TYPE_STRING", "dims": [1]}],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": "public",
                    "model_version": 1,
                    "input_map": {"IN": "IN"},
                    "output_map": {"WHO": "WHO0"},
                }
            ]
        },
        "parameters": {OVERRIDE_MARK: {"string_value": "1"}},
    }
    return json.dumps(config).encode()


def oddly_typed(rng: random.Random, number: int, inside: bytes) -> bytes:
    """Return field `number` in a wire type that it never has."""
    return rng.choice(
        [
            varint(number << 3 | VARINT) + varint(rng.randrange(300)),
            varint(number << 3 | FIXED64) + b"public\x00\x00",
            varint(number << 3 | FIXED32) + b"echo",
            varint(number << 3 | GROUP) + inside + varint(number << 3 | END_GROUP),
            varint(number << 3 | END_GROUP),
            varint(number << 3 | GROUP),
            varint(number << 3 | 6) + b"\x00",
            varint(number << 3 | 7),
        ]
    )


def oddly_numbered(rng: random.Random, number: int, value: bytes) -> bytes:
    """Return a field whose number some readers may take for `number`."""
    tag = number << 3 | LEN
    return rng.choice(
        [
            varint(tag | 1 << 32),  # past 32 bits
            varint(tag | 1 << 35),
            varint(tag | 1 << 63),
            varint(tag, 4),
            varint(tag, 9),
            varint(tag, 10),  # longer than a varint may be
            varint((number + 2**29) << 3 | LEN),
            varint(LEN),  # field 0
        ]
    ) + (varint(len(value)) + value)


def frame(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """Return a gRPC frame, which may lie about its length."""
    size = len(message) if length is None else length
    return bytes((flag,)) + (size & 0xFFFFFFFF).to_bytes(4, "big") + message


def _gzip(data: bytes, level: int = 9) -> bytes:
    # Without the time, so that a seed gives the same bytes tomorrow.
    return gzip.compress(data, level, mtime=0)


def pack(rng: random.Random, message: bytes) -> tuple[str, bytes, bytes]:
    """Return (label, encoding header, compressed message), rightly or wrongly."""
    wbits = {"zlib": 15, "raw": -15}

    def deflate(kind: str, data: bytes = message) -> bytes:
        packer = zlib.compressobj(wbits=wbits[kind])
        return packer.compress(data) + packer.flush()

    cut = rng.randrange(len(message) + 1)
    halves = _gzip(message[:cut]) + _gzip(message[cut:])
    other = field(1, b"public")
    return rng.choice(
        [
            ("gzip", b"gzip", _gzip(message)),
            ("gzip", b"gzip", _gzip(message)),
            ("gzip", b"gzip", _gzip(message)),
            ("deflate", b"deflate", deflate("zlib")),
            ("deflate", b"deflate", deflate("zlib")),
            ("gzip", b"gzip", _gzip(message, 0)),
            ("deflate", b"deflate", deflate("zlib")),
            ("raw-deflate", b"deflate", deflate("raw")),
            ("gzip-as-deflate", b"deflate", _gzip(message)),
            ("deflate-as-gzip", b"gzip", deflate("zlib")),
            ("identity-flag-1", b"identity", message),
            ("no-encoding-flag-1", b"", _gzip(message)),
            ("plain-as-gzip", b"gzip", message),
            ("gzip-members", b"gzip", halves),
            (
                "gzip-other-member",
                b"gzip",
                _gzip(message) + _gzip(other),
            ),
            ("gzip-rest", b"gzip", _gzip(message) + b"rest"),
            ("deflate-rest", b"deflate", deflate("zlib") + b"rest"),
            ("deflate-twice", b"deflate", deflate("zlib") + deflate("zlib", other)),
            ("gzip-cut", b"gzip", _gzip(message)[: -rng.randrange(1, 12)]),
            ("deflate-cut", b"deflate", deflate("zlib")[: -rng.randrange(1, 6)]),
            ("gzip-bad-sum", b"gzip", _gzip(message)[:-8] + b"\x00" * 8),
            ("GZIP", b"GZIP", _gzip(message)),
            ("x-gzip", b"x-gzip", _gzip(message)),
            ("two-encodings", b"gzip, deflate", _gzip(message)),
        ]
    )
