"""Trust bundles: the CA certificates of one trust domain, read strictly.

Formats: PEM, and the SPIFFE bundle, a JWK Set
(https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md).
The trust domain's name is configured, never taken from the file or its address.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cryptography import x509

from authz_server.errors import BundleError
from authz_server.identity.spiffe_id import TrustDomain

MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024

_PEM_BLOCK: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
_KEY_TYPES: Final = frozenset({"EC", "OKP", "RSA"})
_X509_SVID: Final = "x509-svid"


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The X.509 authorities of one trust domain.

    Attributes:
        authorities: CA certificates; none at all means that everything is revoked.
        sequence: grows with each change, if the source counts.
        refresh_hint_s: how often the source wants to be asked, if it says so.
    """

    trust_domain: TrustDomain
    authorities: tuple[x509.Certificate, ...]
    sequence: int | None = None
    refresh_hint_s: int | None = None


def parse_bundle(data: bytes, trust_domain: TrustDomain) -> TrustBundle:
    """Return the bundle in `data`, PEM or a SPIFFE bundle.

    Raises:
        BundleError: if it is neither, or holds a certificate that is no CA.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError("bundle is too large")
    if data.lstrip().startswith(b"{"):
        return _parse_spiffe(data, trust_domain)
    return TrustBundle(trust_domain, _authorities(_pem_certificates(data)))


def _pem_certificates(data: bytes) -> list[x509.Certificate]:
    blocks = _PEM_BLOCK.findall(data)
    # Text between blocks is usual; a key, or a block that is cut off, is a mistake.
    if not blocks or data.count(b"-----BEGIN ") != len(blocks):
        raise BundleError("bundle is not one or more PEM certificates and nothing else")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError as error:
        raise BundleError("bundle has a certificate that cannot be parsed") from error


def _parse_spiffe(data: bytes, trust_domain: TrustDomain) -> TrustBundle:
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle is not JSON: {error}") from error
    # §4.1: "keys" MUST be there, and may be empty.
    if not isinstance(document.get("keys"), list):
        raise BundleError("bundle has no list of keys")
    return TrustBundle(
        trust_domain,
        _authorities(_jwk_certificates(document["keys"])),
        sequence=_count(document, "spiffe_sequence"),
        refresh_hint_s=_count(document, "spiffe_refresh_hint"),
    )


def _jwk_certificates(keys: list[Any]) -> Iterable[x509.Certificate]:
    """Yield the certificates of all X.509 authorities (§4.2).

    A key of another use or type is for somebody else and MUST be ignored.
    """
    for key in keys:
        if not isinstance(key, dict):
            raise BundleError("bundle has a key that is no object")
        if key.get("use") != _X509_SVID or key.get("kty") not in _KEY_TYPES:
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
        except (ValueError, binascii.Error) as error:
            raise BundleError(
                "bundle has a certificate that cannot be parsed"
            ) from error


def _authorities(
    certificates: Iterable[x509.Certificate],
) -> tuple[x509.Certificate, ...]:
    """Return `certificates`, each held to be a CA that may sign certificates.

    Whatever lies in a trust store is trusted as it is: a leaf there would vouch for
    itself.
    """
    found = tuple(certificates)
    for certificate in found:
        try:
            extensions = certificate.extensions
            is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
            raise BundleError("bundle has a certificate that is no CA") from error
        if not is_ca or not usage.key_cert_sign:
            raise BundleError("bundle has a certificate that is no CA")
    return found


def _count(document: dict[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise BundleError(f"bundle's {name} is not a whole number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
