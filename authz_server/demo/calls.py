"""Calls to Triton through Envoy, made with NVIDIA's own client, and how they ended."""

from __future__ import annotations

import contextlib
import enum
import importlib
import queue
import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from authz_server.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType, TracebackType

    from authz_server.demo.pki import SvidFiles

TIMEOUT_S: Final = 10.0

DEFECTS: Final = "defect-detection"
FORECAST: Final = "demand-forecast"

# What the camera shows, and what is wrong with it: top, left, bottom, right.
IMAGE_SHAPE: Final = (96, 128)
SPOTS: Final = [[20, 30, 27, 41], [70, 90, 76, 96]]

SERIES: Final = [float(5 + 3 * week) for week in range(24)]
NEXT_WEEKS: Final = [77.0, 80.0, 83.0]

_DENIAL: Final = re.compile(r"access denied \(([a-z_]+)\)")

# tritonclient has no types.
Client: TypeAlias = Any


class Protocol(enum.StrEnum):
    """How a call travels."""

    HTTP = "HTTP"
    GRPC = "gRPC"


class Verdict(enum.StrEnum):
    """How a call ended."""

    ALLOWED = "allowed"
    DENIED = "denied"
    REFUSED = "refused by TLS"
    WRONG = "wrong answer"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended.

    Attributes:
        verdict: the end.
        status: the HTTP or gRPC status of a denial; the error of a failure.
        reason: the reason code of a denial.
        latency_ms: what it took, a new connection included if there was none.
    """

    verdict: Verdict
    status: str = ""
    reason: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Edge:
    """Where Envoy is, and by which CA certificates callers know it."""

    port: int
    bundle: Path


def client_module(protocol: Protocol) -> ModuleType:
    """Return tritonclient's module for `protocol`; importing takes a while.

    Raises:
        SetupError: if the package is not installed.
    """
    try:
        return importlib.import_module(f"tritonclient.{protocol.lower()}")
    except ImportError as error:
        raise SetupError(
            f"no tritonclient for {protocol} here: run `pip install "
            "'authz-server[demo]'`"
        ) from error


class _UndelayedTls:
    """Stands for the TLS context that tritonclient's HTTP client asks for.

    The client writes headers and body apart. With Nagle's algorithm on, the body then
    waits 40 ms for Envoy's delayed acknowledgement, which is none of our latency.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> ssl.SSLSocket:
        """Return `sock` under TLS."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(sock, server_hostname=server_hostname)


def end(client: Client) -> None:
    """Close a client of tritonclient, for good."""
    client.close()
    # It closes itself again when it is collected, in whatever thread that happens, and
    # gevent, which it is made of over HTTP, minds which one.
    client.close = _nothing


def _nothing() -> None:
    """Close nothing."""


class Caller:
    """A context manager: one workload's client of one protocol.

    Its methods return whether Triton's answer was right, and raise what tritonclient
    raises; `attempt` makes an outcome of either.
    """

    def __init__(
        self, edge: Edge, protocol: Protocol, identity: SvidFiles | None
    ) -> None:
        self.protocol = protocol
        self._edge = edge
        self._identity = identity
        self._module = client_module(protocol)
        closed = importlib.import_module("geventhttpclient.response").HTTPParseError
        self._errors = (
            self._module.InferenceServerException,
            closed,
            OSError,
            queue.Empty,
        )
        self._client: Client = None

    def __enter__(self) -> Self:
        connect = self._http if self.protocol is Protocol.HTTP else self._grpc
        self._client = connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end(self._client)

    def find_defects(self, version: str = "") -> bool:
        """Ask for the defects in an image with two; true if just those were found."""
        answer = self._client.infer(DEFECTS, [self._image()], version, **self._limit())
        found: bool = answer.as_numpy("BOXES").tolist() == SPOTS
        return found

    def forecast(self) -> bool:
        """Ask how a straight line goes on; true if it does so."""
        np = _numpy()
        inputs = [
            self._tensor("SERIES", np.array(SERIES, np.float32), "FP32"),
            self._tensor("HORIZON", np.array([len(NEXT_WEEKS)], np.int32), "INT32"),
        ]
        answer = self._client.infer(FORECAST, inputs, **self._limit())
        return bool(np.allclose(answer.as_numpy("FORECAST"), NEXT_WEEKS, atol=0.1))

    def stream_defects(self, version: str) -> bool:
        """Ask for the defects over a stream (gRPC only); true as for `find_defects`."""
        ends: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: ends.put((result, error)))
        try:
            # A denial may be here before the first message is sent; then this raises
            # that the stream is over, and what ended it is in the callback.
            with contextlib.suppress(self._module.InferenceServerException):
                self._client.async_stream_infer(DEFECTS, [self._image()], version)
            result, error = ends.get(timeout=TIMEOUT_S)
        finally:
            self._client.stop_stream(cancel_requests=True)
        if error is not None:
            raise error
        found: bool = result.as_numpy("BOXES").tolist() == SPOTS
        return found

    def load(self, model: str) -> bool:
        """Load a model; true if it is ready then."""
        self._client.load_model(model)
        return bool(self._client.is_model_ready(model))

    def unload(self, model: str) -> bool:
        """Unload a model; true if it is not ready then."""
        self._client.unload_model(model)
        return not self._client.is_model_ready(model)

    def attempt(self, call: Callable[[Caller], bool]) -> Outcome:
        """Make `call` and say how it ended."""
        start = time.perf_counter()
        status = reason = ""
        try:
            verdict = Verdict.ALLOWED if call(self) else Verdict.WRONG
        except self._errors as error:
            verdict, status, reason = judge(error)
        return Outcome(verdict, status, reason, (time.perf_counter() - start) * 1000)

    def _http(self) -> Client:
        # The names are checked by the context itself, since tritonclient's own check
        # uses a function that Python is without from 3.12 on.
        return self._module.InferenceServerClient(
            f"localhost:{self._edge.port}",
            ssl=True,
            ssl_context_factory=self._context,
            ssl_options={"server_hostname": "localhost"},
            insecure=True,
            connection_timeout=TIMEOUT_S,
            network_timeout=TIMEOUT_S,
        )

    def _context(self) -> _UndelayedTls:
        gevent_ssl = importlib.import_module("gevent.ssl")
        context = gevent_ssl.create_default_context(cafile=str(self._edge.bundle))
        if self._identity is not None:
            context.load_cert_chain(self._identity.certificate, self._identity.key)
        return _UndelayedTls(context)

    def _grpc(self) -> Client:
        identity = self._identity
        return self._module.InferenceServerClient(
            f"localhost:{self._edge.port}",
            ssl=True,
            root_certificates=str(self._edge.bundle),
            private_key=str(identity.key) if identity else None,
            certificate_chain=str(identity.certificate) if identity else None,
        )

    def _limit(self) -> dict[str, float]:
        # tritonclient's HTTP client has its limit from the start.
        return {"client_timeout": TIMEOUT_S} if self.protocol is Protocol.GRPC else {}

    def _image(self) -> Client:
        np = _numpy()
        image = np.random.default_rng(7).normal(128, 3, IMAGE_SHAPE).astype(np.uint8)
        for top, left, bottom, right in SPOTS:
            image[top:bottom, left:right] = 230
        return self._tensor("IMAGE", image, "UINT8")

    def _tensor(self, name: str, values: Client, kind: str) -> Client:
        tensor = self._module.InferInput(name, values.shape, kind)
        tensor.set_data_from_numpy(values)
        return tensor


def judge(error: Exception) -> tuple[Verdict, str, str]:
    """Return verdict, status and reason of a call that raised `error`."""
    status = _status(error)
    denial = _DENIAL.search(str(error))
    if denial is not None:
        return Verdict.DENIED, status, denial.group(1)
    if _is_tls_refusal(error, status):
        return Verdict.REFUSED, "", ""
    return Verdict.FAILED, status or f"{type(error).__name__}: {error}", ""


def _status(error: Exception) -> str:
    """Return ``403`` or ``PERMISSION_DENIED`` of tritonclient's exception."""
    status = getattr(error, "status", None)
    text = status() if callable(status) else None
    return str(text or "").removeprefix("StatusCode.")


def _is_tls_refusal(error: Exception, status: str) -> bool:
    """Return whether a connection was made, and then ended by Envoy.

    In TLS 1.3 the client has finished its part before the server looks at its
    certificate, so the refusal shows as an alert or a reset on the first read. Nobody
    listening at all is something else.
    """
    if isinstance(error, ConnectionRefusedError):
        return False
    if isinstance(error, (ssl.SSLError, ConnectionError)):
        return True
    return status == "UNAVAILABLE" and "Connection refused" not in str(error)


def _numpy() -> ModuleType:
    # tritonclient needs it too, so it is there; but importing it takes a while.
    return importlib.import_module("numpy")
