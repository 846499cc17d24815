"""The outlines of gRPC messages, read from chunks as they come along.

Framing: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
(Length-Prefixed-Message). A message is mostly tensors, which are passed over without
being stored or looked at; only tags, lengths and the few kept values cost anything. The
fields are read as strictly as `wire.read_fields` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from authz_server.errors import RequestError
from authz_server.facts.canonical import Body, BodyState
from authz_server.facts.inflate import ENCODINGS, Inflater
from authz_server.facts.plan import Keep, Outline
from authz_server.wire import (
    FIXED_BYTES,
    LEN,
    MAX_TAG,
    MAX_VARINT_BYTES,
    VARINT,
    read_varint,
)

PREFIX_BYTES: Final = 5
_PLAIN: Final = 0
_COMPRESSED: Final = 1

MAX_VALUE_BYTES: Final = 1024
"""A kept value longer than this is no name; refusing it bounds the size of facts."""

MAX_KEPT_FIELDS: Final = 16

MAX_FIELDS: Final = 4096
"""A call has a field for each tensor, and a load one for each file. Millions of fields
of two bytes fit into a body too, and walking those would hold up everybody else."""

_UNREADABLE: Final = Body(BodyState.COMPRESSED)
_MALFORMED: Final = Body(BodyState.MALFORMED)

# In the place of a wire type: what comes next is no value, but a tag.
_TAG: Final = -1


class _Reader(Protocol):
    """One message on its way."""

    def feed(self, data: bytes, position: int, end: int) -> None:
        """Read ``data[position:end]``, the next part of the message."""

    def head(self) -> Body | None:
        """Return what it said so far; None if the first kept field may still come."""

    def finish(self) -> Body:
        """Return what the message said, now that it is whole."""


class FieldWalker:
    """The fields of one plain message, which may be cut anywhere."""

    __slots__ = (
        "_count",
        "_expected",
        "_head",
        "_kept",
        "_left",
        "_number",
        "_numbers",
        "_outline",
        "_seen",
        "_value",
    )

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._numbers = sorted(outline)
        self._kept: list[tuple[int, bytes]] = []
        self._seen: set[int] = set()
        self._count = 0
        # What the next varint is: a tag, the length of a LEN field or a VARINT's value.
        self._expected = _TAG
        # The beginning of a varint that was cut.
        self._head = b""
        self._number = 0
        # How many bytes of the field's value are still to come, and those that came if
        # they are kept.
        self._left = 0
        self._value: bytearray | None = None

    def feed(self, data: bytes, position: int, end: int) -> None:
        """Read ``data[position:end]``, the next part of the message.

        Raises:
            RequestError: if this cannot be the part of a message that everybody reads
                in the same way. The walker must then be thrown away.
        """
        while position < end:
            if self._left:
                stop = min(end, position + self._left)
                self._take(data, position, stop)
                position = stop
                continue
            varint, position = self._read_head(data, position, end)
            if varint is None:
                return
            if self._expected == _TAG:
                self._begin(varint)
                continue
            if self._expected == LEN:
                self._measure(varint)
            self._expected = _TAG

    def head(self) -> Body | None:
        """Return what the kept fields say, if the message has come past them.

        Protobuf writes fields by number, so none is expected behind a higher one. What
        comes all the same is in what `finish` returns.
        """
        first, last = self._numbers[0], self._numbers[-1]
        if first in self._seen and self._number > last:
            return Body(BodyState.COMPLETE, tuple(self._kept))
        return None

    def finish(self) -> Body:
        """Return what the message said; it ends here.

        Raises:
            RequestError: if it ends within a field.
        """
        if self._left or self._head or self._expected != _TAG:
            raise RequestError("field is longer than its message")
        return Body(BodyState.COMPLETE, tuple(self._kept))

    def _read_head(
        self, data: bytes, position: int, end: int
    ) -> tuple[int | None, int]:
        """Return (varint, position after it), or no varint if it is cut at `end`."""
        if not self._head:
            byte = data[position]
            if byte < 0x80:  # noqa: PLR2004 - one byte, the usual case
                return byte, position + 1
            if end - position >= MAX_VARINT_BYTES:
                return read_varint(data, position, end)
        while position < end:
            self._head += data[position : position + 1]
            position += 1
            is_last = self._head[-1] < 0x80  # noqa: PLR2004 - the continuation bit
            if is_last or len(self._head) == MAX_VARINT_BYTES:
                varint, _ = read_varint(self._head, 0, len(self._head))
                self._head = b""
                return varint, position
        return None, position

    def _begin(self, tag: int) -> None:
        """Begin the field of `tag`."""
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag > MAX_TAG:
            raise RequestError("field number is out of range")
        self._count += 1
        if self._count > MAX_FIELDS:
            raise RequestError("message has too many fields")
        if wire_type != LEN and number in self._outline:
            raise RequestError("kept field has another wire type than its definition")
        if wire_type in {LEN, VARINT}:
            self._number, self._expected = number, wire_type
        elif wire_type in FIXED_BYTES:
            self._left = FIXED_BYTES[wire_type]
        else:
            # Groups (3, 4) are read by some parsers and skipped by others.
            raise RequestError(f"wire type {wire_type} is not accepted")

    def _measure(self, length: int) -> None:
        """Make ready for the value of a length-delimited field."""
        self._left = length
        keep = self._outline.get(self._number)
        if keep is None:
            return
        is_first = self._number not in self._seen
        self._seen.add(self._number)
        if keep is Keep.PRESENCE:
            if is_first:
                self._kept.append((self._number, b""))
            return
        if keep is Keep.VALUE and not is_first:
            raise RequestError("singular field comes twice")
        if length > MAX_VALUE_BYTES or len(self._kept) == MAX_KEPT_FIELDS:
            raise RequestError("kept fields are too long or too many")
        self._value = bytearray()
        if not length:
            self._take(b"", 0, 0)

    def _take(self, data: bytes, position: int, stop: int) -> None:
        """Pass over ``data[position:stop]``, all of it of one value."""
        self._left -= stop - position
        if self._value is not None:
            self._value += data[position:stop]
            if not self._left:
                self._kept.append((self._number, bytes(self._value)))
                self._value = None


class _Inflated:
    """A message in a coding that can be read."""

    __slots__ = ("_inflater", "_walker")

    def __init__(self, outline: Outline, encoding: bytes) -> None:
        self._inflater = Inflater(encoding)
        self._walker = FieldWalker(outline)

    def feed(self, data: bytes, position: int, end: int) -> None:
        for piece in self._inflater.pieces(memoryview(data)[position:end]):
            self._walker.feed(piece, 0, len(piece))

    def head(self) -> Body | None:
        return self._walker.head()

    def finish(self) -> Body:
        if self._inflater.is_too_long:
            return _UNREADABLE
        self._inflater.finish()
        return self._walker.finish()


class _Opaque:
    """A message that says to be compressed, in no coding that can be read.

    gRPC's C core, and so Triton, takes it for plain if ``grpc-encoding`` is
    ``identity``, unknown or missing. Others inflate or refuse it, so it isn't judged.
    """

    __slots__ = ()

    def feed(self, data: bytes, position: int, end: int) -> None:
        pass

    def head(self) -> Body | None:
        return _UNREADABLE

    def finish(self) -> Body:
        return _UNREADABLE


class MessageScanner:
    """The messages of one direction of one gRPC call.

    It holds no more than the kept values of the message at hand, whatever that message
    claims to be.
    """

    def __init__(self, outline: Outline, encoding: bytes = b"") -> None:
        """Begin a call.

        Args:
            outline: the fields to keep of every message.
            encoding: the one value of the call's ``grpc-encoding`` header; empty if it
                has none or several.
        """
        self._outline = outline
        self._encoding = encoding
        self._prefix = b""
        self._message: _Reader | None = None
        # Of the message at hand, how many bytes are still to come.
        self._left = 0
        self._is_malformed = False
        self._position = 0
        self._begins_at = 0

    @property
    def position(self) -> int:
        """How many bytes came before the chunk at hand, or in all between chunks."""
        return self._position

    @property
    def begins_at(self) -> int:
        """Where the message at hand, or else the last one, begins, in bytes."""
        return self._begins_at

    @property
    def head(self) -> Body | None:
        """What the message at hand says of itself, if that much of it has come."""
        return self._message.head() if self._message is not None else None

    @property
    def is_between_messages(self) -> bool:
        """Whether the bytes so far are whole messages: where a call may end."""
        return not (self._prefix or self._message or self._is_malformed)

    def feed(self, chunk: bytes) -> list[Body]:
        """Return, in order, what the messages said whose last byte is in `chunk`.

        Never raises: a message that cannot be relied on has a state that says so. At
        the first malformed byte that message is answered for at once, for neither it
        nor anything behind it can be relied on: every later chunk is malformed as well.
        """
        return list(self.messages(chunk))

    def messages(self, chunk: bytes) -> Iterator[Body]:
        """Yield what `feed` returns, having read no further than to that message.

        Thousands of messages fit into a chunk; whoever stops at the first that is
        denied does not pay for the others. The call is over then.
        """
        if not chunk:
            return
        if not self._is_malformed:
            try:
                yield from self._scan(chunk)
            except RequestError:
                self._is_malformed = True
                self._message = None
        if self._is_malformed:
            yield _MALFORMED
        self._position += len(chunk)

    def _scan(self, chunk: bytes) -> Iterator[Body]:
        position, end = 0, len(chunk)
        while position < end:
            if self._message is None:
                if not self._prefix:
                    self._begins_at = self._position + position
                stop = min(end, position + PREFIX_BYTES - len(self._prefix))
                self._prefix += chunk[position:stop]
                # Triton takes what follows another flag for an empty message, which to
                # some methods means every model.
                if self._prefix[0] not in {_PLAIN, _COMPRESSED}:
                    raise RequestError("flag of a gRPC message is neither 0 nor 1")
                if len(self._prefix) == PREFIX_BYTES:
                    self._message = self._begin()
                    self._left = int.from_bytes(self._prefix[1:])
                    self._prefix = b""
            else:
                stop = min(end, position + self._left)
                self._message.feed(chunk, position, stop)
                self._left -= stop - position
            position = stop
            if self._message is not None and not self._left:
                body = self._message.finish()
                self._message = None
                yield body

    def _begin(self) -> _Reader:
        if self._prefix[0] == _PLAIN:
            return FieldWalker(self._outline)
        if self._encoding in ENCODINGS:
            return _Inflated(self._outline, self._encoding)
        return _Opaque()
