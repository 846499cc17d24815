"""The leaf certificate that the proxy saw, read for what a decision needs.

Rules: SPIFFE X509-SVID (github.com/spiffe/spiffe, standards/X509-SVID.md), RFC 5280.
What is NOT checked here: the signature chain, which is `trust`'s, and the dates.
"""

from __future__ import annotations

import functools
import urllib.parse
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.errors import SpiffeIdError, SvidError
from authz_server.identity.leaf_profile import check_leaf_profile
from authz_server.identity.spiffe_id import SpiffeId

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Percent-encoded PEM longer than this is refused before it is parsed."""

_REMEMBERED: Final = 4096
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


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
    if len(encoded) > MAX_CERTIFICATE_BYTES:
        raise SvidError("certificate is too large")
    # '+' is a Base64 digit and comes as %2B; form decoding would make it a space.
    pem = urllib.parse.unquote_to_bytes(encoded).strip()
    if pem.count(_BEGIN) != 1 or not pem.startswith(_BEGIN):
        raise SvidError("expected exactly one PEM certificate")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extensions = certificate.extensions
        public_key = certificate.public_key()
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise SvidError("certificate cannot be parsed") from error
    check_leaf_profile(extensions, public_key)
    return Leaf(
        spiffe_id=_only_uri(extensions),
        certificate=certificate,
        der=certificate.public_bytes(Encoding.DER),
        valid_from_s=certificate.not_valid_before_utc.timestamp(),
        valid_until_s=certificate.not_valid_after_utc.timestamp(),
    )


def _only_uri(extensions: x509.Extensions) -> SpiffeId:
    """Return the certificate's one ID (X509-SVID §2)."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise SvidError("certificate has no subject alternative name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        # X509-SVID §2: more than one URI SAN MUST be rejected. Envoy takes the first.
        raise SvidError(f"certificate has {len(uris)} URI names instead of one")
    try:
        return SpiffeId.parse_workload(uris[0])
    except SpiffeIdError as error:
        raise SvidError(f"certificate's URI name is no SPIFFE ID: {error}") from error
