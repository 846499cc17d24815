"""Addresses to listen on."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final, Self

_UNIX: Final = "unix://"
_TCP: Final = "tcp://"
_MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of sockaddr_un, less its NUL
_MAX_PORT: Final = 65535

# RFC 3986 §3.3: an absolute path after an authority that is absent or empty. Kept as it
# is spelled, because gRPC decodes it.
_WORKLOAD_PATH: Final = re.compile(
    r"unix:(?://)?(/(?!/)(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})+)"
)
_WORKLOAD_PLACE: Final = re.compile(
    r"tcp://(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([1-9][0-9]{0,4})"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket's path, or a host and a port.

    Attributes:
        path: absolute path of the socket; empty for TCP.
        host: IP address; empty for a unix socket.
        port: 0 lets the system choose.
    """

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address that `text` spells.

        Raises:
            ValueError: if it is neither ``unix:///path`` nor ``tcp://ip:port``.
        """
        if text.startswith(_UNIX):
            path = text.removeprefix(_UNIX)
            if not path.startswith("/"):
                raise ValueError("a unix socket needs an absolute path: unix:///path")
            if len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
                raise ValueError(
                    f"socket path is longer than {_MAX_SOCKET_PATH_BYTES} bytes"
                )
            return cls(path=path)
        if not text.startswith(_TCP):
            raise ValueError(f"{text!r} is neither unix:///path nor tcp://ip:port")
        host, _, port = text.removeprefix(_TCP).rpartition(":")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise ValueError(
                f"{host!r} is no IP address; write 127.0.0.1, 0.0.0.0 or [::1]"
            ) from error
        if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
            raise ValueError(f"{port!r} is no port")
        return cls(host=str(address), port=int(port))

    @property
    def is_unix(self) -> bool:
        """Whether this is a unix socket."""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it over TCP."""
        return not self.is_unix and ipaddress.ip_address(self.host).is_loopback

    @property
    def target(self) -> str:
        """The address in gRPC's own naming."""
        if self.is_unix:
            return f"unix:{self.path}"
        return (
            f"[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.host}:{self.port}"
        )


def parse_workload_endpoint(address: str) -> str:
    """Return gRPC's name for a Workload API address (SPIFFE Workload Endpoint §4).

    A generic URL parser would drop tabs and newlines. No error quotes the address: it
    may hold a password.

    Raises:
        ValueError: if it is neither ``unix:///absolute/path`` nor ``tcp://ip:port``.
    """
    unix = _WORKLOAD_PATH.fullmatch(address)
    if unix is not None:
        path = urllib.parse.unquote_to_bytes(unix[1])
        if b"\0" in path or len(path) > _MAX_SOCKET_PATH_BYTES:
            raise ValueError(
                f"the socket's path is longer than {_MAX_SOCKET_PATH_BYTES} bytes, or "
                "has a NUL in it"
            )
        return f"unix:{unix[1]}"
    place = _WORKLOAD_PLACE.fullmatch(address)
    if place is not None and int(place[2]) <= _MAX_PORT:
        ip = ipaddress.ip_address(place[1].strip("[]"))
        return f"[{ip}]:{place[2]}" if ":" in str(ip) else f"{ip}:{place[2]}"
    raise ValueError(
        "expected unix:///absolute/path or tcp://ip:port; no user, query or fragment"
    )
