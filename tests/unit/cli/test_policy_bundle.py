"""``authz-server policy bundle``: what it packs is what the servers take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from parts import EXAMPLE
from token_forge import key_of_kind

from authz_server.cli import main
from authz_server.policy.building import SHIPPED_BUNDLE, shipped_wasm
from authz_server.policy.bundles.archive import read_archive
from authz_server.policy.bundles.bundle import Bundle, read_bundle
from authz_server.policy.bundles.content import access_policy
from authz_server.policy.bundles.signature import SIGNATURES, Signers
from authz_server.policy.document import PolicyReader, load_policy
from authz_server.policy.model import AccessPolicy

LIMIT = 1 << 26


def pack(policy: Path, out: Path, *options: str) -> int:
    return main(["policy", "bundle", str(policy), "-o", str(out), *options])


def read(out: Path, signers: Signers | None = None) -> Bundle:
    return read_bundle(out.read_bytes(), LIMIT, signers)


def policy_in(bundle: Bundle) -> AccessPolicy:
    return access_policy(bundle, shipped_wasm(), PolicyReader()).policy


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.tar.gz"


def test_the_policy_of_a_file_is_packed(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(EXAMPLE, out) == 0
    bundle = read(out)
    assert policy_in(bundle) == load_policy(EXAMPLE)
    assert bundle.manifest.roots == (("access_policy",),)
    assert bundle.wasm is None
    assert capsys.readouterr().out == (
        f"wrote {out}, revision {bundle.manifest.revision}\n"
    )


def write_parts(folder: Path, *names: str) -> Path:
    """Write the example as several parts, each with one grant but the first."""
    folder.mkdir()
    whole = yaml.load(EXAMPLE.read_text(), yaml.BaseLoader)
    grants = whole["spec"].pop("grants")
    head = {name: whole[name] for name in ("apiVersion", "kind", "metadata")}
    shares = [grants[number :: len(names)] for number in range(len(names))]
    for number, (name, share) in enumerate(zip(names, shares, strict=True)):
        spec = {**(whole["spec"] if number == 0 else {}), "grants": share}
        (folder / name).write_text(json.dumps({**head, "spec": spec}))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("base.yaml", "more.yaml"),
        # Names that differ in their ends only, and one that looks like a policy's own.
        ("a.yaml", "a.yml"),
        ("kind.yaml", "spec.yaml"),
        ("kind.yaml",),
    ],
    ids=["two", "one stem", "kind", "kind alone"],
)
def test_no_part_of_a_folder_is_lost(
    names: tuple[str, ...], out: Path, tmp_path: Path
) -> None:
    folder = write_parts(tmp_path / "parts", *names)
    assert pack(folder, out) == 0
    assert policy_in(read(out)) == load_policy(folder)


def test_equal_policies_give_equal_bytes(out: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.yaml"
    same.write_text("# another comment\n" + EXAMPLE.read_text())
    assert pack(EXAMPLE, out) == 0
    first = out.read_bytes()
    assert pack(same, out) == 0
    assert out.read_bytes() == first


def test_the_revision_is_what_one_says(out: Path) -> None:
    assert pack(EXAMPLE, out, "--revision", "v1.2 é") == 0
    assert read(out).manifest.revision == "v1.2 é"


@pytest.mark.parametrize("revision", ["a\nb", "x" * 257, "a\u202eb"])
def test_a_revision_that_servers_refuse_is_not_packed(
    revision: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(EXAMPLE, out, "--revision", revision) != 0
    assert "revision is not" in capsys.readouterr().err
    assert not out.exists()


def test_rego_of_ones_own_comes_with_the_policy(out: Path) -> None:
    assert pack(EXAMPLE, out, "--bundle", str(SHIPPED_BUNDLE)) == 0
    assert read(out).wasm == shipped_wasm()


def test_a_bad_policy_is_not_packed_and_what_was_there_stays(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(EXAMPLE.read_text().replace("kind: AccessPolicy", "kind: Other"))
    out.write_bytes(b"before")
    assert pack(bad, out) != 0
    assert "bad.yaml" in capsys.readouterr().err
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize("content", [None, b"", b"\0asm", b"no Wasm"])
def test_rego_that_cannot_be_loaded_is_not_packed(
    content: bytes | None, out: Path, tmp_path: Path
) -> None:
    rego = tmp_path / "rego"
    if content is not None:
        rego.write_bytes(content)
    assert pack(EXAMPLE, out, "--bundle", str(rego)) != 0
    assert main(["policy", "bundle", "--bundle", str(rego), "-o", str(out)]) != 0
    assert not out.exists()


def write_key(folder: Path, kind: str) -> tuple[Path, Path]:
    key = key_of_kind(kind)
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
def test_what_is_signed_is_believed(kind: str, out: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path, kind)
    options = ["--signing-key", str(private), "--key-id", "k", "--scope", "s"]
    assert pack(EXAMPLE, out, *options) == 0
    bundle = read(out, Signers({"k": public}, "s"))
    assert policy_in(bundle) == load_policy(EXAMPLE)
    assert pack(EXAMPLE, out, "--signing-key", str(private)) == 0
    assert read(out, Signers({"default": public})) == bundle
    assert pack(EXAMPLE, out) == 0
    assert SIGNATURES not in read_archive(out.read_bytes(), LIMIT)


@pytest.mark.parametrize("kind", ["P-384", "RSA-1024", "Ed25519"])
def test_a_key_that_servers_do_not_believe_signs_nothing(
    kind: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, _ = write_key(tmp_path, kind)
    assert pack(EXAMPLE, out, "--signing-key", str(private)) != 0
    assert "private.pem" in capsys.readouterr().err
    assert not out.exists()


def test_without_anything_to_pack_one_is_told_so(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "bundle", "-o", str(out)]) != 0
    assert "name an access policy" in capsys.readouterr().err


def test_where_nothing_can_be_written_one_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(EXAMPLE, tmp_path / "none" / "out.tar.gz") != 0
    assert "cannot write" in capsys.readouterr().err
