"""Tokens of users, from OpenID Connect and OAuth 2.0 issuers.

Rules: OpenID Connect Core §3.1.3.7 as far as it concerns a resource server, RFC 9068.
Not checked here: dates, revocation, and `azp` (the client that the token was made for),
which a policy can look at if it is among the claims that are offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import Reason, TokenError
from authz_server.identity.jwk import KeySet
from authz_server.identity.jws import (
    Token,
    check_audience,
    check_signature,
    read_token_id,
    read_window,
)
from authz_server.identity.spiffe_id import SCHEME

_MAX_SUBJECT: Final = 255  # OpenID Connect Core §2


@dataclass(frozen=True, slots=True)
class User:
    """A verified user.

    Attributes:
        claims: those that a policy may see.
        token_id: `jti` of the token; empty if it has none.
    """

    issuer: str
    subject: str
    claims: Mapping[str, Any] = field(repr=False)
    valid_from_s: float
    valid_until_s: float
    token_id: str


def issuer_of(token: Token) -> str | None:
    """Return who claims to have issued `token`: only to choose the keys by."""
    issuer = token.claims.get("iss")
    return issuer if isinstance(issuer, str) else None


def read_user(
    token: Token,
    keys: KeySet,
    issuer: str,
    audience: frozenset[str],
    claim_names: Sequence[str],
) -> User:
    """Return the user whom `token` proves.

    Args:
        keys: the issuer's, and nobody else's.
        claim_names: of the claims that a policy may see.

    Raises:
        TokenError: if it proves nothing, with the reason.
    """
    check_signature(token, keys)
    return read_claims(token.claims, issuer, audience, claim_names)


def read_claims(
    claims: Mapping[str, Any],
    issuer: str,
    audience: frozenset[str],
    claim_names: Sequence[str],
) -> User:
    """Return the user of a token's claims, whose signature somebody has verified.

    Raises:
        TokenError: if they are not those of a token of `issuer` for us.
    """
    # Byte for byte (OpenID Connect Core §3.1.3.7, 2).
    if claims.get("iss") != issuer:
        raise TokenError("token is of another issuer", Reason.TOKEN_UNTRUSTED)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
        raise TokenError("token has no subject (sub)")
    # SPIRE publishes its JWT authorities for OpenID Connect as well: configured as an
    # issuer of users, it would turn every workload into one.
    if subject.startswith(SCHEME):
        raise TokenError("token's subject is a workload and no user")
    check_audience(claims, audience)
    offered = {name: claims[name] for name in claim_names if name in claims}
    return User(issuer, subject, offered, *read_window(claims), read_token_id(claims))
