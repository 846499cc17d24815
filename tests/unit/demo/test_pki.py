"""The development CA issues what SPIRE would, and odd things when asked to."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from authz_server.demo.pki import (
    DevelopmentCa,
    Svid,
    extension,
    write_bundle,
    write_svid,
)

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"


@pytest.fixture(scope="module")
def ca() -> DevelopmentCa:
    return DevelopmentCa("factory.example")


@pytest.fixture(scope="module")
def svid(ca: DevelopmentCa) -> Svid:
    return ca.issue(CAMERA)


def names(svid: Svid) -> x509.SubjectAlternativeName:
    extensions = svid.certificate.extensions
    return extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_spiffe_id_is_the_only_name(svid: Svid) -> None:
    assert list(names(svid)) == [x509.UniformResourceIdentifier(CAMERA)]


def test_a_leaf_is_no_ca_and_may_only_sign_handshakes(svid: Svid) -> None:
    extensions = svid.certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert basic.critical
    assert not basic.value.ca
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert set(extended) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }


def test_a_leaf_holds_now_and_for_an_hour_from_its_start(svid: Svid) -> None:
    certificate = svid.certificate
    now = dt.datetime.now(dt.UTC)
    assert certificate.not_valid_before_utc < now
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == dt.timedelta(hours=1)


def test_a_leaf_is_signed_by_its_ca_and_points_to_it(
    ca: DevelopmentCa, svid: Svid
) -> None:
    svid.certificate.verify_directly_issued_by(ca.certificate)
    issuer = ca.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    )
    authority = svid.certificate.extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    )
    assert authority.value.key_identifier == issuer.value.digest


def test_key_and_certificate_belong_together(svid: Svid) -> None:
    key = load_pem_private_key(svid.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == svid.certificate.public_key()


def test_the_ca_names_its_trust_domain(ca: DevelopmentCa) -> None:
    (parsed,) = x509.load_pem_x509_certificates(ca.bundle_pem)
    san = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://factory.example"
    ]
    constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca


def test_a_server_gets_dns_names_and_addresses_too(ca: DevelopmentCa) -> None:
    issued = names(ca.issue(CAMERA, ["localhost"], ip_addresses=["127.0.0.1"]))
    assert issued.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in issued.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_an_expired_svid_has_ended_but_its_ca_was_there_before_it(
    ca: DevelopmentCa,
) -> None:
    expired = ca.issue_expired(CAMERA).certificate
    assert expired.not_valid_after_utc < dt.datetime.now(dt.UTC)
    assert ca.certificate.not_valid_before_utc < expired.not_valid_before_utc


def test_odd_leaves_are_made_to_order(ca: DevelopmentCa) -> None:
    odd = ca.issue(
        CAMERA,
        more_uris=["spiffe://factory.example/second"],
        replace=[
            extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        ],
        omit=[ExtensionOID.KEY_USAGE],
    ).certificate
    san = odd.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(san.get_values_for_type(x509.UniformResourceIdentifier)) == 2
    basic = odd.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.critical) == (True, False)
    with pytest.raises(x509.ExtensionNotFound):
        odd.extensions.get_extension_for_class(x509.KeyUsage)


def test_a_key_is_not_in_the_repr(svid: Svid) -> None:
    assert repr(svid) == f"Svid({CAMERA!r})"


def test_only_the_owner_can_read_a_written_key(svid: Svid, tmp_path: Path) -> None:
    files = write_svid(tmp_path, "camera", svid)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert files.key.read_bytes() == svid.key_pem
    assert files.certificate.read_bytes() == svid.certificate_pem


def test_a_key_is_never_written_over_a_file_that_is_there(
    svid: Svid, tmp_path: Path
) -> None:
    (tmp_path / "camera.key").write_text("")
    with pytest.raises(FileExistsError):
        write_svid(tmp_path, "camera", svid)


def test_a_bundle_is_written_under_its_trust_domain(
    ca: DevelopmentCa, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path, ca)
    assert path.name == "factory.example.pem"
    assert path.read_bytes() == ca.bundle_pem
