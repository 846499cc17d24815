import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from checks import CAMERA
from https_endpoint import bundle_json
from parts import eventually
from trusting import CA, FACTORY, OTHER, ROBOT, believes

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.trust import TrustStore

NEXT = DevelopmentCa(FACTORY.name)


def bundle_map(**bundles: Any) -> bytes:
    """Return a bundle map; `factory` is short for factory.example."""
    documents = {
        f"{name}.example": json.loads(bundle) if isinstance(bundle, bytes) else bundle
        for name, bundle in bundles.items()
    }
    return json.dumps({"trust_domains": documents}).encode()


class Files:
    """A bundle map, and a file for the factory if asked, that a test rewrites."""

    def __init__(
        self, folder: Path, *, has_file: bool = False, max_age_s: float = math.inf
    ) -> None:
        self.map = folder / "bundles.json"
        self.file = folder / "factory.json"
        self.now_s = 0.0
        files = {FACTORY: self.file} if has_file else {}
        self.store = TrustStore(
            files, max_age_s=max_age_s, clock=lambda: Instant(self.now_s, 0.0)
        )
        self.files = BundleFiles(self.store, files, self.map)

    def write(self, data: bytes, *, to: Path | None = None) -> None:
        path = to or self.map
        path.write_bytes(data)
        self.files.reload()
        self.now_s = path.stat().st_mtime

    def believes(self, ca: DevelopmentCa, spiffe_id: str = CAMERA) -> bool:
        return believes(self.store, ca.issue(spiffe_id), self.now_s)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write(bundle_map(factory=bundle_json(CA), supplier=bundle_json(OTHER)))
    return made


def test_a_map_has_the_bundles_of_many_trust_domains(files: Files) -> None:
    assert files.believes(CA)
    assert files.believes(OTHER, ROBOT)
    assert not files.believes(CA, ROBOT)
    assert not files.believes(OTHER)
    assert files.files.error is None
    assert files.store.error is None


def test_a_map_that_shrinks_revokes_what_it_no_longer_has(files: Files) -> None:
    files.write(bundle_map(factory=bundle_json(CA)))
    assert files.believes(CA)
    assert not files.believes(OTHER, ROBOT)
    files.write(bundle_map())
    assert not files.believes(CA)
    assert files.files.error is None


def test_a_map_that_grows_is_followed(files: Files) -> None:
    files.write(bundle_map(factory=bundle_json(CA, NEXT)))
    assert files.believes(NEXT)


FACTORY_TEXT = '"factory.example": {"keys": []}'

REFUSED = {
    "a trust domain twice": (
        f'{{"trust_domains": {{{FACTORY_TEXT}, {FACTORY_TEXT}}}}}'.encode(),
        "a key comes twice",
    ),
    "one bad bundle": (
        bundle_map(factory=bundle_json(NEXT), supplier={"keys": 1}),
        "supplier.example: bundle has no list of keys",
    ),
    "a bundle that is no object": (
        bundle_map(factory=bundle_json(NEXT), supplier=1),
        "supplier.example is no object",
    ),
    "a name that is none": (
        json.dumps({"trust_domains": {"Factory": {"keys": []}}}).encode(),
        "may hold only",
    ),
    "a single bundle": (bundle_json(NEXT), "no object trust_domains"),
    "PEM": (NEXT.bundle_pem, "is not JSON"),
    "half of it": (bundle_map(factory=bundle_json(NEXT))[:-1], "is not JSON"),
    "nothing": (b"", "is not JSON"),
}


@pytest.mark.parametrize(("data", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_a_map_that_is_no_good_changes_nothing_and_says_so(
    data: bytes, problem: str, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    before = files.store.current
    files.write(data)
    assert files.store.current is before
    assert files.files.error is not None
    assert files.files.error.startswith(f"{files.map}: ")
    assert problem in files.files.error
    assert files.files.error in caplog.text
    files.write(bundle_map(factory=bundle_json(NEXT)))
    assert files.files.error is None
    assert files.believes(NEXT)
    assert not files.believes(CA)


def test_a_map_that_cannot_be_read_leaves_the_last_one(files: Files) -> None:
    files.map.unlink()
    files.files.reload()
    assert files.believes(CA)
    assert files.files.error == (
        f"{files.map}: cannot be read: No such file or directory"
    )
    files.map.mkdir()
    files.files.reload()
    assert files.files.error == f"{files.map}: cannot be read: Is a directory"


def test_the_last_map_is_in_force_only_until_it_is_too_old(tmp_path: Path) -> None:
    files = Files(tmp_path, max_age_s=600)
    files.write(bundle_map(factory=bundle_json(CA)))
    written_s = files.now_s
    files.map.write_bytes(b"nonsense")
    files.files.reload()
    files.now_s = written_s + 600
    assert files.believes(CA)
    files.now_s = written_s + 601
    assert not files.believes(CA)
    assert files.store.error == "the bundle of factory.example is too old"


def test_a_trust_domain_with_a_file_of_its_own_is_not_the_maps(tmp_path: Path) -> None:
    files = Files(tmp_path, has_file=True)
    files.file.write_bytes(bundle_json(CA))
    files.write(bundle_map(factory=bundle_json(NEXT), supplier=bundle_json(OTHER)))
    assert files.believes(CA)
    assert not files.believes(NEXT)
    assert files.believes(OTHER, ROBOT)
    files.write(bundle_map())
    assert files.believes(CA)
    assert not files.believes(OTHER, ROBOT)


def test_a_bundle_of_a_map_does_not_go_back_to_an_older_sequence(
    files: Files,
) -> None:
    files.write(bundle_map(factory=bundle_json(NEXT, spiffe_sequence=5)))
    files.write(bundle_map(factory=bundle_json(CA, spiffe_sequence=4)))
    assert files.believes(NEXT)
    assert not files.believes(CA)
    assert "older sequence" in str(files.store.error)


def test_the_age_of_a_file_counts_from_when_it_was_written(tmp_path: Path) -> None:
    files = Files(tmp_path, has_file=True, max_age_s=600)
    files.write(bundle_map())
    files.write(CA.bundle_pem, to=files.file)
    os.utime(files.file, (1_900_000_000, 1_900_000_000))
    files.files.reload()
    assert files.store.current.good_until_s(FACTORY) == 1_900_000_600


def test_files_that_are_not_there_yet_believe_nobody_until_they_are(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path, has_file=True)
    files.files.reload()
    assert not files.believes(CA)
    assert "factory.json: cannot be read" in str(files.store.error)
    files.files.start_watching(0.01)
    try:
        files.file.write_bytes(CA.bundle_pem)
        files.map.write_bytes(bundle_map(supplier=bundle_json(OTHER)))
        files.now_s = files.map.stat().st_mtime
        assert eventually(lambda: files.believes(CA))
        assert eventually(lambda: files.believes(OTHER, ROBOT))
        assert eventually(lambda: files.files.error is None)
    finally:
        files.files.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_an_error_ended_is_told(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(files.store, "put_all", fail)
    files.files.start_watching(0.01)
    try:
        files.map.write_bytes(bundle_map())
        assert eventually(lambda: files.files.error is not None)
        assert files.files.error == (
            "the bundles are no longer watched; restart the server"
        )
    finally:
        files.files.stop()
