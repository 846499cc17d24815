"""io.jwt.*: reads and verifies signed tokens (RFC 7515, RFC 7519) as OPA does.

What the server itself takes a caller's token for is decided elsewhere; here a policy
asks about a token of its own choice, with keys of its own choice. ``io.jwt.decode`` and
the functions that only verify a signature look neither at times nor at audiences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from authz_server.policy.builtins.encoding import decode_base64url
from authz_server.policy.builtins.keys import Key, read_keys, verify
from authz_server.policy.builtins.operands import pairs, string
from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    parse_json,
    to_text,
)

_PARTS: Final = 3
_MAX_TOKEN_CHARACTERS: Final = 256 * 1024
_MAX_NESTING: Final = 8
_SECOND_NS: Final = 1_000_000_000
_UNVERIFIED: Final[tuple[bool, dict[str, Any], dict[str, Any]]] = (False, {}, {})


@dataclass(frozen=True, slots=True)
class _Token:
    """A token's three parts, as they are written, and its header."""

    head: str
    payload: str
    signature: str
    header: dict[str, Any]

    @property
    def content(self) -> bytes:
        """What is signed."""
        return f"{self.head}.{self.payload}".encode()


@dataclass(frozen=True, slots=True)
class _Header:
    """What of a header matters to the verification."""

    alg: str
    kid: str
    cty: str
    is_valid: bool


@dataclass(slots=True)
class _Constraints:
    keys: tuple[Key, ...] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    time_ns: float | None = None

    def text(self, name: str) -> str:
        return self.texts.get(name, "")


def decode(token: object) -> list[Any]:
    """Return header, payload and signature (in hexadecimal). Nothing is verified."""
    text = string(token)
    for _ in range(_MAX_NESTING):
        found = _read(text)
        payload = _decode_text(found.payload)
        kind = found.header.get("cty")
        if kind is not None and not isinstance(kind, str):
            raise RefusedError("the content type of a token is no string")
        if kind == "JWT":
            text = payload.strip("\"'")
            continue
        claims = _read_object(payload)
        return [found.header, claims, decode_base64url(found.signature).hex()]
    raise RefusedError("a token is nested too deep")


def make_verify(algorithm: str) -> Callable[[object, object], bool]:
    """Return the function that verifies a signature by public keys and `algorithm`."""

    def verify_signature(token: object, keys: object) -> bool:
        head, payload, signature = _split(string(token))
        candidates = read_keys(string(keys))
        signed = decode_base64url(signature)
        found = _Token(head, payload, signature, _read_header(head))
        header = _check_header(found.header)
        return _verify_by_any(
            candidates,
            header,
            lambda key: verify(key, algorithm, found.content, signed, is_strict=False),
        )

    return verify_signature


def make_verify_secret(algorithm: str) -> Callable[[object, object], bool]:
    """Return the function that verifies a signature by a secret and `algorithm`."""

    def verify_signature(token: object, secret: object) -> bool:
        text, key = string(token), string(secret).encode()
        head, payload, signature = _split(text)
        content = f"{head}.{payload}".encode()
        return verify(key, algorithm, content, decode_base64url(signature))

    return verify_signature


def decode_verify(
    now_ns: Callable[[], int], token: object, constraints: object
) -> list[Any]:
    """Return whether the token meets the constraints, and if so header and payload.

    Checked: the signature, the times, the audience in any case and the issuer if one
    is wanted. The clock is read only if no time is among the constraints.
    """
    wanted = _read_constraints(constraints)
    if wanted.time_ns is None:
        wanted.time_ns = float(now_ns())
    text = string(token)
    for _ in range(_MAX_NESTING):
        found = _read(text)
        header = _check_header(found.header)
        expected = wanted.text("alg")
        if not header.is_valid or (expected and expected != header.alg):
            return list(_UNVERIFIED)
        if not _is_signed(wanted, found, header):
            return list(_UNVERIFIED)
        payload = _decode_text(found.payload)
        if header.cty.lower() == "jwt":
            text = payload
            continue
        claims = _read_object(payload)
        if not _are_met(wanted, claims):
            return list(_UNVERIFIED)
        return [True, found.header, claims]
    raise RefusedError("a token is nested too deep")


def _split(text: str) -> list[str]:
    if len(text) > _MAX_TOKEN_CHARACTERS:
        raise RefusedError("a token is too long")
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise UndefinedError
    return parts


def _read(text: str) -> _Token:
    head, payload, signature = _split(text)
    return _Token(head, payload, signature, _read_header(head))


def _read_header(head: str) -> dict[str, Any]:
    header = _read_object(_decode_text(head))
    if "enc" in header:
        # RFC 7516 section 9: it is encrypted.
        raise UndefinedError
    return header


def _decode_text(part: str) -> str:
    return to_text(decode_base64url(part))


def _read_object(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise UndefinedError from error
    if not isinstance(found, dict):
        raise UndefinedError
    return found


def _check_header(header: dict[str, Any]) -> _Header:
    texts = {name: header.get(name, "") for name in ("alg", "kid", "typ", "cty")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise UndefinedError
    critical: set[str] = set()
    if "crit" in header:
        names = header["crit"]
        if not isinstance(names, list):
            raise UndefinedError
        for name in names:
            if not isinstance(name, str):
                break
            critical.add(name)
        if not critical:
            raise UndefinedError
    # RFC 7515 section 4.1.11: what is critical must be understood.
    unknown = header.keys() - {*texts, "crit"}
    is_valid = bool(texts["alg"]) and not critical & unknown
    return _Header(texts["alg"], texts["kid"], texts["cty"], is_valid)


def _verify_by_any(
    keys: tuple[Key, ...], header: _Header, is_signed: Callable[[object], bool]
) -> bool:
    """Return whether the key that the header names verifies, or else any other."""
    if header.kid:
        for key in keys:
            if key.kid == header.kid:
                return is_signed(key.key)
    return any(
        is_signed(key.key) for key in keys if not key.alg or key.alg == header.alg
    )


def _is_signed(wanted: _Constraints, token: _Token, header: _Header) -> bool:
    signature = decode_base64url(token.signature)

    def is_signed(key: object) -> bool:
        # A public key never serves as a secret: `verify` goes by the kind of key.
        return verify(key, header.alg, token.content, signature)

    if wanted.keys is not None:
        return _verify_by_any(wanted.keys, header, is_signed)
    return is_signed(wanted.text("secret").encode())


def _read_constraints(constraints: object) -> _Constraints:
    found = _Constraints()
    for name, value in pairs(constraints):
        if not isinstance(name, str):
            raise RefusedError("the name of a constraint is no string")
        if name == "cert":
            found.keys = read_keys(string(value))
        elif name in ("secret", "alg", "iss", "aud"):
            found.texts[name] = string(value)
        elif name == "time":
            found.time_ns = _read_time(value)
        else:
            raise UndefinedError
    if (found.keys is not None) == bool(found.text("secret")):
        # Both, or none.
        raise UndefinedError
    return found


def _read_time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UndefinedError
    try:
        time_ns = float(value)
    except OverflowError as error:
        raise UndefinedError from error
    if not 0 <= time_ns < math.inf:
        raise UndefinedError
    return time_ns


def _are_met(wanted: _Constraints, claims: dict[str, Any]) -> bool:
    """Return whether issuer, audience and times are: RFC 7519 section 4.1."""
    issuer = wanted.text("iss")
    if issuer:
        claimed = claims.get("iss")
        if "iss" in claims and not isinstance(claimed, str):
            raise RefusedError("the issuer of a token is no string")
        if claimed != issuer:
            return False
    audience = wanted.text("aud")
    if "aud" in claims:
        claimed = claims["aud"]
        audiences = claimed if isinstance(claimed, list) else [claimed]
        if audience not in [item for item in audiences if isinstance(item, str)]:
            return False
    elif audience:
        return False
    # As many digits as a float has: that is what OPA compares with.
    now = Decimal(repr((wanted.time_ns or 0.0) / _SECOND_NS))
    if "exp" in claims and now >= _read_moment(claims["exp"]):
        return False
    return "nbf" not in claims or now >= _read_moment(claims["nbf"])


def _read_moment(value: object) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UndefinedError
    return value
