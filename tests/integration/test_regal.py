"""Regal, a linter for Rego, on the shipped policy."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from authz_server.folders import cache_folder
from authz_server.policy.building import REGO_DIR

pytestmark = pytest.mark.go

ROOT = Path(__file__).parents[2]


def find_regal() -> Path:
    version = re.search(
        r"^REGAL_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert version is not None
    return cache_folder(os.environ) / f"regal-{version[1]}" / "regal"


def lint(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            find_regal(),
            "lint",
            "--config-file",
            ROOT / ".regal" / "config.yaml",
            *paths,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_shipped_rego_has_nothing_to_lint() -> None:
    output = lint(REGO_DIR)
    assert output.returncode == 0, output.stdout + output.stderr
    assert "4 files linted" in output.stdout


def test_the_linter_finds_something_where_there_is_something(tmp_path: Path) -> None:
    (tmp_path / "own.rego").write_text("package own\nallow { 1 == 1 }\n")
    assert lint(tmp_path).returncode != 0
