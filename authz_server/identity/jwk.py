"""Public keys that tokens are verified by, read from JWK Sets (RFC 7517, RFC 7518 §6).

Two kinds of set: the JWT authorities of a SPIFFE bundle, and the keys of an OpenID
Connect issuer. A key of a kind that we do not verify with is for somebody else; one
that claims to be ours and cannot be read makes the whole set unusable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz_server.errors import BundleError
from authz_server.identity.base64url import decode_base64url
from authz_server.strict_json import parse_json_object

MAX_KEY_SET_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 1000

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""Verifying by a key of millions of bits would hold up everybody else."""

_MAX_KEY_ID: Final = 1024
_MIN_EXPONENT: Final = 3
_MAX_EXPONENT_BITS: Final = 64

_JWT_SVID: Final = "jwt-svid"

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
_KEY_TYPES: Final = frozenset({"EC", "RSA"})
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that may have signed a token.

    Attributes:
        algorithm: the one that it is for; empty if the set does not say.
    """

    key_id: str
    public_key: PublicKey
    algorithm: str = ""


KeySet = Mapping[str, VerificationKey]
"""Keys by their ID. Cannot be changed."""


class _OtherKindError(ValueError):
    """A key that is well, and of a kind or size that we do not verify with.

    RFC 7517 §5: such a key SHOULD be ignored. One of them among an issuer's keys must
    not make the others unusable.
    """


def parse_jwt_authorities(keys: Iterable[Mapping[str, Any]]) -> KeySet:
    """Return the JWT authorities among the keys of a SPIFFE bundle.

    Keys of another use or of an unknown type MUST be ignored (SPIFFE Trust Domain and
    Bundle §4.2); the values are case-sensitive.

    Raises:
        BundleError: if a JWT authority has no ID (JWT-SVID §5), or cannot be read.
    """
    return _key_set(
        key for key in keys if key.get("use") == _JWT_SVID and _is_of_known_type(key)
    )


def parse_key_set(data: bytes) -> KeySet:
    """Return the signing keys in `data`, the JWK Set of a token issuer.

    Keys for anything but signatures, of other types or without an ID are ignored:
    nothing that we accept can have been signed by them.

    Raises:
        BundleError: if it is no JWK Set, or a key in it cannot be read.
    """
    if len(data) > MAX_KEY_SET_BYTES:
        raise BundleError("key set is too large")
    try:
        keys = parse_json_object(data).get("keys")
    except ValueError as error:
        raise BundleError(f"key set is not JSON: {error}") from error
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise BundleError("key set has no list of keys")
    return _key_set(key for key in keys if _is_for_signatures(key))


def digest(keys: KeySet) -> bytes:
    """Return what changes exactly when a key does."""
    found = hashlib.sha256()
    for name, key in sorted(keys.items()):
        der = key.public_key.public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        # As Python writes it, so that no name can look like the end of another.
        found.update(repr((name, key.algorithm)).encode())
        found.update(hashlib.sha256(der).digest())
    return found.digest()


def _is_of_known_type(key: Mapping[str, Any]) -> bool:
    kind = key.get("kty")
    return isinstance(kind, str) and kind in _KEY_TYPES


def _is_for_signatures(key: Mapping[str, Any]) -> bool:
    if not _is_of_known_type(key) or key.get("use", "sig") != "sig" or "kid" not in key:
        return False
    operations = key.get("key_ops")
    # RFC 7517 §4.3: a list. In a text, `in` would look for a part of it.
    if not isinstance(operations, list | None):
        raise BundleError("key set has a key whose key_ops is no list")
    return operations is None or "verify" in operations


def _key_set(keys: Iterable[Mapping[str, Any]]) -> KeySet:
    found: dict[str, VerificationKey] = {}
    for number, key in enumerate(keys, 1):
        if number > MAX_KEYS:
            raise BundleError(f"key set has more than {MAX_KEYS} keys")
        try:
            parsed = _parse_key(key)
        except _OtherKindError:
            continue
        if parsed.key_id in found:
            raise BundleError("key set has two keys of one ID")
        found[parsed.key_id] = parsed
    return MappingProxyType(found)


def _parse_key(key: Mapping[str, Any]) -> VerificationKey:
    key_id, algorithm = key.get("kid"), key.get("alg", "")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _MAX_KEY_ID:
        raise BundleError("key set has a key without an ID (kid)")
    if not isinstance(algorithm, str):
        raise BundleError("key set has a key whose alg is no text")
    if not _PRIVATE.isdisjoint(key):
        raise BundleError("key set has a private key; whoever reads it can sign")
    try:
        public_key = _rsa(key) if key["kty"] == "RSA" else _ec(key)
    except _OtherKindError:
        raise
    except ValueError as error:
        raise BundleError(f"key set has a key that cannot be read: {error}") from error
    return VerificationKey(key_id, public_key, algorithm)


def _ec(key: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    """RFC 7518 §6.2.1: coordinates have the full length of the curve."""
    curve = key.get("crv")
    if not isinstance(curve, str):
        raise ValueError("its curve (crv) is no text")  # noqa: TRY004 - bad input
    if curve not in _CURVES:
        raise _OtherKindError("its curve is none of " + ", ".join(_CURVES))
    kind, length = _CURVES[curve]
    x, y = _bytes(key, "x"), _bytes(key, "y")
    if len(x) != length or len(y) != length:
        raise ValueError("its coordinates are not as long as its curve has them")
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), kind)
    return numbers.public_key()  # a ValueError if the point is not on the curve


def _rsa(key: Mapping[str, Any]) -> rsa.RSAPublicKey:
    """RFC 7518 §6.3.1: numbers in as few bytes as they need."""
    modulus, exponent = _number(key, "n"), _number(key, "e")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise _OtherKindError(f"it has not {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if (
        exponent < _MIN_EXPONENT
        or exponent % 2 == 0
        or exponent.bit_length() > _MAX_EXPONENT_BITS
    ):
        raise ValueError("its exponent is no odd number from 3 on")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _number(key: Mapping[str, Any], name: str) -> int:
    data = _bytes(key, name)
    if not data or data[0] == 0:
        raise ValueError(f"its {name} is no number in as few bytes as it needs")
    return int.from_bytes(data)


def _bytes(key: Mapping[str, Any], name: str) -> bytes:
    text = key.get(name)
    if not isinstance(text, str) or not text.isascii():
        raise ValueError(f"its {name} is no base64url")
    return decode_base64url(text.encode("ascii"))
