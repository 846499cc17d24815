"""Which proxies may ask: mutual TLS, and the proxy's own SPIFFE ID on a list.

A CheckRequest is only as true as its sender, and whoever may ask also learns who may do
what. gRPC verifies the client's chain against the configured CAs, all of them in one
pool; here the leaf is held to be an X.509-SVID of a listed proxy and, where bundles are
there to tell, to come from its own trust domain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from authz_server.clock import Clock
from authz_server.errors import AuthzError
from authz_server.identity.certificate import Leaf, load_certificates, read_leaf
from authz_server.identity.chain import Chain, Window
from authz_server.identity.spiffe_id import SpiffeId

_CERTIFICATE: Final = "x509_pem_cert"
"""gRPC's name in the authentication context for the peer's leaf."""

_CHAIN: Final = "x509_pem_cert_chain"
"""gRPC's name for what a client sent after its leaf."""

Verify = Callable[[Leaf, float, Chain], Window]
"""Gets leaf, wall seconds and intermediates; raises AuthzError if no chain leads from
the leaf to the bundle of its own trust domain."""


class ProxyList:
    """The proxies that may ask.

    Args:
        proxies: their SPIFFE IDs.
        verify: None leaves the chain to gRPC, in whose pool of CAs any could have
            signed for any trust domain: give the CAs of one trust domain only.
    """

    def __init__(
        self,
        proxies: Iterable[SpiffeId],
        clock: Clock,
        verify: Verify | None = None,
    ) -> None:
        self._proxies = frozenset(proxies)
        self._clock = clock
        self._verify = verify

    def admits(self, context: Mapping[str, Sequence[bytes]]) -> bool:
        """Return whether the peer of a call with this authentication context may ask.

        Dates and, if given, the bundle are checked on every call, since the handshake
        may be long past.
        """
        certificates = context.get(_CERTIFICATE, ())
        if len(certificates) != 1:
            return False
        now_s = self._clock().wall_s
        try:
            leaf = read_leaf(certificates[0])
            if leaf.spiffe_id not in self._proxies:
                return False
            if self._verify is not None:
                self._verify(leaf, now_s, _intermediates(*context.get(_CHAIN, ())))
        except AuthzError:
            return False
        return leaf.valid_from_s <= now_s <= leaf.valid_until_s


@functools.lru_cache(maxsize=256)
def _intermediates(*pem: bytes) -> Chain:
    """Return the certificates in `pem`; nothing about them is checked here.

    Raises:
        SvidError: if they are too many, or cannot be parsed.
    """
    return load_certificates(b"".join(pem)) if pem else ()
