"""A compressed gRPC message, inflated piece by piece without being kept.

Names of the codings: https://github.com/grpc/grpc/blob/master/doc/compression.md. gzip
is RFC 1952, and "deflate" is the zlib format of RFC 1950 (RFC 9110 §8.4.1.2), never the
bare stream of RFC 1951.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from authz_server.errors import RequestError

MAX_INFLATED_BYTES: Final = 256 << 20
"""A message that becomes longer than this is not read on. A thousandth of it is enough
to write such a message, and inflating costs whoever has to judge it."""

MAX_PIECE_BYTES: Final = 64 << 10

# zlib copies what a call left over of its input. In pieces that stays a small part of
# the work, whatever the input inflates to.
_INPUT_BYTES: Final = 16 << 10

_WINDOW_BITS: Final[Mapping[bytes, int]] = {
    b"gzip": zlib.MAX_WBITS | 16,
    b"deflate": zlib.MAX_WBITS,
}

ENCODINGS: Final = frozenset(_WINDOW_BITS)
"""The values of ``grpc-encoding`` that can be inflated. gRPC knows them in lower case
alone, and takes a message in any other coding for a plain one."""


class Inflater:
    """One compressed message.

    Attributes:
        is_too_long: whether it became longer than MAX_INFLATED_BYTES. Nothing is
            inflated from then on, and what came before must not be relied on.
    """

    __slots__ = ("_room", "_stream", "is_too_long")

    def __init__(self, encoding: bytes) -> None:
        """Begin a message in one of ENCODINGS."""
        self._stream = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
        self._room = MAX_INFLATED_BYTES
        self.is_too_long = False

    def pieces(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield what `data`, the next part of the message, inflates to.

        A piece is never longer than MAX_PIECE_BYTES.

        Raises:
            RequestError: while iterating, if the bytes are not in this coding, or go on
                behind the compressed stream. Some readers ignore such bytes, and some
                take them for another member (RFC 1952 §2.2).
        """
        for start in range(0, len(data), _INPUT_BYTES):
            yield from self._inflate(bytes(data[start : start + _INPUT_BYTES]))

    def _inflate(self, rest: bytes) -> Iterator[bytes]:
        while not self.is_too_long:
            if self._stream.eof:
                if rest:
                    raise RequestError("bytes come after the compressed stream")
                return
            # One byte more than there is room for shows that it is too long.
            most = min(MAX_PIECE_BYTES, self._room + 1)
            try:
                piece = self._stream.decompress(rest, most)
            except zlib.error as error:
                raise RequestError("message is not what it is coded as") from error
            rest = self._stream.unconsumed_tail or self._stream.unused_data
            self._room -= len(piece)
            self.is_too_long = self._room < 0
            if piece and not self.is_too_long:
                yield piece
            # A piece of full size may have more behind it, from no more input.
            if not rest and len(piece) < most:
                return

    def finish(self) -> None:
        """Return if the message was the whole of one compressed stream.

        Raises:
            RequestError: if the stream is cut off, or there never was one.
        """
        if not self._stream.eof:
            raise RequestError("compressed stream is cut off")
