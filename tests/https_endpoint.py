"""A small HTTPS server on loopback, which answers as a test tells it to."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.demo.pki import DevelopmentCa, Svid, write_svid

SERVER_ID = "spiffe://factory.example/bundle-server"

Handler = http.server.BaseHTTPRequestHandler
Respond = Callable[[Handler], None]


def answer(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Respond:
    """Return a response with `body` and its length."""

    def respond(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def raw(data: bytes) -> Respond:
    """Return a response of exactly these bytes."""

    def respond(handler: Handler) -> None:
        handler.wfile.write(data)

    return respond


def bundle_json(*authorities: DevelopmentCa, **members: Any) -> bytes:
    """Return a SPIFFE bundle of the authorities."""
    keys = [
        {
            "use": "x509-svid",
            "kty": "EC",
            "x5c": [b64encode(ca.certificate.public_bytes(Encoding.DER)).decode()],
        }
        for ca in authorities
    ]
    return json.dumps({"keys": keys, **members}).encode()


@dataclass
class HttpsEndpoint:
    """The server: where it is, what it says, what it was asked.

    Attributes:
        respond: writes the response; may be changed at any time.
        requests: path and headers of each request.
        connections: how many TCP connections were accepted.
        stopping: is set when the server is to let go of everybody.
        bodies: what was posted.
        scheme: ``https``, or ``http`` for a server without TLS.
    """

    port: int
    respond: Respond = field(default_factory=lambda: answer(b"hello"))
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    bodies: list[bytes] = field(default_factory=list)
    scheme: str = "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/bundle"

    def drip(self, interval_s: float = 0.02) -> Respond:
        """Return a response that takes seconds and never pauses for long."""

        def respond(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", "250")
            handler.end_headers()
            while not self.stopping.wait(interval_s):
                handler.wfile.write(b"x")

        return respond

    def hang(self) -> Respond:
        """Return a response that does not come before the server stops."""

        def respond(_: Handler) -> None:
            self.stopping.wait()

        return respond


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    endpoint: HttpsEndpoint
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a client that does not shake hands holds up
        # nobody.
        self.endpoint.connections += 1
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as sock:
            super().finish_request(sock, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: that clients hang up is what many tests are about."""


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        endpoint = self.server.endpoint
        endpoint.requests.append((self.path, dict(self.headers)))
        endpoint.respond(self)

    def do_POST(self) -> None:  # noqa: N802
        length = int(self.headers["Content-Length"])
        self.server.endpoint.bodies.append(self.rfile.read(length))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""


@contextlib.contextmanager
def https_endpoint(folder: Path, svid: Svid, port: int = 0) -> Iterator[HttpsEndpoint]:
    """Yield a running server that shows `svid`."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with contextlib.suppress(FileExistsError):
        write_svid(folder, f"endpoint-{svid.certificate.serial_number}", svid)
    stem = folder / f"endpoint-{svid.certificate.serial_number}"
    tls.load_cert_chain(f"{stem}.crt", f"{stem}.key")
    with _running(tls, port) as endpoint:
        yield endpoint


@contextlib.contextmanager
def http_endpoint() -> Iterator[HttpsEndpoint]:
    """Yield a running server without TLS."""
    with _running(None, 0) as endpoint:
        endpoint.scheme = "http"
        yield endpoint


@contextlib.contextmanager
def _running(tls: ssl.SSLContext | None, port: int) -> Iterator[HttpsEndpoint]:
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.tls = tls
        server.endpoint = HttpsEndpoint(server.server_address[1])
        thread = threading.Thread(
            target=server.serve_forever, args=(0.01,), name="https-endpoint"
        )
        thread.start()
        try:
            yield server.endpoint
        finally:
            server.endpoint.stopping.set()
            server.shutdown()
            thread.join()


def server_svid(ca: DevelopmentCa, spiffe_id: str = SERVER_ID) -> Svid:
    """Return an SVID that is good for a web server at localhost too."""
    return ca.issue(spiffe_id, ["localhost"], ip_addresses=["127.0.0.1"])


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]
