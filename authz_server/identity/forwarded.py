"""What a proxy says of its own peer in x-forwarded-client-cert (XFCC).

Envoy writes one element of ``key=value`` pairs, always in the order of `_ORDER`:

    By=spiffe://td/proxy;Hash=5f…;Cert="…";Chain="…";Subject="O=x";URI=spiffe://td/a;DNS=a

It quotes Cert, Chain and Subject alone. The URI is the peer's own text, unquoted and
unescaped, so that a certificate with ``spiffe://td/a;DNS=b`` or ``…;URI=…`` as its name
writes pairs of its own. Such a name can reach only what comes after ``URI=``, which is
why the order is held to here: nothing that is believed may stand behind the URI.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from authz_server.errors import ForwardedError, SpiffeIdError, SvidError
from authz_server.identity.certificate import Leaf, parse_leaf, read_chain
from authz_server.identity.chain import Chain
from authz_server.identity.spiffe_id import SpiffeId

MAX_FORWARDED_BYTES: Final = 64 * 1024
"""A header longer than this is refused before it is parsed."""

_ORDER: Final = ("By", "Hash", "Cert", "Chain", "Subject", "URI", "DNS")

_REPEATED: Final = frozenset({"By", "DNS"})
"""Envoy writes one pair for each URI name of its own, and each DNS name of the peer."""

_QUOTED: Final = frozenset({"Cert", "Chain", "Subject"})
"""Envoy quotes these, and these alone: quotes round a URI were part of the name."""

# In quotes a backslash takes the next character along. Envoy itself escapes nothing;
# the backslashes are those of the subject's RFC 4514 text, where '"' is always '\"'.
_PAIR: Final = re.compile(
    r"(?P<key>[A-Za-z]{0,16})="
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>[^ ",;=\\]*+))',
    re.ASCII,
)
_PRINTABLE: Final = re.compile(rb"[ -~]+")
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ForwardedPeer:
    """The peer of a proxy, as that proxy describes it.

    Attributes:
        leaf: None if the proxy sent neither Cert nor Chain.
        intermediates: what came after the leaf in Chain.
        hash: SHA-256 of the leaf's DER in hex; empty if the proxy sent none.
    """

    spiffe_id: SpiffeId
    leaf: Leaf | None
    intermediates: Chain
    hash: str


def parse_forwarded(value: bytes) -> ForwardedPeer:
    """Return the one peer that `value`, an XFCC header, describes.

    Its parts agree: name, certificate, chain and hash are of one leaf. What is NOT
    checked: that a proxy wrote it and not the client, the leaf's dates and signature,
    and By, Subject and DNS, which are not believed. Without Cert or Chain the name is
    the proxy's word alone.

    Raises:
        ForwardedError: if it is not exactly one element as Envoy writes it.
    """
    if len(value) > MAX_FORWARDED_BYTES:
        raise ForwardedError("XFCC is too large")
    if _PRINTABLE.fullmatch(value) is None:
        raise ForwardedError("XFCC is empty or has other bytes than printable ASCII")
    pairs = _pairs(value.decode("ascii"))
    leaf, intermediates = _certificates(pairs)
    if leaf is None and "DNS" in pairs:
        # The text after the URI may then be the URI's own end.
        raise ForwardedError(
            "XFCC has DNS and no certificate; let the proxy set cert or chain, or not "
            "set dns"
        )
    digest = pairs.get("Hash", "")
    if "Hash" in pairs and _HASH.fullmatch(digest) is None:
        raise ForwardedError("XFCC: Hash is no SHA-256 in lower-case hex")
    spiffe_id = _name(pairs)
    if leaf is not None:
        if leaf.spiffe_id != spiffe_id:
            raise ForwardedError("XFCC: URI and certificate name different workloads")
        if digest and hashlib.sha256(leaf.der).hexdigest() != digest:
            raise ForwardedError("XFCC: Hash is of another certificate")
    return ForwardedPeer(spiffe_id, leaf, intermediates, digest)


def _pairs(text: str) -> dict[str, str]:
    """Return what one element says, without quotes; of a repeated key the last."""
    pairs: dict[str, str] = {}
    at, last = 0, 0
    while True:
        match = _PAIR.match(text, at)
        if match is None:
            raise ForwardedError(f"XFCC: expected key=value at character {at}")
        key = match["key"]
        if key not in _ORDER:
            raise ForwardedError(f"XFCC: {key!r} is none of {', '.join(_ORDER)}")
        if key in pairs and key not in _REPEATED:
            raise ForwardedError(f"XFCC has {key} more than once")
        if _ORDER.index(key) < last:
            raise ForwardedError(f"XFCC: {key} is not where Envoy writes it")
        last = _ORDER.index(key)
        if (match["quoted"] is not None) is not (key in _QUOTED):
            raise ForwardedError(
                f"XFCC: {key} must be in quotes"
                if key in _QUOTED
                else f"XFCC: {key} must not be in quotes"
            )
        # Escapes stay: of what is in quotes only Cert and Chain are read, and there a
        # backslash is no PEM.
        pairs[key] = match["plain"] if match["quoted"] is None else match["quoted"]
        at = match.end()
        if at == len(text):
            return pairs
        if text[at] == ",":
            raise ForwardedError(
                "XFCC has more than one element; let the proxy replace what clients "
                "send (SANITIZE_SET)"
            )
        if text[at] != ";":
            raise ForwardedError(f"XFCC: expected ';' at character {at}")
        at += 1


def _certificates(pairs: dict[str, str]) -> tuple[Leaf | None, Chain]:
    """Return the leaf of Cert and Chain, which must be the same, and the rest."""
    leaf: Leaf | None = None
    intermediates: Chain = ()
    try:
        if "Cert" in pairs:
            leaf = parse_leaf(pairs["Cert"].encode())
        if "Chain" in pairs:
            first, intermediates = read_chain(pairs["Chain"].encode())
            if leaf is not None and leaf.der != first.der:
                raise ForwardedError("XFCC: Cert is not the first one of Chain")
            leaf = first
    except SvidError as error:
        raise ForwardedError(f"XFCC: {error}") from error
    return leaf, intermediates


def _name(pairs: dict[str, str]) -> SpiffeId:
    if pairs.get("URI", "-") in {"", "-"}:
        # Envoy writes nothing for a peer without a URI name, a waypoint '-'.
        raise ForwardedError("XFCC names no peer; let the proxy set uri")
    try:
        return SpiffeId.parse_workload(pairs["URI"])
    except SpiffeIdError as error:
        raise ForwardedError(f"XFCC: URI is no workload's ID: {error}") from error
