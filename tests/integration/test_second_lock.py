"""Triton's own lock, on the real Triton behind the real Envoy: whoever gets past the
proxy gets nothing, and the secret can be replaced while this server runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from checks import CAMERA
from parts import FACTORY_CA, camera_connection, eventually, serve_process
from parts import write_edge_files as write_files
from tritonclient.grpc import service_pb2

from authz_server.config import Triton as TritonSettings
from authz_server.demo.envoy import Envoy, Places, read_configuration, render
from authz_server.demo.process import free_ports
from authz_server.demo.triton import Triton
from authz_server.emit.triton_flags import triton_flags

pytestmark = [pytest.mark.envoy, pytest.mark.triton]

HEADER = "triton-access-token"
METADATA = "triton-grpc-protocol-triton-access-token"
PRINCIPAL = "x-authz-principal"

POLICY = """
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: test}
spec:
  trustDomain: factory.example
  federatesWith: [supplier.example]
  upstreams: {triton: {kind: triton}}
  groups: {cameras: {spiffe: ["spiffe://factory.example/ns/line1/sa/camera"]}}
  roles: {user: [{actions: [inference, metadata, health], models: [mirror]}]}
  grants: [{role: user, to: [cameras], on: [triton]}]
"""

# Answers with the parameters of the request, as the model sees them.
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(
                        "SEEN", np.array([request.parameters()], dtype=np.object_)
                    )
                ]
            )
            for request in requests
        ]
"""
CONFIG = """
name: "mirror"
backend: "python"
max_batch_size: 0
input [{name: "IN", data_type: TYPE_INT32, dims: [1]}]
output [{name: "SEEN", data_type: TYPE_STRING, dims: [1]}]
instance_group [{count: 1, kind: KIND_CPU}]
"""
QUESTION = json.dumps(
    {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]}]}
)
INFER = "/v2/models/mirror/infer"


@dataclasses.dataclass
class Yard:
    """A locked Triton, Envoy before it, and authz-server, whose secret is a file."""

    folder: Path
    secret: Path
    triton: Triton
    port: int

    def over_http(
        self, headers: Mapping[str, str] | None = None, path: str = INFER
    ) -> tuple[int, str]:
        """Ask through Envoy."""
        connection = camera_connection(self.folder, self.port)
        with contextlib.closing(connection):
            connection.request("POST", path, QUESTION, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def over_grpc(self, *metadata: tuple[str, str]) -> dict[str, Any]:
        """Ask through Envoy; return the parameters that the model saw."""
        svid = FACTORY_CA.issue(CAMERA)
        credentials = grpc.ssl_channel_credentials(
            FACTORY_CA.bundle_pem, svid.key_pem, svid.certificate_pem
        )
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            return seen_over_grpc(channel, metadata)


def seen_over_grpc(
    channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()
) -> dict[str, Any]:
    """Infer, and return the parameters that the model saw."""
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )
    request = service_pb2.ModelInferRequest(model_name="mirror")
    tensor = request.inputs.add(name="IN", datatype="INT32", shape=[1])
    tensor.contents.int_contents.append(1)
    answer = call(request, metadata=metadata, timeout=10)
    # A string tensor: four bytes of length, then the text.
    seen: dict[str, Any] = json.loads(answer.raw_output_contents[0][4:])
    return seen


def seen_over_http(body: str) -> dict[str, Any]:
    (output,) = json.loads(body)["outputs"]
    seen: dict[str, Any] = json.loads(output["data"][0])
    return seen


@contextlib.contextmanager
def locked_triton(folder: Path, secret: str) -> Iterator[Triton]:
    """Run a Triton that wants `secret`."""
    folder.mkdir()
    models = folder / "source"
    version = models / "mirror" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (models / "mirror" / "config.pbtxt").write_text(CONFIG)
    arguments = [
        # The ones that this server prints for its own configuration.
        *triton_flags(TritonSettings(access_secret="secret"), secret),
        f"--http-header-forward-pattern={PRINCIPAL}|{HEADER}|{METADATA}",
        f"--grpc-header-forward-pattern={PRINCIPAL}|{HEADER}|{METADATA}",
    ]
    with Triton(folder, models, arguments) as triton:
        triton.wait()
        yield triton


@contextlib.contextmanager
def envoy_before(folder: Path, triton: Triton, name: str) -> Iterator[int]:
    (port,) = free_ports(1)
    places = Places(
        tls=folder,
        check_socket=folder / "s",
        listener_port=port,
        triton_http_port=triton.http_port,
        triton_grpc_port=triton.grpc_port,
    )
    configuration = render(read_configuration("edge-unix-socket"), places)
    with Envoy(folder, configuration, port, name=name) as envoy:
        envoy.wait()
        yield port


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("y")
    write_files(folder)
    (folder / "access.yaml").write_text(POLICY)
    secret = folder / "secret"
    secret.write_text("first-secret\n")
    settings = {
        "listen": {"address": f"unix://{folder / 's'}", "socket_mode": "0600"},
        "policy": {"file": str(folder / "access.yaml"), "reload_interval_s": 0.1},
        "identity": {"chain": "proxy"},
        "audit": {"file": str(folder / "audit.jsonl")},
        "triton": {"access_secret": str(secret), "principal_header": PRINCIPAL},
        "log_level": "debug",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve_process(folder))
        triton = stack.enter_context(locked_triton(folder / "t", "first-secret"))
        assert eventually((folder / "s").exists)
        port = stack.enter_context(envoy_before(folder, triton, "envoy"))
        yard = Yard(folder, secret, triton, port)
        assert eventually(lambda: yard.over_http()[0] == 200)
        yield yard


def test_whoever_reaches_triton_past_the_proxy_gets_nothing(yard: Yard) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", yard.triton.http_port)
    with contextlib.closing(connection):
        connection.request("POST", INFER, QUESTION)
        assert connection.getresponse().status == 403
    with grpc.insecure_channel(f"127.0.0.1:{yard.triton.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            seen_over_grpc(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_allowed_call_opens_the_lock_and_the_model_sees_who_calls(
    yard: Yard,
) -> None:
    status, body = yard.over_http()
    assert status == 200
    assert seen_over_http(body) == {PRINCIPAL: CAMERA, HEADER: "first-secret"}
    assert yard.over_grpc() == {PRINCIPAL: CAMERA, METADATA: "first-secret"}


def test_a_callers_own_copies_are_overwritten_or_removed(yard: Yard) -> None:
    forged = {HEADER: "forged", METADATA: "forged", PRINCIPAL: "spiffe://td/admin"}
    status, body = yard.over_http(forged)
    assert status == 200
    assert seen_over_http(body) == {PRINCIPAL: CAMERA, HEADER: "first-secret"}
    seen = yard.over_grpc(*forged.items())
    assert seen == {PRINCIPAL: CAMERA, METADATA: "first-secret"}


def test_every_copy_of_a_header_that_comes_twice_is_overwritten(yard: Yard) -> None:
    connection = camera_connection(yard.folder, yard.port)
    with contextlib.closing(connection):
        connection.putrequest("POST", INFER)
        connection.putheader("content-length", str(len(QUESTION)))
        for name in (HEADER, METADATA, PRINCIPAL):
            connection.putheader(name, "forged")
            connection.putheader(name, "again")
        connection.endheaders(QUESTION.encode())
        answer = connection.getresponse()
        assert answer.status == 200
        seen = seen_over_http(answer.read().decode())
    assert seen == {PRINCIPAL: CAMERA, HEADER: "first-secret"}
    twice = [(name, value) for name in (METADATA, PRINCIPAL) for value in "ab"]
    assert yard.over_grpc(*twice) == {PRINCIPAL: CAMERA, METADATA: "first-secret"}


def test_the_right_secret_does_not_help_a_caller_who_is_not_allowed(
    yard: Yard,
) -> None:
    status, body = yard.over_http(
        {HEADER: "first-secret"}, "/v2/repository/models/mirror/load"
    )
    assert status == 403
    assert "not_granted" in body


@pytest.mark.long
def test_the_secret_is_replaced_while_this_server_runs(yard: Yard) -> None:
    assert yard.over_http()[0] == 200
    try:
        yard.secret.write_text("second-secret\n")
        # Triton has still the old one, and refuses ours: remembered answers are gone.
        assert eventually(lambda: yard.over_http()[0] == 403)
        assert "access denied (" not in yard.over_http()[1]
        with (
            locked_triton(yard.folder / "t2", "second-secret") as triton,
            envoy_before(yard.folder, triton, "envoy2") as port,
        ):
            newer = dataclasses.replace(yard, triton=triton, port=port)
            status, body = newer.over_http()
            assert status == 200
            assert seen_over_http(body)[HEADER] == "second-secret"
            assert newer.over_grpc()[METADATA] == "second-secret"
    finally:
        yard.secret.write_text("first-secret\n")
    assert eventually(lambda: yard.over_http()[0] == 200)


def test_without_its_secret_the_server_lets_nothing_through(yard: Yard) -> None:
    yard.secret.unlink()
    try:
        assert eventually(lambda: yard.over_http()[0] == 503)
        assert "access_secret_unavailable" in yard.over_http()[1]
    finally:
        yard.secret.write_text("first-secret\n")
    assert eventually(lambda: yard.over_http()[0] == 200)


def test_no_log_and_no_audit_event_holds_the_secret(yard: Yard) -> None:
    yard.over_http({HEADER: "first-secret"})
    for name in ("log", "audit.jsonl", "envoy.log"):
        assert "first-secret" not in (yard.folder / name).read_text()
