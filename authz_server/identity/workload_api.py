"""A client of the SPIFFE Workload API: bundles, and our own SVID, as they change.

Rules: SPIFFE Workload API
(https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md) and
Workload Endpoint. Each message on a stream is the whole state: what it lacks is
revoked. The agent may go away and come back at any time.

Not checked: who answers. The endpoint is what all trust begins with, so whoever may
bind its socket, or stand between us and its port, decides whom we believe.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from authz_server.address import parse_workload_endpoint
from authz_server.errors import BundleError, SvidError
from authz_server.identity.jwk import KeySet
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.workload_messages import (
    Authorities,
    OwnSvid,
    decode_jwt_bundles,
    decode_svid,
    decode_x509_bundles,
)

_log: Final = logging.getLogger("authz_server.workload_api")

_SERVICE: Final = "/SpiffeWorkloadAPI/"
# Workload Endpoint §3: a server that is tricked into a request for somebody else has no
# way to send it.
_METADATA: Final = (("workload.spiffe.io", "true"),)

FIRST_MESSAGE_S: Final = 10.0
"""An agent answers at once (§4.3); one that does not is as good as gone."""

REOPEN_S: Final = 300.0
"""A stream is opened anew this often: an agent that hangs would look like one that has
nothing to tell."""

SHORTEST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # gRPC would take even an address on loopback to the proxy that `http_proxy` names.
    ("grpc.enable_http_proxy", 0),
    # Channels to one address share their waits between attempts otherwise.
    ("grpc.use_local_subchannel_pool", 1),
)

_random: Final = random.SystemRandom()


class WorkloadApi:
    """Streams from one agent, each in a thread of its own, until stopped.

    The callbacks of one stream are never called at the same time; those of different
    streams may be. An error that a callback raises ends its stream for good, which
    `has_died` then tells.

    Args:
        address: as `parse_workload_endpoint` takes it.
        on_x509_bundles, on_jwt_bundles: get the whole state with each message; an empty
            one when the agent says that we have no right to any.
        on_svid: gets our own SVID, or None when we have no right to one; None asks for
            none.
        on_state: gets the name of a stream and what is wrong with it, or None when it
            gave a good message. What a stream gave last holds on while it is not well.

    Raises:
        ValueError: if there is no such address.
    """

    def __init__(
        self,
        address: str,
        *,
        on_x509_bundles: Callable[[Mapping[TrustDomain, Authorities]], None],
        on_jwt_bundles: Callable[[Mapping[TrustDomain, KeySet]], None],
        on_svid: Callable[[OwnSvid | None], None] | None,
        on_state: Callable[[str, str | None], None],
    ) -> None:
        target = parse_workload_endpoint(address)
        self._streams = [
            _Stream(
                target,
                "FetchX509Bundles",
                on_message=lambda raw: on_x509_bundles(decode_x509_bundles(raw)),
                on_denied=lambda: on_x509_bundles({}),
                on_state=on_state,
            ),
            _Stream(
                target,
                "FetchJWTBundles",
                on_message=lambda raw: on_jwt_bundles(decode_jwt_bundles(raw)),
                on_denied=lambda: on_jwt_bundles({}),
                on_state=on_state,
            ),
        ]
        if on_svid is not None:
            self._streams.append(
                _Stream(
                    target,
                    "FetchX509SVID",
                    on_message=lambda raw: on_svid(decode_svid(raw)),
                    on_denied=lambda: on_svid(None),
                    on_state=on_state,
                )
            )

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of all streams, as `on_state` gets them."""
        return tuple(stream.method for stream in self._streams)

    @property
    def has_died(self) -> bool:
        """Whether an error in a callback ended a stream for good."""
        return any(stream.has_died for stream in self._streams)

    def start(self) -> None:
        """Open the streams; nothing if they are open."""
        for stream in self._streams:
            stream.start()

    def stop(self) -> None:
        """Close the streams; no callback is called after this returned.

        Not to be called from a callback.
        """
        for stream in self._streams:
            stream.request_stop()
        for stream in self._streams:
            stream.join()


@dataclass(frozen=True, slots=True)
class _End:
    """How a stream ended.

    Attributes:
        problem: None if it ended as planned.
        is_denied: whether what it gave must no longer be used.
        is_final: whether it is not to be opened again.
        is_timely: whether a deadline ends streams like this.
    """

    problem: str | None
    is_denied: bool = False
    is_final: bool = False
    is_timely: bool = False


class _Stream:
    """One method's stream, opened again whenever it ends."""

    def __init__(
        self,
        target: str,
        method: str,
        *,
        on_message: Callable[[bytes], None],
        on_denied: Callable[[], None],
        on_state: Callable[[str, str | None], None],
    ) -> None:
        self._target = target
        self.method = method
        self._on_message = on_message
        self._on_denied = on_denied
        self._on_state = on_state
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._call: grpc.Call | None = None
        self._thread: threading.Thread | None = None
        self._wait_s = SHORTEST_WAIT_S
        self._told: str | None = None
        self._has_ended = False

    @property
    def has_died(self) -> bool:
        """Whether its thread ended by an error."""
        thread = self._thread
        return thread is not None and not thread.is_alive() and not self._has_ended

    def start(self) -> None:
        if self._thread is not None:
            return
        self._stopping.clear()
        self._has_ended = False
        self._wait_s = SHORTEST_WAIT_S
        self._thread = threading.Thread(
            target=self._run, name=f"workload-api-{self.method}", daemon=True
        )
        self._thread.start()

    def request_stop(self) -> None:
        self._stopping.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            self._keep_open()
            self._has_ended = True
        finally:
            if not self._has_ended:
                # Nobody hears of a change any more, so what was given has to age.
                self._tell("no longer watched after an error; restart the server")

    def _keep_open(self) -> None:
        while not self._stopping.is_set():
            end = self._follow()
            if self._stopping.is_set():
                break
            if end.is_denied:
                self._on_denied()
            if end.problem is not None:
                self._tell(end.problem)
            if end.is_final:
                break
            # A thousand boxes must not come back at the same moment.
            self._stopping.wait(self._wait_s * _random.uniform(0.5, 1.0))
            self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)

    def _follow(self) -> _End:
        """Follow the stream to its end, and return how that was."""
        opened_s = time.monotonic()
        has_answered = False
        # A channel for each attempt: gRPC's own waits between attempts grow to minutes.
        with grpc.insecure_channel(self._target, _OPTIONS) as channel:
            call = channel.unary_stream(_SERVICE + self.method)(
                b"", timeout=REOPEN_S, metadata=_METADATA
            )
            with self._lock:
                self._call = call
            if self._stopping.is_set():
                call.cancel()
            patience = _Patience(call)
            try:
                for raw in call:
                    patience.end()
                    self._on_message(raw)
                    has_answered = True
                    self._wait_s = SHORTEST_WAIT_S
                    self._tell(None)
            except grpc.RpcError as error:
                end = _end_of(error)
            except (BundleError, SvidError) as error:
                return _End(str(error))
            else:
                end = _End("the agent ended the stream", is_timely=True)
            finally:
                patience.end()
                call.cancel()
                with self._lock:
                    self._call = None
        if patience.is_lost:
            return _End(f"the agent did not answer within {FIRST_MESSAGE_S:g} s")
        # A server may see our deadline before we do, and end the stream in good order.
        is_due = time.monotonic() - opened_s >= REOPEN_S * 0.99
        return _End(None) if has_answered and is_due and end.is_timely else end

    def _tell(self, problem: str | None) -> None:
        if problem != self._told:
            self._told = problem
            if problem is None:
                _log.info("%s: is live again", self.method)
            else:
                _log.warning("%s: %s", self.method, problem)
        self._on_state(self.method, problem)


class _Patience:
    """Cancels a call that does not get its first message in time.

    Attributes:
        is_lost: whether it did.
    """

    def __init__(self, call: grpc.Call) -> None:
        self.is_lost = False
        self._call = call
        self._timer = threading.Timer(FIRST_MESSAGE_S, self._lose)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Cancel nothing from now on."""
        self._timer.cancel()
        self._timer.join()

    def _lose(self) -> None:
        self.is_lost = True
        self._call.cancel()


def _end_of(error: Any) -> _End:  # noqa: ANN401 - gRPC declares no such error
    """Return what a status other than OK means (Workload Endpoint §6)."""
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return _End(
            "the agent has no identity for this process; register an entry for it: "
            f"{details!r}",
            is_denied=True,
        )
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        # The same request would fail again.
        return _End(
            f"the agent refuses the request for good: {details!r}", is_final=True
        )
    is_timely = code is grpc.StatusCode.DEADLINE_EXCEEDED
    return _End(f"{code.name}: {details!r}", is_timely=is_timely)
