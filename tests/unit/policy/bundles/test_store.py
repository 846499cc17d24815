"""The policy out of bundles: when it is in force, and when it is not any more."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from parts import eventually

from authz_server.clock import Instant
from authz_server.errors import FetchError, PolicyError, Reason
from authz_server.policy.building import shipped_wasm
from authz_server.policy.bundles.archive import read_archive, write_archive
from authz_server.policy.bundles.bundle import Bundle, bundle_files, read_bundle
from authz_server.policy.bundles.content import POLICY, access_policy
from authz_server.policy.bundles.kept import Kept, KeptBundle
from authz_server.policy.bundles.manifest import Manifest
from authz_server.policy.bundles.signature import Signers
from authz_server.policy.bundles.signing import PrivateKey, sign_files
from authz_server.policy.bundles.source import Download
from authz_server.policy.bundles.status import Status
from authz_server.policy.bundles.store import BundleStore, Terms
from authz_server.policy.document import PolicyReader
from authz_server.policy.in_force import InForce, LoadedPolicy

LIMIT = 1 << 20
DOWN = FetchError("https://plane.example/b: Connection refused")


def policy(model: str) -> dict[str, Any]:
    return {
        "apiVersion": "authz.edge/v1",
        "kind": "AccessPolicy",
        "metadata": {"name": "line"},
        "spec": {
            "trustDomain": "a.example",
            "upstreams": {"triton": {"kind": "triton", "hosts": ["t.example"]}},
            "groups": {"cams": {"spiffe": ["spiffe://a.example/cam"]}},
            "roles": {"use": [{"actions": ["inference"], "models": [model]}]},
            "grants": [{"role": "use", "to": ["cams"], "on": ["triton"]}],
        },
    }


def packed(document: Any, revision: str = "", key: PrivateKey | None = None) -> bytes:
    files = bundle_files(Bundle(Manifest(revision), {POLICY: document}))
    return write_archive(files if key is None else sign_files(files, key, "k"))


def delta(*changes: Mapping[str, Any], revision: str = "") -> bytes:
    return write_archive(
        {
            ".manifest": json.dumps({"revision": revision}).encode(),
            "patch.json": json.dumps({"data": changes}).encode(),
        }
    )


MODELS = f"{POLICY}/spec/roles/use/0/models"
ADD_K = {"op": "upsert", "path": f"{MODELS}/-", "value": "k"}

ONE, TWO = (
    Download(packed(policy("m"), "r1"), '"1"'),
    Download(packed(policy("k")), '"2"'),
)
BAD = Download(packed(policy("no such pattern")), '"bad"')
KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Plane:
    """A source that says what a test tells it to, and the clock that goes with it.

    Attributes:
        says: a bundle, None for nothing new, or why it says nothing.
        asked: the name of each request.
        now: on both clocks.
    """

    says: Download | FetchError | None = None
    asked: list[str] = field(default_factory=list)
    now: Instant = field(default_factory=lambda: Instant(1_000_000.0, 500.0))
    told: list[Status] = field(default_factory=list)
    is_waiting: bool = False
    place: str = "https://plane.example/b"

    def ask(self, etag: str) -> Download | None:
        self.asked.append(etag)
        if isinstance(self.says, FetchError):
            raise self.says
        return self.says

    def pass_by(self, seconds: float, *, wall: float | None = None) -> None:
        wall = seconds if wall is None else wall
        self.now = Instant(self.now.wall_s + wall, self.now.steady_s + seconds)

    @contextlib.contextmanager
    def store(
        self,
        folder: Path | None = None,
        *,
        signers: Signers | None = None,
        max_age_s: float = math.inf,
    ) -> Iterator[BundleStore]:
        made = BundleStore(
            self,
            InForce(timeout_s=5.0, instances=1),
            Terms(
                name="b",
                open=partial(access_policy, wasm=shipped_wasm(), reader=PolicyReader()),
                max_bytes=LIMIT,
                signers=signers,
                interval_s=60.0,
                max_age_s=max_age_s,
            ),
            None if folder is None else KeptBundle(folder),
            clock=lambda: self.now,
            on_status=self.told.append,
        )
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def plane() -> Plane:
    return Plane()


def models(store: BundleStore) -> list[str] | None:
    """Return what the policy in force lets one ask for; None if there is none."""
    current = store.current
    if current is None:
        return None
    assert isinstance(current, LoadedPolicy)
    return list(current.policy.roles["use"].permissions[0].models)


def key_file(folder: Path) -> Path:
    file = folder / "k.pem"
    file.write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return file


def test_nothing_is_in_force_before_something_came(plane: Plane) -> None:
    plane.says = DOWN
    with plane.store() as store:
        assert models(store) is None
        assert store.missing is Reason.POLICY_UNAVAILABLE
        assert store.error is None
        assert not store.reload()
        assert not store.ask()
        assert models(store) is None
        assert store.error == str(DOWN)


def test_what_comes_is_in_force_and_what_is_newer_takes_its_place(plane: Plane) -> None:
    with plane.store() as store:
        for plane.says, expected in ((ONE, ["m"]), (None, ["m"]), (TWO, ["k"])):
            assert store.ask()
            assert models(store) == expected
            assert store.error is None
        assert plane.asked == ["", '"1"', '"1"']
        plane.says = None
        assert store.ask()
        assert plane.asked[-1] == '"2"'


def test_parts_of_a_policy_are_one_policy(plane: Plane) -> None:
    whole = policy("m")
    head = {**whole, "spec": {**whole["spec"], "grants": []}}
    del head["spec"]["grants"]
    spec = {"grants": whole["spec"]["grants"]}
    tail = {name: whole[name] for name in whole if name != "spec"} | {"spec": spec}
    plane.says = Download(packed({"base.yaml": head, "grants.yaml": tail}))
    with plane.store() as store:
        assert store.ask(), store.error
        assert models(store) == ["m"]
        spec["grants"] = [{"role": "none", "to": ["cams"], "on": ["triton"]}]
        plane.says = Download(packed({"base.yaml": head, "grants.yaml": tail}))
        assert not store.ask()
        assert re.search(
            r"data\.access_policy\.grants\.yaml:\d+:\d+: ", store.error or ""
        )
        assert models(store) == ["m"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "gzip|cut off"),
        (packed(policy("m"))[:-9], "cut off"),
        (write_archive({}), r"no data\.access_policy"),
        (packed(None), "access_policy"),
        (packed({}), "access_policy"),
        (packed([]), "access_policy"),
        (packed(5), "access_policy"),
        (packed("text"), "access_policy"),
        (packed({"kind": "Other"}), "access_policy"),
        (packed({"a": 1}), r"access_policy\.a"),
        (packed({**policy("m"), "more": 1}), "more"),
        (packed(policy("a\x85b")), "is not a model name"),
        (packed(json.loads("[" * 700 + "]" * 700)), "nested"),
        (
            write_archive(
                {"data.json": json.dumps({POLICY: policy("m"), "access": 1}).encode()}
            ),
            r"data\.access is where",
        ),
        (
            write_archive(
                {
                    "data.json": json.dumps({POLICY: policy("m")}).encode(),
                    "policy.wasm": b"\0asm",
                }
            ),
            "Wasm",
        ),
    ],
    ids=range(15),
)
def test_a_bad_bundle_never_takes_effect_and_says_why(
    raw: bytes, message: str, plane: Plane
) -> None:
    with plane.store() as store:
        plane.says = ONE
        assert store.ask()
        plane.says = Download(raw, '"bad"')
        # However often it comes, or is said to be the newest still.
        for says in (plane.says, None, None, plane.says):
            plane.says = says
            assert not store.ask()
            assert models(store) == ["m"]
            assert re.search(message, store.error or "")
            assert (store.error or "").startswith(plane.place)
        plane.says = TWO
        assert store.ask()
        assert models(store) == ["k"]
        assert store.error is None


@pytest.mark.parametrize(
    "raw", [ONE.raw[:-9], b"\0" + ONE.raw[1:], ONE.raw[:-5] + bytes(5)]
)
def test_a_bundle_that_was_damaged_on_the_way_is_asked_for_again(
    raw: bytes, plane: Plane
) -> None:
    with plane.store() as store:
        plane.says = Download(raw, '"1"')
        assert not store.ask()
        plane.says = ONE
        assert store.ask()
        # By its name the source would say that nothing is new.
        assert plane.asked == ["", ""]


def test_polling_goes_on_until_it_is_stopped(plane: Plane) -> None:
    plane.says = ONE
    with plane.store() as store:
        store.start_watching(0.0)
        assert eventually(lambda: models(store) == ["m"])
        store.stop()
        assert models(store) == ["m"]
        assert store.error is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_polling_that_died_is_told(plane: Plane) -> None:
    def fail(etag: str) -> Download | None:  # noqa: ARG001
        raise RuntimeError("a mistake of ours")

    with plane.store() as store:
        plane.ask = fail  # type: ignore[method-assign]
        store.start_watching(0.0)
        assert eventually(lambda: store.error is not None)
        assert "restart the server" in (store.error or "")


def test_what_is_refused_is_the_reason_again_after_the_link_was_down(
    plane: Plane,
) -> None:
    with plane.store() as store:
        for plane.says, message in (
            (BAD, "model name"),
            (DOWN, "refused"),
            (None, "model name"),
        ):
            assert not store.ask()
            assert message in (store.error or "")


def test_a_start_without_the_link_is_with_what_was_kept(
    plane: Plane, tmp_path: Path
) -> None:
    with plane.store(tmp_path) as store:
        plane.says = ONE
        assert store.ask()
    plane.says = DOWN
    with plane.store(tmp_path) as store:
        assert store.reload()
        assert models(store) == ["m"]
        assert not store.ask()
        assert models(store) == ["m"]
        assert plane.asked[-1] == '"1"'
        plane.says = None
        assert store.ask()
        assert store.error is None


def test_a_bad_bundle_is_not_kept(plane: Plane, tmp_path: Path) -> None:
    with plane.store(tmp_path) as store:
        for plane.says in (ONE, BAD, None):
            store.ask()
    with plane.store(tmp_path) as store:
        assert store.reload()
        assert models(store) == ["m"]


def test_nothing_kept_is_no_error(plane: Plane, tmp_path: Path) -> None:
    with plane.store(tmp_path / "none") as store:
        assert not store.reload()
        assert store.error is None


@pytest.mark.parametrize("damage", [b"", b"x", ONE.raw[:-20], ONE.raw + b"x", BAD.raw])
def test_a_kept_bundle_that_is_damaged_is_told_and_the_source_asked(
    damage: bytes, plane: Plane, tmp_path: Path
) -> None:
    with plane.store(tmp_path) as store:
        plane.says = ONE
        store.ask()
    (tmp_path / "bundle.tar.gz").write_bytes(damage)
    with plane.store(tmp_path) as store:
        assert not store.reload()
        assert store.error
        assert models(store) is None
        assert store.ask()
        assert plane.asked[-1] == ""
        assert models(store) == ["m"]


def test_what_was_kept_is_verified_like_any_other(plane: Plane, tmp_path: Path) -> None:
    with plane.store(tmp_path / "kept") as store:
        plane.says = ONE
        assert store.ask()
    signers = Signers({"k": key_file(tmp_path)})
    with plane.store(tmp_path / "kept", signers=signers) as store:
        assert not store.reload()
        assert "is not signed" in (store.error or "")
        assert models(store) is None


def test_a_bundle_is_taken_once_its_key_is_there(plane: Plane, tmp_path: Path) -> None:
    signers = Signers({"k": tmp_path / "k.pem"})
    with plane.store(signers=signers) as store:
        plane.says = Download(packed(policy("m"), "r", KEY), '"1"')
        assert not store.ask()
        assert "k.pem: cannot be read" in (store.error or "")
        plane.says = None
        assert not store.ask()
        assert models(store) is None
        key_file(tmp_path)
        assert store.ask()
        assert plane.asked == ["", '"1"', '"1"']
        assert models(store) == ["m"]
        assert store.error is None


def test_a_bundle_that_is_in_force_stays_when_its_key_goes(
    plane: Plane, tmp_path: Path
) -> None:
    file = key_file(tmp_path)
    with plane.store(signers=Signers({"k": file})) as store:
        plane.says = Download(packed(policy("m"), "r", KEY), '"1"')
        assert store.ask()
        file.unlink()
        plane.says = Download(packed(policy("k"), "r", KEY), '"2"')
        assert not store.ask()
        assert models(store) == ["m"]


def test_a_delta_changes_what_is_in_force(plane: Plane, tmp_path: Path) -> None:
    with plane.store(tmp_path) as store:
        plane.says = ONE
        assert store.ask()
        plane.says = Download(delta(ADD_K, revision="r2"), '"2"')
        assert store.ask(), store.error
        assert models(store) == ["m", "k"]
        assert store.status.kind == "delta"
        assert store.status.active_revision == "r2"
        plane.says = None
        assert store.ask()
        assert plane.asked[-1] == '"2"'
    # And is kept as a whole.
    with plane.store(tmp_path) as store:
        assert store.reload()
        assert models(store) == ["m", "k"]
        assert store.status.active_revision == "r2"


def test_a_delta_without_anything_to_change_is_refused(plane: Plane) -> None:
    with plane.store() as store:
        plane.says = Download(delta(ADD_K), '"2"')
        assert not store.ask()
        assert "none to change" in (store.error or "")
        plane.says = None
        store.ask()
        assert plane.asked == ["", ""]


@pytest.mark.parametrize(
    "raw",
    [
        delta({"op": "remove", "path": "none"}),
        delta({"op": "replace", "path": f"{MODELS}/9", "value": "k"}),
        delta({"op": "upsert", "path": MODELS, "value": "no such pattern"}),
        delta(ADD_K, {"op": "remove", "path": POLICY}),
    ],
    ids=["place", "index", "policy", "all"],
)
def test_a_delta_that_does_not_fit_has_a_whole_one_asked_for(
    raw: bytes, plane: Plane
) -> None:
    with plane.store() as store:
        plane.says = ONE
        assert store.ask()
        plane.says = Download(raw, '"2"')
        assert not store.ask()
        assert models(store) == ["m"]
        assert store.error
        plane.says = TWO
        assert store.ask()
        assert plane.asked[-1] == ""
        assert models(store) == ["k"]


def test_a_delta_that_does_not_fit_is_never_confirmed(plane: Plane) -> None:
    with plane.store(max_age_s=100) as store:
        plane.says = ONE
        assert store.ask()
        plane.says = Download(delta({"op": "remove", "path": "none"}), '"2"')
        assert not store.ask()
        plane.says = None
        plane.pass_by(99)
        assert not store.ask()
        assert store.error
        plane.pass_by(2)
        assert models(store) is None


def test_a_delta_is_not_taken_where_signatures_are_wanted(
    plane: Plane, tmp_path: Path
) -> None:
    # Whoever is on the way could have it twice, or after another one.
    with plane.store(signers=Signers({"k": key_file(tmp_path)})) as store:
        plane.says = Download(packed(policy("m"), "r", KEY), '"1"')
        assert store.ask()
        files = sign_files(read_archive(delta(ADD_K), LIMIT), KEY, "k")
        plane.says = Download(write_archive(files), '"2"')
        assert not store.ask()
        assert models(store) == ["m"]
        assert "delta" in (store.error or "")


def test_a_policy_that_is_too_old_is_not_used_until_it_is_confirmed(
    plane: Plane,
) -> None:
    with plane.store(max_age_s=100) as store:
        plane.says = ONE
        assert store.ask()
        plane.says = DOWN
        plane.pass_by(100)
        assert not store.ask()
        assert models(store) == ["m"]
        plane.pass_by(1)
        assert models(store) is None
        assert store.missing is Reason.POLICY_STALE
        assert "older than distribution.max_age_s" in (store.error or "")
        assert "Connection refused" in (store.error or "")
        plane.says = None
        assert store.ask()
        assert models(store) == ["m"]
        assert store.error is None


def test_that_nothing_came_yet_is_not_told_as_something_too_old(plane: Plane) -> None:
    plane.says = DOWN
    with plane.store(max_age_s=100) as store:
        assert store.error is None
        store.ask()
        assert store.error == str(DOWN)
        assert store.missing is Reason.POLICY_UNAVAILABLE


def test_the_age_counts_from_when_it_was_asked_for(plane: Plane) -> None:
    with plane.store(max_age_s=100) as store:
        plane.says = ONE
        ask = plane.ask

        def late(etag: str) -> Download | None:
            plane.pass_by(60)
            return ask(etag)

        plane.ask = late  # type: ignore[method-assign]
        assert store.ask()
        plane.pass_by(40)
        assert models(store) == ["m"]
        plane.pass_by(1)
        assert models(store) is None


def test_a_newer_bad_one_is_no_confirmation_of_the_old_one(plane: Plane) -> None:
    with plane.store(max_age_s=100) as store:
        plane.says = ONE
        assert store.ask()
        for plane.says in (BAD, None, None):
            plane.pass_by(40)
            assert not store.ask()
        assert models(store) is None


def test_a_wall_clock_that_jumps_changes_no_age(plane: Plane) -> None:
    with plane.store(max_age_s=100) as store:
        plane.says = ONE
        assert store.ask()
        plane.pass_by(50, wall=-1e6)
        assert models(store) == ["m"]
        plane.pass_by(50, wall=1e7)
        assert models(store) == ["m"]
        plane.pass_by(1, wall=0)
        assert models(store) is None


@pytest.mark.parametrize(
    ("wall", "is_used"), [(50, True), (100, True), (101, False), (-1, False)]
)
def test_the_age_counts_on_over_a_start(
    wall: float, is_used: bool, plane: Plane, tmp_path: Path
) -> None:
    with plane.store(tmp_path, max_age_s=100) as store:
        plane.says = ONE
        assert store.ask()
    # The steady clock begins anew; what went back on the wall clock tells no age.
    plane.now = Instant(plane.now.wall_s + wall, 3.0)
    plane.says = DOWN
    with plane.store(tmp_path, max_age_s=100) as store:
        assert store.reload() is is_used
        assert models(store) == (["m"] if is_used else None)
        if not is_used:
            assert store.missing is Reason.POLICY_STALE
        plane.says = None
        assert store.ask()
        assert models(store) == ["m"]


@pytest.mark.parametrize("confirmed_s", [0.0, math.nan, math.inf, -5.0])
def test_a_kept_bundle_of_no_known_age_is_too_old(
    confirmed_s: float, plane: Plane, tmp_path: Path
) -> None:
    KeptBundle(tmp_path).save(Kept(ONE.raw, '"1"', confirmed_s))
    with plane.store(tmp_path, max_age_s=100) as store:
        assert not store.reload()
        assert store.missing is Reason.POLICY_STALE
    with plane.store(tmp_path) as store:
        assert store.reload()


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells, of each file, whether it was written again."""
    stats = {file.name: file.stat() for file in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_that_it_is_the_newest_is_not_noted_at_every_poll(
    plane: Plane, tmp_path: Path
) -> None:
    with plane.store(tmp_path, max_age_s=5000) as store:
        plane.says = ONE
        assert store.ask()
        before = written(tmp_path)
        plane.says = None
        for _ in range(9):
            plane.pass_by(11)
            assert store.ask()
        assert written(tmp_path) == before
        plane.pass_by(11)
        assert store.ask()
        after = written(tmp_path)
        assert after["bundle.tar.gz"] == before["bundle.tar.gz"]
        kept = KeptBundle(tmp_path).load(LIMIT)
        assert kept is not None
        assert kept.confirmed_s == plane.now.wall_s


def test_what_a_source_without_names_sends_again_is_not_written_again(
    plane: Plane, tmp_path: Path
) -> None:
    with plane.store(tmp_path) as store:
        plane.says = Download(ONE.raw)
        assert store.ask()
        before = written(tmp_path)
        for _ in range(3):
            plane.pass_by(60)
            assert store.ask()
        assert written(tmp_path) == before


def test_what_cannot_be_kept_is_in_force_all_the_same_and_told_once(
    plane: Plane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "kept"
    folder.write_bytes(b"")
    with plane.store(folder) as store, caplog.at_level(logging.ERROR):
        for plane.says in (ONE, None, None):
            assert store.ask()
            assert models(store) == ["m"]
            assert "cannot be kept there" in (store.error or "")
        assert caplog.text.count("cannot be kept there") == 1
        # Once there is room it is kept, though nothing new came.
        folder.unlink()
        assert store.ask()
        assert store.error is None
    kept = KeptBundle(folder).load(LIMIT)
    assert kept is not None
    assert kept.raw == ONE.raw


def test_an_outage_is_logged_once(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    with plane.store() as store, caplog.at_level(logging.ERROR):
        plane.says = ONE
        store.ask()
        for _ in range(2):
            plane.says = DOWN
            for _ in range(5):
                store.ask()
            plane.says = None
            assert store.ask()
        assert caplog.text.count("Connection refused") == 2
        for plane.says in (BAD, None, None, BAD):
            store.ask()
        assert caplog.text.count("is not a model name") == 1


def test_the_status_says_how_far_it_has_come(plane: Plane) -> None:
    with plane.store() as store:
        assert store.status == Status("b")
        plane.says = ONE
        store.ask()
        first_s = plane.now.wall_s
        plane.pass_by(10)
        plane.says = None
        store.ask()
        plane.pass_by(10)
        plane.says = BAD
        store.ask()
        plane.pass_by(10)
        plane.says = DOWN
        store.ask()
        assert store.status == Status(
            name="b",
            active_revision="r1",
            requested_s=first_s + 30,
            answered_s=first_s + 20,
            downloaded_s=first_s + 20,
            activated_s=first_s,
            size=len(BAD.raw),
            kind="snapshot",
            problem=str(DOWN),
        )
        assert [status.problem for status in plane.told][:2] == ["", ""]
        assert "model name" in plane.told[2].problem
        assert len(plane.told) == 4
        plane.says = TWO
        store.ask()
        assert store.status.problem == ""
        assert store.status.activated_s == first_s + 30


def test_a_bundle_without_a_revision_is_called_by_ours(plane: Plane) -> None:
    with plane.store() as store:
        plane.says = TWO
        store.ask()
        current = store.current
        assert current is not None
        assert store.status.active_revision == current.revision


# As in v1/plugins/bundle/status.go and v1/plugins/status/plugin.go of OPA 1.22.2.
GO_REPORT = {"labels", "bundles", "plugins"}
GO_STATUS = {
    "name",
    "active_revision",
    "last_successful_activation",
    "type",
    "size",
    "last_successful_download",
    "last_successful_request",
    "last_request",
    "code",
    "message",
}
GO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def test_a_report_has_the_form_of_opas(plane: Plane) -> None:
    with plane.store() as store:
        empty = store.status.report({})
        assert empty["plugins"] == {"bundle": {"state": "NOT_READY"}}
        assert empty["bundles"]["b"]["last_request"] == "0001-01-01T00:00:00Z"
        plane.says = ONE
        store.ask()
        good = store.status.report({"id": "x"})
        assert good["labels"] == {"id": "x"}
        assert good["plugins"] == {"bundle": {"state": "OK"}}
        assert good["bundles"]["b"]["type"] == "snapshot"
        assert good["bundles"]["b"]["last_request"] == "1970-01-12T13:46:40.000000Z"
        assert "code" not in good["bundles"]["b"]
        plane.says = BAD
        store.ask()
        bad = store.status.report({})
        assert bad["plugins"] == {"bundle": {"state": "ERROR"}}
        assert bad["bundles"]["b"]["code"] == "bundle_error"
        assert bad["bundles"]["b"]["active_revision"] == "r1"
        for report in (empty, good, bad):
            assert report.keys() == GO_REPORT
            assert report["bundles"].keys() == {"b"}
            assert report["bundles"]["b"].keys() <= GO_STATUS
            for name, value in report["bundles"]["b"].items():
                if name.startswith("last_"):
                    assert GO_TIME.fullmatch(value)
            json.dumps(report)
        assert set().union(*(r["bundles"]["b"] for r in (good, bad))) == GO_STATUS


def test_what_replaces_a_policy_is_told_of_by_its_revision(plane: Plane) -> None:
    with plane.store() as store:
        plane.says = ONE
        store.ask()
        first = store.current
        plane.says = Download(packed(policy("m"), "r9"), '"9"')
        assert store.ask()
        # The same policy by another name is not loaded again.
        assert store.current is first
        assert store.status.active_revision == "r9"


def test_a_poll_comes_sooner_after_failures_and_at_once_where_the_server_waits(
    plane: Plane,
) -> None:
    with plane.store() as store:
        plane.says = DOWN
        assert 0.5 <= store._poll() <= 1.0
        assert 1.0 <= store._poll() <= 2.0
        plane.says = ONE
        assert 54.0 <= store._poll() <= 60.0
        plane.is_waiting = True
        assert store._poll() == 1.0
        plane.says = DOWN
        assert 0.5 <= store._poll() <= 1.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_hostile_ends_the_polling(plane: Plane, tmp_path: Path) -> None:
    good = read_archive(packed(policy("m"), "r", KEY), LIMIT)
    hostile = [
        write_archive({**good, "data.json": b'{"a":"\\ud800"}'}),
        write_archive({**good, "data.json": b'{"a":' * 480 + b"1" + b"}" * 480}),
        write_archive({**good, "data.json": b'{"a":' * 980 + b"1" + b"}" * 980}),
        write_archive({**good, ".manifest": b"[" * 100_000}),
        write_archive({**good, "patch.json": b'{"data":[{"op":[],"path":"a"}]}'}),
        write_archive({**good, "policy.wasm": b"\0asm\1\0\0\0"}),
        write_archive({"patch.json": b'{"data":[{"op":{},"path":"a"}]}'}),
        b"\x1f\x8b" + bytes(range(256)),
    ]
    for signers in (Signers({"k": key_file(tmp_path)}), None):
        with plane.store(signers=signers) as store:
            for raw in hostile:
                plane.says = Download(raw, "")
                assert not store.ask()
                assert store.error


def test_what_is_kept_can_be_read_by_anybody_who_has_the_key(
    plane: Plane, tmp_path: Path
) -> None:
    signers = Signers({"k": key_file(tmp_path)})
    with plane.store(tmp_path / "kept", signers=signers) as store:
        plane.says = Download(packed(policy("m"), "r", KEY), '"1"')
        assert store.ask()
    kept = KeptBundle(tmp_path / "kept").load(LIMIT)
    assert kept is not None
    assert read_bundle(kept.raw, LIMIT, signers).manifest.revision == "r"
    with pytest.raises(PolicyError, match="signed for another scope"):
        read_bundle(kept.raw, LIMIT, Signers(signers.key_files, "x"))
