"""The gate: Envoy's external processing service, for what a check cannot see.

ext_authz sees the beginning of a call and no more. Here every chunk of a gated request
passes, and waits for the verdict on each message that it completes: Triton runs no
message before its last byte. So all but the last chunk of a message flow on once its
model's name has come, and nothing is kept of it but the few fields that name the model.
And an answer that discloses models passes, less those that the caller may not see.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from authz_server.errors import AuthzError, Reason, RequestError
from authz_server.facts import Annotations
from authz_server.facts.gated_call import GatedCall, GatedFacts
from authz_server.operations.listings import Listing, listing_at
from authz_server.operations.triton_grpc import GATED_OUTLINES, UNARY
from authz_server.pipeline import Pipeline
from authz_server.response import (
    end,
    end_answer,
    proceed,
    replace_body,
    replace_chunk,
)
from authz_server.transport.decider import Decider
from authz_server.transport.processing import Part, Processing, read_processing

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"

_log: Final = logging.getLogger("authz_server.transport")

_FAIR: Final = 32
"""After so many messages of one chunk others get their turn: remembered decisions do
not wait for anything, and thousands of small messages fit into a chunk."""

_NO_MESSAGE: Final = b"\0\0\0\0\1\0"
"""A frame whose one byte is no protobuf, as no field has the number 0. gRPC in C++
takes that for the end of the caller's half: Triton runs what came before, and then ends
the call."""

_END_S: Final = 1.0
"""For the upstream to end a call of which it was told so; then it is reset."""

_MAX_HELD_BYTES: Final = 4096
"""Of a message whose name has not come yet."""

_PROCEED: Final = {part: proceed(part.name.lower()) for part in Part}

_PLAIN: Final = frozenset({b"", b"identity"})


class _Judge:
    """Asks the pipeline about facts of one call."""

    def __init__(
        self, pipeline: Pipeline, decider: Decider, annotations: Annotations
    ) -> None:
        self._pipeline = pipeline
        self._decider = decider
        self._annotations = annotations
        self._count = 0

    async def __call__(self, key: bytes) -> Reason:
        """Return GRANTED, or why not."""
        self._count += 1
        if self._count % _FAIR == 0:
            await asyncio.sleep(0)
        return await self._ask(key, is_recorded=True)

    async def foresee(self, key: bytes) -> Reason:
        """Return what the judgement would be, without giving it."""
        return await self._ask(key, is_recorded=False)

    async def _ask(self, key: bytes, *, is_recorded: bool) -> Reason:
        check = self._pipeline.resume(key, self._annotations, is_recorded=is_recorded)
        await self._decider.answer(check)
        return check.reason


class _DeniedError(AuthzError):
    """The call ends here."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """That upstream was told to end a call, and by when (of the loop's time)."""

    reason: Reason
    deadline_s: float


class _Call(Protocol):
    """A gated call."""

    ending: _Ending | None

    async def process(self, part: Processing, judge: _Judge) -> bytes:
        """Return the answer to a part that flows on.

        Raises:
            AuthzError: if it does not, with the reason.
        """


class _Messages:
    """A call whose messages are judged one by one, when they are whole.

    What would become of a message is asked at its head too: before anything of it flows
    on the call can be ended in good order; in the middle of a message it cannot.
    """

    def __init__(self, facts: GatedFacts) -> None:
        self.ending: _Ending | None = None
        self._call = GatedCall(facts, GATED_OUTLINES, UNARY)
        self._is_answered = False
        # How much of the body flowed on, and what is held back behind it: the beginning
        # of a message whose name has not come yet.
        self._released = 0
        self._held = b""

    async def process(self, part: Processing, judge: _Judge) -> bytes:
        if part.part is Part.REQUEST_BODY:
            return await self._pass(part, judge)
        if part.part is Part.RESPONSE_HEADERS:
            self._is_answered = True
        if part.part is Part.RESPONSE_TRAILERS and self.ending is not None:
            return end_answer(self.ending.reason)
        return _PROCEED[part.part]

    async def _pass(self, chunk: Processing, judge: _Judge) -> bytes:
        if self.ending is not None:
            return replace_chunk(b"")
        data = self._held + chunk.body
        reason = await self._judge(chunk, judge)
        if reason is not Reason.GRANTED:
            return self._end(reason, data, is_last=chunk.is_last)
        flows = len(data) - (0 if chunk.is_last else self._nameless_bytes())
        is_unchanged = not self._held and flows == len(data)
        self._released += flows
        self._held = data[flows:]
        if is_unchanged:
            return _PROCEED[chunk.part]
        return replace_chunk(data[:flows])

    async def _judge(self, chunk: Processing, judge: _Judge) -> Reason:
        for key in self._call.feed(chunk.body, is_last=chunk.is_last):
            reason = await judge(key)
            if reason is not Reason.GRANTED:
                return reason
        head = self._call.head
        if head is None or not self._is_withheld:
            return Reason.GRANTED
        if await judge.foresee(head) is Reason.GRANTED:
            return Reason.GRANTED
        return await judge(head)

    @property
    def _is_withheld(self) -> bool:
        """Whether nothing flowed on of the message at hand."""
        return self._call.begins_at >= self._released

    def _nameless_bytes(self) -> int:
        if self._call.head is not None or not self._is_withheld:
            return 0
        count = self._call.unfinished
        return count if count <= _MAX_HELD_BYTES else 0

    def _end(self, reason: Reason, data: bytes, *, is_last: bool) -> bytes:
        """Return what ends the call instead of `data`, which came since the last chunk.

        Raises:
            _DeniedError: if the gate ends it itself. Where an answer is under way Envoy
                has to reset it.
        """
        if not self._is_answered or not (self._is_withheld or is_last):
            raise _DeniedError("a message is not allowed", reason)
        _log.info("a call at the gate is ended by upstream: %s", reason)
        now = asyncio.get_running_loop().time()
        self.ending = _Ending(reason, now + _END_S)
        if not self._is_withheld:
            return replace_chunk(b"")
        return replace_chunk(
            data[: self._call.begins_at - self._released] + _NO_MESSAGE
        )


class _Answer:
    """A call whose answer discloses models."""

    def __init__(self, facts: GatedFacts, listing: Listing) -> None:
        self.ending: _Ending | None = None
        self._facts = facts
        self._listing = listing
        self._is_error = False

    async def process(self, part: Processing, judge: _Judge) -> bytes:
        if part.part is Part.RESPONSE_HEADERS:
            headers = part.headers
            # What Triton says of a call that failed names no other model than it did.
            self._is_error = _is_failure(part)
            for name in (b"content-encoding", b"grpc-encoding"):
                if headers.get(name, b"") not in _PLAIN:
                    raise _DeniedError(
                        "the answer is compressed", Reason.LISTING_UNREADABLE
                    )
        if part.part is not Part.RESPONSE_BODY or self._is_error or not part.body:
            return _PROCEED[part.part]
        kept = {
            entry
            for entry in self._listing.entries(part.body)
            if await judge(self._facts.with_body(entry.body)) is Reason.GRANTED
        }
        return replace_body(self._listing.keep(part.body, kept))


class _Reply:
    """A denial of the check before, which passes the gate on its way back."""

    ending: _Ending | None = None

    async def process(self, part: Processing, _: _Judge) -> bytes:
        return _PROCEED[part.part]


class Gate:
    """Judges gated calls. Safe for any number of them at once.

    It holds one chunk a call at a time, and Envoy sends no more before the answer to
    it, so what a call takes is bounded by Envoy's own buffer.
    """

    def __init__(self, pipeline: Pipeline, decider: Decider) -> None:
        self._pipeline = pipeline
        self._decider = decider

    async def process(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the answer to each part of one call; the last one if it is denied."""
        call: _Call | None = None
        is_grpc = True
        judge = _Judge(self._pipeline, self._decider, Annotations())
        while True:
            try:
                raw = await _next(requests, call.ending if call is not None else None)
                if raw is None:
                    return
                part = read_processing(raw)
                if call is None and _is_failure(part):
                    call = _Reply()
                if call is None:
                    facts = _facts_of(part)
                    is_grpc = facts.is_grpc
                    call = _begin(facts)
                    annotations = Annotations(request_id=part.request_id)
                    judge = _Judge(self._pipeline, self._decider, annotations)
                answer = await call.process(part, judge)
            except AuthzError as error:
                _log.info("a call at the gate is ended: %s", error)
                yield end(error.reason, is_grpc=is_grpc)
                return
            yield answer


async def _next(requests: AsyncIterator[bytes], ending: _Ending | None) -> bytes | None:
    """Return the next of `requests`; None behind the last.

    Raises:
        _DeniedError: if `ending` is over.
    """
    if ending is None:
        return await anext(requests, None)
    try:
        async with asyncio.timeout_at(ending.deadline_s):
            return await anext(requests, None)
    except TimeoutError as error:
        raise _DeniedError("upstream has not ended it", ending.reason) from error


def _is_failure(part: Processing) -> bool:
    """Return whether an answer begins that says that a call failed."""
    if part.part is not Part.RESPONSE_HEADERS:
        return False
    if part.headers.get(b":status", b"").startswith((b"4", b"5")):
        return True
    # gRPC: a status without an answer before it.
    return part.is_last and part.headers.get(b"grpc-status", b"0") != b"0"


def _facts_of(part: Processing) -> GatedFacts:
    try:
        return GatedFacts(part.facts)
    except RequestError as error:
        raise RequestError(str(error), Reason.GATE_FACTS_MISSING) from error


def _begin(facts: GatedFacts) -> _Call:
    """Return how the call of `facts` is gated.

    Raises:
        RequestError: if it is none that can be.
    """
    listing = listing_at(facts.method, facts.path)
    if listing is not None:
        return _Answer(facts, listing)
    try:
        return _Messages(facts)
    except RequestError as error:
        raise RequestError(str(error), Reason.GATE_FACTS_MISSING) from error
