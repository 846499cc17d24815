"""The second lock: what Triton itself asks of whoever reaches it.

Triton's restricted-API flags make it refuse every call that lacks a secret, in a header
over HTTP and under a longer name over gRPC. Only an allowed call gets that header here,
so whoever reaches Triton past the proxy gets nothing. The secret is one for all: it
says that this server let the call through, and nothing about who called. Who called is
said by a second header, which Triton can hand on to models.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from authz_server.errors import AccessSecretError
from authz_server.response import NO_CHANGES, RequestChanges
from authz_server.watch import ChangingFile, Watch

ACCESS_HEADER: Final = "triton-access-token"
"""The name under which PyTriton restricts its APIs too."""

GRPC_PREFIX: Final = "triton-grpc-protocol-"
"""What Triton puts before the name of the header to get that of the gRPC metadata."""

MAX_SECRET_BYTES: Final = 1024

# What may stand in a header and on Triton's command line as it is.
_SECRET: Final = re.compile(rb"[!-~]{1,%d}" % MAX_SECRET_BYTES)

_log: Final = logging.getLogger("authz_server.second_lock")


@dataclass(frozen=True, slots=True)
class LockState:
    """What the second lock is opened with at one moment.

    Attributes:
        secret: empty if there is no such lock; None if there is one and its secret
            cannot be had.
        revision: changes with the secret, and tells nothing of it.
    """

    secret: str | None = field(default="", repr=False)
    revision: str = ""


NO_LOCK: Final = LockState()


class SecondLock:
    """The secret in a file, and the headers that carry it and the caller's name.

    While a configured secret cannot be had, nothing is let through: Triton would refuse
    it anyway, and an old secret is one that somebody wanted to be rid of.

    Args:
        secret_file: None for no secret.
        access_header: name of the header of Triton's HTTP flag, lower case.
        principal_header: name of the header for the caller's SPIFFE ID, lower case;
            empty for none.
        on_change: called whenever another secret is in force, from any thread.
    """

    def __init__(
        self,
        secret_file: Path | None = None,
        *,
        access_header: str = ACCESS_HEADER,
        principal_header: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_change = on_change
        self._access_header = access_header
        self._principal_header = principal_header
        self._lock = threading.Lock()
        self._file = ChangingFile(secret_file, self._read) if secret_file else None
        self._current = LockState(None, "0") if secret_file else NO_LOCK
        self._changes = 0
        self._error = "not read yet" if secret_file else None
        self._watch = Watch(self._look, "access-secret-watch")

    @property
    def current(self) -> LockState:
        """What is in force now. Take it once a request."""
        return self._current

    @property
    def error(self) -> str | None:
        """What is wrong with the secret; None if nothing is. Holds none of it."""
        if self._watch.has_died:
            return "the access secret is no longer watched; restart the server"
        return self._error

    def reload(self) -> None:
        """Read the file again."""
        if self._file is not None:
            with self._lock:
                self._file.read()

    def start_watching(self, interval_s: float) -> None:
        """Read the file again from now on whenever it has changed."""
        if self._file is not None:
            self._watch.start(interval_s)

    def stop(self) -> None:
        """End the watching; what is in force stays."""
        self._watch.stop()

    def changes(
        self, state: LockState, principal: str, *, is_grpc: bool
    ) -> RequestChanges:
        """Return what an allowed request to Triton gets, and loses.

        A caller's own copy of any of these headers is overwritten or removed. Not
        checked: that the proxy's own rules let an answer change these headers.

        Args:
            state: what `current` was when the request came.
            principal: the verified SPIFFE ID.
            is_grpc: whether the call goes to Triton's gRPC port.
        """
        overwrite, remove = [], []
        if state.secret:
            over_http, over_grpc = (
                self._access_header,
                GRPC_PREFIX + self._access_header,
            )
            used, unused = (over_grpc, over_http) if is_grpc else (over_http, over_grpc)
            overwrite.append((used, state.secret))
            remove.append(unused)
        if self._principal_header:
            overwrite.append((self._principal_header, principal))
        if not overwrite:
            return NO_CHANGES
        return RequestChanges(tuple(overwrite), tuple(remove))

    def _look(self) -> None:
        if self._file is not None:
            with self._lock:
                self._file.read_if_changed()

    def _read(self, path: Path) -> None:
        try:
            secret, self._error = read_secret(path), None
        except AccessSecretError as error:
            secret, self._error = None, str(error)
            _log.error("%s; all requests are denied", error)
        if secret != self._current.secret:
            # A number, since a digest would let a short secret be guessed.
            self._changes += 1
            self._current = LockState(secret, str(self._changes))
            self._on_change()


def read_secret(path: Path) -> str:
    """Return the secret in the file at `path`, without the newline at its end.

    Not checked: who else may read the file, and whether the secret can be guessed.

    Raises:
        AccessSecretError: if it cannot be read, or could not be sent as it is. Quotes
            nothing of it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 2)
    except OSError as error:
        raise AccessSecretError(
            f"triton.access_secret: {path} cannot be read: {error.strerror}"
        ) from error
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if _SECRET.fullmatch(data) is None:
        raise AccessSecretError(
            f"triton.access_secret: {path} must hold one line of 1 to "
            f"{MAX_SECRET_BYTES} visible ASCII characters without a space, "
            "e.g. what `openssl rand -hex 32` prints"
        )
    return data.decode("ascii")
