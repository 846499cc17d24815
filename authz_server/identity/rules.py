"""What counts as an identity: the operator's choices, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from authz_server.identity.spiffe_id import SpiffeId

XFCC: Final = "x-forwarded-client-cert"
AUTHORIZATION: Final = "authorization"


class Xfcc(enum.StrEnum):
    """Who writes the x-forwarded-client-cert header that we see."""

    NOBODY = "none"
    """Nobody whom we believe: it is ignored."""
    PROXY = "proxy"
    """The proxy that asks, about its own peer: it adds the chain to what Envoy says."""
    HOP = "hop"
    """A listed proxy in front of the one that asks, about its own peer."""
    WAYPOINT = "waypoint"
    """An ambient waypoint, which names no principal but puts its peer there."""


@dataclass(frozen=True, slots=True)
class UserRules:
    """How users show who they are.

    Attributes:
        audience: one of which a token must be meant for.
        issuers: whose tokens we verify.
        header: that carries the token; empty for none.
        claims: that a policy may see.
        proxy_verified: issuers whose tokens Envoy's jwt_authn filter verifies; their
            claims come by its metadata and in no other way.
    """

    audience: frozenset[str]
    issuers: frozenset[str] = frozenset()
    header: str = AUTHORIZATION
    claims: tuple[str, ...] = ()
    proxy_verified: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as an identity.

    Attributes:
        verify_chain: whether a certificate must lead to a bundle of ours; if not, the
            proxy's verification is relied on and its signature is not checked.
        require_certificate: whether a principal without its certificate is refused.
        hops: proxies that call us for others, and never for themselves.
        jwt_audience: one of which a JWT-SVID must be meant for; empty reads none.
        jwt_header: that carries it.
        jwt_alone: whether a JWT-SVID will do where there is no client certificate.
        users: None reads no user tokens.
        max_token_lifetime_s: a token that is good for longer than this is refused.
    """

    verify_chain: bool = True
    require_certificate: bool = True
    xfcc: Xfcc = Xfcc.NOBODY
    hops: frozenset[SpiffeId] = frozenset()
    jwt_audience: frozenset[str] = frozenset()
    jwt_header: str = AUTHORIZATION
    jwt_alone: bool = False
    users: UserRules | None = None
    max_token_lifetime_s: float = 86_400.0

    @property
    def credentials(self) -> tuple[str, ...]:
        """The request headers that tell who calls."""
        names: list[str] = []
        if self.xfcc is not Xfcc.NOBODY:
            names.append(XFCC)
        if self.jwt_audience:
            names.append(self.jwt_header)
        if self.users is not None and self.users.header:
            names.append(self.users.header)
        return tuple(dict.fromkeys(names))
