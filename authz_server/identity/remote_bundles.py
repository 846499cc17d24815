"""Bundles that others serve, put into the store: bundle endpoints and SPIRE's agent."""

from __future__ import annotations

import math
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from authz_server.clock import Clock
from authz_server.identity.federation import Endpoint, FederationClient
from authz_server.identity.jwk import KeySet
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.identity.trust_bundle import TrustBundle
from authz_server.identity.workload_messages import Authorities, OwnSvid

_X509_BUNDLES: Final = "FetchX509Bundles"
_JWT_BUNDLES: Final = "FetchJWTBundles"


class FederatedBundles:
    """Keeps a store true to bundle endpoints.

    An endpoint that cannot be reached leaves the last bundle in force; its age counts
    from when it was last asked for with success.
    """

    def __init__(
        self,
        store: TrustStore,
        endpoints: Sequence[Endpoint],
        *,
        web_tls: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        self._store = store
        self._clock = clock
        self._clients = [
            FederationClient(
                endpoint,
                on_bundle=self._taker(endpoint),
                on_problem=self._complainer(endpoint),
                authorities_of=self._authorities_of,
                web_tls=web_tls,
                clock=clock,
            )
            for endpoint in endpoints
        ]

    @property
    def error(self) -> str | None:
        """What is wrong beside what the store tells; None if nothing is."""
        if any(client.has_died for client in self._clients):
            return "bundle endpoints are no longer asked; restart the server"
        return None

    def reload(self) -> None:
        """Do nothing: a server must start without its partners."""

    def start_watching(self, interval_s: float) -> None:  # noqa: ARG002 - a Source
        """Ask every endpoint at once, and then as often as its bundle says."""
        for client in self._clients:
            client.start()

    def stop(self) -> None:
        """Ask no more; the bundles stay."""
        for client in self._clients:
            client.stop()

    def _taker(self, endpoint: Endpoint) -> Callable[[TrustBundle, float], None]:
        return lambda bundle, asked_s: self._store.put(bundle, asked_s, _name(endpoint))

    def _complainer(self, endpoint: Endpoint) -> Callable[[str], None]:
        return lambda problem: self._store.complain(
            endpoint.trust_domain, problem, _name(endpoint)
        )

    def _authorities_of(self, trust_domain: TrustDomain) -> Authorities:
        """Return the authorities in force; none if the bundle is too old."""
        anchor = self._store.current.anchors.get(trust_domain)
        if anchor is None or self._clock().wall_s > anchor.good_until_s:
            return ()
        return anchor.bundle.x509_authorities


def _name(endpoint: Endpoint) -> str:
    return f"bundle endpoint of {endpoint.trust_domain}"


class WorkloadApiBundles:
    """Keeps a store true to the Workload API, and holds our own SVID.

    What the agent says is the whole truth: a trust domain that it no longer names is
    revoked. While its streams are open the bundles are fresh; they begin to age when a
    stream breaks that some of them came from.

    Args:
        wants_svid: whether to ask for an SVID of our own.
    """

    def __init__(
        self, store: TrustStore, address: str, *, wants_svid: bool, clock: Clock
    ) -> None:
        # Loads gRPC, which costs a server 12 MB that needs it for nothing else.
        from authz_server.identity.workload_api import WorkloadApi  # noqa: PLC0415

        self._store = store
        self._address = address
        self._clock = clock
        self._lock = threading.Lock()
        self._x509: Mapping[TrustDomain, Authorities] = {}
        self._jwt: Mapping[TrustDomain, KeySet] = {}
        self._svid: OwnSvid | None = None
        self._api = WorkloadApi(
            address,
            on_x509_bundles=self._take_x509,
            on_jwt_bundles=self._take_jwt,
            on_svid=self._take_svid if wants_svid else None,
            on_state=self._take_state,
        )
        # Since when, and why. A stream is not well before its first message: a server
        # that has no bundles yet is not ready.
        self._broken = {
            name: (clock().wall_s, "no answer yet") for name in self._api.streams
        }

    @property
    def is_live(self) -> bool:
        """Whether the agent gives all that it is asked for, and nothing is wrong."""
        with self._lock:
            return bool(self._x509 or self._jwt) and not self._broken

    @property
    def svid(self) -> OwnSvid | None:
        """Our own SVID; None while there is none."""
        return self._svid

    @property
    def error(self) -> str | None:
        """What is wrong with the agent; None if nothing is."""
        if self._api.has_died:
            return "the Workload API is no longer watched; restart the server"
        with self._lock:
            problems = [f"{name}: {why}" for name, (_, why) in self._broken.items()]
        return f"{self._address}: {'; '.join(problems)}" if problems else None

    def reload(self) -> None:
        """Do nothing: the agent tells of changes by itself."""

    def start_watching(self, interval_s: float) -> None:  # noqa: ARG002 - a Source
        """Open the streams."""
        self._api.start()

    def stop(self) -> None:
        """Close the streams; bundles and SVID stay."""
        self._api.stop()

    def _take_x509(self, bundles: Mapping[TrustDomain, Authorities]) -> None:
        with self._lock:
            self._x509 = bundles
            self._publish()

    def _take_jwt(self, bundles: Mapping[TrustDomain, KeySet]) -> None:
        with self._lock:
            self._jwt = bundles
            self._publish()

    def _take_svid(self, svid: OwnSvid | None) -> None:
        self._svid = svid

    def _take_state(self, stream: str, problem: str | None) -> None:
        with self._lock:
            before_s = self._fresh_s()
            since_s, _ = self._broken.pop(stream, (self._clock().wall_s, ""))
            if problem is not None:
                self._broken[stream] = (since_s, problem)
            if self._fresh_s() != before_s:
                self._publish()

    def _fresh_s(self) -> float:
        """Return when a stream broke, the first that anything in force came from."""
        given = {
            _X509_BUNDLES: any(self._x509.values()),
            _JWT_BUNDLES: any(self._jwt.values()),
        }
        return min(
            (since_s for name, (since_s, _) in self._broken.items() if given.get(name)),
            default=math.inf,
        )

    def _publish(self) -> None:
        names = self._x509.keys() | self._jwt.keys()
        self._store.put_all(
            {
                name: TrustBundle(
                    name, self._x509.get(name, ()), self._jwt.get(name, {})
                )
                for name in names
            },
            self._fresh_s(),
            self._address,
        )
