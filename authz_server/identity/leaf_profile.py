"""What an X.509-SVID leaf may be named, used for, and made of: a table of rules.

Sections are those of SPIFFE's X509-SVID specification. Neither of Envoy's validators
checks all of this: the default one accepts a CA as a leaf, the SPIFFE one a leaf that
may sign revocation lists, and both a leaf with two names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz_server.errors import SpiffeIdError, SvidError
from authz_server.identity.spiffe_id import SpiffeId

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

Breach = Callable[[x509.Extensions, CertificatePublicKeyTypes], str | None]
"""Says how a certificate breaks a rule; None if it keeps it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that a leaf must keep.

    Attributes:
        name: what the rule is about.
        section: where it is written.
        sentence: what a certificate that keeps it is like.
    """

    name: str
    section: str
    sentence: str
    breach: Breach


def check_leaf_profile(
    extensions: x509.Extensions, public_key: CertificatePublicKeyTypes
) -> None:
    """Return if a certificate is a leaf that a workload may show as its own.

    Not checked here: dates, signatures, and whose trust domain it is.

    Raises:
        SvidError: naming the first rule that it breaks.
    """
    for rule in RULES:
        breach = rule.breach(extensions, public_key)
        if breach is not None:
            raise SvidError(breach)


def spiffe_id_of(extensions: x509.Extensions) -> SpiffeId:
    """Return the workload's ID in a certificate's one URI name (X509-SVID §2).

    Raises:
        SvidError: if there is none, more than one, or one that is no workload's ID.
    """
    names = _find(extensions, x509.SubjectAlternativeName)
    if names is None:
        raise SvidError("certificate has no subject alternative name")
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        # X509-SVID §2: more than one URI SAN MUST be rejected. Envoy takes the first.
        raise SvidError(f"certificate has {len(uris)} URI names instead of one")
    try:
        return SpiffeId.parse_workload(uris[0])
    except SpiffeIdError as error:
        raise SvidError(f"certificate's URI name is no SPIFFE ID: {error}") from error


def _find(extensions: x509.Extensions, kind: type[Kind]) -> x509.Extension[Kind] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _critical_extensions(
    extensions: x509.Extensions, _: CertificatePublicKeyTypes
) -> str | None:
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            oid = extension.oid.dotted_string
            return f"certificate has an unknown critical extension {oid}"
    return None


def _basic_constraints(
    extensions: x509.Extensions, _: CertificatePublicKeyTypes
) -> str | None:
    # An absent extension means no CA too, but SPIRE and Istio write it into every
    # leaf, and what is not said can be misread.
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is None:
        return "certificate has no basic constraints"
    return "certificate is a CA, not a leaf" if constraints.value.ca else None


def _key_usage(rule: Callable[[x509.Extension[x509.KeyUsage]], str | None]) -> Breach:
    """Return a rule about the key usage, which no leaf may lack."""

    def breach(extensions: x509.Extensions, _: CertificatePublicKeyTypes) -> str | None:
        usage = _find(extensions, x509.KeyUsage)
        return "certificate has no key usage" if usage is None else rule(usage)

    return breach


def _critical(usage: x509.Extension[x509.KeyUsage]) -> str | None:
    return None if usage.critical else "certificate's key usage is not critical"


def _signatures(usage: x509.Extension[x509.KeyUsage]) -> str | None:
    if usage.value.digital_signature:
        return None
    return "certificate's key is not for digital signatures"


def _no_authority(usage: x509.Extension[x509.KeyUsage]) -> str | None:
    if usage.value.key_cert_sign or usage.value.crl_sign:
        return "certificate's key may sign certificates or revocation lists"
    return None


def _extended_key_usage(
    extensions: x509.Extensions, _: CertificatePublicKeyTypes
) -> str | None:
    usage = _find(extensions, x509.ExtendedKeyUsage)
    if usage is None or frozenset(usage.value) >= _BOTH_SIDES:
        return None
    return "certificate's extended key usage lacks serverAuth or clientAuth"


def _key(_: x509.Extensions, public_key: CertificatePublicKeyTypes) -> str | None:
    if isinstance(public_key, rsa.RSAPublicKey):
        if public_key.key_size < MIN_RSA_BITS:
            return f"certificate's RSA key is under {MIN_RSA_BITS} bits"
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        if not isinstance(public_key.curve, _CURVES):
            return f"certificate's key is on the curve {public_key.curve.name}"
    elif not isinstance(public_key, ed25519.Ed25519PublicKey):
        return "certificate's key is of an unknown kind"
    return None


def _name(extensions: x509.Extensions, _: CertificatePublicKeyTypes) -> str | None:
    try:
        spiffe_id_of(extensions)
    except SvidError as error:
        return str(error)
    return None


RULES: Final = (
    Rule(
        "critical extensions",
        "RFC 5280 §4.2",
        "no critical extension is unknown",
        _critical_extensions,
    ),
    Rule(
        "basic constraints",
        "X509-SVID §4.1",
        "the certificate says that it is no CA",
        _basic_constraints,
    ),
    Rule(
        "key usage",
        "X509-SVID §4.3",
        "key usage is there and critical",
        _key_usage(_critical),
    ),
    Rule(
        "digital signatures",
        "X509-SVID §4.3",
        "the key is for digital signatures",
        _key_usage(_signatures),
    ),
    Rule(
        "no authority",
        "X509-SVID §4.3",
        "the key signs neither certificates nor revocation lists",
        _key_usage(_no_authority),
    ),
    Rule(
        "extended key usage",
        "X509-SVID §4.4",
        "extended key usage, if it is there, has both sides of TLS",
        _extended_key_usage,
    ),
    # The specification names no algorithms; these are what SPIRE and Istio issue.
    Rule(
        "key",
        "ours",
        f"the key is RSA with {MIN_RSA_BITS} bits or more, on a NIST curve, or Ed25519",
        _key,
    ),
    Rule(
        "name",
        "X509-SVID §2",
        "the only URI name is a workload's SPIFFE ID",
        _name,
    ),
)
"""In the order in which they are checked."""
