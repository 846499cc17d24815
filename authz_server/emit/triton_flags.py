"""Triton's own flags, so that its lock has the key that this server sends along.

Triton's documentation: protocol guide, "Limit Endpoint Access", and "Request parameters
from headers".
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.config import Triton
from authz_server.errors import ConfigError

LOCKED: Final = (
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
)
"""Every category that can be restricted but health, since probes send no header."""


def triton_flags(settings: Triton, secret: str) -> tuple[str, ...]:
    """Return the flags that make Triton refuse whoever comes past this server.

    Args:
        secret: what stands for the secret: itself, or what a shell or Kubernetes will
            put it in place of.

    Raises:
        ConfigError: if nothing is configured that Triton could match.
    """
    flags: list[str] = []
    if settings.access_secret:
        locked = ",".join(LOCKED)
        # Triton itself puts a prefix before the name where it looks for it in gRPC.
        flags += [
            f"--http-restricted-api={locked}:{settings.access_header}={secret}",
            f"--grpc-restricted-protocol={locked}:{settings.access_header}={secret}",
        ]
    if settings.principal_header:
        # A regular expression that a whole name must match.
        name = re.escape(settings.principal_header).replace(r"\-", "-")
        flags += [
            f"--http-header-forward-pattern={name}",
            f"--grpc-header-forward-pattern={name}",
        ]
    if not flags:
        raise ConfigError(
            ["triton: has no access_secret and no principal_header for flags to match"]
        )
    return tuple(flags)
