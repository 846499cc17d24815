"""Trust bundles: what one trust domain's SVIDs are verified by, read strictly.

Formats: PEM; the SPIFFE bundle, a JWK Set; and the map of such bundles
(https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md).
The trust domain's name is configured, never taken from the file or its address.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.errors import BundleError, SpiffeIdError
from authz_server.identity.certificate import UNREADABLE
from authz_server.identity.jwk import KeySet, digest, parse_jwt_authorities
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.strict_json import parse_json_object

MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024

_PEM_BLOCK: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
_KEY_TYPES: Final = frozenset({"EC", "OKP", "RSA"})
_X509_SVID: Final = "x509-svid"
_NO_KEYS: Final[KeySet] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The authorities of one trust domain.

    Attributes:
        x509_authorities: CA certificates; none at all revokes every X.509-SVID.
        jwt_authorities: keys by their ID; none at all revokes every JWT-SVID.
        sequence: grows with each change, if the source counts.
        refresh_hint_s: how often the source wants to be asked, if it says so.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...] = ()
    jwt_authorities: KeySet = field(default_factory=lambda: _NO_KEYS)
    sequence: int | None = None
    refresh_hint_s: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it verifies nobody at all."""
        return not self.x509_authorities and not self.jwt_authorities

    def digest(self) -> bytes:
        """Return what changes exactly when an authority does."""
        found = hashlib.sha256(self.trust_domain.name.encode())
        for authority in self.x509_authorities:
            found.update(hashlib.sha256(authority.public_bytes(Encoding.DER)).digest())
        found.update(digest(self.jwt_authorities))
        return found.digest()


def parse_bundle(data: bytes, trust_domain: TrustDomain) -> TrustBundle:
    """Return the bundle in `data`, PEM or a SPIFFE bundle.

    Raises:
        BundleError: if it is neither, or holds a certificate that is no CA.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError("bundle is too large")
    if data.lstrip().startswith(b"{"):
        return parse_spiffe_bundle(data, trust_domain)
    return TrustBundle(trust_domain, authorities_of(_pem_certificates(data)))


def parse_spiffe_bundle(data: bytes, trust_domain: TrustDomain) -> TrustBundle:
    """Return the SPIFFE bundle in `data`.

    Raises:
        BundleError: if it is none, or holds an authority that is unusable.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError("bundle is too large")
    return _bundle_of(_json_object(data, "bundle"), trust_domain)


def parse_bundle_map(data: bytes) -> Mapping[TrustDomain, TrustBundle]:
    """Return every bundle of a bundle map (§5.1), all of them or none.

    Raises:
        BundleError: if it is none, names a trust domain twice, or one of its bundles is
            no bundle.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError("bundle map is too large")
    documents = _json_object(data, "bundle map").get("trust_domains")
    if not isinstance(documents, dict):
        raise BundleError("bundle map has no object trust_domains")
    found: dict[TrustDomain, TrustBundle] = {}
    for name, document in documents.items():
        try:
            trust_domain = TrustDomain(name)
        except SpiffeIdError as error:
            raise BundleError(f"bundle map: {error}") from error
        if not isinstance(document, dict):
            raise BundleError(f"bundle map: the bundle of {name} is no object")
        try:
            found[trust_domain] = _bundle_of(document, trust_domain)
        except BundleError as error:
            raise BundleError(f"bundle map: {name}: {error}") from error
    return MappingProxyType(found)


def authorities_of(
    certificates: Iterable[x509.Certificate],
) -> tuple[x509.Certificate, ...]:
    """Return `certificates`, each held to be a CA that may sign certificates.

    Whatever lies in a trust store is trusted as it is: a leaf there would vouch for
    itself.

    Raises:
        BundleError: if one of them is no CA.
    """
    found = tuple(certificates)
    for certificate in found:
        try:
            extensions = certificate.extensions
            is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
        except (*UNREADABLE, x509.ExtensionNotFound) as error:
            raise BundleError("bundle has a certificate that is no CA") from error
        if not is_ca or not usage.key_cert_sign:
            raise BundleError("bundle has a certificate that is no CA")
    return found


def _pem_certificates(data: bytes) -> list[x509.Certificate]:
    blocks = _PEM_BLOCK.findall(data)
    # Text between blocks is usual; a key, or a block that is cut off, is a mistake.
    if not blocks or data.count(b"-----BEGIN ") != len(blocks):
        raise BundleError("bundle is not one or more PEM certificates and nothing else")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except UNREADABLE as error:
        raise BundleError("bundle has a certificate that cannot be parsed") from error


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise BundleError(f"{name} is not JSON: {error}") from error


def _bundle_of(document: dict[str, Any], trust_domain: TrustDomain) -> TrustBundle:
    keys = document.get("keys")
    # §4.1.3: "keys" MUST be there, and may be empty.
    if not isinstance(keys, list):
        raise BundleError("bundle has no list of keys")
    if not all(isinstance(key, dict) for key in keys):
        raise BundleError("bundle has a key that is no object")
    return TrustBundle(
        trust_domain,
        authorities_of(_jwk_certificates(keys)),
        parse_jwt_authorities(keys),
        sequence=_count(document, "spiffe_sequence"),
        refresh_hint_s=_count(document, "spiffe_refresh_hint"),
    )


def _jwk_certificates(keys: list[dict[str, Any]]) -> Iterable[x509.Certificate]:
    """Yield the certificates of all X.509 authorities (§4.2).

    A key of another use or type is for somebody else and MUST be ignored.
    """
    for key in keys:
        kind = key.get("kty")
        if (
            key.get("use") != _X509_SVID
            or not isinstance(kind, str)
            or kind not in _KEY_TYPES
        ):
            continue
        chain = key.get("x5c")
        if chain is None:
            continue
        if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
            raise BundleError("bundle has a key whose x5c is no list of certificates")
        try:
            # Only the first is the authority; RFC 7517 §4.7: Base64, not base64url.
            der = base64.b64decode(chain[0], validate=True)
            yield x509.load_der_x509_certificate(der)
        except UNREADABLE as error:
            raise BundleError(
                "bundle has a certificate that cannot be parsed"
            ) from error


def _count(document: dict[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise BundleError(f"bundle's {name} is not a whole number")
    return value
