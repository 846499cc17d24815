"""The messages of the SPIFFE Workload API, decoded strictly.

Definitions: workload.proto of
https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md. Each answer
is the whole state (§4.3), so one that cannot be read to its end is refused as a whole.
But a bundle in it that is no good counts as an empty one: whatever a federated trust
domain publishes, it must not keep what the agent says of the others from us.
Not read: revocation lists (`crl`), which SPIRE does not send, and further SVIDs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from authz_server.errors import BundleError, RequestError, SpiffeIdError, SvidError
from authz_server.identity.certificate import UNREADABLE, Leaf, read_leaf_of
from authz_server.identity.jwk import KeySet, parse_jwt_authorities
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust_bundle import authorities_of
from authz_server.strict_json import parse_json_object
from authz_server.wire import LEN, read_fields

_log: Final = logging.getLogger("authz_server.workload_api")

Authorities = tuple[x509.Certificate, ...]

_Authorities = TypeVar("_Authorities", Authorities, KeySet)

# X509SVIDResponse, X509BundlesResponse, JWTBundlesResponse
_SVIDS: Final = 1
_X509_BUNDLES: Final = 2
_JWT_BUNDLES: Final = 1
# X509SVID
_SPIFFE_ID: Final = 1
_CHAIN: Final = 2
_KEY: Final = 3
# map entries
_ENTRY_KEY: Final = 1
_ENTRY_VALUE: Final = 2

_SEQUENCE: Final = 0x30  # ASN.1 SEQUENCE, which a certificate is
_LONG_FORM: Final = 0x80

_JWT_SVID: Final = "jwt-svid"
_SIGNATURES: Final = "sig"  # RFC 7517 §4.2
_NO_KEYS: Final[KeySet] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class OwnSvid:
    """Our own X.509-SVID.

    Attributes:
        certificate_chain_pem: the leaf, followed by its intermediates.
        private_key_pem: PKCS #8.
    """

    leaf: Leaf
    certificate_chain_pem: bytes
    private_key_pem: bytes = field(repr=False)

    @property
    def spiffe_id(self) -> SpiffeId:
        """Who we are."""
        return self.leaf.spiffe_id


def decode_x509_bundles(raw: bytes) -> Mapping[TrustDomain, Authorities]:
    """Return the X.509 authorities of each trust domain in an X509BundlesResponse.

    A message without any bundle is read as what it says: nobody is trusted. A trust
    domain whose bundle is no good has no authority. Dates are not checked.

    Raises:
        BundleError: if the message cannot be read.
    """
    return _read_each(_bundles(raw, _X509_BUNDLES), _x509_authorities, ())


def decode_jwt_bundles(raw: bytes) -> Mapping[TrustDomain, KeySet]:
    """Return the JWT authorities of each trust domain in a JWTBundlesResponse.

    A trust domain whose bundle is no good has no authority.

    Raises:
        BundleError: if the message cannot be read.
    """
    return _read_each(_bundles(raw, _JWT_BUNDLES), _jwt_authorities, _NO_KEYS)


def decode_svid(raw: bytes) -> OwnSvid:
    """Return the first SVID of an X509SVIDResponse, the default one (§5.3).

    Not checked: its dates, and that its chain leads to the bundle. Those who are shown
    it do both.

    Raises:
        SvidError: if there is none, or it cannot be used.
    """
    try:
        svids = _repeated(raw, _SVIDS)
        if not svids:
            raise SvidError("the Workload API gave no SVID")
        parts = _singular(svids[0], _SPIFFE_ID, _CHAIN, _KEY)
        chain = list(_certificates(parts.get(_CHAIN, b"")))
    except (RequestError, BundleError) as error:
        raise SvidError(f"the Workload API's SVID cannot be read: {error}") from error
    if not chain:
        raise SvidError("the Workload API gave an SVID without a certificate")
    leaf = read_leaf_of(chain[0])
    if str(leaf.spiffe_id).encode() != parts.get(_SPIFFE_ID, b""):
        raise SvidError("the Workload API's SVID is of another workload than it says")
    pem = b"".join(item.public_bytes(serialization.Encoding.PEM) for item in chain)
    return OwnSvid(leaf, pem, _private_key(parts.get(_KEY, b""), leaf))


def _private_key(der: bytes, leaf: Leaf) -> bytes:
    try:
        key = serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not quoted: the error may hold a part of the key.
        raise SvidError("the SVID's private key cannot be read") from None
    if key.public_key() != leaf.certificate.public_key():
        raise SvidError("the SVID's private key is not that of its certificate")
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read_each(
    bundles: Mapping[TrustDomain, bytes],
    read: Callable[[bytes], _Authorities],
    nothing: _Authorities,
) -> Mapping[TrustDomain, _Authorities]:
    found: dict[TrustDomain, _Authorities] = {}
    for name, value in bundles.items():
        try:
            found[name] = read(value)
        except BundleError as error:
            _log.error("nobody of %s is believed: %s", name, error)
            found[name] = nothing
    return MappingProxyType(found)


def _x509_authorities(data: bytes) -> Authorities:
    return authorities_of(_certificates(data))


def _jwt_authorities(data: bytes) -> KeySet:
    try:
        keys = parse_json_object(data)["keys"]
    except (ValueError, KeyError) as error:
        raise BundleError(f"the key set is not JSON with keys: {error}") from error
    if keys is None:  # what SPIRE, which is written in Go, makes of an empty list
        return _NO_KEYS
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise BundleError("the key set has no list of keys")
    return parse_jwt_authorities(map(_with_use, keys))


def _with_use(key: dict[str, Any]) -> dict[str, Any]:
    """Return a key of the set as a SPIFFE bundle would have it.

    §6.2.2: the set is a standard one (RFC 7517) of JWT-SVID keys only, so `use` is
    optional, and SPIRE leaves it out. Whatever names another use is not ours.
    """
    if key.get("use", _SIGNATURES) == _SIGNATURES:
        return {**key, "use": _JWT_SVID}
    return key


def _bundles(raw: bytes, number: int) -> dict[TrustDomain, bytes]:
    """Return the map in field `number`, whose keys are the IDs of trust domains."""
    found: dict[TrustDomain, bytes] = {}
    try:
        for entry in _repeated(raw, number):
            parts = _singular(entry, _ENTRY_KEY, _ENTRY_VALUE)
            spiffe_id = SpiffeId.parse(parts.get(_ENTRY_KEY, b"").decode("ascii"))
            if spiffe_id.path:
                raise BundleError("a bundle is of a workload, not of a trust domain")
            if spiffe_id.trust_domain in found:
                # Parsers of protobuf take the last; no agent writes two.
                raise BundleError(f"two bundles of {spiffe_id.trust_domain}")
            found[spiffe_id.trust_domain] = parts.get(_ENTRY_VALUE, b"")
    except (RequestError, SpiffeIdError, UnicodeDecodeError) as error:
        raise BundleError(f"bundles cannot be read: {error}") from error
    return found


def _repeated(raw: bytes, number: int) -> list[bytes]:
    """Return the values of the repeated field `number`, in their order."""
    return [value for _, value in _fields(raw, number)]


def _singular(raw: bytes, *numbers: int) -> dict[int, bytes]:
    """Return the fields `numbers` of a message, each of which may come once."""
    found: dict[int, bytes] = {}
    for number, value in _fields(raw, *numbers):
        if number in found:
            raise RequestError(f"field {number} comes twice")
        found[number] = value
    return found


def _fields(raw: bytes, *numbers: int) -> Iterator[tuple[int, bytes]]:
    """Yield the fields `numbers` of a message, all of which are length-delimited.

    Others are well-formed and passed over: `hint` was once a field to come, too.
    """
    for number, wire_type, start, end in read_fields(raw, 0, len(raw)):
        if number not in numbers:
            continue
        if wire_type != LEN:
            raise RequestError(f"field {number} is of another type than defined")
        yield number, raw[start:end]


def _certificates(der: bytes) -> Iterator[x509.Certificate]:
    """Yield the certificates that are concatenated in `der`."""
    position = 0
    while position < len(der):
        end = position + _length(der, position)
        try:
            certificate = x509.load_der_x509_certificate(der[position:end])
            _ = certificate.extensions  # parsed only when asked for
        except UNREADABLE as error:
            raise BundleError("a certificate cannot be parsed") from error
        yield certificate
        position = end


def _length(der: bytes, position: int) -> int:
    """Return how many bytes the ASN.1 element at `position` takes (X.690 §8.1.3)."""
    head = der[position : position + 2]
    if len(head) != 2 or head[0] != _SEQUENCE:  # noqa: PLR2004 - tag and length
        raise BundleError("expected a certificate in DER")
    if head[1] < _LONG_FORM:
        return 2 + head[1]
    count = head[1] - _LONG_FORM
    return 2 + count + int.from_bytes(der[position + 2 : position + 2 + count])
