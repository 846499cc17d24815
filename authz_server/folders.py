"""Where parts that were built or downloaded are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache folder, as the Makefile has it."""
    own = environment.get("AUTHZ_SERVER_CACHE")
    if own:
        return Path(own)
    base = environment.get("XDG_CACHE_HOME")
    home = Path(environment.get("HOME") or Path.home())
    return (Path(base) if base else home / ".cache") / "authz-server"
