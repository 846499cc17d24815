"""The bundle of another trust domain, kept fresh from its bundle endpoint.

Section numbers are those of SPIFFE Federation
(https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md). Both of its
profiles: ``https_web`` believes the endpoint by its host name, ``https_spiffe`` by its
SPIFFE ID. What a bundle means, and whether it is older than the one in force, is for
whoever gets it.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.clock import Clock
from authz_server.errors import BundleError, FetchError, SvidError
from authz_server.fetch import Poller, fetch, retry_delay_s, spread
from authz_server.identity.certificate import read_leaf
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust_bundle import (
    MAX_BUNDLE_BYTES,
    TrustBundle,
    parse_bundle,
)

_log: Final = logging.getLogger("authz_server.federation")

FETCH_TIMEOUT_S: Final = 10.0

_DEFAULT_INTERVAL_S: Final = 300.0  # what §4.1 recommends
_SHORTEST_INTERVAL_S: Final = 10.0
_LONGEST_INTERVAL_S: Final = 3600.0

Authorities = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A bundle endpoint's parameters (§5.1), all of them configured.

    None can be told from another: whoever may serve a file under a DNS name could
    otherwise name the authorities of a trust domain (§7.2).

    Attributes:
        trust_domain: whose bundle it serves.
        spiffe_id: who the server has to be, for ``https_spiffe``; None for
            ``https_web``.
    """

    trust_domain: TrustDomain
    url: str
    spiffe_id: SpiffeId | None


class FederationClient:
    """Fetches one endpoint's bundle as often as the bundle asks for.

    Args:
        on_bundle: gets each bundle, and the wall-clock second at which it was asked
            for: what changed later it may not know.
        on_problem: gets what went wrong; the bundle in force stays in force.
        authorities_of: the X.509 authorities of a trust domain that are in force, asked
            anew each time: for ``https_spiffe`` the latest bundle counts (§5.2.2.4).
        web_tls: for ``https_web``.

    One callback at a time is called, from the client's own thread or from that of
    `refresh`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        on_bundle: Callable[[TrustBundle, float], None],
        on_problem: Callable[[str], None],
        authorities_of: Callable[[TrustDomain], Authorities],
        web_tls: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        self._endpoint = endpoint
        self._on_bundle = on_bundle
        self._on_problem = on_problem
        self._authorities_of = authorities_of
        self._web_tls = web_tls
        self._clock = clock
        self._fetching = threading.Lock()
        self._delivering = threading.Lock()
        self._stops = 0
        self._failures = 0
        self._refresh_hint_s: int | None = None
        self._poller: Poller | None = None

    @property
    def has_died(self) -> bool:
        """Whether an error in a callback ended the fetching."""
        return self._poller is not None and self._poller.has_died

    def refresh(self) -> None:
        """Fetch the bundle now; one of the callbacks has been told how that went.

        Neither is if the client is stopped meanwhile.
        """
        self._refresh(self._stops)

    def start(self) -> None:
        """Fetch the bundle at once and from now on; nothing if that is done already."""
        if self._poller is not None:
            return
        stops = self._stops

        def poll() -> float:
            self._refresh(stops)
            return self._delay_s()

        self._poller = Poller(poll, f"federation-{self._endpoint.trust_domain}")
        self._poller.start()

    def stop(self) -> None:
        """Fetch no more; no callback is called after this returned.

        A callback that is under way is waited for, so no lock may be held that it
        takes. A fetch that hangs is given up on: its outcome interests nobody.
        """
        with self._delivering:
            self._stops += 1
        if self._poller is not None:
            self._poller.stop()
            self._poller = None

    def _refresh(self, stops: int) -> None:
        with self._fetching:
            asked_s = self._clock().wall_s
            try:
                bundle = self._fetch()
            except (FetchError, BundleError) as error:
                problem = str(error)
                self._failures += 1
                self._deliver(stops, lambda: self._on_problem(problem))
                return
            self._failures = 0
            self._refresh_hint_s = bundle.refresh_hint_s
            # §7.6: fetches are worth logging, for whoever has to find out afterwards.
            _log.info(
                "fetched the bundle of %s, sequence %s",
                bundle.trust_domain,
                bundle.sequence,
            )
            self._deliver(stops, lambda: self._on_bundle(bundle, asked_s))

    def _deliver(self, stops: int, call: Callable[[], None]) -> None:
        with self._delivering:
            if stops == self._stops:
                call()

    def _fetch(self) -> TrustBundle:
        endpoint = self._endpoint
        if endpoint.spiffe_id is None:
            data = fetch(
                endpoint.url,
                self._web_tls,
                max_bytes=MAX_BUNDLE_BYTES,
                timeout_s=FETCH_TIMEOUT_S,
            )
        else:
            data = fetch(
                endpoint.url,
                _spiffe_context(endpoint.spiffe_id, self._authorities_of),
                max_bytes=MAX_BUNDLE_BYTES,
                timeout_s=FETCH_TIMEOUT_S,
                accept=_must_be(endpoint.spiffe_id),
            )
        # §5.2.1.4: the body is a SPIFFE bundle. PEM would say neither in which order
        # bundles came nor when to ask again.
        if not data.lstrip().startswith(b"{"):
            raise BundleError(
                f"the endpoint of {endpoint.trust_domain} serves something else than a "
                "SPIFFE bundle in JSON"
            )
        return parse_bundle(data, endpoint.trust_domain)

    def _delay_s(self) -> float:
        # §6.2 advises to wait for the next turn after a failure. But where a link
        # drops often, a bundle would get old by that; the server is spared by backing
        # off to a minute.
        if self._failures:
            return retry_delay_s(self._failures)
        return spread(interval_s(self._refresh_hint_s))


def interval_s(refresh_hint_s: int | None) -> float:
    """Return how often to ask for a bundle with this hint, within reason.

    A hint is the other domain's to give: it can make us neither hammer its server nor
    miss a revocation for more than an hour.
    """
    if refresh_hint_s is None:
        return _DEFAULT_INTERVAL_S
    return min(max(refresh_hint_s, _SHORTEST_INTERVAL_S), _LONGEST_INTERVAL_S)


def _spiffe_context(
    spiffe_id: SpiffeId, authorities_of: Callable[[TrustDomain], Authorities]
) -> ssl.SSLContext:
    """Return a context that believes the SVIDs of one trust domain, whoever's they are.

    Whose the server's is has to be checked after the handshake (`_must_be`).

    Raises:
        FetchError: if the trust domain has no authorities.
    """
    name = spiffe_id.trust_domain
    authorities = authorities_of(name)
    if not authorities:
        raise FetchError(
            f"there is no bundle of {name} to know the endpoint {spiffe_id} by; give a "
            "first one as a file, or fetch it from an endpoint of its own"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # X509-SVID §2: an SVID needs no DNS name; its URI says who it is.
    context.check_hostname = False
    # An authority in a bundle may be an intermediate CA: it is trusted as it is.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(
            cadata=b"".join(item.public_bytes(Encoding.DER) for item in authorities)
        )
    except ssl.SSLError as error:
        raise FetchError(
            f"the bundle of {name} has a certificate that TLS cannot use"
        ) from error
    return context


def _must_be(spiffe_id: SpiffeId) -> Callable[[bytes], None]:
    """Return a check that a leaf is the X.509-SVID of exactly `spiffe_id` (§5.2.2.4).

    Chain and dates are the TLS context's to check.
    """

    def accept(der: bytes) -> None:
        try:
            leaf = read_leaf(ssl.DER_cert_to_PEM_cert(der).encode("ascii"))
        except SvidError as error:
            raise FetchError(f"the endpoint shows no X.509-SVID: {error}") from error
        if leaf.spiffe_id != spiffe_id:
            raise FetchError(f"the endpoint is {leaf.spiffe_id}, not {spiffe_id}")

    return accept
