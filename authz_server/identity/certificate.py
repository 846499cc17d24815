"""The leaf certificate that the proxy saw, read for what a decision needs.

Rules: SPIFFE X509-SVID (github.com/spiffe/spiffe, standards/X509-SVID.md), RFC 5280.
What is NOT checked here: the signature chain, which is `trust`'s, and the dates.
"""

from __future__ import annotations

import functools
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.errors import SvidError
from authz_server.identity.leaf_profile import check_leaf_profile, spiffe_id_of
from authz_server.identity.spiffe_id import SpiffeId

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""PEM longer than this, percent-encoded or not, is refused before it is parsed."""

MAX_CHAIN: Final = 8
"""Certificates in a chain; SPIRE's nested servers seldom make more than four."""

UNREADABLE: Final = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What `cryptography` raises, by now or by later, of a certificate that is none."""

_REMEMBERED: Final = 4096

# Chains are fewer, because a peer may add what it likes to its own: a leaf that the
# authority issued once then makes as many keys as the peer has patience.
_REMEMBERED_CHAINS: Final = 512

# RFC 7468 §5: nothing but certificates, and no text beside them.
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*"
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """An X.509-SVID leaf.

    Attributes:
        spiffe_id: its one URI SAN.
        certificate, der: the whole of it, parsed and as bytes.
        valid_from_s, valid_until_s: seconds since the epoch, both inclusive
            (RFC 5280 §4.1.2.5).
    """

    spiffe_id: SpiffeId
    certificate: x509.Certificate
    der: bytes
    valid_from_s: float
    valid_until_s: float


@functools.lru_cache(maxsize=_REMEMBERED)
def parse_leaf(encoded: bytes) -> Leaf:
    """Return the leaf in `encoded`, Envoy's percent-encoded PEM of one certificate.

    The result depends on the bytes alone, so it is remembered by them; dates are
    returned, not judged.

    Raises:
        SvidError: if it is not exactly one certificate of a workload.
    """
    return read_leaf(decode_pem(encoded))


@functools.lru_cache(maxsize=_REMEMBERED_CHAINS)
def read_chain(encoded: bytes) -> tuple[Leaf, tuple[x509.Certificate, ...]]:
    """Return leaf and intermediates in `encoded`, Envoy's percent-encoded PEM chain.

    Remembered by its bytes, as `parse_leaf` does. The intermediates are parsed and
    nothing else: not that they are CAs, nor that one leads to the next.

    Raises:
        SvidError: if it is not a workload's certificate first, and only certificates
            after it.
    """
    leaf, *intermediates = load_certificates(decode_pem(encoded))
    return read_leaf_of(leaf), tuple(intermediates)


@functools.lru_cache(maxsize=_REMEMBERED)
def read_leaf(pem: bytes) -> Leaf:
    """Return the leaf in `pem`, remembered by its bytes as in `parse_leaf`.

    Dates are returned, not judged.

    Raises:
        SvidError: if it is not exactly one certificate of a workload.
    """
    certificates = load_certificates(pem)
    if len(certificates) != 1:
        raise SvidError("expected exactly one PEM certificate")
    return read_leaf_of(certificates[0])


def decode_pem(encoded: bytes) -> bytes:
    """Return the PEM that Envoy percent-encoded.

    Raises:
        SvidError: if it is too large.
    """
    if len(encoded) > MAX_CERTIFICATE_BYTES:
        raise SvidError("certificate is too large")
    # '+' is a Base64 digit and comes as %2B; form decoding would make it a space.
    return urllib.parse.unquote_to_bytes(encoded)


def load_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in `pem`, one or more, in their order.

    What they say is not checked at all.

    Raises:
        SvidError: if there is none, one cannot be parsed, there are too many, or
            anything else is between them.
    """
    if len(pem) > MAX_CERTIFICATE_BYTES:
        raise SvidError("certificate is too large")
    pem = pem.strip()
    found: list[bytes] = []
    at = 0
    while at < len(pem):
        match = _PEM.match(pem, at)
        if match is None:
            raise SvidError("expected PEM certificates and nothing beside them")
        found.append(match.group())
        at = match.end()
    if not found:
        raise SvidError("expected a PEM certificate")
    if len(found) > MAX_CHAIN:
        raise SvidError(f"chain has more than {MAX_CHAIN} certificates")
    try:
        return tuple(map(x509.load_pem_x509_certificate, found))
    except UNREADABLE as error:
        raise SvidError("certificate cannot be parsed") from error


def contents_of(
    certificate: x509.Certificate,
) -> tuple[x509.Extensions, CertificatePublicKeyTypes]:
    """Return a certificate's extensions and key, which are parsed only now.

    Raises:
        SvidError: if they cannot be.
    """
    try:
        return certificate.extensions, certificate.public_key()
    except UNREADABLE as error:
        raise SvidError("certificate cannot be parsed") from error


def read_leaf_of(certificate: x509.Certificate) -> Leaf:
    """Return `certificate` as a leaf.

    Raises:
        SvidError: if it is no workload's.
    """
    extensions, public_key = contents_of(certificate)
    check_leaf_profile(extensions, public_key)
    return Leaf(
        spiffe_id=spiffe_id_of(extensions),
        certificate=certificate,
        der=certificate.public_bytes(Encoding.DER),
        valid_from_s=certificate.not_valid_before_utc.timestamp(),
        valid_until_s=certificate.not_valid_after_utc.timestamp(),
    )
