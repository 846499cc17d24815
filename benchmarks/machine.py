"""What figures were measured on: date, processor, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from authz_server.demo.envoy import envoy_binary


def machine() -> str:
    """Return one line."""
    found = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        _processor(),
        f"{os.cpu_count()} cores",
        f"Linux {platform.release()}",
        f"Envoy {_envoy_version()}",
        f"Python {platform.python_version()}",
        f"grpcio {metadata.version('grpcio')}",
    ]
    commit = _commit()
    if commit:
        found.append(f"commit {commit}")
    return ", ".join(found)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _envoy_version() -> str:
    done = subprocess.run(
        [str(envoy_binary()), "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"/(\d+\.\d+\.\d+)/", done.stdout)
    return found[1] if found else "?"


def _commit() -> str:
    """Return the commit of the tree, with a + if it was changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return done.stdout.strip()
