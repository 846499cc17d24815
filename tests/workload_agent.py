"""A SPIFFE Workload API on a unix socket or loopback, which says what a test tells it.

Its messages are written by hand and not by the code under test.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from checks import len_field
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authz_server.demo.pki import DevelopmentCa, Svid

X509_BUNDLES = "FetchX509Bundles"
JWT_BUNDLES = "FetchJWTBundles"
X509_SVID = "FetchX509SVID"
METHODS = (X509_BUNDLES, JWT_BUNDLES, X509_SVID)

_SERVICE = "SpiffeWorkloadAPI"
_METADATA = ("workload.spiffe.io", "true")


def x509_bundles(bundles: Mapping[str, bytes], crls: int = 0) -> bytes:
    """Return an X509BundlesResponse; bundles by the SPIFFE ID of their trust domain."""
    entries = [_entry(2, name, value) for name, value in bundles.items()]
    return len_field(1, b"a revocation list") * crls + b"".join(entries)


def jwt_bundles(bundles: Mapping[str, bytes]) -> bytes:
    """Return a JWTBundlesResponse."""
    return b"".join(_entry(1, name, value) for name, value in bundles.items())


def x509_svids(*svids: bytes) -> bytes:
    """Return an X509SVIDResponse, with the other fields that an agent may set."""
    svid = b"".join(len_field(1, item) for item in svids)
    return svid + len_field(2, b"a revocation list") + _entry(3, "spiffe://b", b"x")


def x509_svid(
    svid: Svid, *intermediates: x509.Certificate, **changes: bytes | str
) -> bytes:
    """Return an X509SVID message; `changes` are spiffe_id, chain or key."""
    chain = b"".join(map(der, (svid.certificate, *intermediates)))
    spiffe_id = str(changes.get("spiffe_id", svid.spiffe_id))
    return (
        len_field(1, spiffe_id.encode())
        + len_field(2, bytes(changes.get("chain", chain)))  # type: ignore[arg-type]
        + len_field(3, bytes(changes.get("key", key_der(svid))))  # type: ignore[arg-type]
        + len_field(4, b"a bundle")
        + len_field(5, b"a hint")
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def key_der(svid: Svid) -> bytes:
    """Return the private key as PKCS #8 in DER, as the agent sends it."""
    key = load_pem_private_key(svid.key_pem, password=None)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def authorities(*cas: DevelopmentCa) -> bytes:
    """Return CA certificates, one after the other, as an X.509 bundle has them."""
    return b"".join(der(ca.certificate) for ca in cas)


def jwk(key: ec.EllipticCurvePrivateKey, kid: str, **members: Any) -> dict[str, Any]:
    """Return the public key on P-256, as SPIRE's agent writes it: without a use."""
    numbers = key.public_key().public_numbers()
    x, y = (
        urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()
        for number in (numbers.x, numbers.y)
    )
    return {"kty": "EC", "kid": kid, "crv": "P-256", "x": x, "y": y, **members}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ends; OK is the clean end."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = "because the test says so"


@dataclass
class Agent:
    """What the agent says. All of it may be changed at any time.

    A method that was told neither a state nor an end takes calls and says nothing.

    Attributes:
        calls: metadata of each call by method.
    """

    address: str
    calls: dict[str, list[dict[str, str]]] = field(
        default_factory=lambda: {method: [] for method in METHODS}
    )
    _states: dict[str, tuple[bytes | End, ...]] = field(default_factory=dict)
    _open: dict[str, list[queue.SimpleQueue[bytes | End]]] = field(
        default_factory=lambda: {method: [] for method in METHODS}
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def push(self, method: str, state: bytes) -> None:
        """Send `state` on every open stream, and first of all on each one to come."""
        self._tell(method, state, is_kept=True)

    def push_and_end(self, method: str, state: bytes) -> None:
        """Send `state` on each stream to come and end it; end those that are open."""
        with self._lock:
            self._states[method] = (state, End())
        self.end(method)

    def refuse(self, method: str, code: grpc.StatusCode) -> None:
        """End every open stream, and each one to come, with `code`."""
        self._tell(method, End(code), is_kept=True)

    def end(self, method: str, end: End | None = None) -> None:
        """End the streams that are open now; those to come get the state again."""
        self._tell(method, end or End(), is_kept=False)

    def fall_silent(self, method: str) -> None:
        """Say nothing on streams to come, and end those that are open."""
        with self._lock:
            self._states.pop(method, None)
        self.end(method)

    def open_streams(self, method: str) -> int:
        with self._lock:
            return len(self._open[method])

    def _tell(self, method: str, what: bytes | End, *, is_kept: bool) -> None:
        with self._lock:
            if is_kept:
                self._states[method] = (what,)
            for inbox in self._open[method]:
                inbox.put(what)

    def _serve(self, method: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        inbox: queue.SimpleQueue[bytes | End] = queue.SimpleQueue()
        with self._lock:
            self.calls[method].append(metadata)
            if _METADATA not in metadata.items():
                inbox.put(End(grpc.StatusCode.INVALID_ARGUMENT, "security header"))
            for what in self._states.get(method, ()):
                inbox.put(what)
            self._open[method].append(inbox)
        # A client that went away has to be noticed, or its thread would stay, and the
        # interpreter would wait for it at its end; also one that is gone already.
        if not context.add_callback(lambda: inbox.put(End())):
            inbox.put(End())
        try:
            while not isinstance(what := inbox.get(), End):
                yield what
            if what.code is not grpc.StatusCode.OK:
                context.abort(what.code, what.details)
        finally:
            with self._lock:
                self._open[method].remove(inbox)


@contextlib.contextmanager
def workload_agent(path: Path | None) -> Iterator[Agent]:
    """Yield a running agent on a unix socket, or on a loopback port."""
    # gRPC itself reports what a handler raises to end a call on the log alone.
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port(f"unix:{path}" if path else "127.0.0.1:0")
    agent = Agent(f"unix://{path}" if path else f"tcp://127.0.0.1:{port}")

    def handler(method: str) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(
            lambda _request, context: agent._serve(method, context)
        )

    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                _SERVICE, {method: handler(method) for method in METHODS}
            )
        ]
    )
    server.start()
    try:
        yield agent
    finally:
        server.stop(grace=None).wait()
        for method in METHODS:
            agent.end(method)


def _entry(number: int, name: str, value: bytes) -> bytes:
    return len_field(number, len_field(1, name.encode()) + len_field(2, value))
