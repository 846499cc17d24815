"""What an X.509-SVID leaf may be used for, and made of.

Sections are those of SPIFFE's X509-SVID specification. Neither of Envoy's validators
checks all of this: the default one accepts a CA as a leaf, the SPIFFE one a leaf that
may sign revocation lists.
"""

from __future__ import annotations

from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz_server.errors import SvidError

MIN_RSA_BITS: Final = 2048

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_UNDERSTOOD: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
    }
)

_BOTH_SIDES: Final = frozenset(
    {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
)

Kind = TypeVar("Kind", bound=x509.ExtensionType)


def check_leaf_profile(
    extensions: x509.Extensions, public_key: CertificatePublicKeyTypes
) -> None:
    """Return if a certificate is a leaf that a workload may show as its own.

    Not checked here: names, dates and signatures.

    Raises:
        SvidError: naming the first rule that it breaks.
    """
    for extension in extensions:
        # RFC 5280 §4.2: what is critical and not understood MUST be rejected.
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise SvidError(
                f"certificate has an unknown critical extension "
                f"{extension.oid.dotted_string}"
            )
    # §4.1 and §5.2: a leaf is no CA. SPIRE and Istio say so in every certificate.
    if _required(extensions, x509.BasicConstraints, "basic constraints").value.ca:
        raise SvidError("certificate is a CA, not a leaf")
    _check_key_usage(_required(extensions, x509.KeyUsage, "key usage"))
    _check_extended_key_usage(extensions)
    _check_key(public_key)


def _required(
    extensions: x509.Extensions, kind: type[Kind], name: str
) -> x509.Extension[Kind]:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound as error:
        raise SvidError(f"certificate has no {name}") from error


def _check_key_usage(usage: x509.Extension[x509.KeyUsage]) -> None:
    """§4.3: critical, for signatures, and not for certificates or revocation lists."""
    if not usage.critical:
        raise SvidError("certificate's key usage is not critical")
    if not usage.value.digital_signature:
        raise SvidError("certificate's key is not for digital signatures")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise SvidError("certificate's key may sign certificates or revocation lists")


def _check_extended_key_usage(extensions: x509.Extensions) -> None:
    """§4.4: if it is there, both sides of TLS; a workload is client and server."""
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not frozenset(usage) >= _BOTH_SIDES:
        raise SvidError(
            "certificate's extended key usage lacks serverAuth or clientAuth"
        )


def _check_key(public_key: CertificatePublicKeyTypes) -> None:
    """The specification names no algorithms; these are what SPIRE and Istio issue."""
    if isinstance(public_key, rsa.RSAPublicKey):
        if public_key.key_size < MIN_RSA_BITS:
            raise SvidError(f"certificate's RSA key is under {MIN_RSA_BITS} bits")
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        if not isinstance(public_key.curve, _CURVES):
            raise SvidError(
                f"certificate's key is on the curve {public_key.curve.name}"
            )
    elif not isinstance(public_key, ed25519.Ed25519PublicKey):
        raise SvidError("certificate's key is of an unknown kind")
