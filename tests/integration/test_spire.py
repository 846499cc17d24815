"""Real SPIRE, from the agent to the single request, with a real Envoy in between."""

import base64
import contextlib
import json
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from checks import (
    CAMERA,
    check_request,
    envoy_certificate,
    is_allowed,
    reason_of,
)
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from parts import (
    EXAMPLE,
    MemorySink,
    eventually,
    last_event,
    loaded_policies,
    serve_process,
)

from authz_server.assembly import build_pipeline, open_identities
from authz_server.cli import main
from authz_server.config import Config, Federation, Identity, JwtSvids, Policy
from authz_server.demo.calls import Edge
from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_triton,
)
from authz_server.demo.pki import DevelopmentCa, Svid, SvidFiles, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import FACTORY, ROBOT_ID, SUPPLIER
from authz_server.demo.server import AuthzServer
from authz_server.demo.spire import SpireAgent, Workload, endpoint_id
from authz_server.demo.spire_issuance import (
    AUTHZ_ID,
    TTL_S,
    Domain,
    fetch,
    register_parts,
    running_spire,
    with_sds,
)
from authz_server.demo.spire_story import (
    ask,
    call_through_rotation,
    call_to_the_end,
    connection,
)
from authz_server.errors import Reason
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.pipeline import Pipeline

pytestmark = [pytest.mark.go, pytest.mark.envoy]

AUDIENCE = "authz.factory.example"
METHOD = "/envoy.service.auth.v3.Authorization/Check"


@dataclass
class Plant:
    """SPIRE twice, authz-server fed by its agent, and Envoy in Triton's place."""

    folder: Path
    factory: Domain
    supplier: Domain
    camera: Workload
    robot: Workload
    edge: Edge
    audit: Path

    @property
    def last_event(self) -> dict[str, object]:
        return last_event(self.audit)


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    # Short, as unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="az-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        factory, supplier = s.enter_context(running_spire(folder))
        register_parts(factory)
        camera = Workload(folder, factory.agent, "camera")
        robot = Workload(folder, supplier.agent, "robot")
        factory.register(CAMERA, camera.selector, ttl_s=TTL_S)
        supplier.register(ROBOT_ID, robot.selector)
        settings = {"workload_api": f"unix://{factory.agent.socket}"}
        policy = folder / "access.yaml"
        policy.write_text(EXAMPLE.read_text())
        server = s.enter_context(AuthzServer(folder, settings, policy))
        (port,) = free_ports(1)
        places = Places(folder, server.socket, port, 1, 1)
        configuration = without_triton(
            render(read_configuration("edge-unix-socket"), places)
        )
        configuration = with_sds(configuration, factory.agent.socket)
        envoy = s.enter_context(Envoy(folder, configuration, port))
        server.wait()
        envoy.wait()
        for workload in (camera, robot):
            fetch(workload)
        bundle = folder / "edge.pem"
        bundle.write_text(factory.server.bundle("pem"))
        yield Plant(
            folder,
            factory,
            supplier,
            camera,
            robot,
            Edge(port, bundle),
            server.audit,
        )


def call(plant: Plant, svid: SvidFiles) -> tuple[int, str]:
    with connection(plant.edge, svid) as line:
        return ask(line)


def test_a_registered_workload_gets_through_with_what_its_agent_gave_it(
    plant: Plant,
) -> None:
    assert call(plant, plant.camera.fetch_x509()) == (200, "")
    assert plant.last_event["principal"] == CAMERA
    assert plant.last_event["verified"] is True


def test_a_federated_workload_is_known_for_who_it_is_and_granted_nothing(
    plant: Plant,
) -> None:
    assert call(plant, plant.robot.fetch_x509()) == (403, Reason.PRINCIPAL_UNKNOWN)
    assert plant.last_event["principal"] == ROBOT_ID
    assert plant.last_event["verified"] is True


def suppliers_camera(plant: Plant) -> Svid:
    """Return an SVID with the camera's ID, signed by the supplier's own SPIRE CA."""
    keys = json.loads((plant.supplier.folder / "server-keys.json").read_text())["keys"]
    key = load_der_private_key(base64.b64decode(keys["x509-CA-A"]), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    pem = plant.supplier.server.bundle("pem").encode()
    (certificate,) = x509.load_pem_x509_certificates(pem)
    assert certificate.public_key() == key.public_key()
    return DevelopmentCa.adopt(SUPPLIER, certificate, key).issue(CAMERA)


def test_the_suppliers_ca_cannot_mint_an_id_of_the_factory(plant: Plant) -> None:
    svid = suppliers_camera(plant)
    files = write_svid(plant.folder, "forged", svid)
    # Envoy's handshake, with the bundles that SPIRE sent it, ends the connection …
    with pytest.raises((ssl.SSLError, ConnectionError)):
        call(plant, files)
    # … and where a proxy lets it through all the same, the server does not.
    with pipeline(plant) as (decide, _):
        encoded = envoy_certificate(svid.certificate_pem)
        answer = decide.check(bytes(check_request(certificate=encoded)))
    assert reason_of(answer) == Reason.CERTIFICATE_UNTRUSTED


def test_certificates_rotate_under_load_and_no_call_fails(plant: Plant) -> None:
    rotation = call_through_rotation(plant.edge, plant.camera, seconds=12.0)
    assert rotation.failures == ()
    assert rotation.calls > 50
    assert rotation.edge_certificates > 1
    assert rotation.caller_certificates > 1


def test_a_caller_whose_entry_was_deleted_is_refused_once_its_svid_has_ended(
    plant: Plant,
) -> None:
    ending = call_to_the_end(
        plant.edge,
        plant.camera.fetch_x509(),
        lambda: plant.factory.deregister(CAMERA),
        limit_s=3 * TTL_S,
    )
    assert (ending.status, ending.reason) == (401, Reason.CERTIFICATE_EXPIRED)
    assert ending.allowed > 0
    assert ending.after_s < TTL_S + 2
    plant.factory.register(CAMERA, plant.camera.selector, ttl_s=TTL_S)
    assert call(plant, fetch(plant.camera)) == (200, "")


@contextlib.contextmanager
def pipeline(
    plant: Plant, identity: Identity | None = None
) -> Iterator[tuple[Pipeline, IdentitySources]]:
    """Yield a server's inside that is fed by the factory's agent, once it is."""
    config = Config(
        policy=Policy(file=str(EXAMPLE)),
        identity=identity
        or Identity(workload_api=f"unix://{plant.factory.agent.socket}"),
    )
    sources = open_identities(config)
    sources.reload()
    sources.start_watching(0.1)
    try:
        with loaded_policies(config) as policies:
            assert eventually(lambda: sources.error is None), sources.error
            yield build_pipeline(config, policies, MemorySink(), sources), sources
    finally:
        sources.stop()


def asked(svid: SvidFiles) -> bytes:
    encoded = envoy_certificate(svid.certificate.read_bytes())
    return bytes(check_request(certificate=encoded))


def test_the_bundles_survive_a_restart_of_the_agent_and_age_meanwhile(
    plant: Plant,
) -> None:
    store_age = TrustDomain(FACTORY)
    with pipeline(plant) as (decide, sources):
        raw = asked(plant.camera.fetch_x509())
        assert is_allowed(decide.check(raw))
        plant.factory.agent.stop()
        assert eventually(lambda: sources.error is not None)
        assert is_allowed(decide.check(raw))
        assert sources.store is not None
        assert sources.store.standings()[store_age].age_s > 0
        again = SpireAgent(plant.factory.folder, plant.factory.server)
        with again:
            again.wait()
            assert eventually(lambda: sources.error is None), sources.error
            assert sources.store.standings()[store_age].age_s == 0
            assert is_allowed(decide.check(asked(fetch(plant.camera))))
            # Envoy's own stream to the agent comes back as well.
            assert call(plant, plant.camera.fetch_x509()) == (200, "")
    # For whatever runs next.
    plant.factory.agent.__enter__()
    plant.factory.agent.wait()


PROBE_ID = f"spiffe://{FACTORY}/ns/inference/sa/probe"


def server_certificate(port: int, svid: SvidFiles, ca: Path) -> bytes | None:
    tls = ssl.create_default_context(cafile=str(ca))
    tls.load_cert_chain(svid.certificate, svid.key)
    tls.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        tls.wrap_socket(raw, server_hostname="localhost") as line,
    ):
        return line.getpeercert(binary_form=True)


def test_the_servers_own_svid_rotates_and_no_check_is_dropped(plant: Plant) -> None:
    probe = Workload(plant.folder, plant.factory.agent, "probe")
    plant.factory.register(PROBE_ID, probe.selector)
    svid = fetch(probe)
    (port,) = free_ports(1)
    folder = plant.folder / "mtls"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        f"listen: {{address: 'tcp://127.0.0.1:{port}', tls: {{proxies: {PROBE_ID}}}}}\n"
        f"policy: {{file: {EXAMPLE}}}\n"
        f"identity: {{workload_api: 'unix://{plant.factory.agent.socket}'}}\n"
        f"audit: {{file: {folder}/audit.jsonl}}\n"
    )
    credentials = grpc.ssl_channel_credentials(
        plant.edge.bundle.read_bytes(),
        svid.key.read_bytes(),
        svid.certificate.read_bytes(),
    )

    def check(channel: grpc.Channel, raw: bytes) -> bytes:
        answer: bytes = channel.unary_unary(METHOD)(raw, timeout=5)
        return answer

    def can_ask() -> bool:
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            try:
                return is_allowed(check(channel, asked(plant.camera.fetch_x509())))
            except grpc.RpcError:
                return False

    with serve_process(folder):
        assert eventually(can_ask), (folder / "log").read_text()
        assert main(["health", "--config", str(folder / "config.yaml")]) == 0
        seen = set()
        calls = 0
        with grpc.secure_channel(f"localhost:{port}", credentials) as lasting:
            end = time.monotonic() + 12.0
            while time.monotonic() < end:
                raw = asked(plant.camera.fetch_x509())
                with grpc.secure_channel(f"localhost:{port}", credentials) as fresh:
                    assert is_allowed(check(fresh, raw))
                assert is_allowed(check(lasting, raw))
                seen.add(server_certificate(port, svid, plant.edge.bundle))
                calls += 2
                time.sleep(0.05)
        assert len(seen) > 1
        assert calls > 20


def doctor(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, dict[str, str]]]:
    capsys.readouterr()
    code = main(
        [
            *("doctor", "--config", str(plant.folder / "authz-server.yaml")),
            *("--proxy", f"localhost:{plant.edge.port}", "--output", "json"),
            *("--timeout", "3"),
        ]
    )
    links = json.loads(capsys.readouterr().out)
    return code, {link["link"]: link for link in links}


def test_the_doctor_walks_from_the_agent_to_a_decision(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    code, links = doctor(plant, capsys)
    assert code == 0, links
    assert {link["state"] for link in links.values()} == {"ok"}
    assert AUTHZ_ID in links["own SVID"]["says"]
    assert links["decision"]["says"].endswith(Reason.PRINCIPAL_UNKNOWN)
    plant.factory.agent.stop()
    code, links = doctor(plant, capsys)
    assert code == 1
    assert links["SPIFFE agent"]["state"] == "BROKEN"
    assert "is the agent running" in links["SPIFFE agent"]["mend"]
    assert links["decision"]["state"] == "not tried"
    plant.factory.agent.__enter__()
    plant.factory.agent.wait()


def test_a_jwt_svid_of_spire_proves_its_workload_to_whom_it_is_meant_for(
    plant: Plant,
) -> None:
    identity = Identity(
        workload_api=f"unix://{plant.factory.agent.socket}",
        jwt_svid=JwtSvids(audience=(AUDIENCE,), without_certificate=True),
    )

    def with_token(token: str) -> bytes:
        headers = {"authorization": f"Bearer {token}"}
        return bytes(check_request(principal="", headers=headers))

    fetch(plant.camera)
    ours, others = (plant.camera.fetch_jwt(name) for name in (AUDIENCE, "others"))
    stranger = plant.robot.fetch_jwt(AUDIENCE)
    with pipeline(plant, identity) as (decide, _):
        assert is_allowed(decide.check(with_token(ours)))
        assert reason_of(decide.check(with_token(others))) == Reason.TOKEN_AUDIENCE
        head, payload, signature = ours.split(".")
        mixed = ".".join((head, stranger.split(".")[1], signature))
        assert reason_of(decide.check(with_token(mixed))) == Reason.TOKEN_UNTRUSTED
        assert payload
        assert reason_of(decide.check(with_token(stranger))) == Reason.PRINCIPAL_UNKNOWN


def test_spires_own_bundle_endpoint_is_known_by_its_spiffe_id(plant: Plant) -> None:
    url = f"https://127.0.0.1:{plant.supplier.server.endpoint_port}"
    first = plant.folder / "supplier.json"
    first.write_text(plant.supplier.server.bundle())

    def identity(name: str) -> Identity:
        return Identity(
            bundles={SUPPLIER: str(first)},
            workload_api=f"unix://{plant.factory.agent.socket}",
            federation=Federation(
                endpoints={SUPPLIER: url}, spiffe_ids={SUPPLIER: name}
            ),
        )

    def fetched(sources: IdentitySources) -> bool:
        assert sources.store is not None
        anchor = sources.store.current.anchors.get(TrustDomain(SUPPLIER))
        return anchor is not None and anchor.bundle.refresh_hint_s is not None

    with pipeline(plant, identity(endpoint_id(SUPPLIER))) as (decide, sources):
        assert eventually(lambda: fetched(sources))
        assert sources.error is None
        encoded = envoy_certificate(plant.robot.fetch_x509().certificate.read_bytes())
        raw = bytes(check_request(principal=ROBOT_ID, certificate=encoded))
        assert reason_of(decide.check(raw)) == Reason.PRINCIPAL_UNKNOWN

    wrong = open_identities(Config(identity=identity(endpoint_id(FACTORY))))
    wrong.start_watching(0.1)
    try:
        assert eventually(lambda: "not trusted" in str(wrong.error)), wrong.error
        assert not fetched(wrong)
    finally:
        wrong.stop()
