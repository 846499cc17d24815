"""The gate: Envoy's external processing service, for what a check cannot see.

ext_authz sees the beginning of a call and no more. Here every chunk of a gated request
passes, and waits for the verdict on each message that it completes: Triton runs no
message before its last byte. So all but the last chunk of a message flow on at once,
and nothing of a message is kept but the few fields that name its model. And an answer
that discloses models passes, less those that the caller may not see.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol

from authz_server.errors import AuthzError, Reason, RequestError
from authz_server.facts import Annotations
from authz_server.facts.gated_call import GatedCall, GatedFacts
from authz_server.operations.listings import Listing, listing_at
from authz_server.operations.triton_grpc import GATED_OUTLINES, UNARY
from authz_server.pipeline import Pipeline
from authz_server.response import end, proceed, replace_body
from authz_server.transport.decider import Decider
from authz_server.transport.processing import Part, Processing, read_processing

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"

_log: Final = logging.getLogger("authz_server.transport")

_FAIR: Final = 32
"""After so many messages of one chunk others get their turn: remembered decisions do
not wait for anything, and thousands of small messages fit into a chunk."""

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
        check = self._pipeline.resume(key, self._annotations)
        await self._decider.answer(check)
        return check.reason


class _DeniedError(AuthzError):
    """The call ends here."""


class _Call(Protocol):
    """A gated call."""

    async def process(self, part: Processing, judge: _Judge) -> bytes:
        """Return the answer to a part that flows on.

        Raises:
            AuthzError: if it does not, with the reason.
        """


class _Messages:
    """A call whose messages are judged one by one."""

    def __init__(self, facts: GatedFacts) -> None:
        self._call = GatedCall(facts, GATED_OUTLINES, UNARY)

    async def process(self, part: Processing, judge: _Judge) -> bytes:
        for key in self._call.feed(part.body, is_last=part.is_last):
            reason = await judge(key)
            if reason is not Reason.GRANTED:
                raise _DeniedError("a message is not allowed", reason)
        return _PROCEED[part.part]


class _Answer:
    """A call whose answer discloses models."""

    def __init__(self, facts: GatedFacts, listing: Listing) -> None:
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
        async for raw in requests:
            try:
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
