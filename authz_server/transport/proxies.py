"""Which proxies may ask: mutual TLS, and the proxy's own SPIFFE ID on a list.

A CheckRequest is only as true as its sender, and whoever may ask also learns who may do
what. gRPC verifies the client's chain against the configured CAs; here the leaf is held
to be an X.509-SVID of a listed proxy.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from authz_server.clock import Clock
from authz_server.errors import SvidError
from authz_server.identity.certificate import parse_leaf
from authz_server.identity.spiffe_id import SpiffeId

_CERTIFICATE: Final = "x509_pem_cert"
"""gRPC's name in the authentication context for the peer's leaf."""


class ProxyList:
    """The proxies that may ask.

    Args:
        proxies: their SPIFFE IDs.
    """

    def __init__(self, proxies: Iterable[SpiffeId], clock: Clock) -> None:
        self._proxies = frozenset(proxies)
        self._clock = clock

    def admits(self, context: Mapping[str, Sequence[bytes]]) -> bool:
        """Return whether the peer of a call with this authentication context may ask.

        The dates are checked on every call, since the handshake may be long past.
        """
        certificates = context.get(_CERTIFICATE, ())
        if len(certificates) != 1:
            return False
        try:
            leaf = parse_leaf(urllib.parse.quote_from_bytes(certificates[0]).encode())
        except SvidError:
            return False
        now_s = self._clock().wall_s
        return (
            leaf.spiffe_id in self._proxies
            and leaf.valid_from_s <= now_s <= leaf.valid_until_s
        )
