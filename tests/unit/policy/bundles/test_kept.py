"""The bundle on disk: whole at any moment, whatever becomes of the process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from token_forge import key_of_kind

from authz_server.errors import PolicyError
from authz_server.policy.bundles.bundle import read_bundle
from authz_server.policy.bundles.kept import Kept, KeptBundle
from authz_server.policy.bundles.signature import Signers

LIMIT = 1 << 22
KEPT = Kept(b"raw", '"one"', 1000.5)


def test_nothing_is_kept_at_first(tmp_path: Path) -> None:
    assert KeptBundle(tmp_path / "none").load(LIMIT) is None
    assert KeptBundle(tmp_path).load(LIMIT) is None


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "kept"
    KeptBundle(folder).save(KEPT)
    assert KeptBundle(folder).load(LIMIT) == KEPT
    other = Kept(b"other", '"two"', 2000.0)
    KeptBundle(folder).save(other)
    assert KeptBundle(folder).load(LIMIT) == other
    assert sorted(file.name for file in folder.iterdir()) == [
        "bundle.json",
        "bundle.tar.gz",
    ]


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    KeptBundle(tmp_path / "kept").save(KEPT)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_what_is_known_of_it_can_be_noted_anew(tmp_path: Path) -> None:
    folder = KeptBundle(tmp_path)
    folder.save(KEPT)
    before = (tmp_path / "bundle.tar.gz").stat()
    folder.confirm(Kept(b"raw", '"one"', 3000.0))
    assert folder.load(LIMIT) == Kept(b"raw", '"one"', 3000.0)
    after = (tmp_path / "bundle.tar.gz").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_stop_between_the_two_files_leaves_the_new_bundle_without_its_name(
    tmp_path: Path,
) -> None:
    folder = KeptBundle(tmp_path)
    folder.save(KEPT)
    (tmp_path / "bundle.tar.gz").write_bytes(b"newer")
    assert folder.load(LIMIT) == Kept(b"newer", "", 1000.5)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 100,
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"etag":"x"',
        b'{"etag":["x"],"confirmed_s":null}',
        b'{"confirmed_s":[]}',
        b'{"confirmed_s":{}}',
        b'{"confirmed_s":"soon"}',
        b'{"confirmed_s":1' + b"0" * 400 + b"}",
        b"[" * 100_000,
        b'{"etag":"\\"one\\"","confirmed_s":5,"sha256":"00"}',
    ],
    ids=range(14),
)
def test_a_damaged_note_says_nothing_and_the_bundle_is_there(
    text: bytes, tmp_path: Path
) -> None:
    folder = KeptBundle(tmp_path)
    folder.save(KEPT)
    (tmp_path / "bundle.json").write_bytes(text)
    kept = folder.load(LIMIT)
    assert kept is not None
    assert (kept.raw, kept.etag) == (b"raw", "")
    assert kept.confirmed_s in {0.0, 5.0}


def test_a_note_that_is_gone_says_nothing(tmp_path: Path) -> None:
    folder = KeptBundle(tmp_path)
    folder.save(KEPT)
    (tmp_path / "bundle.json").unlink()
    assert folder.load(LIMIT) == Kept(b"raw")


def test_what_is_too_large_is_not_all_read(tmp_path: Path) -> None:
    folder = KeptBundle(tmp_path)
    folder.save(Kept(b"x" * 5000))
    kept = folder.load(10)
    assert kept is not None
    assert len(kept.raw) == 11


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = KeptBundle(tmp_path / "file")
    with pytest.raises(PolicyError, match=f"{tmp_path}/file: .* cannot be read: Not a"):
        folder.load(LIMIT)
    with pytest.raises(PolicyError, match=f"{tmp_path}/file: .* cannot be kept there"):
        folder.save(KEPT)
    (tmp_path / "kept" / "bundle.tar.gz").mkdir(parents=True)
    folder = KeptBundle(tmp_path / "kept")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        folder.load(LIMIT)
    with pytest.raises(PolicyError, match="cannot be kept there"):
        folder.save(KEPT)


def test_a_bundle_is_not_shown_where_it_is_printed() -> None:
    assert "secret" not in repr(Kept(b"secret"))


FULL = """
import resource, signal, sys
from pathlib import Path
from authz_server.errors import PolicyError
from authz_server.policy.bundles.kept import Kept, KeptBundle

folder = KeptBundle(Path(sys.argv[1]))
folder.save(Kept(b"old" * 100, "e", 5.0))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    folder.save(Kept(b"new" * 1000, "f", 6.0))
except PolicyError as error:
    print(error)
"""


def test_without_space_the_old_one_is_there_still(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"{tmp_path}: the bundle cannot be kept there: File too" in made.stdout
    assert KeptBundle(tmp_path).load(LIMIT) == Kept(b"old" * 100, "e", 5.0)
    # Nor is what was half written in the way once there is space again.
    KeptBundle(tmp_path).save(KEPT)
    assert KeptBundle(tmp_path).load(LIMIT) == KEPT


SAVER = """
import sys
from pathlib import Path
from authz_server.policy.bundles.archive import write_archive
from authz_server.policy.bundles.bundle import Bundle, bundle_files
from authz_server.policy.bundles.kept import Kept, KeptBundle
from authz_server.policy.bundles.manifest import Manifest
from authz_server.policy.bundles.signing import read_private_key, sign_files

here = Path(sys.argv[1])
key = read_private_key(here / "key.pem")
made = []
for number in range(4):
    name = f"{sys.argv[2]}-{number}"
    bundle = Bundle(Manifest(name), {"padding": name * 20_000 * (number + 1)})
    made.append((name, write_archive(sign_files(bundle_files(bundle), key, "k"))))
folder = KeptBundle(here / "kept")
folder.save(Kept(made[0][1], made[0][0], 5.0))
print("begins", flush=True)
while True:
    for name, raw in made:
        folder.save(Kept(raw, name, 5.0))
        print(name, flush=True)
"""
KILLS = 36
CHILDREN = 4


@pytest.mark.long
def test_a_kill_at_any_moment_leaves_one_whole_bundle(tmp_path: Path) -> None:
    # Several run at a time, in folders of their own: it is their start that takes long.
    key = key_of_kind("P-256")
    chance = random.Random(20_261_126)
    folders = [tmp_path / str(number) for number in range(CHILDREN)]
    for folder in folders:
        folder.mkdir()
        (folder / "key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (folder / "key.pub").write_bytes(
            key.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
        )
    half_written = 0
    for attempt in range(KILLS // CHILDREN):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", SAVER, str(folder), str(attempt)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for folder in folders
        ]
        saved: list[list[str]] = []
        for child in children:
            assert child.stdout is not None
            with child.stdout:
                assert child.stdout.readline() == "begins\n"
                time.sleep(chance.uniform(0.0, 0.04))
                os.kill(child.pid, signal.SIGKILL)
                saved.append(child.stdout.read().split("\n")[:-1])
            child.wait(10)
        for folder, names in zip(folders, saved, strict=True):
            half_written += any((folder / "kept").glob("*.partial"))
            check(folder, names, attempt)
    # Otherwise no kill came at a moment that matters.
    assert half_written


def check(folder: Path, saved: list[str], attempt: int) -> None:
    kept = KeptBundle(folder / "kept").load(LIMIT)
    assert kept is not None
    signers = Signers({"k": folder / "key.pub"})
    revision = read_bundle(kept.raw, LIMIT, signers).manifest.revision
    assert kept.etag in {"", revision}
    if saved:
        # The last that was saved, or the one that was about to be.
        last = int(saved[-1].partition("-")[2])
        assert revision in {f"{attempt}-{last}", f"{attempt}-{(last + 1) % 4}"}
    note = json.loads((folder / "kept" / "bundle.json").read_bytes())
    assert note["confirmed_s"] == 5.0
