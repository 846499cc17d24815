"""The emitted Istio policy at work: istiod's own configuration in real Envoys."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from checks import CAMERA, DEPLOYER, FORECASTER, INFER, len_field
from emitted_istio import PORTS, STREAM, one
from istio_mesh import Mesh, ask, channel_to, running
from judges import Object
from parts import EXAMPLE, FACTORY_CA, SUPPLIER_CA, eventually

from authz_server.demo.pki import Svid

pytestmark = [pytest.mark.go, pytest.mark.envoy]

STRANGER = "spiffe://factory.example/ns/line1/sa/visitor"
ROBOT = "spiffe://supplier.example/ns/parts/sa/robot"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
LOAD_BY_HTTP = "/v2/repository/models/defect-detection/load"
FORECAST = "/v2/models/demand-forecast/infer"

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
REFUSED_BY_TLS = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("mesh")) as started:
        yield started


@pytest.fixture(scope="module")
def camera() -> Svid:
    return FACTORY_CA.issue(CAMERA)


def test_a_camera_may_ask_its_model_by_http_and_nobody_elses(
    mesh: Mesh, camera: Svid
) -> None:
    assert mesh.post(camera, INFER) == (200, "{}")
    assert mesh.post(camera, FORECAST) == (403, "not_granted")


def test_a_camera_may_ask_its_model_by_grpc_and_nobody_elses(
    mesh: Mesh, camera: Svid
) -> None:
    assert mesh.model_infer(camera, "defect-detection") is OK
    assert mesh.model_infer(camera, "demand-forecast") is DENIED


def test_a_planner_may_not_ask_the_cameras_model(mesh: Mesh) -> None:
    planner = FACTORY_CA.issue(FORECASTER)

    assert mesh.post(planner, INFER) == (403, "not_granted")
    assert mesh.post(planner, FORECAST) == (200, "{}")


def test_the_deployer_manages_models_and_infers_nothing(mesh: Mesh) -> None:
    deployer = FACTORY_CA.issue(DEPLOYER)

    # Over HTTP, what a load asks for is in a body that the server doesn't get.
    assert mesh.call(deployer, LOAD, len_field(2, b"defect-detection")) is OK
    assert mesh.post(deployer, LOAD_BY_HTTP) == (403, "not_granted")
    assert mesh.post(deployer, INFER) == (403, "not_granted")


def test_a_stranger_of_the_own_domain_is_denied(mesh: Mesh) -> None:
    stranger = FACTORY_CA.issue(STRANGER)

    assert mesh.post(stranger, INFER) == (403, "principal_unknown")
    assert mesh.model_infer(stranger, "defect-detection") is DENIED


def test_the_server_learned_the_principal_from_the_certificate(
    mesh: Mesh, camera: Svid
) -> None:
    before = len(mesh.events())
    mesh.post(camera, INFER)
    assert eventually(lambda: len(mesh.events()) > before)
    last = mesh.events()[-1]
    assert (last["principal"], last["verified"]) == (CAMERA, True)


@pytest.mark.parametrize(
    "svid",
    [
        SUPPLIER_CA.issue(ROBOT),
        SUPPLIER_CA.issue(CAMERA),
        FACTORY_CA.issue(ROBOT),
    ],
    ids=["another domain", "another domain's CA", "another domain by our CA"],
)
@pytest.mark.parametrize("port", PORTS.values())
def test_another_trust_domain_fails_in_tls(mesh: Mesh, svid: Svid, port: int) -> None:
    before = len(mesh.events())
    with pytest.raises(REFUSED_BY_TLS):
        mesh.post(svid, INFER, port)
    assert len(mesh.events()) == before


@pytest.mark.parametrize("port", PORTS.values())
def test_nobody_gets_in_without_a_certificate(mesh: Mesh, port: int) -> None:
    tls = ssl.create_default_context(cadata=FACTORY_CA.bundle_pem.decode())
    secure = http.client.HTTPSConnection(mesh.address, port, context=tls, timeout=10)
    plain = http.client.HTTPConnection(mesh.address, port, timeout=10)
    for connection in (secure, plain):
        with contextlib.closing(connection), pytest.raises(REFUSED_BY_TLS):
            ask(connection, INFER)


def test_the_mirror_keeps_callers_off_the_metrics_port(
    mesh: Mesh, camera: Svid
) -> None:
    # The server would let the camera through: the mirror alone is about ports.
    assert mesh.post(camera, INFER, 8002) == (403, "RBAC: access denied")


def test_only_proxies_may_ask_the_server(mesh: Mesh, camera: Svid) -> None:
    with channel_to((mesh.authz, 9191), camera) as channel:
        check = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        with pytest.raises(grpc.RpcError) as denied:
            check(b"", timeout=10)
    assert denied.value.code() is DENIED
    assert "RBAC" in denied.value.details()


def stream_code(mesh: Mesh, caller: Svid, timeout_s: float) -> grpc.StatusCode:
    """Return how a stream ends whose client sends nothing and does not end it."""
    done = threading.Event()

    def messages() -> Iterator[bytes]:
        done.wait()
        return
        yield b""

    with mesh.channel(caller) as channel:
        call = channel.stream_stream(STREAM)(messages(), timeout=timeout_s)
        try:
            code: grpc.StatusCode = call.code()
        finally:
            done.set()
        return code


def test_a_stream_is_decided_before_its_first_message(mesh: Mesh) -> None:
    stranger = FACTORY_CA.issue(STRANGER)
    assert stream_code(mesh, stranger, 15) is DENIED


def stream(mesh: Mesh, caller: Svid, *models: bytes) -> tuple[int, grpc.StatusCode]:
    """Return how many messages of a stream came back, and how it ended.

    Each message is sent when the one before it was answered.
    """
    answered = threading.Semaphore(1)
    ended = threading.Event()

    def messages() -> Iterator[bytes]:
        for model in models:
            answered.acquire(timeout=10)
            if ended.is_set():
                return
            yield len_field(1, model) + len_field(2, b"1")

    count = 0
    with mesh.channel(caller) as channel:
        call = channel.stream_stream(STREAM)(messages(), timeout=15)
        try:
            for _ in call:
                count += 1
                answered.release()
        except grpc.RpcError:
            pass
        finally:
            ended.set()
            answered.release()
        return count, call.code()


def test_each_message_of_a_stream_is_judged(mesh: Mesh, tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace(
        "[inference, metadata", "[inference-stream, inference, metadata"
    )
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    camera = FACTORY_CA.issue(CAMERA)

    with running(tmp_path, policy=policy) as streaming:
        own, other = b"defect-detection", b"demand-forecast"
        assert stream(streaming, camera, own, own, own) == (3, OK)
        assert stream(streaming, camera, own, other, own) == (1, DENIED)
        assert stream(streaming, camera, other) == (0, DENIED)
        events = [
            (item["decision"], item["model"])
            for item in streaming.events()
            if item["action"] == "inference-stream" and item["model"]
        ]
    assert ("deny", "demand-forecast") in events
    # Without the action in a role no stream begins.
    assert stream(mesh, camera, own) == (0, DENIED)


def test_without_the_emitted_route_a_stream_would_hang(tmp_path: Path) -> None:
    def buffer_all(objects: list[Object]) -> None:
        spec = one(objects, "EnvoyFilter", "triton-ext-authz")["spec"]
        spec["configPatches"] = [
            patch
            for patch in spec["configPatches"]
            if patch["applyTo"] == "HTTP_FILTER"
        ]

    with running(tmp_path, buffer_all) as mesh:
        stranger = FACTORY_CA.issue(STRANGER)
        code = stream_code(mesh, stranger, 3)
        assert mesh.model_infer(stranger, "defect-detection") is DENIED
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_either_denies_so_a_caller_left_out_of_the_mirror_is_denied(
    tmp_path: Path, camera: Svid
) -> None:
    def forget(objects: list[Object]) -> None:
        policy = one(objects, "AuthorizationPolicy", "triton-callers")
        rules = policy["spec"]["rules"]
        rules[:] = [rule for rule in rules if CAMERA[9:] not in json.dumps(rule)]

    with running(tmp_path, forget) as mesh:
        assert mesh.post(camera, INFER) == (403, "RBAC: access denied")
        assert mesh.post(FACTORY_CA.issue(FORECASTER), FORECAST) == (200, "{}")


def test_an_unknown_provider_is_an_outage_and_no_opening(
    tmp_path: Path, camera: Svid
) -> None:
    def misname(objects: list[Object]) -> None:
        policy = one(objects, "AuthorizationPolicy", "triton-authz-server")
        policy["spec"]["provider"]["name"] = "authz-sever"

    with running(tmp_path, misname) as mesh:
        assert mesh.post(camera, INFER) == (403, "RBAC: access denied")
        assert mesh.events() == []


def test_a_selector_that_matches_nothing_leaves_the_mirror_alone(
    tmp_path: Path, camera: Svid
) -> None:
    def miss(objects: list[Object]) -> None:
        policy = one(objects, "AuthorizationPolicy", "triton-authz-server")
        policy["spec"]["selector"]["matchLabels"] = {"app": "tritonn"}

    with running(tmp_path, miss) as mesh:
        # Open: the mirror knows callers and ports, no models.
        assert mesh.post(camera, FORECAST) == (200, "{}")
        assert mesh.post(FACTORY_CA.issue(STRANGER), INFER)[0] == 403
        assert mesh.events() == []
