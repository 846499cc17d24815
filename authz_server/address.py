"""Addresses to listen on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Self

_UNIX: Final = "unix://"
_TCP: Final = "tcp://"
_MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of sockaddr_un, less its NUL
_MAX_PORT: Final = 65535


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
