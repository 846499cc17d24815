"""The outline of a gRPC request message: the few fields that a decision depends on.

Framing: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
(Length-Prefixed-Message). Triton acts on the first frame of a unary call and reads the
last of several equal fields, so this reader insists on one frame, on at most one of
each singular field, and reads to the very end.
"""

from __future__ import annotations

from typing import Final

from authz_server.errors import RequestError
from authz_server.facts.canonical import Body, BodyState
from authz_server.facts.plan import Keep, Outline
from authz_server.wire import LEN, read_fields

_PREFIX_BYTES: Final = 5
_UNCOMPRESSED: Final = 0
_COMPRESSED: Final = 1

MAX_VALUE_BYTES: Final = 1024
"""A kept value longer than this is no name; refusing it bounds the size of facts."""

MAX_KEPT_FIELDS: Final = 16

MAX_FIELDS: Final = 4096
"""A call has a field for each tensor, and a load one for each file. Millions of fields
of two bytes fit into a body too, and walking those would hold up everybody else."""

_ABSENT: Final = Body(BodyState.ABSENT)
_COMPRESSED_BODY: Final = Body(BodyState.COMPRESSED)
_MALFORMED: Final = Body(BodyState.MALFORMED)


def outline_body(raw: bytes, outline: Outline) -> Body:
    """Return what `raw`, the body of a unary gRPC call, says in `outline`.

    Never raises: a body that cannot be relied on has a state that says so, and no
    fields.
    """
    if not raw:
        return _ABSENT
    if len(raw) < _PREFIX_BYTES or raw[0] not in {_UNCOMPRESSED, _COMPRESSED}:
        return _MALFORMED
    if int.from_bytes(raw[1:_PREFIX_BYTES]) != len(raw) - _PREFIX_BYTES:
        return _MALFORMED
    if raw[0] == _COMPRESSED:
        return _COMPRESSED_BODY
    try:
        return Body(BodyState.COMPLETE, _kept_fields(raw, outline))
    except RequestError:
        return _MALFORMED


def _kept_fields(raw: bytes, outline: Outline) -> tuple[tuple[int, bytes], ...]:
    kept: list[tuple[int, bytes]] = []
    seen: set[int] = set()
    fields = read_fields(raw, _PREFIX_BYTES, len(raw))
    for count, (number, wire_type, start, end) in enumerate(fields, 1):
        if count > MAX_FIELDS:
            raise RequestError("message has too many fields")
        keep = outline.get(number)
        if keep is None:
            continue
        if wire_type != LEN:
            raise RequestError("kept field has another wire type than its definition")
        if number in seen:
            if keep is Keep.VALUE:
                raise RequestError("singular field comes twice")
            if keep is Keep.PRESENCE:
                continue
        seen.add(number)
        if keep is Keep.PRESENCE:
            kept.append((number, b""))
            continue
        if end - start > MAX_VALUE_BYTES or len(kept) == MAX_KEPT_FIELDS:
            raise RequestError("kept fields are too long or too many")
        kept.append((number, raw[start:end]))
    return tuple(kept)
