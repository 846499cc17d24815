import base64
import contextlib
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import BundleError, Reason
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust_bundle import (
    MAX_BUNDLE_BYTES,
    TrustBundle,
    parse_bundle,
)

TD = TrustDomain("factory.example")
ONE, TWO = DevelopmentCa(TD.name), DevelopmentCa(TD.name)
LEAF = ONE.issue("spiffe://factory.example/a")


def der(ca: DevelopmentCa) -> str:
    return base64.b64encode(ca.certificate.public_bytes(Encoding.DER)).decode()


def jwk(ca: DevelopmentCa = ONE, **changes: object) -> dict[str, object]:
    key: dict[str, object] = {"use": "x509-svid", "kty": "EC", "x5c": [der(ca)]}
    key.update(changes)
    return {name: value for name, value in key.items() if value is not None}


def spiffe(*keys: object, **members: object) -> bytes:
    return json.dumps({"keys": list(keys), **members}).encode()


def read(data: bytes) -> TrustBundle:
    return parse_bundle(data, TD)


def test_a_pem_bundle_holds_every_certificate() -> None:
    bundle = read(b"# ours\n" + ONE.bundle_pem + b"\n" + TWO.bundle_pem)
    assert bundle.x509_authorities == (ONE.certificate, TWO.certificate)
    assert bundle.trust_domain == TD
    assert bundle.sequence is None


def test_a_spiffe_bundle_has_authorities_sequence_and_hint() -> None:
    data = spiffe(jwk(), jwk(TWO), spiffe_sequence=2**70, spiffe_refresh_hint=300)
    bundle = read(data)
    assert bundle.x509_authorities == (ONE.certificate, TWO.certificate)
    assert bundle.sequence == 2**70
    assert bundle.refresh_hint_s == 300


def test_an_empty_list_of_keys_is_a_bundle_that_revokes_everything() -> None:
    assert read(spiffe()).x509_authorities == ()


IGNORED = {
    "another use": jwk(use="sig", kid="1", x5c=None),
    "use in upper case": jwk(use="X509-SVID"),
    "no use": jwk(use=None),
    "unknown key type": jwk(kty="oct"),
    "no key type": jwk(kty=None),
    "a list as key type": jwk(kty=["EC"]),
    "no certificate": jwk(x5c=None),
    "a use to come": jwk(use="wit-svid"),
}


@pytest.mark.parametrize("key", IGNORED.values(), ids=IGNORED.keys())
def test_a_key_for_somebody_else_is_ignored(key: dict[str, object]) -> None:
    assert read(spiffe(key, jwk(TWO))).x509_authorities == (TWO.certificate,)


def test_only_the_first_certificate_of_a_key_is_an_authority() -> None:
    key = jwk(x5c=[der(ONE), der(TWO)])
    assert read(spiffe(key)).x509_authorities == (ONE.certificate,)


LEAF_DER = base64.b64encode(LEAF.certificate.public_bytes(Encoding.DER)).decode()

REFUSED = {
    "nothing": b"",
    "text": b"hello",
    "a leaf among the CAs": ONE.bundle_pem + LEAF.certificate_pem,
    "a private key": ONE.bundle_pem + LEAF.key_pem,
    "a block that is cut off": ONE.bundle_pem + TWO.bundle_pem[:-30],
    "PEM without DER": (
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    ),
    "JSON that is cut off": spiffe(jwk())[:-1],
    "not UTF-8": b"{\xff}",
    "nested without end": b"{" * 10 + b'"a":' + b"[" * 100_000,
    "NaN": b'{"keys": [], "spiffe_sequence": NaN}',
    "no keys": b"{}",
    "keys no list": b'{"keys": {}}',
    "keys twice": b'{"keys": [], "keys": []}',
    "a key that is no object": spiffe("x"),
    "a member twice": b'{"keys": [{"use": "a", "use": "x509-svid"}]}',
    "x5c no list": spiffe(jwk(x5c="x")),
    "x5c empty": spiffe(jwk(x5c=[])),
    "x5c of numbers": spiffe(jwk(x5c=[1])),
    "x5c not Base64": spiffe(jwk(x5c=["*"])),
    "x5c no certificate": spiffe(jwk(x5c=["AAAA"])),
    "x5c a leaf": spiffe(jwk(x5c=[LEAF_DER])),
    "a sequence below zero": spiffe(spiffe_sequence=-1),
    "a sequence with a fraction": spiffe(spiffe_sequence=1.5),
    "a sequence that is true": spiffe(spiffe_sequence=True),
    "a hint that is text": spiffe(spiffe_refresh_hint="5"),
    "too large": b"x" * (MAX_BUNDLE_BYTES + 1),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        read(data)
    assert caught.value.reason is Reason.TRUST_BUNDLE_UNAVAILABLE


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"{" + tail))
def test_any_bytes_give_a_bundle_or_the_parsers_own_error(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        assert read(data).trust_domain == TD


@given(st.integers(0, len(ONE.bundle_pem) - 1), st.integers(0, 255))
def test_a_bundle_with_one_byte_changed_is_the_same_one_or_refused(
    position: int, byte: int
) -> None:
    data = ONE.bundle_pem[:position] + bytes((byte,)) + ONE.bundle_pem[position + 1 :]
    try:
        bundle = read(data)
    except BundleError:
        return
    assert len(bundle.x509_authorities) == 1
