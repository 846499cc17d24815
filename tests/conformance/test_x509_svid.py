"""Leaves that keep every rule but one."""

import pytest
from checks import CAMERA, envoy_certificate
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from authz_server.demo.pki import DevelopmentCa, PrivateKey, extension
from authz_server.errors import Reason, SvidError
from authz_server.identity.certificate import Leaf, contents_of, parse_leaf
from authz_server.identity.leaf_profile import RULES, Rule

CA = DevelopmentCa("factory.example")

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def key_usage(*, critical: bool = True, **uses: bool) -> x509.Extension[x509.KeyUsage]:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    value = x509.KeyUsage(**{name: uses.get(name, False) for name in names})
    return x509.Extension(value.oid, critical, value)


def extended(*oids: ObjectIdentifier) -> x509.ExtensionType:
    return x509.ExtendedKeyUsage(oids)


def parse(**changes: object) -> Leaf:
    svid = CA.issue(CAMERA, **changes)  # type: ignore[arg-type]
    return parse_leaf(envoy_certificate(svid.certificate_pem).encode())


ACCEPTED = {
    "as SPIRE issues them": {},
    "as Istio issues them": {
        "replace": [
            key_usage(digital_signature=True, key_encipherment=True),
            extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(CAMERA)]),
                critical=True,
            ),
        ],
        "omit": [x509.AuthorityKeyIdentifier.oid, x509.SubjectKeyIdentifier.oid],
    },
    "without extended key usage": {"omit": [x509.ExtendedKeyUsage.oid]},
    "for more than the two sides": {
        "replace": [
            extension(
                extended(SERVER, CLIENT, ExtendedKeyUsageOID.CODE_SIGNING),
                critical=False,
            )
        ]
    },
    "with an unknown extension that is not critical": {
        "replace": [
            extension(
                x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"x"),
                critical=False,
            )
        ]
    },
    "P-384": {"key": ec.generate_private_key(ec.SECP384R1())},
    "Ed25519": {"key": ed25519.Ed25519PrivateKey.generate()},
    "RSA with 2048 bits": {
        "key": rsa.generate_private_key(public_exponent=65537, key_size=2048)
    },
}


@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_leaf_that_keeps_the_rules_is_accepted(changes: dict[str, object]) -> None:
    assert str(parse(**changes).spiffe_id) == CAMERA


def _weak_key() -> PrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a CA": (
        {
            "replace": [
                extension(
                    x509.BasicConstraints(ca=True, path_length=None), critical=True
                )
            ]
        },
        "is a CA",
    ),
    "no basic constraints": (
        {"omit": [x509.BasicConstraints.oid]},
        "no basic constraints",
    ),
    "no key usage": ({"omit": [x509.KeyUsage.oid]}, "no key usage"),
    "key usage not critical": (
        {"replace": [key_usage(critical=False, digital_signature=True)]},
        "not critical",
    ),
    "no digital signature": (
        {"replace": [key_usage(key_encipherment=True)]},
        "not for digital signatures",
    ),
    "may sign certificates": (
        {"replace": [key_usage(digital_signature=True, key_cert_sign=True)]},
        "may sign",
    ),
    "may sign revocation lists": (
        {"replace": [key_usage(digital_signature=True, crl_sign=True)]},
        "may sign",
    ),
    "for servers only": (
        {"replace": [extension(extended(SERVER), critical=False)]},
        "extended key usage",
    ),
    "for clients only": (
        {"replace": [extension(extended(CLIENT), critical=False)]},
        "extended key usage",
    ),
    "for any use": (
        {
            "replace": [
                extension(
                    extended(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE),
                    critical=False,
                )
            ]
        },
        "extended key usage",
    ),
    "unknown critical extension": (
        {
            "replace": [
                extension(
                    x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"x"),
                    critical=True,
                )
            ]
        },
        "unknown critical extension 1.2.3.4",
    ),
    "two names": ({"more_uris": [CAMERA]}, "2 URI names instead of one"),
    "no names": (
        {"omit": [x509.SubjectAlternativeName.oid]},
        "no subject alternative name",
    ),
    "RSA with 1024 bits": ({"key": _weak_key()}, "under 2048 bits"),
    "on a curve of another world": (
        {"key": ec.generate_private_key(ec.SECP256K1())},
        "secp256k1",
    ),
}


@pytest.mark.parametrize(("changes", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_leaf_that_breaks_one_rule_is_refused_by_name(
    changes: dict[str, object], why: str
) -> None:
    with pytest.raises(SvidError, match=why) as caught:
        parse(**changes)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_kept_by_the_usual_leaf_and_broken_by_some_other(rule: Rule) -> None:
    def breach(**changes: object) -> str | None:
        svid = CA.issue(CAMERA, **changes)  # type: ignore[arg-type]
        return rule.breach(*contents_of(svid.certificate))

    assert breach() is None
    assert any(breach(**changes) for changes, _ in REFUSED.values())


@pytest.mark.parametrize(
    "uri",
    [
        CAMERA + "\x00",
        CAMERA + "\n",
        CAMERA + ",spiffe://factory.example/admin",
        CAMERA + ";URI=spiffe://factory.example/admin",
        "spiffe://factory.example/../admin",
        "spiffe://FACTORY.example/ns/line1/sa/camera",
    ],
)
def test_a_name_that_only_looks_like_an_id_is_refused(uri: str) -> None:
    svid = CA.issue(uri)
    with pytest.raises(SvidError):
        parse_leaf(envoy_certificate(svid.certificate_pem).encode())


def test_a_key_of_another_kind_is_refused() -> None:
    """DSA cannot be asked of the CA: the check itself is given one."""
    from cryptography.hazmat.primitives.asymmetric import dsa

    from authz_server.identity.leaf_profile import check_leaf_profile

    extensions = CA.issue(CAMERA).certificate.extensions
    key = dsa.generate_private_key(2048).public_key()
    with pytest.raises(SvidError, match="unknown kind"):
        check_leaf_profile(extensions, key)
