"""`manifests/` is what the emitters make of the example policy, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz_server.cli import main
from authz_server.emit import TARGET_NAMES
from authz_server.emit.targets import Source, emit
from authz_server.policy.document import load_policy
from authz_server.site.document import load_site

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plant-7.yaml"


def test_the_manifests_are_what_is_emitted_for_the_example() -> None:
    policy = load_policy(EXAMPLE)
    site_file = EXAMPLE.with_name("plant-7-site.yaml")
    site = load_site(site_file, policy)
    parts = {EXAMPLE.name: EXAMPLE.read_text(encoding="utf-8")}
    source = Source(policy, site, parts, site_file.read_text(encoding="utf-8"))
    emitted = {
        name: manifest.text.encode()
        for name, manifest in emit(source, TARGET_NAMES).items()
    }
    folder = ROOT / "manifests"

    kept = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

    hint = "run: make manifests"
    assert sorted(kept) == sorted(emitted), hint
    assert kept == emitted, hint


def test_all_of_them_agree_with_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    site_file = EXAMPLE.with_name("plant-7-site.yaml")
    where = (
        "--policy",
        EXAMPLE,
        "--site",
        site_file,
        "--manifests",
        ROOT / "manifests",
    )

    assert main(["verify", *map(str, where)]) == 0, capsys.readouterr().out
