"""The keys that verify tokens: from a certificate, a public key in PEM, or a JWK set.

Nothing is checked of a certificate but that it can be read: neither who issued it nor
until when it is valid. OPA does not either.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    parse_json,
)

ALGORITHMS: Final = frozenset(
    {
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"),
        *("ES512", "HS256", "HS384", "HS512", "EdDSA"),
    }
)
_HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_OTHER_ALGORITHMS: Final = re.compile(
    r"none|dir|RSA1_5|RSA-OAEP(-(256|384|512))?|ECDH-ES(\+A(128|192|256)KW)?"
    r"|A(128|192|256)(GCM)?(KW)?|PBES2-HS.+|ES256K|Ed25519|Ed448|A.+CBC-HS.+"
)
_MAX_KEYS: Final = 100
_MAX_KEY_CHARACTERS: Final = 256 * 1024
_MAX_MODULUS_BITS: Final = 16_384
_MIN_MODULUS_BITS: Final = 1024
"""Go verifies with no shorter key."""
_MAX_EXPONENT: Final = (1 << 31) - 1

_PEM: Final = re.compile(
    r"(?:^|\n)-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?\n"
    r"([A-Za-z0-9+/=\s]*)\n?-----END \1-----[ \t]*(?:\r?\n)?(.*)",
    re.DOTALL,
)
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
_ED25519_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Key:
    """A key to verify with.

    Attributes:
        key: of a class of cryptography's, or bytes if it is a secret.
        kid: its name in a set; empty if it has none.
        alg: what it is for; empty if it does not say.
    """

    key: object
    kid: str = ""
    alg: str = ""


@functools.lru_cache(maxsize=64)
def read_keys(text: str) -> tuple[Key, ...]:
    """Return the keys in `text`.

    Raises:
        UndefinedError: if it has none, or one that cannot be read.
        RefusedError: if it is too much, or has a private key.
    """
    if len(text) > _MAX_KEY_CHARACTERS:
        raise RefusedError("keys to verify with are too long")
    found = _PEM.search(text)
    try:
        if found is not None:
            return (Key(_read_pem(*found.groups())),)
        return tuple(_read_set(parse_json(text)))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UndefinedError from error


def verify(
    key: object,
    algorithm: str,
    content: bytes,
    signature: bytes,
    *,
    is_strict: bool = True,
) -> bool:
    """Return whether `signature` is `key`'s under `content`; False for other keys.

    Args:
        algorithm: of RFC 7518, RFC 8037.
        is_strict: whether the lengths of salts and numbers are those of RFC 7518. OPA
            asks that in ``io.jwt.decode_verify`` only.
    """
    try:
        if algorithm == "EdDSA":
            if not isinstance(key, ed25519.Ed25519PublicKey):
                return False
            key.verify(signature, content)
            return True
        kind, digest = algorithm[:2], _HASHES.get(algorithm[2:])
        return digest is not None and _verify_by_hash(
            key, kind, digest(), content, signature, is_strict=is_strict
        )
    except InvalidSignature:
        return False


def _verify_by_hash(
    key: object,
    kind: str,
    digest: hashes.HashAlgorithm,
    content: bytes,
    signature: bytes,
    *,
    is_strict: bool,
) -> bool:
    if kind == "HS" and isinstance(key, bytes):
        mac = hmac.HMAC(key, digest)
        mac.update(content)
        mac.verify(signature)
        return True
    if kind in ("RS", "PS") and isinstance(key, rsa.RSAPublicKey):
        return _verify_rsa(key, kind, digest, content, signature, is_strict=is_strict)
    if kind == "ES" and isinstance(key, ec.EllipticCurvePublicKey):
        # RFC 7518 section 3.4: both numbers, each of the curve's size.
        size = 2 * ((key.curve.key_size + 7) // 8)
        if is_strict and len(signature) != size:
            return False
        half = len(signature) // 2
        r, s = (int.from_bytes(n) for n in (signature[:half], signature[half:]))
        key.verify(encode_dss_signature(r, s), content, ec.ECDSA(digest))
        return True
    return False


def _verify_rsa(
    key: rsa.RSAPublicKey,
    kind: str,
    digest: hashes.HashAlgorithm,
    content: bytes,
    signature: bytes,
    *,
    is_strict: bool,
) -> bool:
    if key.key_size < _MIN_MODULUS_BITS:
        return False
    if kind == "RS":
        key.verify(signature, content, padding.PKCS1v15(), digest)
    else:
        # As long as the hash: RFC 7518 section 3.5.
        salt = padding.PSS.DIGEST_LENGTH if is_strict else padding.PSS.AUTO
        pss = padding.PSS(padding.MGF1(digest), salt)
        key.verify(signature, content, pss, digest)
    return True


def _read_pem(label: str, body: str, rest: str) -> object:
    if rest:
        raise UndefinedError
    content = base64.b64decode("".join(body.split()), validate=True)
    if label == "CERTIFICATE":
        return _checked(x509.load_der_x509_certificate(content).public_key())
    if label == "PUBLIC KEY":
        return _checked(load_der_public_key(content))
    raise UndefinedError


def _read_set(document: object) -> list[Key]:
    if not isinstance(document, dict):
        raise UndefinedError
    keys = document.get("keys", [document])
    if not isinstance(keys, list):
        raise UndefinedError
    if len(keys) > _MAX_KEYS:
        raise RefusedError("a set has too many keys")
    found = []
    for item in keys:
        if not isinstance(item, dict):
            raise UndefinedError
        key = Key(_read_jwk(item), _text(item, "kid"), _text(item, "alg"))
        if key.alg and key.alg not in ALGORITHMS:
            if not _OTHER_ALGORITHMS.fullmatch(key.alg):
                raise UndefinedError
            continue
        found.append(key)
    return found


def _read_jwk(item: dict[str, Any]) -> object:
    """Return the key: RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2."""
    kind = item.get("kty")
    if kind == "oct":
        return _octets(item, "k")
    if "d" in item:
        raise RefusedError("a private key is nothing to verify with")
    if kind == "RSA":
        numbers = (int.from_bytes(_octets(item, name)) for name in ("e", "n"))
        return _checked(rsa.RSAPublicNumbers(*numbers).public_key())
    curve = item.get("crv")
    if kind == "EC" and curve in _CURVES:
        x, y = (int.from_bytes(_octets(item, name)) for name in ("x", "y"))
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()).public_key()
    if kind == "OKP" and curve == "Ed25519":
        content = _octets(item, "x")
        if len(content) != _ED25519_BYTES:
            raise UndefinedError
        return ed25519.Ed25519PublicKey.from_public_bytes(content)
    raise UndefinedError


def _checked(key: object) -> object:
    if isinstance(key, rsa.RSAPublicKey) and (
        key.key_size > _MAX_MODULUS_BITS or key.public_numbers().e > _MAX_EXPONENT
    ):
        raise RefusedError("a key is too large")
    return key


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name, "")
    if not isinstance(value, str):
        raise UndefinedError
    return value


def _octets(item: dict[str, Any], name: str) -> bytes:
    text = _text(item, name).rstrip("=")
    if not text:
        raise UndefinedError
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(
            padded.replace("-", "+").replace("_", "/"), validate=True
        )
    except binascii.Error as error:
        raise UndefinedError from error
