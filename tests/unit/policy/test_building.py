"""Finding OPA, and reading Wasm out of bundles; what needs no OPA."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from authz_server.errors import PolicyError, SetupError
from authz_server.policy import building
from authz_server.policy.building import (
    OPA_VERSION,
    SHIPPED_BUNDLE,
    build_bundle,
    check_rego,
    find_opa,
    read_wasm,
    replace_file,
    shipped_wasm,
    stage_sources,
)


def fake_opa(path: Path, script: str = f"echo 'Version: {OPA_VERSION}'") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_named_opa_is_taken(tmp_path: Path) -> None:
    opa = fake_opa(tmp_path / "my-opa")
    assert find_opa({"AUTHZ_SERVER_OPA": str(opa)}) == opa


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("AUTHZ_SERVER_CACHE", ""),
        ("XDG_CACHE_HOME", "authz-server"),
        ("HOME", ".cache/authz-server"),
    ],
)
def test_opa_is_looked_for_in_the_cache(
    tmp_path: Path, variable: str, folder: str
) -> None:
    opa = fake_opa(tmp_path / folder / f"opa-{OPA_VERSION}" / "opa")
    assert find_opa({variable: str(tmp_path)}) == opa


def test_opa_is_looked_for_on_the_path(tmp_path: Path) -> None:
    opa = fake_opa(tmp_path / "bin" / "opa")
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}
    assert find_opa(environment) == opa


def test_without_opa_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"go install .*@v1\.22\.2.*make opa"):
        find_opa({"HOME": str(tmp_path), "PATH": ""})


@pytest.mark.parametrize(
    "script", ["echo 'Version: 1.22.20'", "exit 1", f"echo {OPA_VERSION}; exit 1"]
)
def test_another_opa_is_refused(tmp_path: Path, script: str) -> None:
    opa = fake_opa(tmp_path / "opa", script)
    with pytest.raises(SetupError, match=r"is not OPA 1\.22\.2"):
        find_opa({"AUTHZ_SERVER_OPA": str(opa)})


def test_a_program_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot run"):
        find_opa({"AUTHZ_SERVER_OPA": str(tmp_path / "none")})


def test_a_program_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_TIMEOUT_S", 0.05)
    opa = fake_opa(tmp_path / "opa", "exec sleep 30")
    with pytest.raises(SetupError, match="did not end"):
        find_opa({"AUTHZ_SERVER_OPA": str(opa)})


def test_what_opa_says_is_in_the_error(tmp_path: Path) -> None:
    opa = fake_opa(tmp_path / "opa", "echo 'rego_parse_error' >&2; exit 1")
    with pytest.raises(PolicyError, match="rego_parse_error"):
        build_bundle([], "authz/decision", tmp_path / "out", opa)
    assert not (tmp_path / "out").exists()


def test_failed_tests_and_no_tests_are_no_pass(tmp_path: Path) -> None:
    opa = fake_opa(tmp_path / "opa", "echo 'FAIL: 1/2'; exit 2")
    assert check_rego([], opa, 0.0) == (False, "FAIL: 1/2")
    opa = fake_opa(tmp_path / "opa", "exit 0")
    assert check_rego([], opa, 0.0) == (False, "no tests were found")


def test_a_source_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read"):
        stage_sources([tmp_path / "none"], tmp_path / "stage")


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_bytes(b"x")
    (tmp_path / "out").mkdir()
    with pytest.raises(SetupError, match="cannot write"):
        replace_file(new, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out"]


def test_the_shipped_wasm_is_a_module() -> None:
    assert shipped_wasm().startswith(b"\0asm")


def test_a_bare_module_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "policy.wasm"
    file.write_bytes(shipped_wasm())
    assert read_wasm(file) == shipped_wasm()


def bundle(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_bundle_may_name_its_members_with_or_without_a_slash(tmp_path: Path) -> None:
    for name in ("policy.wasm", "/policy.wasm"):
        file = bundle(tmp_path / "b.tar.gz", ("data.json", b"{}"), (name, b"wasm"))
        assert read_wasm(file) == b"wasm"


def test_a_bundle_without_wasm_is_refused(tmp_path: Path) -> None:
    file = bundle(tmp_path / "b.tar.gz", ("other/policy.wasm", b"wasm"))
    with pytest.raises(PolicyError, match="build it with target wasm"):
        read_wasm(file)


def test_a_wasm_member_that_is_no_file_is_not_taken(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("/policy.wasm")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    with pytest.raises(PolicyError, match="build it with target wasm"):
        read_wasm(tmp_path / "b.tar.gz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        SHIPPED_BUNDLE.read_bytes()[:5000],
        SHIPPED_BUNDLE.read_bytes()[:20] + b"\xff" * 50,
        gzip.compress(b"no archive" * 100),
    ],
    ids=["empty", "text", "cut", "damaged", "other"],
)
def test_a_file_that_is_no_bundle_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "b.tar.gz"
    file.write_bytes(content)
    with pytest.raises(PolicyError):
        read_wasm(file)


def test_too_large_a_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MAX_WASM_BYTES", 8)
    file = bundle(tmp_path / "b.tar.gz", ("/policy.wasm", b"123456789"))
    with pytest.raises(PolicyError, match="larger than 8 bytes"):
        read_wasm(file)


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read a policy bundle"):
        read_wasm(tmp_path / "none")
