"""Stage 3: who is calling, for whom, and until when that holds.

A workload is known by the certificate of its TLS connection, by a JWT-SVID, or by what
a listed proxy in front of ours says of it. A user is known by a token, and only ever
stands beside a workload. Neither can take the other's place.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified caller.

    Attributes:
        user: on whose behalf the workload calls, if it says so.
        via: the listed proxy that spoke for the workload.
        valid_from_s, valid_until_s: wall-clock seconds between which this holds.
    """

    spiffe_id: SpiffeId
    user: User | None = None
    via: SpiffeId | None = None
    valid_from_s: float = -math.inf
    valid_until_s: float = math.inf


class Identifier:
    """Tells who calls. Safe to share between threads.

    Args:
        sources: of bundles, keys and revocations.
    """

    def __init__(self, rules: Rules, sources: IdentitySources) -> None:
        self._rules = rules
        self._sources = sources
        self._memory = Memory()

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
