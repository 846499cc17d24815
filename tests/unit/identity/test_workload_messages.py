import json
import logging

import pytest
from checks import CAMERA, DEPLOYER, len_field
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from workload_agent import (
    authorities,
    der,
    jwk,
    jwks,
    jwt_bundles,
    key_der,
    x509_bundles,
    x509_svid,
    x509_svids,
)

from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import BundleError, SvidError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.workload_messages import (
    decode_jwt_bundles,
    decode_svid,
    decode_x509_bundles,
)

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
F, S = f"spiffe://{FACTORY}", f"spiffe://{SUPPLIER}"
CA, NEXT = DevelopmentCa(FACTORY.name), DevelopmentCa(FACTORY.name)
OTHER = DevelopmentCa(SUPPLIER.name)
INTERMEDIATE = DevelopmentCa(FACTORY.name, CA)
SVID = CA.issue(CAMERA)
KEY = ec.generate_private_key(ec.SECP256R1())
VARINT_FIELD_1, VARINT_FIELD_9 = b"\x08\x01", b"\x48\x01"


def odd_version(certificate: bytes) -> bytes:
    """Return a certificate with version 8, which X.509 does not have."""
    return certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)


def odd_name(certificate: bytes) -> bytes:
    """Return a certificate whose SAN is an x400Address, which nobody implements."""
    return certificate.replace(b"\x86\x18spiffe://", b"\xa3\x18spiffe://", 1)


def test_each_trust_domain_has_the_certificates_of_its_own_entry() -> None:
    raw = x509_bundles({F: authorities(CA, NEXT), S: authorities(OTHER)}, crls=2)
    assert decode_x509_bundles(raw) == {
        FACTORY: (CA.certificate, NEXT.certificate),
        SUPPLIER: (OTHER.certificate,),
    }


def test_a_message_without_bundles_trusts_nobody() -> None:
    assert decode_x509_bundles(b"") == {}
    assert decode_jwt_bundles(b"") == {}


def test_an_empty_bundle_is_one_that_revokes_everybody() -> None:
    raw = x509_bundles({F: b"", S: authorities(OTHER)})
    assert decode_x509_bundles(raw) == {FACTORY: (), SUPPLIER: (OTHER.certificate,)}


def test_an_entry_without_a_value_is_an_empty_bundle() -> None:
    assert decode_x509_bundles(len_field(2, len_field(1, F.encode()))) == {FACTORY: ()}


def test_fields_that_are_still_to_be_defined_are_passed_over() -> None:
    raw = VARINT_FIELD_9 + x509_bundles({F: authorities(CA)}) + len_field(9, b"x")
    assert decode_x509_bundles(raw) == {FACTORY: (CA.certificate,)}


UNREADABLE = {
    "cut off": x509_bundles({F: authorities(CA)})[:-1],
    "text": b"hello",
    "a group": b"\x13\x14",
    "of another type": b"\x10\x01",
    "an entry of another type": len_field(2, VARINT_FIELD_1),
    "an entry that is cut off": len_field(2, len_field(1, F.encode())[:-1]),
    "no name": len_field(2, len_field(2, authorities(CA))),
    "two names": len_field(2, len_field(1, F.encode()) + len_field(1, S.encode())),
    "a bare name": x509_bundles({FACTORY.name: b""}),
    "upper case": x509_bundles({"spiffe://Factory.example": b""}),
    "a trailing slash": x509_bundles({F + "/": b""}),
    "a workload": x509_bundles({CAMERA: b""}),
    "a newline": x509_bundles({F + "\n": b""}),
    "not ASCII": x509_bundles({"spiffe://\u212a.example": b""}),
    "a trust domain twice": x509_bundles({F: authorities(CA)})
    + x509_bundles({F: authorities(NEXT)}),
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_message_that_cannot_be_read_to_its_end_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError):
        decode_x509_bundles(raw)


NO_BUNDLES = {
    "a leaf": der(SVID.certificate),
    "a leaf after a CA": authorities(CA) + der(SVID.certificate),
    "PEM": CA.bundle_pem,
    "cut off": authorities(CA)[:-1],
    "cut off after a CA": authorities(CA) + authorities(NEXT)[:-1],
    "a tag alone": authorities(CA) + b"\x30",
    "bytes behind": authorities(CA) + b"\0",
    "an empty sequence": b"\x30\x00",
    "of indefinite length": b"\x30\x80" + authorities(CA)[4:] + b"\0\0",
    "of absurd length": b"\x30\xff" + b"\xff" * 127,
    "a version that is none": odd_version(authorities(CA)),
    "a name that nobody reads": odd_name(authorities(CA)),
}


@pytest.mark.parametrize("value", NO_BUNDLES.values(), ids=NO_BUNDLES.keys())
def test_a_bundle_that_is_no_good_believes_nobody_and_leaves_the_others_alone(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    raw = x509_bundles({S: value, F: authorities(CA)})
    assert decode_x509_bundles(raw) == {SUPPLIER: (), FACTORY: (CA.certificate,)}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "nobody of supplier.example is believed" in record.getMessage()


def test_jwt_authorities_are_read_as_spires_agent_writes_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Without "use", and null for a trust domain that has none.
    raw = jwt_bundles({F: jwks(jwk(KEY, "k1")), S: b'{"keys": null}'})
    bundles = decode_jwt_bundles(raw)
    assert bundles[FACTORY]["k1"].public_key == KEY.public_key()
    assert bundles[SUPPLIER] == {}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("use", "is_taken"),
    [
        ("jwt-svid", True),
        ("sig", True),
        ("x509-svid", False),
        ("JWT-SVID", False),
        ("enc", False),
        ("wit-svid", False),
    ],
)
def test_a_key_that_says_it_is_for_something_else_is_ignored(
    use: str, is_taken: bool
) -> None:
    raw = jwt_bundles({F: jwks(jwk(KEY, "k1", use=use))})
    assert list(decode_jwt_bundles(raw)[FACTORY]) == (["k1"] if is_taken else [])


NO_KEY_SETS = {
    "nothing": b"",
    "not JSON": b"x",
    "a list": b"[]",
    "no keys": b"{}",
    "keys twice": b'{"keys": [], "keys": []}',
    "keys no list": b'{"keys": {}}',
    "a key that is no object": b'{"keys": [1]}',
    "a key without an ID": jwks({**jwk(KEY, ""), "kid": None}),
    "one ID twice": jwks(jwk(KEY, "k1"), jwk(KEY, "k1")),
    "a private key": jwks(jwk(KEY, "k1", d="AAAA")),
    "a point that is not on the curve": jwks(jwk(KEY, "k1", x="A" * 43)),
    "nested without end": b'{"keys":' + b"[" * 100_000,
}


@pytest.mark.parametrize("value", NO_KEY_SETS.values(), ids=NO_KEY_SETS.keys())
def test_a_key_set_that_is_no_good_believes_nobody_and_leaves_the_others_alone(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bundles = decode_jwt_bundles(jwt_bundles({S: value, F: jwks(jwk(KEY, "k1"))}))
    assert bundles[SUPPLIER] == {}
    assert list(bundles[FACTORY]) == ["k1"]
    assert "nobody of supplier.example is believed" in caplog.text


def test_no_state_can_be_changed_by_who_gets_it() -> None:
    with pytest.raises(TypeError):
        decode_x509_bundles(b"")[FACTORY] = ()  # type: ignore[index]
    with pytest.raises(TypeError):
        decode_jwt_bundles(b"")[FACTORY] = {}  # type: ignore[index]


def test_our_own_svid_comes_with_its_chain_and_its_key() -> None:
    svid = INTERMEDIATE.issue(CAMERA)
    raw = x509_svids(x509_svid(svid, INTERMEDIATE.certificate))
    own = decode_svid(raw)
    assert str(own.spiffe_id) == CAMERA
    assert own.certificate_chain_pem == svid.certificate_pem + INTERMEDIATE.bundle_pem
    assert own.private_key_pem == svid.key_pem
    assert own.leaf.certificate == svid.certificate


def test_the_first_svid_is_ours() -> None:
    raw = x509_svids(x509_svid(SVID), x509_svid(CA.issue(DEPLOYER)))
    assert str(decode_svid(raw).spiffe_id) == CAMERA


def test_the_private_key_is_not_printed() -> None:
    shown = repr(decode_svid(x509_svids(x509_svid(SVID))))
    assert "PRIVATE" not in shown


def test_an_svid_with_an_rsa_key_is_taken_too() -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    svid = CA.issue(CAMERA, key=rsa.generate_private_key(65537, 2048))
    own = decode_svid(x509_svids(x509_svid(svid)))
    assert own.private_key_pem == svid.key_pem


def other_key(key: x25519.X25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


ENCRYPTED = KEY.private_bytes(
    serialization.Encoding.DER,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"secret"),
)

NO_SVIDS = {
    "nothing": b"",
    "no SVID": len_field(2, b"crl"),
    "cut off": x509_svids(x509_svid(SVID))[:-1],
    "an empty SVID": x509_svids(b""),
    "SVIDs of another type": VARINT_FIELD_1,
    "no certificate": x509_svids(x509_svid(SVID, chain=b"")),
    "a chain that is cut off": x509_svids(
        x509_svid(SVID, chain=der(SVID.certificate)[:-1])
    ),
    "a chain with something behind": x509_svids(
        x509_svid(SVID, chain=der(SVID.certificate) + b"x")
    ),
    "a chain twice": x509_svids(
        x509_svid(SVID) + len_field(2, der(CA.issue(DEPLOYER).certificate))
    ),
    "a CA": x509_svids(x509_svid(SVID, chain=authorities(CA))),
    "an odd version": x509_svids(
        x509_svid(SVID, chain=odd_version(der(SVID.certificate)))
    ),
    "of another workload": x509_svids(x509_svid(SVID, spiffe_id=DEPLOYER)),
    "of nobody": x509_svids(x509_svid(SVID, spiffe_id="")),
    "two IDs": x509_svids(
        x509_svid(CA.issue(CAMERA, more_uris=["spiffe://factory.example/b"]))
    ),
    "no key": x509_svids(x509_svid(SVID, key=b"")),
    "a key that is none": x509_svids(x509_svid(SVID, key=b"\x30\x00")),
    "a key in PEM": x509_svids(x509_svid(SVID, key=SVID.key_pem)),
    "an encrypted key": x509_svids(x509_svid(SVID, key=ENCRYPTED)),
    "the key of another": x509_svids(x509_svid(SVID, key=key_der(CA.issue(CAMERA)))),
    "a key for agreement": x509_svids(
        x509_svid(SVID, key=other_key(x25519.X25519PrivateKey.generate()))
    ),
}


@pytest.mark.parametrize("raw", NO_SVIDS.values(), ids=NO_SVIDS.keys())
def test_what_is_no_svid_of_ours_is_refused_and_its_key_not_quoted(raw: bytes) -> None:
    with pytest.raises(SvidError) as caught:
        decode_svid(raw)
    assert "PRIVATE" not in str(caught.value)
    assert caught.value.__cause__ is None or "key" not in str(caught.value)


def test_the_keys_of_a_set_are_json_whatever_their_order() -> None:
    text = json.dumps({"extra": 1, "keys": [jwk(KEY, "a"), jwk(KEY, "b")]})
    assert set(decode_jwt_bundles(jwt_bundles({F: text.encode()}))[FACTORY]) == {
        "a",
        "b",
    }
