"""uuid.parse and uri.*: what a UUID or a URL consists of."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from authz_server.policy.builtins.operands import string
from authz_server.policy.builtins.values import UndefinedError, to_text

_UUID: Final = re.compile(
    r"(?:urn:uuid:)?([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})",
    re.IGNORECASE,
)
_UUID_CHARACTERS: Final = 36
_TIME_AT_EPOCH: Final = 0x01B21DD213814000
"""In steps of 100 ns since 15 October 1582: RFC 9562 section 5.1."""
_DOMAINS: Final = ("Person", "Group", "Org")

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PORT: Final = re.compile(r"(?::[0-9]*)?")
_BAD_PERCENT: Final = re.compile("%(?![0-9a-fA-F]{2})")
_USER: Final = re.compile(r"[A-Za-z0-9._:~!$&'()*+,;=%@-]*")
_HOST: Final = re.compile(
    "(?:[A-Za-z0-9_.~!$&'()*+,;=:\\[\\]<>\"\x80-\U0010ffff-]|%25|%[89a-fA-F][0-9a-fA-F])*"
)
_ZONE: Final = re.compile(r"(?:[^%]|%25|%[0-9a-fA-F]{2})*")
_PATH_SIGNS: Final = "$&+,/:;=@"


@dataclass(frozen=True, slots=True)
class _Uri:
    scheme: str
    host: str
    path: str
    raw_path: str
    query: str
    fragment: str


def parse_uuid(text: object) -> dict[str, Any]:
    """Return version and variant of a UUID, and what else versions 1 and 2 say."""
    written = string(text)
    found = _UUID.fullmatch(_bare(written))
    if found is None:
        raise UndefinedError
    octets = bytes.fromhex("".join(found.groups()))
    version = octets[6] >> 4
    parsed: dict[str, Any] = {"version": version, "variant": _variant(octets[8])}
    if version in (1, 2):
        ticks = int.from_bytes(octets[:4])
        ticks |= int.from_bytes(octets[4:6]) << 32
        ticks |= (int.from_bytes(octets[6:8]) & 0xFFF) << 48
        parsed["time"] = _wrap((ticks - _TIME_AT_EPOCH) * 100)
        parsed["nodeid"] = octets[10:].hex("-")
        parsed["macvariables"] = (
            f"{'local' if octets[10] & 2 else 'global'}:"
            f"{'multicast' if octets[10] & 1 else 'unicast'}"
        )
        parsed["clocksequence"] = int.from_bytes(octets[8:10]) & 0x3FFF
    if version == 2:  # noqa: PLR2004 - DCE security
        domain = octets[9]
        parsed["id"] = int.from_bytes(octets[:4])
        is_known = domain < len(_DOMAINS)
        parsed["domain"] = _DOMAINS[domain] if is_known else f"Domain{domain}"
    return parsed


def parse_uri(text: object) -> dict[str, str]:
    """Return the parts of a URL; those that are empty are left out."""
    found = _read_uri(string(text))
    hostname, port = _split_host(found.host)
    parts = {
        "scheme": found.scheme,
        "hostname": hostname,
        "port": port,
        "path": found.path,
        "raw_path": found.raw_path,
        "raw_query": found.query,
        "fragment": found.fragment,
    }
    return {name: part for name, part in parts.items() if part}


def is_uri(text: object) -> bool:
    """Return whether `text` is a URL, or a path of one."""
    try:
        written = string(text)
        _read_uri(written)
    except UndefinedError:
        return False
    return bool(written)


def _bare(text: str) -> str:
    # Whatever stands around a UUID is taken for braces.
    if len(text) == _UUID_CHARACTERS + 2 and text.isascii():
        return text[1:-1]
    if len(text) == _UUID_CHARACTERS - 4:
        marks = (0, 8, 12, 16, 20, 32)
        return "-".join(text[a:b] for a, b in pairwise(marks))
    return text


def _variant(octet: int) -> str:
    if octet >> 6 == 0b10:  # noqa: PLR2004 - RFC 9562 section 4.1
        return "RFC4122"
    if octet >> 5 == 0b110:  # noqa: PLR2004
        return "Microsoft"
    return "Future" if octet >> 5 == 0b111 else "Reserved"  # noqa: PLR2004


def _wrap(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _read_uri(text: str) -> _Uri:
    written, _, fragment = text.partition("#")
    if _CONTROL.search(written):
        raise UndefinedError
    fragment = _unescape(fragment)
    if written == "*":
        return _Uri("", "", "*", "*", "", fragment)
    scheme, rest = _take_scheme(written)
    rest, _, query = rest.partition("?")
    host = ""
    if not rest.startswith("/"):
        if scheme:
            # mailto:someone and the like have no parts.
            return _Uri(scheme, "", "", "", query, fragment)
        if ":" in rest.partition("/")[0]:
            raise UndefinedError
    elif rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        host = _read_authority(scheme, authority)
    path = _unescape(rest)
    # As it was written, unless that is what would be written of the path again.
    raw_path = path if urllib.parse.quote(path, safe=_PATH_SIGNS) == rest else rest
    return _Uri(scheme, host, path, raw_path, query, fragment)


def _take_scheme(text: str) -> tuple[str, str]:
    if text.startswith(":"):
        raise UndefinedError
    found = _SCHEME.match(text)
    if found is None:
        return "", text
    return found.group()[:-1].lower(), text[found.end() :]


def _read_authority(scheme: str, authority: str) -> str:
    user, at, host = authority.rpartition("@")
    if at:
        if not _USER.fullmatch(user):
            raise UndefinedError
        _unescape(user)
    if "[" in host:
        return _read_literal(host)
    name, colon, port = host.partition(":")
    if name != host and scheme not in ("http", "https"):
        # Some list several hosts with ports there.
        name, colon, port = host.rpartition(":")
    if not _PORT.fullmatch(colon + port) or not _HOST.fullmatch(host):
        raise UndefinedError
    return _unescape(host)


def _read_literal(host: str) -> str:
    """Return a host whose name is an address of IPv6 between brackets."""
    inside, bracket, port = host[1:].rpartition("]")
    if host.rfind("[") or not bracket or not _PORT.fullmatch(port):
        raise UndefinedError
    address, percent, zone = inside.partition("%25")
    if not _HOST.fullmatch(address) or not _ZONE.fullmatch(zone):
        raise UndefinedError
    name = _unescape(address + percent + zone)
    try:
        ipaddress.IPv6Address(name)
    except ValueError as error:
        raise UndefinedError from error
    return f"[{name}]{port}"


def _split_host(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    if not colon or not _PORT.fullmatch(colon + port):
        name, port = host, ""
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    return name, port


def _unescape(text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise UndefinedError
    return to_text(urllib.parse.unquote_to_bytes(text))
