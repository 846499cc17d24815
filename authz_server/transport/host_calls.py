"""Calls of the native listener that Python answers: health, and streams.

Each call is a handler: an asynchronous generator that gets the peer's messages and
yields the answers. All of it runs in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from authz_server._native._core import Listener

Handler = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]

_log: Final = logging.getLogger("authz_server.transport")


class Status(IntEnum):
    """The status codes of gRPC that calls end with here."""

    OK = 0
    NOT_FOUND = 5
    UNIMPLEMENTED = 12
    INTERNAL = 13


class CallError(Exception):
    """Ends a call with a gRPC status."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Happening(IntEnum):
    OPENED = 0
    MESSAGE = 1
    ENDED = 2
    GONE = 3


class HostCalls:
    """Runs the handlers of a listener's calls.

    Args:
        handlers: one for each of the listener's `host_paths`, in their order.
    """

    def __init__(self, listener: Listener, handlers: Sequence[Handler]) -> None:
        self._listener = listener
        self._handlers = handlers
        self._messages: dict[int, asyncio.Queue[bytes | None]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Answer from now on."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.descriptor, self._read)

    async def stop(self) -> None:
        """Answer no more; what is being answered is cut off."""
        asyncio.get_running_loop().remove_reader(self._listener.descriptor)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self) -> None:
        while (happening := self._listener.take()) is not None:
            call, kind, method, message = happening
            if kind == _Happening.OPENED:
                self._open(call, self._handlers[method])
            elif kind == _Happening.MESSAGE and call in self._messages:
                self._messages[call].put_nowait(message)
            elif kind == _Happening.ENDED and call in self._messages:
                self._messages[call].put_nowait(None)
            elif kind == _Happening.GONE and call in self._tasks:
                self._tasks[call].cancel()

    def _open(self, call: int, handler: Handler) -> None:
        self._messages[call] = asyncio.Queue()
        task = asyncio.ensure_future(self._answer(call, handler))
        self._tasks[call] = task
        task.add_done_callback(lambda task: self._finish(call, task))

    async def _answer(self, call: int, handler: Handler) -> None:
        async with aclosing(handler(self._requests(call))) as answers:  # type: ignore[type-var] # generators
            async for answer in answers:
                self._listener.say(call, answer)

    async def _requests(self, call: int) -> AsyncIterator[bytes]:
        messages = self._messages[call]
        while (message := await messages.get()) is not None:
            self._listener.taken(call, len(message))
            yield message

    def _finish(self, call: int, task: asyncio.Task[None]) -> None:
        del self._messages[call], self._tasks[call]
        if task.cancelled():
            return  # nobody is there to be told
        error = task.exception()
        if error is None:
            self._listener.end(call, Status.OK, "")
        elif isinstance(error, CallError):
            self._listener.end(call, error.status, str(error))
        else:
            _log.error("unexpected error in a call", exc_info=error)
            self._listener.end(call, Status.INTERNAL, "internal error")
