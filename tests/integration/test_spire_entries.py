"""The emitted entries and configurations in a real SPIRE server and its agents."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from authz_server.demo.process import Command, Process, free_ports
from authz_server.demo.scenario import FACTORY, SUPPLIER
from authz_server.demo.spire import (
    SpireAgent,
    SpireServer,
    Workload,
    find_binaries,
)
from authz_server.demo.spire_issuance import fetch
from authz_server.emit.manifest import Manifest
from authz_server.emit.spire import emit_spire
from authz_server.emit.spire_agents import BUNDLE, DATA, JOIN_TOKEN, SERVER_FILES
from authz_server.emit.spire_entries import Entry
from authz_server.emit.spire_entries_json import entries_json, parse_entries
from authz_server.errors import SetupError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy, Grant, Group
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Federation,
    Site,
    Spire,
)

pytestmark = pytest.mark.go

EXAMPLE = Path(__file__).parents[2] / "examples" / "plant-7.yaml"
CAMERA = SpiffeId(TrustDomain(FACTORY), ("ns", "line1", "sa", "camera"))
VISION = SpiffeId(TrustDomain(FACTORY), ("ns", "line2", "sa", "vision"))
NO_TOKEN = 'NodeAttestor "join_token" { plugin_data {} }'


def federated_policy() -> AccessPolicy:
    """Return the example, whose cameras a supplier's robots join."""
    policy = load_policy(EXAMPLE)
    pattern = SpiffePattern.parse(f"spiffe://{SUPPLIER}/ns/robots/sa/arm")
    robots = Group("robots", (pattern,), (), ())
    return replace(
        policy,
        groups={**policy.groups, "robots": robots},
        grants=(*policy.grants, Grant("inspector", ("robots",), ("triton",))),
    )


class EmittedAgent(Process):
    """An agent that runs with an emitted configuration."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder.resolve()
        self.binaries = find_binaries()
        self.socket = self.folder / "agent.sock"
        self.configuration = self.folder / "agent.conf"
        arguments = ["run", "-config", str(self.configuration)]
        super().__init__(
            Command(
                name=f"agent {folder.name}",
                argv=[str(self.binaries.agent), *arguments],
                log=self.folder / "agent.log",
                env=os.environ,
                cwd=self.folder,
            )
        )

    wait = SpireAgent.wait


def text_of(files: tuple[Manifest, ...], name: str) -> str:
    [manifest] = [item for item in files if item.name == name]
    return manifest.text


def plugins_of(server_conf: str) -> str:
    """Return what stands between the braces of ``plugins``."""
    return server_conf.partition("plugins {\n")[2].rstrip().removesuffix("}")


def order(server: SpireServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    noun, verb, *options = arguments
    at = ("-socketPath", str(server.socket))
    return subprocess.run(
        [str(server.binaries.server), noun, verb, *at, *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def issue_node(folder: Path, name: str) -> None:
    """Write a node's certificate and key, and the CA that signed it."""
    now = dt.datetime.now(dt.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def build(
        subject: str, public_key: ec.EllipticCurvePublicKey, *, is_ca: bool
    ) -> x509.Certificate:
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment"),
                *("data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
                *("encipher_only", "decipher_only"),
            ),
            False,
        )
        usage["key_cert_sign" if is_ca else "digital_signature"] = True
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nodes")]))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(
                x509.BasicConstraints(ca=is_ca, path_length=None), critical=True
            )
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .sign(ca_key, hashes.SHA256())
        )

    ca = build("nodes", ca_key.public_key(), is_ca=True)
    leaf = build(name, key.public_key(), is_ca=False)
    (folder / "nodes-ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "node.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "node.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


@dataclass
class Plant:
    """A SPIRE server with what was emitted for two boxes, and their agents."""

    server: SpireServer
    entries: tuple[Entry, ...]
    files: tuple[Manifest, ...]
    created: subprocess.CompletedProcess[str]
    held: Mapping[str, Mapping[str, Any]]
    camera: Workload
    vision: Workload
    rogue: Workload
    gate: EmittedAgent
    press: EmittedAgent


def make_site(port: int, gate: Path, camera: Workload, vision: Workload) -> Site:
    uid = f"unix:uid:{os.getuid()}"
    return Site(
        spire=Spire(
            address=f"127.0.0.1:{port}",
            agent_socket=str(gate),
            x509_ttl_s=900,
            jwt_ttl_s=120,
        ),
        federation=(
            Federation(TrustDomain(SUPPLIER), "https://spire.supplier.example:8443"),
        ),
        boxes=(
            Box(
                "gate",
                Attestor.JOIN_TOKEN,
                workloads=(BoxWorkload(CAMERA, (camera.selector, uid)),),
            ),
            Box(
                "press",
                Attestor.X509POP,
                ("x509pop:subject:cn:press",),
                ("triton",),
                workloads=(BoxWorkload(VISION, (vision.selector, uid)),),
            ),
        ),
    )


def configure(files: tuple[Manifest, ...], agent: EmittedAgent, token: str) -> None:
    """Write an agent's emitted configuration with the paths of this test."""
    own = agent.folder / "files"
    own.mkdir(exist_ok=True)
    (own / "join-token").write_text(token)
    gate = agent.folder.parent / "gate" / "agent.sock"
    text = text_of(files, f"agents/{agent.folder.name}.conf")
    for place, path in (
        (BUNDLE, agent.folder.parent / "bootstrap.pem"),
        (JOIN_TOKEN, own / "join-token"),
        (DATA, own),
        ("/etc/spire", agent.folder.parent),
        (str(gate), agent.socket),
    ):
        text = text.replace(f'"{place}', f'"{path}')
    agent.configuration.write_text(text)


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    # Short, as unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="az-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        issue_node(folder, "press")
        gate, press = (EmittedAgent(folder / one) for one in ("gate", "press"))
        camera = Workload(gate.folder, gate, "camera")
        rogue = Workload(gate.folder, gate, "rogue")
        vision = Workload(press.folder, press, "vision")
        port, endpoint = free_ports(2)
        policy, site = federated_policy(), make_site(port, gate.socket, camera, vision)
        files = emit_spire(policy, site)
        server = SpireServer(folder, FACTORY, port, endpoint_port=endpoint, partners={})
        configuration = folder / "server.conf"
        attestors = plugins_of(text_of(files, "server.conf"))
        text = configuration.read_text().replace(NO_TOKEN, attestors)
        configuration.write_text(text.replace(SERVER_FILES, str(folder)))
        s.enter_context(server)
        server.wait()
        server.set_bundle(SUPPLIER, server.bundle())
        (folder / "bootstrap.pem").write_text(server.bundle("pem"))
        data = folder / "entries.json"
        data.write_text(text_of(files, "entries.json"))
        created = order(server, "entry", "create", "-data", str(data))
        held = shown(server)
        token = server.join_token(f"spiffe://{FACTORY}/box/gate")
        for agent in (gate, press):
            configure(files, agent, token)
            s.enter_context(agent)
        for agent in (gate, press):
            agent.wait()
        entries = parse_entries(data.read_text(), "entries.json")
        yield Plant(
            server, entries, files, created, held, camera, vision, rogue, gate, press
        )


def spiffe_id(certificate: Path) -> str:
    [leaf, *_] = x509.load_pem_x509_certificates(certificate.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


def shown(server: SpireServer) -> dict[str, Mapping[str, Any]]:
    answer = order(server, "entry", "show", "-output", "json")
    assert answer.returncode == 0, answer.stderr
    return {item["id"]: item for item in json.loads(answer.stdout)["entries"]}


def text_id(item: Mapping[str, str]) -> str:
    return f"spiffe://{item['trust_domain']}{item['path']}"


def test_the_server_takes_every_entry_as_it_is_written(plant: Plant) -> None:
    assert plant.created.returncode == 0, plant.created.stderr

    assert len(plant.held) == len(plant.entries) == 5
    for entry in plant.entries:
        item = plant.held[entry.name]
        assert text_id(item["spiffe_id"]) == str(entry.spiffe_id)
        assert text_id(item["parent_id"]) == str(entry.parent_id)
        assert {f"{one['type']}:{one['value']}" for one in item["selectors"]} == set(
            entry.selectors
        )
        assert item["x509_svid_ttl"] == entry.x509_ttl_s
        assert item["jwt_svid_ttl"] == entry.jwt_ttl_s
        assert set(item["federates_with"]) == entry.federates_with
    assert {
        str(entry.spiffe_id).rpartition("/")[2]
        for entry in plant.entries
        if entry.federates_with == {SUPPLIER}
    } == {"envoy", "authz-server"}


def test_created_again_they_are_refused_and_updated_they_are_taken(
    plant: Plant, tmp_path: Path
) -> None:
    data = tmp_path / "entries.json"
    data.write_text(text_of(plant.files, "entries.json"))
    again = order(plant.server, "entry", "create", "-data", str(data))
    assert again.returncode != 0
    assert "AlreadyExists" in again.stderr
    others = [
        entry if entry.is_alias else replace(entry, jwt_ttl_s=60)
        for entry in plant.entries
    ]
    data.write_text(entries_json(others))

    updated = order(plant.server, "entry", "update", "-data", str(data))

    assert updated.returncode == 0, updated.stderr
    held = shown(plant.server)
    assert {
        held[entry.name]["jwt_svid_ttl"] for entry in others if not entry.is_alias
    } == {60}
    assert {entry.name for entry in others} <= set(held)


def test_a_box_with_a_join_token_issues_its_workload_exactly_its_id(
    plant: Plant,
) -> None:
    assert spiffe_id(fetch(plant.camera).certificate) == str(CAMERA)


def test_a_node_with_a_certificate_is_its_box_by_the_emitted_alias(
    plant: Plant,
) -> None:
    assert spiffe_id(fetch(plant.vision).certificate) == str(VISION)


def test_a_process_that_no_entry_tells_gets_nothing(plant: Plant) -> None:
    fetch(plant.camera)  # so the agent has its entries

    with pytest.raises(SetupError, match="no identity issued"):
        plant.rogue.fetch_x509()


# What needs hardware or a cloud is read by SPIRE's own validation.


def validate(
    program: Path, text: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    file = folder / "validated.conf"
    file.write_text(text)
    return subprocess.run(
        [str(program), "validate", "-config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def files_for(*attestors: Attestor) -> tuple[Manifest, ...]:
    workload = BoxWorkload(CAMERA, ("docker:label:a:b", "unix:path:/x"))
    boxes = tuple(
        Box(
            str(kind).replace("_", "-"),
            kind,
            () if kind is Attestor.JOIN_TOKEN else (f"{kind}:label:a:b",),
            workloads=(workload,),
        )
        for kind in attestors
    )
    spire = Spire(
        address="127.0.0.1:8081",
        cluster_name="plant-7",
        azure_tenant="factory.onmicrosoft.com",
        gcp_projects=("factory-edge",),
    )
    return emit_spire(load_policy(EXAMPLE), Site(spire=spire, boxes=boxes))


@pytest.mark.parametrize("attestor", Attestor)
def test_an_agents_configuration_is_valid_for_every_kind_of_node(
    attestor: Attestor, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    [text] = [m.text for m in files_for(attestor) if m.name.startswith("agents/")]
    text = text.replace(JOIN_TOKEN, str(token))

    valid = validate(find_binaries().agent, text, tmp_path)
    misspelt = validate(
        find_binaries().agent, text.replace("server_port", "server_prt"), tmp_path
    )

    assert valid.returncode == 0, valid.stderr
    assert misspelt.returncode != 0


# Azure's looks its tenant up at Microsoft.
OFFLINE = tuple(kind for kind in Attestor if kind is not Attestor.AZURE_IMDS)


def server_text(folder: Path) -> str:
    server = SpireServer(folder, FACTORY, 1, endpoint_port=2, partners={})
    attestors = plugins_of(text_of(files_for(*OFFLINE), "server.conf"))
    for name in ("nodes-ca", "devid-ca", "endorsement-ca"):
        ca = folder / "nodes-ca.pem"
        if not ca.exists():
            issue_node(folder, "any")
        (folder / f"{name}.pem").write_bytes(ca.read_bytes())
    text = (server.folder / "server.conf").read_text().replace(NO_TOKEN, attestors)
    return text.replace(SERVER_FILES, str(folder))


def test_the_servers_plugins_are_valid_for_every_kind_of_node(tmp_path: Path) -> None:
    text = server_text(tmp_path)
    assert text.count("NodeAttestor") == len(OFFLINE) + 1  # the cluster's too

    valid = validate(find_binaries().server, text, tmp_path)

    assert valid.returncode == 0, valid.stderr


@pytest.mark.parametrize(
    "option",
    [
        "ca_bundle_path",
        "devid_ca_path",
        "endorsement_ca_path",
        "projectid_allow_list",
        "service_account_allow_list",
    ],
)
def test_that_validation_would_find_a_misspelt_option(
    option: str, tmp_path: Path
) -> None:
    text = server_text(tmp_path).replace(f"{option} =", f"{option}x =")

    assert validate(find_binaries().server, text, tmp_path).returncode != 0
