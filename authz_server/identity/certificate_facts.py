"""What a certificate says, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz_server.errors import SvidError
from authz_server.identity.certificate import contents_of

Fact = str | tuple[str, ...]

_USES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)

_PURPOSES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "any",
}


def certificate_facts(
    certificate: x509.Certificate, others: Sequence[x509.Certificate]
) -> dict[str, Fact]:
    """Return what `certificate` says, and in short what `others` do.

    Nothing of it is checked; the text is the certificate's own and may hold anything.

    Raises:
        SvidError: if it cannot be parsed.
    """
    extensions, public_key = contents_of(certificate)
    names = _names(extensions)
    return {
        "URI names": tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        "DNS names": tuple(names.get_values_for_type(x509.DNSName)),
        **_description(certificate),
        "key": _key(public_key),
        "extensions": tuple(map(_extension, extensions)),
        "sent along": tuple(
            ", ".join(f"{name} {value}" for name, value in _description(other).items())
            for other in others
        ),
    }


def _names(extensions: x509.Extensions) -> x509.SubjectAlternativeName:
    try:
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _description(certificate: x509.Certificate) -> dict[str, str]:
    try:
        return {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            "valid from": certificate.not_valid_before_utc.isoformat(),
            "valid until": certificate.not_valid_after_utc.isoformat(),
            "SHA-256": certificate.fingerprint(hashes.SHA256()).hex(),
        }
    except ValueError as error:
        raise SvidError("certificate cannot be parsed") from error


def _key(public_key: CertificatePublicKeyTypes) -> str:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return f"EC on {public_key.curve.name}"
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA with {public_key.key_size} bits"
    return type(public_key).__name__.removesuffix("PublicKey").removeprefix("_")


def _extension(extension: x509.Extension[x509.ExtensionType]) -> str:
    value = extension.value
    match value:
        case x509.BasicConstraints():
            text = f"basic constraints: {'a CA' if value.ca else 'no CA'}"
        case x509.KeyUsage():
            uses = [name.replace("_", " ") for name in _USES if getattr(value, name)]
            text = f"key usage: {', '.join(uses)}"
        case x509.ExtendedKeyUsage():
            purposes = [_PURPOSES.get(oid, oid.dotted_string) for oid in value]
            text = f"extended key usage: {', '.join(purposes)}"
        case x509.SubjectAlternativeName():
            text = "subject alternative name"
        case x509.SubjectKeyIdentifier():
            text = f"subject key identifier: {value.digest.hex()}"
        case x509.AuthorityKeyIdentifier():
            text = f"authority key identifier: {(value.key_identifier or b'').hex()}"
        case _:
            text = extension.oid.dotted_string
    return f"{text} (critical)" if extension.critical else text
