"""Stage 3: who is calling, for whom, and until when that holds.

A workload is known by the certificate of its TLS connection, by a JWT-SVID, or by what
a listed proxy in front of ours says of it. A user is known by a token, and only ever
stands beside a workload. Neither can take the other's place.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from authz_server.clock import Instant
from authz_server.errors import Reason
from authz_server.facts import Facts
from authz_server.identity.inquiry import (
    IdentityError,
    Inquiry,
    Memory,
    UnknownKeyError,
    both,
)
from authz_server.identity.rules import Rules
from authz_server.identity.sources import IdentitySources, IdentityState
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.user_token import User

_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified caller.

    Attributes:
        user: on whose behalf the workload calls, if it says so.
        via: the listed proxy that spoke for the workload.
        valid_from_s, valid_until_s: wall-clock seconds between which this holds.
        name: the SPIFFE ID as text.
    """

    spiffe_id: SpiffeId
    user: User | None = None
    via: SpiffeId | None = None
    valid_from_s: float = -math.inf
    valid_until_s: float = math.inf
    name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.spiffe_id))


@dataclass(frozen=True, slots=True)
class _Peers:
    """Who showed a name and a certificate and nothing else, by the bytes of both.

    That is all that their identity depends on, beside what it was verified under: these
    very bundles and revocations, and these trust domains. Dates count on every request.
    """

    state: IdentityState
    trust_domains: AbstractSet[TrustDomain] | None
    known: dict[tuple[bytes, bytes], Identity] = field(default_factory=dict)

    def get(self, facts: Facts, now: Instant) -> Identity | None:
        """Return the identity of a peer that is known and in its dates."""
        identity = self.known.get((facts.principal, facts.certificate))
        if identity and identity.valid_from_s <= now.wall_s <= identity.valid_until_s:
            return identity
        return None

    def put(self, facts: Facts, identity: Identity) -> None:
        """Remember `identity`."""
        if len(self.known) >= _REMEMBERED:
            self.known.clear()
        self.known[facts.principal, facts.certificate] = identity


class Identifier:
    """Tells who calls. Safe to share between threads.

    Args:
        sources: of bundles, keys and revocations.
    """

    def __init__(self, rules: Rules, sources: IdentitySources) -> None:
        self._rules = rules
        self._sources = sources
        self._memory = Memory()
        self._peers = _Peers(IdentityState(), None)

    @property
    def current(self) -> IdentityState:
        """The bundles, keys and revocations in force. Take it once a request."""
        return self._sources.current

    def identify(
        self,
        facts: Facts,
        trust_domains: AbstractSet[TrustDomain] | None,
        now: Instant,
        state: IdentityState,
    ) -> Identity:
        """Return who is calling.

        Envoy verifies a certificate at the TLS handshake, and only then: a connection
        or a resumed session outlives it. That is why dates count on every request.

        Args:
            trust_domains: whose workloads may call at all; None for those of any that
                can be verified.
            state: bundles, keys and revocations at this moment.

        Raises:
            IdentityError, SvidError, TokenError, ForwardedError: if there is no
                acceptable identity, with the reason.
            BundleError: if there is no bundle to verify it by.
            RevokedError: if anything of it is on the revocation list.
        """
        if facts.credentials or facts.claims:
            return self._inquire(facts, trust_domains, now, state)
        peers = self._peers
        if peers.state is not state or peers.trust_domains is not trust_domains:
            peers = self._peers = _Peers(state, trust_domains)
        identity = peers.get(facts, now)
        if identity is None:
            identity = self._inquire(facts, trust_domains, now, state)
            peers.put(facts, identity)
        return identity

    def _inquire(
        self,
        facts: Facts,
        trust_domains: AbstractSet[TrustDomain] | None,
        now: Instant,
        state: IdentityState,
    ) -> Identity:
        """Return who is calling, worked out anew."""
        if state.revocations is None:
            raise IdentityError(
                "the revocation list cannot be read", Reason.REVOCATIONS_UNAVAILABLE
            )
        memory = self._memory
        if memory.revision != state.revision:
            memory = self._memory = Memory(state.revision)
        inquiry = Inquiry(
            self._rules,
            facts,
            trust_domains,
            now.wall_s,
            state,
            state.revocations,
            memory,
        )
        try:
            workload, user = inquiry.workload(), inquiry.user()
        except UnknownKeyError as error:
            self._sources.ask_again(error.issuer)
            raise
        window = workload.window
        if user is not None:
            window = both(window, (user.valid_from_s, user.valid_until_s))
        return Identity(workload.spiffe_id, user, workload.via, *window)
