"""What is emitted for a box without Kubernetes: real Envoy, real Triton, real SPIRE."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import demo_parts
import pytest
import yaml
from cryptography import x509
from demo_parts import Edge as Recorded
from demo_parts import HttpUpstream, authority_at, http_upstream
from emitted_box import Emitted, box_site
from parts import EXAMPLE, last_event, trail

from authz_server.cli import main
from authz_server.demo.calls import Edge, Verdict
from authz_server.demo.envoy import Envoy, Places, envoy_binary, without_triton
from authz_server.demo.issuance import by_development_cas
from authz_server.demo.pki import SvidFiles
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import (
    CAMERA_ID,
    FACTORY,
    ROBOT_ID,
    SUPPLIER,
    Row,
    attempts,
    play,
)
from authz_server.demo.server import POLICY
from authz_server.demo.spire import Workload
from authz_server.demo.spire_issuance import fetch, running_spire
from authz_server.demo.spire_story import ask, connection
from authz_server.demo.triton import Triton
from authz_server.errors import Reason
from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.site.model import Ports

pytestmark = pytest.mark.envoy

KINDS = {kind.value: kind for kind in UpstreamKind}
HOSTS = {name: f"{name}.factory.example" for name in KINDS}
PORTS = Ports(openai=9001)
SUPPLIERS = (SUPPLIER,)


def policy_of_all_kinds(*foreign: str) -> AccessPolicy:
    policy = load_policy(EXAMPLE)
    upstreams = {
        name: Upstream(name, kind, "", {}, "", (HOSTS[name],), {"all": "/all"})
        for name, kind in KINDS.items()
    }
    return dataclasses.replace(
        policy,
        upstreams=upstreams,
        grants=(),
        federates_with=tuple(
            item for item in policy.federates_with if str(item) in foreign
        ),
    )


def validated(configuration: Mapping[str, Any], folder: Path) -> str:
    """Return what the real Envoy has against a configuration."""
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(dict(configuration)))
    result = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", file, "-l", "warning"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode == 0) is (" OK" in result.stdout)
    return "" if result.returncode == 0 and not result.stderr else result.stderr


def virtual_hosts(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    (listener,) = configuration["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return list(manager["route_config"]["virtual_hosts"])


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    demo_parts.lay_out(folder)
    return folder


def every_place(folder: Path, port: int = 8443) -> Places:
    return Places(folder, folder / "check.sock", port, 8000, 8001)


@pytest.mark.parametrize(
    ("serves", "uses_spire", "foreign"),
    [
        *itertools.product(
            [("triton",), ("dataset",), ("openai",)], [False, True], [SUPPLIERS]
        ),
        *itertools.product([tuple(KINDS)], [False, True], [(), SUPPLIERS]),
    ],
)
def test_envoy_accepts_what_is_emitted(
    serves: tuple[str, ...],
    uses_spire: bool,
    foreign: tuple[str, ...],
    tls_folder: Path,
    tmp_path: Path,
) -> None:
    site = box_site(*serves, uses_spire=uses_spire, ports=PORTS)
    emitted = Emitted.of(policy_of_all_kinds(*foreign), site, tmp_path)
    text = emitted.files["envoy.yaml"].replace("/etc/authz-server/tls", str(tls_folder))
    assert validated(yaml.safe_load(text), tmp_path) == ""


def test_envoys_word_counts(tls_folder: Path, tmp_path: Path) -> None:
    emitted = Emitted.of(policy_of_all_kinds(), box_site("triton"), tmp_path)
    configuration = emitted.configuration(every_place(tls_folder))
    assert validated(configuration, tmp_path) == ""
    (host,) = virtual_hosts(configuration)
    host["routes"][0]["route"]["cluster"] = "none"
    assert "unknown cluster 'none'" in validated(configuration, tmp_path)


# The demo, on what is emitted.


@dataclasses.dataclass(frozen=True)
class Plant:
    folder: Path
    edge: Edge
    identities: Mapping[str, SvidFiles]
    audit: Path
    pids: tuple[int, int]


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    # Short, as unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="az-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        (folder / "t").mkdir()
        triton = s.enter_context(Triton(folder / "t"))
        issued = by_development_cas(folder, s.enter_context, lambda _: None)
        emitted = Emitted.of(load_policy(POLICY), box_site("triton"), folder)
        server = s.enter_context(emitted.server(POLICY))
        (port,) = free_ports(1)
        places = Places(folder, server.socket, port, triton.http_port, triton.grpc_port)
        envoy = s.enter_context(emitted.envoy(emitted.configuration(places), port))
        for part in (server, envoy, triton):
            part.wait()
        yield Plant(
            folder,
            Edge(port, issued.bundle),
            issued.identities,
            server.audit,
            (server.pid, envoy.pid),
        )


@pytest.fixture(scope="module")
def rows(plant: Plant) -> list[Row]:
    return list(play(plant.edge, plant.identities))


@pytest.mark.triton
@pytest.mark.long
def test_the_demo_ends_as_it_must_on_what_is_emitted(rows: list[Row]) -> None:
    assert [row for row in rows if not row.is_right] == []
    assert len(rows) == len(list(attempts()))
    assert {row.outcome.verdict for row in rows} == {
        *(Verdict.ALLOWED, Verdict.DENIED, Verdict.REFUSED)
    }


@pytest.mark.triton
@pytest.mark.long
def test_every_decision_is_in_the_boxs_audit_log(plant: Plant, rows: list[Row]) -> None:
    events = [json.loads(line) for line in trail(plant.audit)]
    asked = [r for r in rows if r.outcome.verdict is not Verdict.REFUSED]
    assert len(events) >= len(asked)
    assert {event["upstream"] for event in events} == {"triton"}
    assert all(event["verified"] for event in events)


@pytest.mark.triton
@pytest.mark.long
def test_the_command_that_probes_run_reads_the_emitted_configuration(
    plant: Plant,
) -> None:
    arguments = ["health", "--config", str(plant.folder / "authz-server.yaml")]
    assert main(arguments) == 0
    assert main([*arguments, "--trust"]) == 0


@pytest.mark.triton
@pytest.mark.long
def test_both_ran_under_their_units_filter_of_system_calls(plant: Plant) -> None:
    for pid in plant.pids:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


# Several upstreams behind one Envoy.


@dataclasses.dataclass(frozen=True)
class Shared:
    """An Envoy in front of one upstream of each kind, each of which remembers."""

    edge: Recorded
    upstreams: Mapping[str, HttpUpstream]

    def call(
        self, host: str, method: str, path: str, **headers: str
    ) -> tuple[int, list[str]]:
        """Return the status, and which upstreams the call reached."""
        for upstream in self.upstreams.values():
            upstream.seen.clear()
        self.edge.authority.questions.clear()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, _ = self.edge.call(method, path, {"host": host, **names}, b"{}")
        return status, [name for name, item in self.upstreams.items() if item.seen]


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    with tempfile.TemporaryDirectory(prefix="az-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        factory, supplier = demo_parts.lay_out(folder)
        listener, triton, grpc_port, dataset, openai = free_ports(5)
        ports = Ports(triton, grpc_port, 1, dataset, openai, listener)
        policy = policy_of_all_kinds(*SUPPLIERS)
        emitted = Emitted.of(policy, box_site(*KINDS, ports=ports), folder)
        text = emitted.files["envoy.yaml"]
        for old, new in (
            ("/run/authz-server", str(folder)),
            ("/etc/authz-server/tls", str(folder)),
            ("0.0.0.0", "127.0.0.1"),
        ):
            text = text.replace(old, new)
        authority = s.enter_context(authority_at(f"unix:{folder}/check.sock"))
        upstreams = {
            name: s.enter_context(http_upstream(port))
            for name, port in (
                ("triton", triton),
                ("dataset", dataset),
                ("openai", openai),
            )
        }
        envoy = s.enter_context(Envoy(folder, yaml.safe_load(text), listener))
        envoy.wait()
        recorded = Recorded(
            listener, folder, factory, supplier, authority, upstreams["triton"]
        )
        yield Shared(recorded, upstreams)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", ["{}", "{}:8443", "{}."])
def test_the_host_tells_the_upstream_and_the_check_says_which(
    shared: Shared, name: str, form: str
) -> None:
    host = form.format(HOSTS[name])
    assert shared.call(host, "GET", "/any") == (200, [name])
    assert shared.edge.authority.last_extensions == {"upstream": name}


def test_a_host_of_no_upstream_leads_nowhere(shared: Shared) -> None:
    assert shared.call("other.factory.example", "GET", "/any") == (404, [])
    # Asked all the same, and about no upstream, so a real server would deny it.
    assert shared.edge.authority.last_extensions == {}


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("openai", "/v1/chat/completions", b"{}"),
        ("dataset", "/all/a.png", b""),
        ("triton", "/v2/models/m/infer", b""),
    ],
)
def test_the_check_gets_a_body_only_where_it_names_the_model(
    shared: Shared, name: str, path: str, body: bytes
) -> None:
    assert shared.call(HOSTS[name], "POST", path) == (200, [name])
    assert shared.edge.authority.last.raw_body == body


@pytest.mark.parametrize(
    ("name", "path"), [("openai", "/v1/models"), ("openai", "/metrics")]
)
def test_a_list_passes_the_gate_and_without_one_nothing_comes_back(
    shared: Shared, name: str, path: str
) -> None:
    status, _ = shared.call(HOSTS[name], "GET", path)
    assert status == 500  # nobody serves ext_proc here: no answer is a no
    assert shared.edge.authority.last_extensions == {
        "upstream": name,
        "gate": "ext_proc",
    }


def test_what_a_store_would_obey_is_in_the_check_and_its_secrets_are_not(
    shared: Shared,
) -> None:
    shared.call(
        HOSTS["dataset"],
        "GET",
        "/all/a.png",
        x_http_method_override="DELETE",
        x_amz_copy_source="/other/b",
        x_amz_security_token="secret",
        authorization="AWS4-HMAC-SHA256 secret",
        content_encoding="identity",
    )
    assert set(shared.edge.authority.last_headers) == {
        *("x-request-id", "x-http-method-override", "x-amz-copy-source"),
        "content-encoding",
    }
    assert shared.upstreams["dataset"].seen[-1][1]["x-amz-security-token"] == "secret"


# With identities from SPIRE.


@dataclasses.dataclass(frozen=True)
class SpireBox:
    """A box with SPIRE's agent: one Envoy federates, and a stricter one does not."""

    edge: Edge
    alone: Edge
    camera: SvidFiles
    robot: SvidFiles
    audit: Path


@pytest.fixture(scope="module")
def spire_box() -> Iterator[SpireBox]:
    with tempfile.TemporaryDirectory(prefix="az-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        factory, supplier = s.enter_context(running_spire(folder))
        own = f"spiffe://{FACTORY}/box/press-3"
        parts = {"envoy": envoy_binary(), "authz-server": Path(sys.executable)}
        for part, program in parts.items():
            factory.register(
                f"{own}/{part}",
                f"unix:path:{program.resolve()}",
                partners=(SUPPLIER,),
                dns_names=("localhost",),
            )
        camera = Workload(folder, factory.agent, "camera")
        robot = Workload(folder, supplier.agent, "robot")
        factory.register(CAMERA_ID, camera.selector)
        supplier.register(ROBOT_ID, robot.selector)

        bundle = folder / "edge.pem"
        bundle.write_text(factory.server.bundle("pem"))
        site = box_site("triton", uses_spire=True)
        policy = load_policy(POLICY)
        alone = dataclasses.replace(policy, federates_with=())
        emitted = Emitted.of(policy, site, folder, factory.agent.socket)
        server = s.enter_context(emitted.server(POLICY))
        ports = free_ports(2)
        for count, item in enumerate((policy, alone)):
            files = Emitted.of(item, site, folder, factory.agent.socket)
            places = Places(folder, server.socket, ports[count], 1, 1)
            configuration = without_triton(files.configuration(places))
            envoy = files.envoy(configuration, ports[count], name=f"envoy-{count}")
            s.enter_context(envoy).wait()
        server.wait()
        yield SpireBox(
            Edge(ports[0], bundle),
            Edge(ports[1], bundle),
            fetch(camera),
            fetch(robot),
            server.audit,
        )


def asked(edge: Edge, svid: SvidFiles) -> tuple[int, str]:
    with connection(edge, svid) as line:
        return ask(line)


def shown_id(edge: Edge, svid: SvidFiles) -> str:
    with connection(edge, svid) as line:
        certificate = x509.load_der_x509_certificate(
            line.sock.getpeercert(binary_form=True)
        )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


@pytest.mark.go
def test_envoy_serves_with_what_spire_hands_out(spire_box: SpireBox) -> None:
    assert asked(spire_box.edge, spire_box.camera) == (200, "")
    event = last_event(spire_box.audit)
    assert (event["principal"], event["verified"]) == (CAMERA_ID, True)
    own = f"spiffe://{FACTORY}/box/press-3/envoy"
    assert shown_id(spire_box.edge, spire_box.camera) == own


@pytest.mark.go
def test_a_federated_caller_is_let_in_and_denied_by_the_policy(
    spire_box: SpireBox,
) -> None:
    assert asked(spire_box.edge, spire_box.robot) == (403, Reason.PRINCIPAL_UNKNOWN)


@pytest.mark.go
def test_a_trust_domain_that_only_spire_federates_with_fails_at_tls(
    spire_box: SpireBox,
) -> None:
    assert asked(spire_box.alone, spire_box.camera) == (200, "")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asked(spire_box.alone, spire_box.robot)
