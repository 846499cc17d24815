"""Builds the small C programs of the benchmarks: the floor, and the load client."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = Path(__file__).parent / "rivals"
BUILT: Final = ROOT / "build" / "benchmarks"

FLAGS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion")
LIBRARIES: Final = {
    "floor": ("-lnghttp2",),
    "load": ("-lssl", "-lcrypto", "-lm"),
}
PACKAGES: Final = {"floor": "libnghttp2-dev", "load": "libssl-dev"}
"""What Debian calls the headers of each, for who lacks them."""


def built(name: str) -> Path:
    """Return the program `name`, which is built again if its source is newer."""
    source, program = SOURCES / f"{name}.c", BUILT / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    BUILT.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "gcc")
    new = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, *FLAGS, str(source), "-o", str(new), *LIBRARIES[name]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(
            f"{source.name} does not build (it needs {PACKAGES[name]}):\n{done.stderr}"
        )
    new.rename(program)  # at once: another benchmark may be building it too
    return program
