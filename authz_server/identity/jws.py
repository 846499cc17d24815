"""Signed tokens: JSON Web Signatures in compact form, read strictly (RFC 7515, 7518).

What a token claims is `jwt_svid`'s and `user_token`'s business. Verified with
`cryptography` alone and with key objects, never with key text, so a public key can
never be taken for a shared secret.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from authz_server.errors import Reason, TokenError
from authz_server.identity.base64url import decode_base64url
from authz_server.identity.jwk import KeySet, VerificationKey
from authz_server.strict_json import parse_json_object

MAX_TOKEN_BYTES: Final = 16 * 1024

LEEWAY_S: Final = 60.0
"""How far an issuer's clock may be ahead of ours. A token's end gets no leeway: a clock
that is behind would let a stolen one live on."""

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
# RFC 7518 §3.4: each algorithm goes with one curve.
_CURVES: Final[Mapping[str, tuple[type[ec.EllipticCurve], int]]] = {
    "256": (ec.SECP256R1, 32),
    "384": (ec.SECP384R1, 48),
    "512": (ec.SECP521R1, 66),
}
ALGORITHMS: Final = frozenset(
    kind + size for kind in ("RS", "PS", "ES") for size in _HASHES
)
"""JWT-SVID §2.1. Neither shared secrets nor `none`."""

_HEADERS: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = frozenset({"JWT", "JOSE", "at+jwt"})
_LATEST_S: Final = 253_402_300_799  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose form is right. Nothing in it is to be believed yet.

    Attributes:
        type: `typ`; empty if the token does not say.
        claims: the payload.
    """

    algorithm: str
    key_id: str
    type: str
    claims: Mapping[str, Any] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_token(
    text: bytes, *, max_bytes: int = MAX_TOKEN_BYTES, key_claim: str = ""
) -> Token:
    """Return the token in `text`. Its signature is not checked.

    Args:
        key_claim: the claim that may name the key where the header does not; empty for
            none.

    Raises:
        TokenError: if it is not one JWS in compact form as SPIFFE allows it.
    """
    if len(text) > max_bytes:
        raise TokenError("token is too long")
    parts = text.split(b".")
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004 - RFC 7515 §7.1
        raise TokenError("token is not three parts")
    header = _decode_object(parts[0], "header")
    # Before anything else is looked at (JWT-SVID §2.1).
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenError("token's alg is not accepted", Reason.TOKEN_UNTRUSTED)
    # JWT-SVID §2: other parameters MUST NOT be there. `jku` and its like would let the
    # token bring its own key; `crit` (RFC 7515 §4.1.11) would have to be understood.
    unknown = header.keys() - _HEADERS
    if unknown:
        raise TokenError("token has header parameters beside alg, kid and typ")
    claims = _decode_object(parts[1], "payload")
    key_id, kind = header.get("kid"), header.get("typ")
    if "kid" not in header and key_claim:
        key_id = claims.get(key_claim)
    if not isinstance(key_id, str) or not key_id:
        raise TokenError("token names no key (kid)")
    # `null` is not the same as not there.
    if "typ" in header and (not isinstance(kind, str) or kind not in _TYPES):
        raise TokenError("token's typ is none of " + ", ".join(sorted(_TYPES)))
    return Token(
        algorithm=algorithm,
        key_id=key_id,
        type=kind or "",
        claims=claims,
        signing_input=parts[0] + b"." + parts[1],
        signature=_decode(parts[2], "signature"),
    )


def check_signature(token: Token, keys: KeySet) -> None:
    """Return if the one of `keys` that `token` names has signed it.

    Raises:
        TokenError: if there is none, it is for something else, or it has not.
    """
    key = keys.get(token.key_id)
    if key is None:
        raise TokenError("no key of the token's key ID", Reason.TOKEN_UNTRUSTED)
    if key.algorithm not in {"", token.algorithm}:
        raise TokenError("the key is for another algorithm", Reason.TOKEN_UNTRUSTED)
    try:
        if token.algorithm.startswith("ES"):
            _check_ec(token, key)
        else:
            _check_rsa(token, key)
    except InvalidSignature as error:
        raise TokenError("the signature is wrong", Reason.TOKEN_UNTRUSTED) from error


def check_dates(
    valid_from_s: float, valid_until_s: float, now_s: float, *, max_lifetime_s: float
) -> None:
    """Return if a token is good at `now_s`, by what `read_window` returned.

    Raises:
        TokenError: if it is not, or will be for longer than `max_lifetime_s`.
    """
    if now_s > valid_until_s:
        raise TokenError("token has expired", Reason.TOKEN_EXPIRED)
    if now_s + LEEWAY_S < valid_from_s:
        raise TokenError("token is not valid yet", Reason.TOKEN_NOT_YET_VALID)
    if valid_until_s > now_s + max_lifetime_s:
        raise TokenError(f"token is good for longer than {max_lifetime_s:.0f} s")


def read_window(claims: Mapping[str, Any]) -> tuple[float, float]:
    """Return the first and the last moment at which a token is good.

    `exp` itself is the first at which it is not (RFC 7519 §4.1.4), `nbf` the first at
    which it is (§4.1.5).

    Raises:
        TokenError: if `exp` is missing, or a date is no number that could be one.
    """
    if "exp" not in claims:
        raise TokenError("token has no end (exp)")
    # §4.1.6: `iat` decides nothing, but is a number.
    _date(claims, "iat")
    return _date(claims, "nbf"), math.nextafter(_date(claims, "exp"), -math.inf)


def check_audience(claims: Mapping[str, Any], audience: frozenset[str]) -> None:
    """Return if a token is meant for one of `audience` (RFC 7519 §4.1.3).

    Raises:
        TokenError: if it is not, or does not say whom for.
        ValueError: if `audience` is empty or has an empty name, which would be a hole.
    """
    if not audience or "" in audience:
        raise ValueError("an audience must be named")
    named = claims.get("aud")
    names = [named] if isinstance(named, str) else named
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise TokenError("token does not say whom it is for (aud)")
    if audience.isdisjoint(names):
        raise TokenError("token is for somebody else", Reason.TOKEN_AUDIENCE)


def read_token_id(claims: Mapping[str, Any]) -> str:
    """Return the claim `jti`; empty if there is none.

    Raises:
        TokenError: if it is no text.
    """
    token_id = claims.get("jti", "")
    if not isinstance(token_id, str):
        raise TokenError("token's jti is no text")
    return token_id


def _date(claims: Mapping[str, Any], name: str) -> float:
    """Return a NumericDate (RFC 7519 §2); minus infinity if it is not there."""
    if name not in claims:
        return -math.inf
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"token's {name} is no date")
    if not 0 <= value <= _LATEST_S:
        raise TokenError(f"token's {name} is no date")
    return float(value)


def _decode(part: bytes, name: str) -> bytes:
    try:
        return decode_base64url(part)
    except ValueError as error:
        raise TokenError(f"token's {name} is not base64url") from error


def _decode_object(part: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_json_object(_decode(part, name))
    except ValueError as error:
        # Not quoted: the error may hold what the token says.
        raise TokenError(f"token's {name} is no strict JSON object") from error


def _check_ec(token: Token, key: VerificationKey) -> None:
    curve, length = _CURVES[token.algorithm[2:]]
    public_key = key.public_key
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, curve
    ):
        raise TokenError("the key is of another kind", Reason.TOKEN_UNTRUSTED)
    # RFC 7518 §3.4: both numbers in the full length of the curve.
    if len(token.signature) != 2 * length:
        raise TokenError("the signature is wrong", Reason.TOKEN_UNTRUSTED)
    r = int.from_bytes(token.signature[:length])
    s = int.from_bytes(token.signature[length:])
    public_key.verify(
        encode_dss_signature(r, s),
        token.signing_input,
        ec.ECDSA(_HASHES[token.algorithm[2:]]),
    )


def _check_rsa(token: Token, key: VerificationKey) -> None:
    if not isinstance(key.public_key, rsa.RSAPublicKey):
        raise TokenError("the key is of another kind", Reason.TOKEN_UNTRUSTED)
    kind = _HASHES[token.algorithm[2:]]
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if token.algorithm.startswith("PS"):
        # RFC 7518 §3.5: the salt is as long as the hash.
        scheme = padding.PSS(mgf=padding.MGF1(kind), salt_length=kind.digest_size)
    key.public_key.verify(token.signature, token.signing_input, scheme, kind)
