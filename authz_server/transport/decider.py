"""Where checks that were left open are decided: a few threads, and a bounded queue.

How many may wait is bounded here, because a refusal must be an answer of ours: gRPC's
own limit would answer with an error, which Envoy may be configured to take for an
allow.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from authz_server.errors import Reason
from authz_server.pipeline import Check, Pipeline


class Decider:
    """Finishes checks for the transports of one event loop.

    Args:
        max_pending: open decisions at most.
        workers: threads that decide.
    """

    def __init__(self, pipeline: Pipeline, *, max_pending: int, workers: int) -> None:
        self._pipeline = pipeline
        self._slots = threading.BoundedSemaphore(max_pending)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="decide")

    async def answer(self, check: Check) -> bytes:
        """Return the answer to `check`, which a stage before may have given."""
        if check.answer is not None:
            return check.answer
        if not self._slots.acquire(blocking=False):
            return self._pipeline.refuse(check, Reason.OVERLOADED)
        work = self._workers.submit(self._pipeline.finish, check)
        work.add_done_callback(self._release)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if work.cancelled():
                # The proxy gave up before a worker came to it. It goes on record too.
                self._pipeline.refuse(check, Reason.DEADLINE_EXCEEDED)
            raise

    def close(self) -> None:
        """Return when nothing is being decided any more."""
        self._workers.shutdown(wait=True)

    def _release(self, _: Future[bytes]) -> None:
        self._slots.release()
