"""Keys, JWKs and tokens, right and wrong ones, made by hand.

Nothing here goes through the code under test: a token is what the RFCs say, or exactly
the mistake that a test asks for.
"""

from __future__ import annotations

import functools
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from authz_server.identity.jwk import KeySet, parse_key_set

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

ALGORITHMS: Final = tuple(
    kind + size for kind in ("RS", "PS", "ES") for size in ("256", "384", "512")
)

_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}
_KINDS: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


def make_key(kind: str) -> PrivateKey:
    """Return a new key: a curve's name, `Ed25519`, or `RSA-` and the number of bits."""
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    return ec.generate_private_key(_CURVES[kind])


@functools.cache
def key_of_kind(kind: str, number: int = 1) -> PrivateKey:
    """Return the same key for the same arguments: RSA keys take their time."""
    del number
    return make_key(kind)


def kind_for(algorithm: str) -> str:
    """Return the kind of key that `algorithm` signs with."""
    return _KINDS.get(algorithm, "RSA-2048")


def encode(data: bytes) -> bytes:
    """Return `data` in base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def encode_number(value: int, length: int = 0) -> str:
    """Return a number as JWKs have it, in `length` bytes or as few as it needs."""
    length = length or (value.bit_length() + 7) // 8
    return encode(value.to_bytes(length, "big")).decode()


def sign(key: PrivateKey | bytes, algorithm: str, data: bytes) -> bytes:
    """Return the signature of `data` (RFC 7518 §3), by whatever algorithm is named.

    The hash is that of `algorithm`; the rest is what `key` can do.
    """
    if isinstance(key, bytes):
        return hmac.digest(key, data, "sha" + algorithm[2:])
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    kind = _HASHES.get(algorithm[2:], hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(kind)))
        length = (key.curve.key_size + 7) // 8
        return r.to_bytes(length, "big") + s.to_bytes(length, "big")
    if algorithm.startswith("PS"):
        scheme = padding.PSS(padding.MGF1(kind), kind.digest_size)
        return key.sign(data, scheme, kind)
    return key.sign(data, padding.PKCS1v15(), kind)


def changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `members` with `changes`; a change to `...` leaves the member out."""
    return {
        name: value
        for name, value in {**members, **changes}.items()
        if value is not ...
    }


def jwk(key: PrivateKey, key_id: str = "key-1", **changes: object) -> dict[str, Any]:
    """Return the public half of `key` as a JWK (RFC 7517, RFC 7518 §6)."""
    public = key.public_key()
    members: dict[str, Any] = {"kid": key_id}
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        members |= {
            "kty": "RSA",
            "n": encode_number(numbers.n),
            "e": encode_number(numbers.e),
        }
    elif isinstance(public, ec.EllipticCurvePublicKey):
        length = (public.curve.key_size + 7) // 8
        point = public.public_numbers()
        members |= {
            "kty": "EC",
            "crv": next(
                name
                for name, curve in _CURVES.items()
                if curve.name == public.curve.name
            ),
            "x": encode_number(point.x, length),
            "y": encode_number(point.y, length),
        }
    else:
        raw = encode(public.public_bytes_raw()).decode()
        members |= {"kty": "OKP", "crv": "Ed25519", "x": raw}
    return changed(members, changes)


def key_set(*keys: Mapping[str, Any]) -> bytes:
    """Return a JWK Set (RFC 7517 §5)."""
    return json.dumps({"keys": keys}).encode()


class Forge:
    """Makes tokens of one issuer, or of one trust domain.

    Args:
        name: the issuer's URL, or the trust domain's name.
        algorithm: what it signs by, unless a token's header says otherwise.
    """

    def __init__(
        self,
        name: str,
        key_id: str = "key-1",
        algorithm: str = "ES256",
        key: PrivateKey | None = None,
    ) -> None:
        self.name = name
        self.key_id = key_id
        self.algorithm = algorithm
        self.key = make_key(kind_for(algorithm)) if key is None else key

    def jwk(self, **changes: object) -> dict[str, Any]:
        """Return the public key, as a JWK."""
        return jwk(self.key, self.key_id, **changes)

    @property
    def keys(self) -> KeySet:
        """The public key, as the code under test reads it."""
        return parse_key_set(key_set(self.jwk()))

    def header(self, **changes: object) -> dict[str, Any]:
        """Return the header of a token."""
        usual = {"alg": self.algorithm, "kid": self.key_id, "typ": "JWT"}
        return changed(usual, changes)

    def token(
        self,
        claims: Mapping[str, Any] | bytes,
        header: Mapping[str, Any] | bytes | None = None,
        *,
        key: PrivateKey | bytes | None = None,
        signature: bytes | None = None,
    ) -> bytes:
        """Return a token of exactly these parts.

        Args:
            claims, header: bytes are taken as they are.
            key: that signs instead; bytes are a shared secret.
            signature: to use instead of a real one.
        """
        header = self.header() if header is None else header
        algorithm = self.algorithm
        if not isinstance(header, bytes):
            algorithm = str(header.get("alg", algorithm))
            header = json.dumps(header).encode()
        if not isinstance(claims, bytes):
            claims = json.dumps(claims).encode()
        data = encode(header) + b"." + encode(claims)
        if signature is None:
            signature = sign(self.key if key is None else key, algorithm, data)
        return data + b"." + encode(signature)

    def svid_claims(
        self, spiffe_id: str, audience: object = "authz", **changes: object
    ) -> dict[str, Any]:
        """Return the claims of a JWT-SVID that is good for five minutes."""
        now_s = int(time.time())
        usual = {"sub": spiffe_id, "aud": audience, "iat": now_s, "exp": now_s + 300}
        return changed(usual, changes)

    def svid(self, spiffe_id: str, **changes: object) -> bytes:
        """Return a JWT-SVID with `changes` to its claims."""
        return self.token(self.svid_claims(spiffe_id, **changes))

    def user_claims(
        self, subject: str = "ada", audience: object = "authz", **changes: object
    ) -> dict[str, Any]:
        """Return the claims of a user's token that is good for five minutes."""
        claims = self.svid_claims(subject, audience)
        return changed({"iss": self.name, **claims}, changes)

    def user(self, subject: str = "ada", **changes: object) -> bytes:
        """Return a user's token with `changes` to its claims."""
        return self.token(self.user_claims(subject, **changes))
