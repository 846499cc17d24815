"""Parts around a real Envoy for tests: an authz server that records what it is asked,
upstreams that record what reaches them, and a client with an SVID.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import ssl
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from envoy_data_plane.envoy.service.auth import v3 as auth

from authz_server.demo.envoy import Envoy, Places, read_configuration, render
from authz_server.demo.pki import (
    DevelopmentCa,
    Svid,
    SvidFiles,
    write_bundle,
    write_svid,
)
from authz_server.demo.process import free_ports
from authz_server.response import allow

# Not typed by their libraries.
Message = Any
Credentials = Any

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
ROBOT = "spiffe://supplier.example/ns/parts/sa/robot"
EDGE = "spiffe://factory.example/ns/inference/sa/triton"
AUTHZ = "spiffe://factory.example/ns/authz/sa/authz-server"

METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclasses.dataclass
class Authority:
    """An ext_authz server: answers what it is told to, and remembers the questions."""

    answer: bytes = dataclasses.field(default_factory=allow)
    questions: list[auth.CheckRequest] = dataclasses.field(default_factory=list)

    def check(self, raw: bytes, context: object) -> bytes:
        del context
        self.questions.append(auth.CheckRequest.parse(raw))
        return self.answer

    @property
    def last(self) -> Message:
        """The HTTP request of the last question."""
        return self._attributes.request.http

    @property
    def last_extensions(self) -> dict[str, str]:
        return dict(self._attributes.context_extensions)

    @property
    def last_certificate(self) -> str:
        return str(self._attributes.source.certificate)

    @property
    def last_headers(self) -> dict[str, bytes]:
        return {h.key: h.raw_value for h in self.last.header_map.headers}

    @property
    def _attributes(self) -> Message:
        return self.questions[-1].attributes


@contextlib.contextmanager
def serve_grpc(
    service: str,
    handlers: Mapping[str, Any],
    address: str,
    credentials: Credentials = None,
) -> Iterator[None]:
    """Serve methods of raw bytes."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(
            pool, options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait()


@contextlib.contextmanager
def authority_at(address: str, credentials: Credentials = None) -> Iterator[Authority]:
    authority = Authority()
    handler = grpc.unary_unary_rpc_method_handler(authority.check)
    service = "envoy.service.auth.v3.Authorization"
    with serve_grpc(service, {"Check": handler}, address, credentials):
        yield authority


class _Recorder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpUpstream

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.seen.append((self.path, dict(self.headers.items()), len(body)))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class HttpUpstream(http.server.ThreadingHTTPServer):
    """Stands for Triton's HTTP port; remembers path, headers and body size."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Recorder)
        self.seen: list[tuple[str, dict[str, str], int]] = []


@contextlib.contextmanager
def http_upstream(port: int) -> Iterator[HttpUpstream]:
    with HttpUpstream(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclasses.dataclass
class Edge:
    """An Envoy with everything around it."""

    port: int
    folder: Path
    factory: DevelopmentCa
    supplier: DevelopmentCa
    authority: Authority
    upstream: HttpUpstream
    _count: int = 0

    def client(self, svid: Svid) -> SvidFiles:
        self._count += 1
        return write_svid(self.folder, f"client-{self._count}", svid)

    def tls(self, svid: Svid | None) -> ssl.SSLContext:
        context = ssl.create_default_context(
            cafile=str(self.folder / "factory.example.pem")
        )
        if svid is not None:
            files = self.client(svid)
            context.load_cert_chain(files.certificate, files.key)
        return context

    def call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        svid: Svid | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one HTTP request as the camera, or as the holder of `svid`."""
        svid = svid if svid is not None else self.factory.issue(CAMERA)
        with contextlib.closing(self.connect(self.tls(svid))) as connection:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, names, answer.read()

    def connect(self, context: ssl.SSLContext) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "localhost", self.port, timeout=10, context=context
        )

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        svid = self.factory.issue(CAMERA)
        credentials = grpc.ssl_channel_credentials(
            self.factory.bundle_pem, svid.key_pem, svid.certificate_pem
        )
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            yield channel


def _echo(messages: Iterator[bytes], context: object) -> Iterator[bytes]:
    del context
    yield from messages


def lay_out(folder: Path) -> tuple[DevelopmentCa, DevelopmentCa]:
    """Write what Envoy's configurations read into `folder`."""
    factory = DevelopmentCa("factory.example")
    supplier = DevelopmentCa("supplier.example")
    write_bundle(folder, factory)
    write_bundle(folder, supplier)
    write_svid(folder, "server", factory.issue(EDGE, ["localhost"]))
    return factory, supplier


@contextlib.contextmanager
def edge_at(
    folder: Path, configuration: str, authz_id: str | None = None
) -> Iterator[Edge]:
    """Run Envoy with `configuration` between a client, an authority and upstreams.

    With `authz_id`, the authority is a TCP service under that SPIFFE ID.
    """
    factory, supplier = lay_out(folder)
    listener, http_port, grpc_port, authz_port = free_ports(4)
    places = Places(
        tls=folder,
        check_socket=folder / "check.sock",
        listener_port=listener,
        triton_http_port=http_port,
        triton_grpc_port=grpc_port,
        authz_port=authz_port,
    )
    address, credentials = f"unix:{places.check_socket}", None
    if authz_id is not None:
        svid = factory.issue(authz_id)
        address = f"127.0.0.1:{authz_port}"
        credentials = grpc.ssl_server_credentials(
            [(svid.key_pem, svid.certificate_pem)],
            root_certificates=factory.bundle_pem,
            require_client_auth=True,
        )
    with contextlib.ExitStack() as stack:
        authority = stack.enter_context(authority_at(address, credentials))
        upstream = stack.enter_context(http_upstream(http_port))
        echo = grpc.stream_stream_rpc_method_handler(_echo)
        methods = {"ModelInfer": echo, "ModelStreamInfer": echo}
        service = "inference.GRPCInferenceService"
        stack.enter_context(serve_grpc(service, methods, f"127.0.0.1:{grpc_port}"))
        envoy = stack.enter_context(
            Envoy(folder, render(read_configuration(configuration), places), listener)
        )
        envoy.wait()
        yield Edge(listener, folder, factory, supplier, authority, upstream)
