"""The outline of a unary gRPC call: of the one message that is its whole body.

Triton acts on the first message of a unary call and reads the last of several equal
fields. So this reader insists on one message and nothing behind it, on at most one of
each singular field, and reads to the very end.
"""

from __future__ import annotations

from typing import Final

from authz_server.facts.canonical import Body, BodyState
from authz_server.facts.message_scanner import PREFIX_BYTES, MessageScanner
from authz_server.facts.plan import Outline

_ABSENT: Final = Body(BodyState.ABSENT)
_MALFORMED: Final = Body(BodyState.MALFORMED)


def outline_body(raw: bytes, outline: Outline, encoding: bytes) -> Body:
    """Return what `raw`, the body of a unary gRPC call, says in `outline`.

    Never raises: a body that cannot be relied on has a state that says so, and no
    fields.

    Args:
        raw: the whole body.
        outline: the fields to keep.
        encoding: the one value of the call's ``grpc-encoding`` header; empty if it has
            none or several.
    """
    if not raw:
        return _ABSENT
    # Before the message is read at all: a body may hold very many small ones.
    if int.from_bytes(raw[1:PREFIX_BYTES]) != len(raw) - PREFIX_BYTES:
        return _MALFORMED
    (body,) = MessageScanner(outline, encoding).feed(raw)
    return body
