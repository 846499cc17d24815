"""net.cidr_*: networks of IPv4 and IPv6 addresses, as Go reads them.

An address of IPv4 mapped into IPv6 (::ffff:a.b.c.d) is to Go the same as its address of
IPv4. That is kept, since two readings of an address are what attackers look for.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final

from authz_server.policy.builtins.operands import members, string
from authz_server.policy.builtins.values import (
    RefusedError,
    RegoSet,
    UndefinedError,
    entries,
    unique,
)

_MAX_PAIRS: Final = 100_000
"""Of networks that are compared with each other in one call."""
_MAX_ADDRESSES: Final = 1 << 16
"""That `net.cidr_expand` lists; a network of IPv4 with 16 bits for hosts."""
_MAPPED: Final = 0xFFFF << 32
_V4: Final = 32
_V6: Final = 128
_PREFIX: Final = re.compile("[0-9]{1,7}")


@dataclass(frozen=True, slots=True, order=True)
class _Network:
    """A network.

    Attributes:
        bits: of an address, 32 or 128.
        first: its first address.
        prefix: how many bits its addresses share.
    """

    bits: int
    first: int
    prefix: int

    @property
    def last(self) -> int:
        return self.first | ((1 << (self.bits - self.prefix)) - 1)

    def __contains__(self, address: tuple[int, int]) -> bool:
        bits, value = address
        return bits == self.bits and self.first <= value <= self.last

    def __str__(self) -> str:
        return f"{show_address(self.bits, self.first)}/{self.prefix}"


def contains_matches(networks: object, addresses: object) -> RegoSet:
    """Return by pairs of index or key which of `networks` contains which address."""
    outer = _indexed(networks)
    # Without networks nobody looks at the addresses.
    inner = _indexed(addresses) if outer else []
    if len(outer) * len(inner) > _MAX_PAIRS:
        raise RefusedError("too many networks are compared with each other")
    if not inner:
        return RegoSet()
    wide = [(index, _network(string(text))) for index, text in outer]
    narrow = [(index, _address_or_network(string(text))) for index, text in inner]
    return unique(
        [one, other]
        for one, network in wide
        for other, part in narrow
        if _contains(network, part)
    )


def expand(network: object) -> RegoSet:
    """Return all addresses of `network`."""
    found = _network(string(network))
    if found.last - found.first >= _MAX_ADDRESSES:
        raise RefusedError("a network has too many addresses to list them")
    return RegoSet(
        show_address(found.bits, value) for value in range(found.first, found.last + 1)
    )


def is_network(text: object) -> bool:
    """Return whether `text` is a network, such as 10.0.0.0/8."""
    try:
        _network(string(text))
    except UndefinedError:
        return False
    return True


def merge(networks: object) -> RegoSet:
    """Return the fewest networks that have the addresses of `networks`.

    An address of IPv4 without a prefix counts as the network of its old class.
    """
    given = [_network_or_class(string(text)) for text in members(networks)]
    merged: list[_Run] = []
    for run in sorted(given, key=lambda run: (run.first, run.last)):
        last = merged[-1] if merged else None
        if last is not None and last.bits != run.bits and run.first == last.last + 1:
            raise RefusedError("networks of IPv4 and IPv6 are side by side")
        if last is None or run.first > last.last + 1:
            merged.append(run)
        else:
            # A network of IPv6 may hold all of IPv4.
            merged[-1] = _Run(last.bits, last.first, max(last.last, run.last), "")
    return RegoSet(text for run in merged for text in run.texts())


@dataclass(frozen=True, slots=True)
class _Run:
    """Addresses from the first to the last, those of IPv4 as mapped into IPv6.

    Attributes:
        text: the network that they are, as it was given; empty if they were merged.
    """

    bits: int
    first: int
    last: int
    text: str

    def texts(self) -> list[str]:
        if self.text:
            return [self.text]
        offset = _MAPPED if self.bits == _V4 else 0
        cover = _cover(self.bits, self.first - offset, self.last - offset)
        return [str(network) for network in cover]


def show_address(bits: int, value: int) -> str:
    """Return the address as Go writes it."""
    if bits == _V4 or value >> 32 == 0xFFFF:  # noqa: PLR2004 - mapped
        return str(ipaddress.IPv4Address(value & 0xFFFFFFFF))
    return str(ipaddress.IPv6Address(value))


def parse_address(text: str) -> tuple[int, int] | None:
    """Return the bits and value of an address; None if `text` is none."""
    if "%" in text:
        return None
    try:
        if ":" in text:
            value = int(ipaddress.IPv6Address(text))
            if value >> 32 == 0xFFFF:  # noqa: PLR2004 - mapped
                return _V4, value & 0xFFFFFFFF
            return _V6, value
        return _V4, int(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def _network(text: str) -> _Network:
    address, slash, prefix = text.partition("/")
    found = parse_address(address)
    if not slash or found is None or not _PREFIX.fullmatch(prefix):
        raise UndefinedError
    bits, value = found
    length = int(prefix)
    if ":" in address and bits == _V4:
        # Go masks the mapped address; with a prefix that reaches into it, the result is
        # a network of IPv4 that still calls itself one of IPv6.
        raise RefusedError("a network is written as IPv4 mapped into IPv6")
    if length > bits:
        raise UndefinedError
    host_bits = bits - length
    return _Network(bits, value >> host_bits << host_bits, length)


def _address_or_network(text: str) -> _Network:
    found = parse_address(text)
    return _network(text) if found is None else _Network(*found, prefix=found[0])


def _network_or_class(text: str) -> _Run:
    found = parse_address(text)
    if found is None:
        network = _network(text)
        shown = str(network)
    else:
        bits, value = found
        if bits != _V4:
            raise UndefinedError
        # Classes A, B and C: RFC 791 section 2.3. Go counts what is above as class C.
        top = value >> 24
        length = 8 if top < 128 else 16 if top < 192 else 24  # noqa: PLR2004
        network = _Network(bits, value >> (bits - length) << (bits - length), length)
        # As OPA shows it, with its own bits.
        shown = f"{show_address(bits, value)}/{length}"
    offset = _MAPPED if network.bits == _V4 else 0
    return _Run(network.bits, network.first + offset, network.last + offset, shown)


def _contains(network: _Network, part: _Network) -> bool:
    return (part.bits, part.first) in network and (part.bits, part.last) in network


def _cover(bits: int, first: int, last: int) -> list[_Network]:
    """Return the networks that together are the addresses from `first` to `last`."""
    networks = []
    while first <= last:
        aligned = (first & -first).bit_length() - 1 if first else bits
        host_bits = min(aligned, (last - first + 1).bit_length() - 1)
        networks.append(_Network(bits, first, bits - host_bits))
        first += 1 << host_bits
    return networks


def _indexed(value: object) -> list[tuple[Any, Any]]:
    """Return networks with what stands for them in the result."""
    if isinstance(value, str):
        return [(value, value)]
    if isinstance(value, list):
        return [(index, _text(item)) for index, item in enumerate(value)]
    if isinstance(value, RegoSet):
        return [(item, _text(item)) for item in value]
    return [(key, _text(item)) for key, item in entries(value) or []]


def _text(item: object) -> object:
    """Return the network that `item` is, or that it begins with."""
    if isinstance(item, str):
        return item
    if isinstance(item, list) and item:
        return item[0]
    raise UndefinedError
