"""Where the listener's certificate comes from, and when it is believed to be good."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from parts import eventually

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.identity.certificate import read_leaf
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.identity.trust_bundle import TrustBundle
from authz_server.identity.workload_messages import OwnSvid
from authz_server.transport.tls import Rotation, SvidTls, TlsFiles, TlsMaterial

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
FACTORY_CA, SUPPLIER_CA = DevelopmentCa(str(FACTORY)), DevelopmentCa(str(SUPPLIER))
OURS = "spiffe://factory.example/ns/authz/sa/authz"


def material(svid: Svid, ca: DevelopmentCa = FACTORY_CA) -> TlsMaterial:
    return TlsMaterial(svid.certificate_pem, svid.key_pem, ca.bundle_pem)


class Files:
    """The three files of a test."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.client_ca = folder / "ca.crt"
        self.tls = TlsFiles(self.certificate, self.key, self.client_ca)

    def write(self, svid: Svid, ca: DevelopmentCa = FACTORY_CA) -> TlsMaterial:
        self.certificate.write_bytes(svid.certificate_pem)
        self.key.write_bytes(svid.key_pem)
        self.client_ca.write_bytes(ca.bundle_pem)
        return material(svid, ca)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_good_files_are_the_material(files: Files) -> None:
    written = files.write(FACTORY_CA.issue(OURS))
    files.tls.reload()
    assert files.tls.current == written
    assert files.tls.error is None


def test_a_missing_file_is_told_by_its_name(files: Files) -> None:
    files.tls.reload()
    assert files.tls.current is None
    assert f"{files.certificate}: cannot be read" in str(files.tls.error)


def test_a_key_of_another_certificate_leaves_the_last_good_pair_in_force(
    files: Files,
) -> None:
    first = files.write(FACTORY_CA.issue(OURS))
    files.tls.reload()
    second = FACTORY_CA.issue(OURS)
    files.certificate.write_bytes(second.certificate_pem)
    files.tls.reload()
    assert files.tls.current == first
    assert "private key is not that of the certificate" in str(files.tls.error)
    files.key.write_bytes(second.key_pem)
    files.tls.reload()
    assert files.tls.current == material(second)
    assert files.tls.error is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("certificate", b"", "the certificate is not PEM certificates"),
        ("certificate", b"-----BEGIN CERTIFICATE-----\nAA", "the certificate is not"),
        ("key", b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0", "private key cannot be read"),
        ("key", b"", "private key cannot be read"),
        ("client_ca", b"", "the file of client CAs is not PEM certificates"),
    ],
)
def test_a_file_that_holds_something_else_changes_nothing(
    files: Files,
    name: str,
    content: bytes,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = files.write(FACTORY_CA.issue(OURS))
    files.tls.reload()
    getattr(files, name).write_bytes(content)
    files.tls.reload()
    files.tls.reload()
    assert files.tls.current == first
    assert says in str(files.tls.error)
    assert [says in record.message for record in caplog.records] == [True]
    assert "c2VjcmV0" not in caplog.text


def test_a_key_with_a_password_is_refused(files: Files) -> None:
    files.write(FACTORY_CA.issue(OURS))
    files.key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    files.tls.reload()
    assert files.tls.current is None
    assert "without a password" in str(files.tls.error)


def test_files_are_read_again_when_a_link_turns(tmp_path: Path) -> None:
    """As Kubernetes replaces a mounted Secret."""
    mounted = tmp_path / "mounted"
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    first = Files(old).write(FACTORY_CA.issue(OURS))
    second = Files(new).write(FACTORY_CA.issue(OURS))
    mounted.symlink_to(old)
    tls = Files(mounted).tls
    tls.reload()
    assert tls.current == first
    tls.start_watching(0.01)
    try:
        (tmp_path / "next").symlink_to(new)
        (tmp_path / "next").rename(mounted)
        assert eventually(lambda: tls.current == second, 5)
    finally:
        tls.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_died_is_told(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("authz_server.transport.tls.fingerprint", fail)
    files.tls.start_watching(0.001)
    try:
        assert eventually(lambda: "no longer watched" in str(files.tls.error), 5)
    finally:
        files.tls.stop()


def test_material_does_not_print_its_key(files: Files) -> None:
    assert "PRIVATE KEY" not in repr(files.write(FACTORY_CA.issue(OURS)))


# Our own SVID, and the bundles in force


@dataclass
class Agent:
    """What the Workload API has given so far."""

    svid: OwnSvid | None = None
    now_s: float = 1000.0
    store: TrustStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = TrustStore(max_age_s=60.0, clock=self.clock)

    def clock(self) -> Instant:
        return Instant(self.now_s, self.now_s)

    def issue(self) -> OwnSvid:
        svid = FACTORY_CA.issue(OURS)
        leaf = read_leaf(svid.certificate_pem)
        self.svid = OwnSvid(leaf, svid.certificate_pem, svid.key_pem)
        return self.svid

    def trust(self, *cas: DevelopmentCa, fresh_s: float = math.inf) -> None:
        bundles = {
            (name := TrustDomain(ca.trust_domain)): TrustBundle(name, (ca.certificate,))
            for ca in cas
        }
        self.store.put_all(bundles, fresh_s, "agent")

    def tls(self, *trust_domains: TrustDomain) -> SvidTls:
        return SvidTls(
            lambda: self.svid, lambda: self.store.current, trust_domains, self.clock
        )


def test_our_svid_and_the_proxies_bundles_are_the_material() -> None:
    agent = Agent()
    svid = agent.issue()
    agent.trust(FACTORY_CA, SUPPLIER_CA)
    tls = agent.tls(FACTORY, FACTORY)
    assert tls.error is None
    assert tls.current == TlsMaterial(
        svid.certificate_chain_pem, svid.private_key_pem, FACTORY_CA.bundle_pem
    )
    both = agent.tls(SUPPLIER, FACTORY).current
    assert both is not None
    assert both.client_ca == FACTORY_CA.bundle_pem + SUPPLIER_CA.bundle_pem


def test_there_is_no_material_before_the_svid() -> None:
    agent = Agent()
    agent.trust(FACTORY_CA)
    tls = agent.tls(FACTORY)
    assert tls.current is None
    assert "no SVID of our own" in str(tls.error)
    agent.issue()
    assert tls.current is not None
    agent.svid = None  # taken away again
    assert tls.current is None


def test_there_is_no_material_without_a_bundle_of_a_proxy() -> None:
    agent = Agent()
    agent.issue()
    agent.trust(SUPPLIER_CA)
    tls = agent.tls(FACTORY)
    assert tls.current is None
    assert "no trust domain of a listed proxy has a bundle" in str(tls.error)


def test_a_bundle_that_is_too_old_lets_nobody_in() -> None:
    agent = Agent()
    agent.issue()
    agent.trust(FACTORY_CA, fresh_s=agent.now_s)
    tls = agent.tls(FACTORY)
    assert tls.current is not None
    agent.now_s += 61
    assert tls.current is None


def test_there_is_nothing_to_watch_beside_the_sources_themselves() -> None:
    agent = Agent()
    agent.issue()
    agent.trust(FACTORY_CA)
    tls = agent.tls(FACTORY)
    before = tls.current
    tls.reload()
    tls.start_watching(0.01)
    tls.stop()
    assert tls.current == before


# What gRPC is told


def test_grpc_is_told_of_material_only_when_it_changes(files: Files) -> None:
    rotation = Rotation(files.tls)
    assert rotation.fetch() is None  # nothing there, as in the beginning
    files.write(FACTORY_CA.issue(OURS))
    files.tls.reload()
    assert rotation.fetch() is not None
    assert rotation.fetch() is None
    files.tls.reload()  # the same again
    assert rotation.fetch() is None
    files.write(FACTORY_CA.issue(OURS))
    files.tls.reload()
    assert rotation.fetch() is not None


def test_grpc_is_told_when_the_material_is_taken_away() -> None:
    agent = Agent()
    agent.issue()
    agent.trust(FACTORY_CA)
    rotation = Rotation(agent.tls(FACTORY))
    assert rotation.fetch() is not None
    agent.svid = None
    assert rotation.fetch() is not None
    assert rotation.fetch() is None
