"""Who is calling: Envoy's word for it, held against the certificate that it saw."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from authz_server.clock import Instant
from authz_server.errors import AuthzError, Reason, SpiffeIdError, SvidError
from authz_server.facts import Facts
from authz_server.identity.certificate import Leaf, parse_leaf
from authz_server.identity.sources import IdentityState
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain


class IdentityError(AuthzError):
    """The caller has no identity that this server accepts."""

    default_reason = Reason.PRINCIPAL_INVALID


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified caller.

    Attributes:
        valid_from_s, valid_until_s: wall-clock seconds between which this holds.
    """

    spiffe_id: SpiffeId
    valid_from_s: float = -math.inf
    valid_until_s: float = math.inf


def identify(
    facts: Facts,
    trust_domains: AbstractSet[TrustDomain],
    now: Instant,
    *,
    require_certificate: bool,
    state: IdentityState,
) -> Identity:
    """Return who is calling.

    Envoy verifies a certificate at the TLS handshake, and only then: a connection or a
    resumed session outlives it. That is why the dates count here on every request.

    Args:
        trust_domains: whose workloads may call at all.
        require_certificate: whether `source.principal` alone is not enough.
        state: bundles and revocations. Without bundles the proxy's verification is
            relied on: the leaf alone is checked, and its signature is not.

    Raises:
        IdentityError: if there is no acceptable identity, with the reason.
        SvidError: if the certificate breaks a rule.
        BundleError: if there is no bundle to verify it by.
        RevokedError: if caller or certificate is on the revocation list.
    """
    spiffe_id = _principal(facts, trust_domains)
    if state.revocations is None:
        raise IdentityError(
            "the revocation list cannot be read", Reason.REVOCATIONS_UNAVAILABLE
        )
    state.revocations.check_id(spiffe_id)
    if not facts.certificate:
        if require_certificate:
            raise IdentityError(
                "Envoy sent no certificate; set include_peer_certificate",
                Reason.CERTIFICATE_MISSING,
            )
        return Identity(spiffe_id)
    leaf = parse_leaf(facts.certificate)
    if leaf.spiffe_id != spiffe_id:
        raise SvidError(
            "principal and certificate name different workloads",
            Reason.CERTIFICATE_MISMATCH,
        )
    state.revocations.check_certificate(leaf)
    _check_dates(leaf, now)
    if state.trust is None:
        return Identity(spiffe_id, leaf.valid_from_s, leaf.valid_until_s)
    return Identity(spiffe_id, *state.trust.verify(leaf, now.wall_s))


def _check_dates(leaf: Leaf, now: Instant) -> None:
    if now.wall_s > leaf.valid_until_s:
        raise SvidError("certificate has expired", Reason.CERTIFICATE_EXPIRED)
    if now.wall_s < leaf.valid_from_s:
        raise SvidError(
            "certificate is not valid yet", Reason.CERTIFICATE_NOT_YET_VALID
        )


def _principal(facts: Facts, trust_domains: AbstractSet[TrustDomain]) -> SpiffeId:
    if not facts.principal:
        raise IdentityError("the peer has no name", Reason.PRINCIPAL_MISSING)
    try:
        # Envoy reports the first URI SAN, else a DNS SAN, else the subject, all raw.
        spiffe_id = SpiffeId.parse_workload(facts.principal.decode("ascii"))
    except UnicodeDecodeError as error:
        raise IdentityError("the peer's name is not ASCII") from error
    except SpiffeIdError as error:
        raise IdentityError(str(error)) from error
    if spiffe_id.trust_domain not in trust_domains:
        raise IdentityError(
            f"trust domain {spiffe_id.trust_domain} is not the policy's",
            Reason.TRUST_DOMAIN_UNKNOWN,
        )
    return spiffe_id
