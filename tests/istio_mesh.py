"""Triton's pod and the server's under the emitted Istio policy, in plain Envoys.

A caller's mTLS ends in an Envoy that runs what istiod generates for Triton's sidecar.
By mTLS, that one asks an Envoy that runs what istiod generates for the server's, which
hands over to the real server on loopback. Of Triton there is only what answers.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import yaml
from checks import MODEL_INFER, len_field
from emitted_istio import (
    AUTHZ,
    MANIFESTS,
    MESH,
    PORTS,
    PROVIDER,
    STREAM,
    TRITON,
    around,
    emitted,
    one,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from istio_sidecar import (
    Address,
    Sidecar,
    free_address,
    plain_envoy,
    write_secrets,
)
from judges import Object, istiod_config, read
from parts import EXAMPLE, FACTORY_CA, eventually, serve_process, trail

from authz_server.demo.pki import Svid, write_bundle, write_svid
from authz_server.demo.process import free_ports

HOST = "triton.factory.example"
TRITON_ID = "spiffe://factory.example/ns/inference/sa/triton"
AUTHZ_ID = "spiffe://factory.example/ns/authz-system/sa/authz-server"


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers in Triton's place, over HTTP."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class GrpcUpstream(grpc.GenericRpcHandler):
    """Answers in Triton's place, over gRPC: streams message by message."""

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._echo)
        return grpc.unary_unary_rpc_method_handler(lambda message, _: message)

    def _echo(
        self, messages: Iterator[bytes], _: grpc.ServicerContext
    ) -> Iterator[bytes]:
        for message in messages:
            # What stands in the place of a denied message no protobuf reader takes; to
            # Triton it is the end of the caller's half.
            if len(message) == 1:
                return
            yield message


@contextlib.contextmanager
def upstreams() -> Iterator[tuple[Address, Address]]:
    """Yield where HTTP and gRPC are answered."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    calls = grpc.server(ThreadPoolExecutor(4))
    calls.add_generic_rpc_handlers((GrpcUpstream(),))
    port = calls.add_insecure_port("127.0.0.1:0")
    calls.start()
    try:
        yield ("127.0.0.1", web.server_port), ("127.0.0.1", port)
    finally:
        calls.stop(None).wait()
        web.shutdown()
        web.server_close()
        thread.join()


@contextlib.contextmanager
def server(folder: Path, policy: Path) -> Iterator[Address]:
    """Yield where authz-server listens, by its emitted configuration.

    Trust bundles come from a file, in the place of SPIRE's agent.
    """
    (port,) = free_ports(1)
    settings = emitted_settings()
    assert settings["listen"]["address"] == "tcp://127.0.0.1:9191"
    settings["listen"] = {"address": f"tcp://127.0.0.1:{port}"}
    settings["policy"] = {"file": str(policy)}
    bundle = write_bundle(folder, FACTORY_CA)
    settings["identity"] = {"bundles": {FACTORY_CA.trust_domain: str(bundle)}}
    settings["audit"] = {"file": str(folder / "audit.jsonl")}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    with serve_process(folder):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert eventually(lambda: is_serving(stub))
        yield ("127.0.0.1", port)


def is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = stub.Check(
            health_pb2.HealthCheckRequest(), timeout=2, wait_for_ready=True
        )
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def emitted_settings() -> Object:
    objects = read(MANIFESTS / "kubernetes" / "authz-server.yaml")
    data = one(objects, "ConfigMap", "authz-server")["data"]
    (settings,) = (
        parsed
        for parsed in map(yaml.safe_load, data.values())
        if isinstance(parsed, dict) and "listen" in parsed
    )
    found: Object = settings
    return found


@contextlib.contextmanager
def sidecar(
    folder: Path,
    config: dict[str, list[Object]],
    identity: str,
    places: dict[str, Address],
    ports: list[int],
) -> Iterator[str]:
    """Yield the address at which a pod's Envoy serves."""
    folder.mkdir()
    address = free_address(*ports)
    svid = FACTORY_CA.issue(identity, [HOST], ip_addresses=[address])
    files = write_svid(folder, "own", svid)
    roots = write_bundle(folder, FACTORY_CA)
    write_secrets(folder, files.certificate, files.key, roots)
    bootstrap = plain_envoy(config, folder, address, places)
    with Sidecar(folder, bootstrap, ports[0]) as envoy:
        envoy.wait()
        yield address


@dataclass(frozen=True, slots=True)
class Mesh:
    """Both sidecars run.

    Attributes:
        folder: for files of callers.
        address: of Triton's pod.
        authz: of the server's pod.
        audit: what the server writes of its decisions.
    """

    folder: Path
    address: str
    authz: str
    audit: Path

    def connection(self, caller: Svid, port: int) -> http.client.HTTPSConnection:
        tls = ssl.create_default_context(cadata=FACTORY_CA.bundle_pem.decode())
        files = self._files(caller)
        tls.load_cert_chain(files / "own.crt", files / "own.key")
        return http.client.HTTPSConnection(self.address, port, context=tls, timeout=10)

    def _files(self, caller: Svid) -> Path:
        folder = self.folder / f"caller-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        write_svid(folder, "own", caller)
        return folder

    def post(self, caller: Svid, path: str, port: int = 8000) -> tuple[int, str]:
        """Return status, and the reason or else what the body says."""
        with contextlib.closing(self.connection(caller, port)) as connection:
            return ask(connection, path)

    def channel(self, caller: Svid) -> grpc.Channel:
        return channel_to((self.address, 8001), caller)

    def call(self, caller: Svid, method: str, message: bytes) -> grpc.StatusCode:
        """Return how a unary call ends."""
        with self.channel(caller) as channel:
            try:
                assert channel.unary_unary(method)(message, timeout=10) == message
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK

    def model_infer(self, caller: Svid, model: str) -> grpc.StatusCode:
        message = len_field(1, model.encode()) + len_field(2, b"1")
        return self.call(caller, MODEL_INFER, message)

    def events(self) -> list[Object]:
        return list(map(json.loads, trail(self.audit)))


def channel_to(place: Address, caller: Svid) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        FACTORY_CA.bundle_pem, caller.key_pem, caller.certificate_pem
    )
    options = [("grpc.ssl_target_name_override", HOST)]
    return grpc.secure_channel(f"{place[0]}:{place[1]}", credentials, options)


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    connection.request("POST", path, b"", {"host": HOST})
    response = connection.getresponse()
    text = response.read().decode()
    return response.status, response.headers.get("x-authz-reason", text)


@contextlib.contextmanager
def running(
    folder: Path,
    change: Callable[[list[Object]], None] = lambda _: None,
    policy: Path = EXAMPLE,
) -> Iterator[Mesh]:
    """Yield the mesh under the emitted objects, after `change`.

    Args:
        policy: what the server decides by.
    """
    folder = folder.resolve()
    objects = copy.deepcopy(emitted())
    change(objects)
    objects += around()
    with contextlib.ExitStack() as stack:
        web, calls = stack.enter_context(upstreams())
        place = stack.enter_context(server(folder, policy))
        authz = stack.enter_context(
            sidecar(
                folder / "authz",
                istiod_config(objects, MESH, AUTHZ),
                AUTHZ_ID,
                {"inbound|9191||": place},
                [9191],
            )
        )
        config = istiod_config(objects, MESH, TRITON)
        places = {"inbound|8000||": web, "inbound|8001||": calls, "inbound|8002||": web}
        address = stack.enter_context(
            sidecar(
                folder / "triton",
                config,
                TRITON_ID,
                {**places, PROVIDER: (authz, 9191)},
                list(PORTS.values()),
            )
        )
        yield Mesh(folder, address, authz, folder / "audit.jsonl")
