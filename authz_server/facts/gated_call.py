"""The facts of a call that the gate judges further, as more of it comes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

from authz_server.errors import RequestError
from authz_server.facts.canonical import Body, BodyState, Facts
from authz_server.facts.message_scanner import MessageScanner
from authz_server.facts.plan import Outline

ENCODING: Final = "grpc-encoding"
"""The signal that says how compressed messages are packed."""


class GatedFacts:
    """What a call's first check saw: who calls, from where, to where.

    It is a part of the facts of everything that is judged later, so each message is
    judged as if it came alone.

    Args:
        key: the canonical facts of that check.

    Raises:
        RequestError: if they are not those of a gated call.
    """

    def __init__(self, key: bytes) -> None:
        try:
            self._facts = Facts.decode(key)
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise RequestError("the call's facts cannot be read") from error
        if not self._facts.is_gated:
            raise RequestError("the call is none that is gated")

    @property
    def is_grpc(self) -> bool:
        """Whether the caller gets a denial as a gRPC status."""
        return self._facts.is_grpc

    @property
    def method(self) -> str:
        """The request's method."""
        return self._facts.method.decode("ascii", "backslashreplace")

    @property
    def path(self) -> str:
        """The request's path, without its query."""
        path, _, _ = self._facts.path.partition(b"?")
        return path.decode("ascii", "backslashreplace")

    @property
    def encoding(self) -> bytes:
        """The one value of the header ``grpc-encoding``; unknown if it came twice."""
        values = dict(self._facts.signals).get(ENCODING, ())
        return values[0] if len(values) == 1 else b"?" * len(values)

    def with_body(self, body: Body) -> bytes:
        """Return the canonical facts of the call with `body`."""
        return replace(self._facts, body=body).encode()


class GatedCall:
    """Turns the chunks of a gRPC request's body into the facts of its messages.

    Args:
        outlines: what is kept of which path's messages.
        unary: paths of calls with exactly one message.

    Raises:
        RequestError: if the call is none whose messages can be judged.
    """

    def __init__(
        self,
        facts: GatedFacts,
        outlines: Mapping[bytes, Outline],
        unary: Collection[bytes],
    ) -> None:
        path = facts.path.encode()
        outline = outlines.get(path)
        if outline is None:
            raise RequestError("the call is none whose messages can be judged")
        self._facts = facts
        self._scanner = MessageScanner(outline, facts.encoding)
        self._is_unary = path in unary
        self._messages = 0

    @property
    def unfinished(self) -> int:
        """How many bytes of a message have come whose end has not."""
        if self._scanner.is_between_messages:
            return 0
        return self._scanner.position - self._scanner.begins_at

    @property
    def begins_at(self) -> int:
        """Where in the body the message begins that is at hand or was yielded last."""
        return self._scanner.begins_at

    @property
    def head(self) -> bytes | None:
        """The facts of the message at hand, once it has come past what names it.

        It may still turn out to be malformed.
        """
        body = self._scanner.head
        return None if body is None else self._facts.with_body(body)

    def feed(self, chunk: bytes, *, is_last: bool) -> Iterator[bytes]:
        """Yield the facts of each message that ends in `chunk`.

        What cannot be relied on has facts too, which no policy allows.
        """
        for body in self._scanner.messages(chunk):
            self._messages += 1
            if self._is_unary and self._messages > 1:
                # Triton acts on the first message of a unary call.
                yield self._facts.with_body(Body(BodyState.MALFORMED))
            else:
                yield self._facts.with_body(body)
        if is_last and not self._scanner.is_between_messages:
            yield self._facts.with_body(Body(BodyState.PARTIAL))
