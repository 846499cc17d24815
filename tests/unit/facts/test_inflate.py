import gzip
import tracemalloc
import zlib

import pytest

from authz_server.errors import RequestError
from authz_server.facts.inflate import (
    ENCODINGS,
    MAX_INFLATED_BYTES,
    MAX_PIECE_BYTES,
    Inflater,
)

TEXT = bytes(range(256)) * 1000


def bare(data: bytes) -> bytes:
    """Return `data` compressed without a header (RFC 1951 alone)."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def with_dictionary(data: bytes) -> bytes:
    stream = zlib.compressobj(zdict=data)
    return stream.compress(data) + stream.flush()


def inflate(encoding: bytes, *parts: bytes) -> bytes:
    inflater = Inflater(encoding)
    whole = b"".join(piece for part in parts for piece in inflater.pieces(part))
    inflater.finish()
    return whole


@pytest.mark.parametrize(
    ("encoding", "data"),
    [(b"gzip", gzip.compress(TEXT)), (b"deflate", zlib.compress(TEXT))],
)
def test_a_message_is_inflated_wherever_it_is_cut(encoding: bytes, data: bytes) -> None:
    assert encoding in ENCODINGS
    assert inflate(encoding, data) == TEXT
    assert inflate(encoding, *(data[i : i + 1] for i in range(len(data)))) == TEXT


@pytest.mark.parametrize("size", [MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES, 1, 0])
def test_a_message_of_about_one_piece_is_inflated_to_its_end(size: int) -> None:
    assert inflate(b"gzip", gzip.compress(b"\0" * size)) == b"\0" * size


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        (b"gzip", b""),
        (b"gzip", gzip.compress(b"a")[:-1]),
        (b"deflate", zlib.compress(b"a")[:-1]),
        (b"gzip", gzip.compress(b"a") + b"\0"),
        (b"gzip", gzip.compress(b"a") + gzip.compress(b"b")),
        (b"deflate", zlib.compress(b"a") + zlib.compress(b"b")),
        (b"gzip", gzip.compress(b"a")[:-5] + b"\0" + gzip.compress(b"a")[-4:]),
        (b"deflate", bare(b"a")),
        (b"deflate", gzip.compress(b"a")),
        (b"gzip", zlib.compress(b"a")),
        (b"deflate", with_dictionary(b"abcdefgh")),
        (b"gzip", b"plain"),
    ],
    ids=[
        "nothing",
        "gzip cut off",
        "zlib cut off",
        "a byte behind",
        "second gzip member",
        "second zlib stream",
        "checksum of another text",
        "no header",
        "gzip said to be deflate",
        "zlib said to be gzip",
        "preset dictionary",
        "not compressed",
    ],
)
def test_what_is_not_one_whole_stream_is_refused(encoding: bytes, data: bytes) -> None:
    with pytest.raises(RequestError):
        inflate(encoding, data)
    with pytest.raises(RequestError):
        inflate(encoding, *(data[i : i + 1] for i in range(len(data))))


def zeros(count: int) -> bytes:
    """Return `count` zeros, a multiple of a MiB, compressed."""
    stream = zlib.compressobj(1)
    mebibyte = b"\0" * (1 << 20)
    parts = [stream.compress(mebibyte) for _ in range(count >> 20)]
    return b"".join(parts) + stream.flush()


def test_a_message_is_inflated_up_to_the_bound_and_no_further() -> None:
    inflater = Inflater(b"deflate")
    data = zeros(MAX_INFLATED_BYTES)
    assert sum(map(len, inflater.pieces(data))) == MAX_INFLATED_BYTES
    assert not inflater.is_too_long
    inflater.finish()

    inflater = Inflater(b"deflate")
    data = zeros(MAX_INFLATED_BYTES + (1 << 20))
    assert sum(map(len, inflater.pieces(data))) <= MAX_INFLATED_BYTES
    assert inflater.is_too_long
    assert list(inflater.pieces(b"anything")) == []


def test_no_more_than_a_piece_is_ever_held() -> None:
    data = zeros(64 << 20)
    inflater = Inflater(b"deflate")
    tracemalloc.start()
    try:
        longest = max(len(piece) for piece in inflater.pieces(memoryview(data)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert longest == MAX_PIECE_BYTES
    assert peak < 8 * MAX_PIECE_BYTES
