"""One request's identity, worked out from its facts.

Nothing in the facts is believed until something verified vouches for it: a certificate
by its trust domain's bundle (or, if so configured, by the proxy), a token by its
issuer's keys, a forwarded name by the listed proxy that sent it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final

from authz_server.errors import (
    AuthzError,
    ForwardedError,
    Reason,
    SpiffeIdError,
    SvidError,
    TokenError,
)
from authz_server.facts import Facts
from authz_server.identity.certificate import Leaf, parse_leaf
from authz_server.identity.chain import Chain, Window
from authz_server.identity.forwarded import ForwardedPeer, parse_forwarded
from authz_server.identity.jwk import KeySet
from authz_server.identity.jws import check_dates, parse_token
from authz_server.identity.jwt_svid import JwtSvid, read_jwt_svid
from authz_server.identity.revocation import Revocations
from authz_server.identity.rules import AUTHORIZATION, XFCC, Rules, UserRules, Xfcc
from authz_server.identity.sources import IdentityState
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.user_token import User, issuer_of, read_claims, read_user

_BEARER: Final = b"bearer "
_ALWAYS: Final[Window] = (-math.inf, math.inf)
_REMEMBERED: Final = 4096


class IdentityError(AuthzError):
    """The caller has no identity that this server accepts."""

    default_reason = Reason.PRINCIPAL_INVALID


class UnknownKeyError(TokenError):
    """A user's token names a key that its issuer is not known to have.

    Attributes:
        issuer: whose keys may have changed.
    """

    default_reason = Reason.TOKEN_UNTRUSTED

    def __init__(self, issuer: str) -> None:
        super().__init__("the issuer has no key of the token's key ID")
        self.issuer = issuer


@dataclass(frozen=True, slots=True)
class Workload:
    """A verified workload.

    Attributes:
        window: wall-clock seconds between which this holds.
        via: the listed proxy that spoke for it.
    """

    spiffe_id: SpiffeId
    window: Window
    via: SpiffeId | None = None


@dataclass(slots=True)
class Memory:
    """Tokens that were verified under one revision of keys and revocations."""

    revision: str = ""
    svids: dict[bytes, JwtSvid] = field(default_factory=dict)
    users: dict[bytes, User] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One request, and everything that its identity is judged by."""

    rules: Rules
    facts: Facts
    trust_domains: AbstractSet[TrustDomain] | None
    now_s: float
    state: IdentityState
    revocations: Revocations
    memory: Memory

    def workload(self) -> Workload:
        """Return the workload that calls. It is never a hop.

        Raises:
            AuthzError: if none is proved, with the reason.
        """
        caller = self._caller()
        if caller.spiffe_id in self.rules.hops:
            raise ForwardedError(
                f"{caller.spiffe_id} is a hop, and does not say for whom it calls"
            )
        return caller

    def _caller(self) -> Workload:
        svid = self._jwt_svid()
        if self.facts.principal:
            peer = self._peer()
            if peer.spiffe_id in self.rules.hops:
                return self._behind(peer, svid)
            return _agreeing(peer, svid)
        if self.rules.xfcc is Xfcc.WAYPOINT:
            return _agreeing(self._forwarded(), svid)
        if svid is not None and self.rules.jwt_alone:
            return svid
        raise IdentityError("the peer has no name", Reason.PRINCIPAL_MISSING)

    def user(self) -> User | None:
        """Return the user whose token came along; None if none did.

        Raises:
            TokenError: if it is not acceptable, with the reason.
        """
        rules = self.rules.users
        if rules is None:
            return None
        text = self._token_of_user(rules)
        if self.facts.claims:
            if text is not None:
                raise TokenError("two users at once", Reason.TOKEN_MISMATCH)
            user, end_s = self._user_of_proxy(rules), math.inf
        elif text is not None:
            user, end_s = self._user_of_token(rules, text)
        else:
            return None
        self.revocations.check_token(user.token_id)
        # By the token's own end: were it that of the keys, none would live too long.
        self._check_dates(user.valid_from_s, user.valid_until_s)
        return replace(user, valid_until_s=min(user.valid_until_s, end_s))

    # The peer of the connection

    def _peer(self) -> Workload:
        """Return the workload at the other end of the proxy's TLS connection."""
        spiffe_id = self._principal()
        leaf, chain = self._certificate()
        if leaf is None:
            if self.rules.require_certificate:
                raise IdentityError(
                    "Envoy sent no certificate; set include_peer_certificate",
                    Reason.CERTIFICATE_MISSING,
                )
            return Workload(spiffe_id, _ALWAYS)
        if leaf.spiffe_id != spiffe_id:
            raise SvidError(
                "principal and certificate name different workloads",
                Reason.CERTIFICATE_MISMATCH,
            )
        return Workload(spiffe_id, self._verified(leaf, chain))

    def _certificate(self) -> tuple[Leaf | None, Chain]:
        """Return the peer's leaf, and the chain if the proxy itself put it into XFCC.

        What the proxy writes of its own peer can only be more of the same: it must name
        the principal and the certificate that Envoy reports.
        """
        leaf = parse_leaf(self.facts.certificate) if self.facts.certificate else None
        described = self._described() if self.rules.xfcc is Xfcc.PROXY else None
        if described is None:
            return leaf, ()
        if str(described.spiffe_id).encode() != self.facts.principal:
            raise ForwardedError("XFCC and the principal name different workloads")
        if leaf is None or described.leaf is None:
            return leaf or described.leaf, described.intermediates
        if described.leaf.der != leaf.der:
            raise ForwardedError("XFCC has another certificate than the connection")
        return leaf, described.intermediates

    def _principal(self) -> SpiffeId:
        spiffe_id = _workload_id(self.facts.principal)
        self._check_allowed(spiffe_id)
        return spiffe_id

    def _check_allowed(self, spiffe_id: SpiffeId) -> None:
        if not self._is_known(spiffe_id.trust_domain):
            raise IdentityError(
                f"trust domain {spiffe_id.trust_domain} is not the policy's",
                Reason.TRUST_DOMAIN_UNKNOWN,
            )
        self.revocations.check_id(spiffe_id)

    def _is_known(self, trust_domain: TrustDomain) -> bool:
        return self.trust_domains is None or trust_domain in self.trust_domains

    def _verified(self, leaf: Leaf, chain: Chain) -> Window:
        self.revocations.check_certificate(leaf)
        if self.now_s > leaf.valid_until_s:
            raise SvidError("certificate has expired", Reason.CERTIFICATE_EXPIRED)
        if self.now_s < leaf.valid_from_s:
            raise SvidError(
                "certificate is not valid yet", Reason.CERTIFICATE_NOT_YET_VALID
            )
        if not self.rules.verify_chain:
            return leaf.valid_from_s, leaf.valid_until_s
        return self.state.trust.verify(leaf, self.now_s, chain)

    # What a proxy in front says

    def _described(self) -> ForwardedPeer | None:
        value = self._header(XFCC, Reason.FORWARDED_INVALID)
        return None if value is None else parse_forwarded(value)

    def _forwarded(self) -> Workload:
        """Return the workload that a proxy which may say so names in XFCC."""
        described = self._described()
        if described is None:
            raise ForwardedError("the proxy names no peer in XFCC")
        self._check_allowed(described.spiffe_id)
        if described.leaf is not None:
            window = self._verified(described.leaf, described.intermediates)
            return Workload(described.spiffe_id, window)
        if self.rules.require_certificate:
            raise ForwardedError(
                "XFCC has no certificate; let the proxy set cert or chain",
                Reason.CERTIFICATE_MISSING,
            )
        return Workload(described.spiffe_id, _ALWAYS)

    def _behind(self, hop: Workload, svid: Workload | None) -> Workload:
        """Return whom a listed hop calls for. It never calls for itself."""
        if self.rules.xfcc is Xfcc.HOP:
            caller = _agreeing(self._forwarded(), svid)
        else:
            caller = svid or hop
        return Workload(
            caller.spiffe_id, both(caller.window, hop.window), via=hop.spiffe_id
        )

    # Tokens

    def _jwt_svid(self) -> Workload | None:
        if not self.rules.jwt_audience:
            return None
        text = self._token(self.rules.jwt_header)
        users = self.rules.users
        if text is None or (
            users is not None
            and users.header == self.rules.jwt_header
            and _is_of_user(text, users)
        ):
            return None
        svid = self.memory.svids.get(text)
        if svid is None:
            svid = read_jwt_svid(
                parse_token(text), self._jwt_keys, self.rules.jwt_audience
            )
            _remember(self.memory.svids, text, svid)
        self._check_allowed(svid.spiffe_id)
        self.revocations.check_token(svid.token_id)
        self._check_dates(svid.valid_from_s, svid.valid_until_s)
        # Asked again for its age, which counts on every request.
        self._jwt_keys(svid.spiffe_id.trust_domain)
        end_s = self.state.trust.good_until_s(svid.spiffe_id.trust_domain)
        window = (svid.valid_from_s, min(svid.valid_until_s, end_s))
        return Workload(svid.spiffe_id, window)

    def _jwt_keys(self, trust_domain: TrustDomain) -> KeySet:
        if not self._is_known(trust_domain):
            # Not quoted: it is a claim of a token that nobody has verified.
            raise TokenError(
                "token is of a trust domain that is not the policy's",
                Reason.TRUST_DOMAIN_UNKNOWN,
            )
        return self.state.trust.jwt_keys(trust_domain, self.now_s)

    def _token_of_user(self, rules: UserRules) -> bytes | None:
        """Return the token that we are to verify; None if there is none."""
        text = self._token(rules.header) if rules.header else None
        if text is None:
            return None
        if issuer_of(parse_token(text)) in rules.proxy_verified:
            return None
        is_shared = self.rules.jwt_audience and rules.header == self.rules.jwt_header
        return None if is_shared and not _is_of_user(text, rules) else text

    def _user_of_token(self, rules: UserRules, text: bytes) -> tuple[User, float]:
        """Return the user, and when the keys that it is believed by are too old."""
        known = self.memory.users.get(text)
        if known is None:
            token = parse_token(text)
            issuer = issuer_of(token)
            if issuer is None:
                raise TokenError("token names no issuer (iss)")
            keys = self.state.issuers.keys_of(issuer, self.now_s)
            if token.key_id not in keys:
                raise UnknownKeyError(issuer)
            known = read_user(token, keys, issuer, rules.audience, rules.claims)
            _remember(self.memory.users, text, known)
        # What is believed by an issuer's keys is not believed for longer than they are.
        self.state.issuers.keys_of(known.issuer, self.now_s)
        return known, self.state.issuers.good_until_s(known.issuer)

    def _user_of_proxy(self, rules: UserRules) -> User:
        claims = json.loads(self.facts.claims)
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or issuer not in rules.proxy_verified:
            raise TokenError(
                "the proxy verified a token of an issuer that is not configured so",
                Reason.TOKEN_UNTRUSTED,
            )
        return read_claims(claims, issuer, rules.audience, rules.claims)

    def _check_dates(self, valid_from_s: float, valid_until_s: float) -> None:
        check_dates(
            valid_from_s,
            valid_until_s,
            self.now_s,
            max_lifetime_s=self.rules.max_token_lifetime_s,
        )

    def _token(self, name: str) -> bytes | None:
        value = self._header(name, Reason.TOKEN_MALFORMED)
        if value is None or name != AUTHORIZATION:
            return value
        # RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
        if value[: len(_BEARER)].lower() != _BEARER:
            raise TokenError("the authorization header holds no bearer token")
        return value[len(_BEARER) :]

    def _header(self, name: str, reason: Reason) -> bytes | None:
        values = dict(self.facts.credentials).get(name, ())
        if len(values) > 1:
            raise IdentityError(f"header {name} came {len(values)} times", reason)
        return values[0] if values else None


@functools.lru_cache(maxsize=_REMEMBERED)
def _workload_id(principal: bytes) -> SpiffeId:
    """Return the workload that Envoy names; remembered by its bytes.

    Envoy reports the first URI SAN, else a DNS SAN, else the subject, all raw.
    """
    try:
        return SpiffeId.parse_workload(principal.decode("ascii"))
    except UnicodeDecodeError as error:
        raise IdentityError("the peer's name is not ASCII") from error
    except SpiffeIdError as error:
        raise IdentityError(str(error)) from error


def both(one: Window, other: Window) -> Window:
    """Return when both windows are open."""
    return max(one[0], other[0]), min(one[1], other[1])


def _agreeing(workload: Workload, svid: Workload | None) -> Workload:
    """Return `workload`, which a JWT-SVID beside it must name too."""
    if svid is None:
        return workload
    if svid.spiffe_id != workload.spiffe_id:
        raise TokenError(
            "token and certificate name different workloads", Reason.TOKEN_MISMATCH
        )
    return Workload(workload.spiffe_id, both(workload.window, svid.window))


def _is_of_user(text: bytes, rules: UserRules) -> bool:
    """Return whether a token in a header that both kinds share claims to be a user's.

    Its word decides nothing but whose keys must have signed it.
    """
    return issuer_of(parse_token(text)) in rules.issuers | rules.proxy_verified


def _remember(known: dict[bytes, Any], text: bytes, value: object) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[text] = value
