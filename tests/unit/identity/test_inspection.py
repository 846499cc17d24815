"""What an inspection shows, and that it agrees with the check."""

import base64
import datetime as dt
import json

import pytest
from checks import CAMERA
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from authz_server.demo.pki import DevelopmentCa, extension
from authz_server.errors import SvidError
from authz_server.identity.certificate import read_leaf
from authz_server.identity.inspection import (
    JWT_SVID,
    X509_SVID,
    Finding,
    Inspection,
    Verdict,
    inspect_certificates,
    inspect_token,
)
from authz_server.identity.leaf_profile import RULES

CA = DevelopmentCa("factory.example")
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
NOON_S = START.timestamp() + 43_200


def inspect(
    now_s: float = NOON_S, sent_along: bytes = b"", **changes: object
) -> Inspection:
    arguments: dict[str, object] = {"not_before": START, "not_after": END, **changes}
    svid = CA.issue(CAMERA, **arguments)  # type: ignore[arg-type]
    return inspect_certificates(svid.certificate_pem + sent_along, now_s)


def broken(inspection: Inspection) -> dict[str, str]:
    return {
        finding.name: finding.detail
        for finding in inspection.findings
        if finding.verdict is Verdict.BROKEN
    }


def test_a_good_leaf_keeps_every_rule() -> None:
    inspection = inspect()
    assert {finding.verdict for finding in inspection.findings} == {Verdict.KEPT}
    assert [finding.name for finding in inspection.findings] == [
        *(rule.name for rule in RULES),
        "dates",
    ]


def test_a_rule_is_told_with_its_section() -> None:
    rules = {finding.name: finding for finding in inspect().findings}
    assert rules["name"] == Finding(
        "name",
        "X509-SVID §2",
        "the only URI name is a workload's SPIFFE ID",
        Verdict.KEPT,
    )


def test_every_broken_rule_is_told_and_not_just_the_first() -> None:
    ca = x509.BasicConstraints(ca=True, path_length=None)
    inspection = inspect(
        now_s=END.timestamp() + 3_600,
        omit=[x509.KeyUsage.oid],
        replace=[extension(ca, critical=True)],
        more_uris=["spiffe://factory.example/other"],
    )
    assert broken(inspection) == {
        "basic constraints": "certificate is a CA, not a leaf",
        "key usage": "certificate has no key usage",
        "digital signatures": "certificate has no key usage",
        "no authority": "certificate has no key usage",
        "name": "certificate has 2 URI names instead of one",
        "dates": "it expired 1:00:00 ago",
    }


def test_a_leaf_that_is_early_says_by_how_much() -> None:
    inspection = inspect(now_s=START.timestamp() - 90)
    assert broken(inspection) == {"dates": "it becomes valid in 0:01:30"}


@pytest.mark.parametrize("at", [START, END])
def test_the_dates_are_inclusive_as_in_the_check(at: dt.datetime) -> None:
    assert not broken(inspect(now_s=at.timestamp()))


def test_the_leaf_is_given_if_it_is_one_whatever_its_dates() -> None:
    svid = CA.issue(CAMERA)
    inspection = inspect_certificates(svid.certificate_pem, 0.0)
    assert inspection.kind == X509_SVID
    assert inspection.leaf == read_leaf(svid.certificate_pem)
    assert str(inspection.spiffe_id) == CAMERA
    assert inspection.token is None


def test_what_is_no_leaf_is_given_to_nobody() -> None:
    inspection = inspect(omit=[x509.KeyUsage.oid])
    assert inspection.leaf is None
    assert inspection.spiffe_id is None


def test_the_facts_are_what_the_certificate_says() -> None:
    svid = CA.issue(CAMERA, ["a.test", "b.test"], not_before=START, not_after=END)
    certificate = svid.certificate
    facts = dict(inspect_certificates(svid.certificate_pem, NOON_S).facts)
    extensions = facts.pop("extensions")
    assert facts == {
        "URI names": (CAMERA,),
        "DNS names": ("a.test", "b.test"),
        "subject": "O=authz-server demo",
        "issuer": "O=authz-server demo",
        "serial": f"{certificate.serial_number:x}",
        "valid from": "2026-01-01T00:00:00+00:00",
        "valid until": "2026-01-02T00:00:00+00:00",
        "SHA-256": certificate.fingerprint(hashes.SHA256()).hex(),
        "key": "EC on secp256r1",
        "sent along": (),
    }
    assert extensions[:3] == (
        "basic constraints: no CA (critical)",
        "key usage: digital signature (critical)",
        "extended key usage: serverAuth, clientAuth",
    )
    subject_key, authority_key, names = extensions[3:]
    assert subject_key.startswith("subject key identifier: ")
    assert len(authority_key) == len("authority key identifier: ") + 40
    assert names == "subject alternative name"


def test_what_was_sent_along_is_described_and_not_judged() -> None:
    inspection = inspect(sent_along=CA.bundle_pem)
    assert inspection.intermediates == (CA.certificate,)
    (sent_along,) = inspection.facts["sent along"]
    assert f"serial {CA.certificate.serial_number:x}" in sent_along
    assert not broken(inspection)


def test_a_certificate_without_names_has_none_to_show() -> None:
    facts = inspect(omit=[x509.SubjectAlternativeName.oid]).facts
    assert facts["URI names"] == facts["DNS names"] == ()


def test_an_extension_that_has_no_name_here_is_shown_by_its_number() -> None:
    odd = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"x")
    purposes = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ObjectIdentifier("1.2.3.5")]
    )
    facts = inspect(
        replace=[extension(odd, critical=True), extension(purposes, critical=False)]
    ).facts
    assert "1.2.3.4 (critical)" in facts["extensions"]
    assert "extended key usage: any, 1.2.3.5" in facts["extensions"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (
            rsa.generate_private_key(public_exponent=65537, key_size=1024),
            "RSA with 1024 bits",
        ),
    ],
)
def test_keys_are_named_in_the_fields_terms(key: object, text: str) -> None:
    assert inspect(key=key).facts["key"] == text


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_certificate_cannot_be_inspected(pem: bytes) -> None:
    with pytest.raises(SvidError):
        inspect_certificates(pem, NOON_S)


def test_a_subject_that_is_no_name_is_an_error_of_the_certificate() -> None:
    """A UTF8String that is not UTF-8."""
    der = CA.issue(CAMERA).certificate.public_bytes(Encoding.DER)
    odd = der.replace(b"authz-server demo", b"\xff" * len("authz-server demo"))
    with pytest.raises(SvidError, match="cannot be parsed"):
        inspect_certificates(_pem(odd), NOON_S)


def _pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % body


def encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


SIGNATURE = b"S" * 64
"""No inspection looks at it."""

CLAIMS = {"sub": CAMERA, "aud": ["triton"], "exp": NOON_S + 300}


def token(header: dict[str, object] | None = None, **claims: object) -> bytes:
    """Return a token of claims that are good except for `claims`."""
    parts = {"alg": "ES256", "kid": "k1", **(header or {})}, {**CLAIMS, **claims}
    encoded = [encode(json.dumps(part).encode()) for part in parts]
    return b".".join([*encoded, encode(SIGNATURE)])


def test_a_good_token_keeps_every_rule() -> None:
    inspection = inspect_token(token(), NOON_S)
    assert inspection.kind == JWT_SVID
    assert [(item.name, item.verdict) for item in inspection.findings] == [
        (name, Verdict.KEPT)
        for name in ("form", "workload", "audience", "end", "token ID", "dates")
    ]
    assert str(inspection.spiffe_id) == CAMERA
    assert inspection.token is not None
    assert inspection.leaf is None


def test_the_facts_of_a_token_are_what_it_says() -> None:
    text = token(
        {"typ": "JWT"},
        iss="https://factory.example",
        jti="7",
        iat=START.timestamp(),
        role="admin",
    )
    assert inspect_token(text, NOON_S).facts == {
        "algorithm": "ES256",
        "key ID": "k1",
        "type": "JWT",
        "sub": CAMERA,
        "aud": ("triton",),
        "iss": "https://factory.example",
        "jti": "7",
        "iat": "2026-01-01T00:00:00+00:00",
        "exp": "2026-01-01T12:05:00+00:00",
        "further claims": ("role",),
    }


def test_facts_that_are_not_what_they_should_be_are_shown_as_json() -> None:
    text = token(sub={"a": 1}, aud=["triton", 7], nbf="now", exp=1e300)
    facts = inspect_token(text, NOON_S).facts
    assert facts["type"] == "not said"
    assert facts["sub"] == '{"a": 1}'
    assert facts["aud"] == ("triton", "7")
    assert facts["nbf"] == "now"
    assert facts["exp"] == "1e+300"


def test_a_signature_is_never_shown() -> None:
    for text in (token(), token(sub="x"), token({"typ": "x"})):
        assert encode(SIGNATURE).decode() not in repr(inspect_token(text, NOON_S))


BROKEN_TOKENS = {
    "of users": ({"typ": "at+jwt"}, {}, ["workload"]),
    "without a subject": ({}, {"sub": None}, ["workload"]),
    "of a trust domain": ({}, {"sub": "spiffe://factory.example"}, ["workload"]),
    "for nobody": ({}, {"aud": []}, ["audience"]),
    "without an end": ({}, {"exp": "never"}, ["end", "dates"]),
    "with a number for its ID": ({}, {"jti": 7}, ["token ID"]),
    "that is bad in every way": (
        {"typ": "at+jwt"},
        {"aud": 1, "exp": True, "jti": []},
        ["workload", "audience", "end", "token ID", "dates"],
    ),
}


@pytest.mark.parametrize(
    ("header", "claims", "names"), BROKEN_TOKENS.values(), ids=BROKEN_TOKENS.keys()
)
def test_a_token_tells_every_rule_that_it_breaks(
    header: dict[str, object], claims: dict[str, object], names: list[str]
) -> None:
    inspection = inspect_token(token(header, **claims), NOON_S)
    assert list(broken(inspection)) == names
    assert inspection.spiffe_id is None
    assert inspection.token is None


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": NOON_S - 1}, "token has expired"),
        ({"nbf": NOON_S + 120}, "token is not valid yet"),
    ],
)
def test_a_token_is_given_though_it_is_not_valid_now(
    claims: dict[str, object], why: str
) -> None:
    inspection = inspect_token(token(**claims), NOON_S)
    assert broken(inspection) == {"dates": why}
    assert str(inspection.spiffe_id) == CAMERA


@pytest.mark.parametrize(
    "text",
    [b"", b"ey", b"a.b.c", token({"alg": "none"}), token({"jku": "https://x"})],
)
def test_a_token_of_another_form_has_nothing_else_to_be_judged(text: bytes) -> None:
    inspection = inspect_token(text, NOON_S)
    assert list(broken(inspection)) == ["form"]
    assert inspection.facts == {}
