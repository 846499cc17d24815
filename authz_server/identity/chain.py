"""Does a chain lead from the leaf to a CA of its own trust domain?

One trust store a trust domain, never a pool: in a pool any domain's CA could sign
another domain's IDs. Path building and checking are `cryptography`'s (RFC 5280 §6);
the leaf's own profile is `leaf_profile`'s. Envoy hands over the leaf only, so its
issuer has to be in the bundle itself. Not checked: revocation lists; SVIDs are
short-lived instead.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from authz_server.errors import BundleError, Reason, SvidError
from authz_server.identity.trust_bundle import TrustBundle

Window = tuple[float, float]
"""Wall-clock seconds, both inclusive, between which something holds."""


class ChainVerifier:
    """Verifies leaves against one bundle.

    Raises:
        BundleError: if the bundle is empty, so nothing can be verified.
    """

    def __init__(self, bundle: TrustBundle) -> None:
        if not bundle.authorities:
            raise BundleError(f"the bundle of {bundle.trust_domain} is empty")
        self._trust_domain = bundle.trust_domain
        self._store = Store(list(bundle.authorities))

    def verify(self, leaf: x509.Certificate, now_s: float) -> Window:
        """Return between when every certificate of the leaf's chain is valid.

        Raises:
            SvidError: if no chain leads to the bundle at `now_s`.
        """
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
            chain = verifier.verify(leaf, []).chain
        except VerificationError as error:
            raise SvidError(
                f"no chain to the bundle of {self._trust_domain} (put the CA that "
                f"issued the leaf into it, or set identity.chain: proxy): {error}",
                Reason.CERTIFICATE_UNTRUSTED,
            ) from error
        return (
            max(item.not_valid_before_utc.timestamp() for item in chain),
            min(item.not_valid_after_utc.timestamp() for item in chain),
        )
