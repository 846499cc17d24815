"""JWT-SVIDs: a workload's identity as a token.

Rules: https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md. Not checked
here: dates, revocation, and whether the workload may call at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from authz_server.errors import SpiffeIdError, TokenError
from authz_server.identity.jwk import KeySet
from authz_server.identity.jws import (
    Token,
    check_audience,
    check_signature,
    read_token_id,
    read_window,
)
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain

_TYPES: Final = frozenset({"", "JWT", "JOSE"})


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """A verified JWT-SVID.

    Attributes:
        token_id: its `jti`; empty if it has none.
    """

    spiffe_id: SpiffeId
    valid_from_s: float
    valid_until_s: float
    token_id: str


def read_jwt_svid(
    token: Token, keys_of: Callable[[TrustDomain], KeySet], audience: frozenset[str]
) -> JwtSvid:
    """Return what `token` proves of a workload.

    The trust domain whose keys must have signed comes from the unverified subject: a
    lie about it only chooses keys that did not sign the lie.

    Args:
        keys_of: the JWT authorities of exactly one trust domain.
        audience: our names, one of which the token must be meant for.

    Raises:
        TokenError: if it proves nothing, with the reason.
        BundleError: if `keys_of` has no keys to rely on.
    """
    if token.type not in _TYPES:
        raise TokenError("token is none for workloads (typ)")
    subject = token.claims.get("sub")
    if not isinstance(subject, str):
        raise TokenError("token has no subject (sub)")
    try:
        spiffe_id = SpiffeId.parse_workload(subject)
    except SpiffeIdError as error:
        raise TokenError("token's subject is no workload's SPIFFE ID") from error
    check_signature(token, keys_of(spiffe_id.trust_domain))
    check_audience(token.claims, audience)
    return JwtSvid(spiffe_id, *read_window(token.claims), read_token_id(token.claims))
