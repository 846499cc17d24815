"""Does a chain lead from the leaf to a CA of its own trust domain?

One trust store a trust domain, never a pool: in a pool any domain's CA could sign
another domain's IDs. Path building and checking are `cryptography`'s (RFC 5280 §6);
the leaf's own profile is `leaf_profile`'s. Not checked: revocation lists of CAs; SVIDs
are short-lived instead.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from authz_server.errors import BundleError, Reason, SvidError
from authz_server.identity.certificate import Leaf
from authz_server.identity.spiffe_id import TrustDomain

Window = tuple[float, float]
"""Wall-clock seconds, both inclusive, between which something holds."""

Chain = tuple[x509.Certificate, ...]
"""What a peer sent along to lead from its leaf to a CA; no trust lies in it."""

_REMEMBERED: Final = 4096


class ChainVerifier:
    """Verifies leaves against the authorities of one trust domain.

    A chain that was found is remembered by its certificates; its dates count on every
    call.

    Raises:
        BundleError: if there is no authority, so nothing can be verified.
    """

    def __init__(
        self, trust_domain: TrustDomain, authorities: Sequence[x509.Certificate]
    ) -> None:
        if not authorities:
            raise BundleError(f"the bundle of {trust_domain} has no X.509 authority")
        self._trust_domain = trust_domain
        self._store = Store(list(authorities))
        self._seen: dict[tuple[bytes, Chain], Window] = {}

    def verify(self, leaf: Leaf, intermediates: Chain, now_s: float) -> Window:
        """Return between when every certificate of the leaf's chain is valid.

        Raises:
            SvidError: if no chain leads to the bundle at `now_s`.
        """
        key = (leaf.der, intermediates)
        window = self._seen.get(key)
        if window is None or not window[0] <= now_s <= window[1]:
            window = self._find(leaf.certificate, intermediates, now_s)
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[key] = window
        return window

    def _find(
        self, leaf: x509.Certificate, intermediates: Chain, now_s: float
    ) -> Window:
        verifier = (
            PolicyBuilder()
            .store(self._store)
            .time(dt.datetime.fromtimestamp(now_s, tz=dt.UTC))
            .extension_policies(
                ca_policy=ExtensionPolicy.webpki_defaults_ca(),
                ee_policy=ExtensionPolicy.permit_all().require_present(
                    x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
                ),
            )
            .build_client_verifier()
        )
        try:
            chain = verifier.verify(leaf, list(intermediates)).chain
        except VerificationError as error:
            raise SvidError(
                f"no chain to the bundle of {self._trust_domain} (put the CA that "
                "issued the leaf into it, let the proxy send the chain, or set "
                f"identity.chain: proxy): {error}",
                Reason.CERTIFICATE_UNTRUSTED,
            ) from error
        return (
            max(item.not_valid_before_utc.timestamp() for item in chain),
            min(item.not_valid_after_utc.timestamp() for item in chain),
        )
