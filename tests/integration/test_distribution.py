"""Policies as OPA bundles, from a control plane to a server that runs."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from checks import check_request, is_allowed, reason_of
from control_plane import ControlPlane, control_plane
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from parts import EXAMPLE, eventually, serve_process

from authz_server.cli import main
from authz_server.errors import Reason
from authz_server.policy.bundles.archive import write_archive

pytestmark = pytest.mark.long

METHOD = "/envoy.service.auth.v3.Authorization/Check"
ALLOWED = bytes(check_request())
GOOD = EXAMPLE.read_text()
WITHOUT = GOOD.replace("to: [factory-floor]", "to: [planning]")


@dataclass
class Box:
    """An edge box: its folder, and the keys of whoever writes its policy."""

    folder: Path
    plane: ControlPlane

    def new_key(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / f"{name}.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (self.folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
        )

    def pack(self, policy: str, revision: str, *options: str) -> bytes:
        """Return a bundle as a policy's author makes it."""
        source, out = self.folder / "author.yaml", self.folder / "author.tar.gz"
        source.write_text(policy)
        command = ["policy", "bundle", str(source), "-o", str(out)]
        assert main([*command, "--revision", revision, *options]) == 0
        return out.read_bytes()

    def signed(self, policy: str, revision: str, key: str = "first") -> bytes:
        return self.pack(
            policy,
            revision,
            *("--signing-key", str(self.folder / f"{key}.key"), "--key-id", key),
        )

    def configure(self, **settings: object) -> None:
        distribution = {
            "url": self.plane.url,
            "keys": {"first": str(self.folder / "first.pub")},
            "keep": str(self.folder / "kept"),
            "poll_s": 0.05,
            "wait_s": 5,
            "timeout_s": 5,
            "status_url": self.plane.status_url,
            "labels": {"site": "plant-7"},
            **settings,
        }
        config = {
            "listen": {
                "address": f"unix://{self.folder}/s",
                "metrics": "tcp://127.0.0.1:0",
            },
            "distribution": distribution,
            "identity": {"chain": "proxy", "require_certificate": False},
            "limits": {"deadline_s": 5},
            "audit": {"file": f"{self.folder}/audit.jsonl"},
        }
        (self.folder / "config.yaml").write_text(json.dumps(config))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, raw: bytes = ALLOWED) -> bytes:
        with grpc.insecure_channel(f"unix:{self.folder}/s") as channel:
            return bytes(channel.unary_unary(METHOD)(raw, timeout=10))

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Yield a server that answers."""
        (self.folder / "log").unlink(missing_ok=True)
        with serve_process(self.folder) as process:
            assert eventually(
                lambda: "listening on" in self.log or process.poll() is not None
            )
            assert process.poll() is None, self.log
            yield process


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with control_plane() as plane:
        box = Box(tmp_path, plane)
        box.new_key("first")
        box.configure()
        yield box


def test_a_policy_is_distributed_changed_and_reported(box: Box) -> None:
    box.plane.publish(box.signed(GOOD, "r1"))
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
        # A change arrives while a request of ours is held open, not at the next poll.
        box.plane.publish(box.signed(WITHOUT, "r2"))
        assert eventually(lambda: not is_allowed(box.ask()))
        assert reason_of(box.ask()) == Reason.NOT_GRANTED
        assert "wait=5" in box.plane.requests[-1]["Prefer"]
        assert eventually(
            lambda: (
                bool(box.plane.reports)
                and box.plane.reports[-1]["bundles"]["authz"].get("active_revision")
                == "r2"
            )
        )
        report = box.plane.reports[-1]
        assert report["labels"]["site"] == "plant-7"
        assert report["plugins"] == {"bundle": {"state": "OK"}}
        assert _local_status(box)["bundles"] == report["bundles"]


def test_a_bundle_that_is_not_signed_by_a_known_key_changes_nothing(box: Box) -> None:
    box.new_key("second")
    box.plane.publish(box.signed(GOOD, "r1"))
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
        for bad in (
            box.pack(WITHOUT, "unsigned"),
            box.signed(WITHOUT, "other", key="second"),
            write_archive({"data.json": b"{}"}),
            b"nonsense",
        ):
            reports = len(box.plane.reports)
            box.plane.publish(bad)
            assert eventually(
                lambda: any(
                    "message" in report["bundles"]["authz"]
                    for report in box.plane.reports[reports:]  # noqa: B023
                )
            )
            assert is_allowed(box.ask())
        assert main(["health", "--config", str(box.folder / "config.yaml")]) == 0
        assert _health_of_policy(box) == 1


def test_keys_are_rotated_without_a_restart(box: Box) -> None:
    keys = {name: str(box.folder / f"{name}.pub") for name in ("first", "second")}
    box.configure(keys=keys)
    (box.folder / "second.pub").write_bytes((box.folder / "first.pub").read_bytes())
    box.plane.publish(box.signed(GOOD, "r1"))
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
        box.new_key("second")
        box.plane.publish(box.signed(WITHOUT, "r2", key="second"))
        assert eventually(lambda: not is_allowed(box.ask()))
        # The old one is withdrawn: nothing that it signs counts any more.
        box.new_key("first")
        (box.folder / "first.pub").write_bytes((box.folder / "second.pub").read_bytes())
        box.plane.publish(box.signed(GOOD, "r3", key="first"))
        assert eventually(lambda: "the signature is wrong" in box.log)
        assert not is_allowed(box.ask())


def test_a_box_without_its_link_starts_with_the_last_good_bundle(box: Box) -> None:
    box.plane.publish(box.signed(GOOD, "r1"))
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
    box.configure(url="http://127.0.0.1:1/gone", status_url="")
    with box.serving():
        assert is_allowed(box.ask())
        assert "began with the bundle that was kept, revision 'r1'" in box.log
        assert eventually(lambda: _health_of_policy(box) == 1)
    # Not with one that somebody put there.
    (box.folder / "kept" / "bundle.tar.gz").write_bytes(box.pack(GOOD, "forged"))
    with box.serving():
        assert reason_of(box.ask()) == Reason.POLICY_UNAVAILABLE
        assert "is not signed" in box.log


def test_a_policy_that_is_too_old_is_not_used_until_it_is_confirmed(box: Box) -> None:
    box.configure(max_age_s=1.0, wait_s=0)
    box.plane.publish(box.signed(GOOD, "r1"))
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
        port = box.plane.port
        with _link_down(box):
            assert eventually(lambda: not is_allowed(box.ask()))
            assert reason_of(box.ask()) == Reason.POLICY_STALE
        assert box.plane.port == port
        assert eventually(lambda: is_allowed(box.ask()))
    time.sleep(1.1)
    box.configure(url="http://127.0.0.1:1/gone", max_age_s=1.0, wait_s=0)
    with box.serving():
        assert reason_of(box.ask()) == Reason.POLICY_STALE


def test_deltas_change_a_bundle_where_signatures_are_not_asked_for(box: Box) -> None:
    box.configure(keys={}, unsigned=True)
    box.plane.publish(box.pack(GOOD, "r1"))
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
        assert "modes=snapshot,delta" in box.plane.requests[-1]["Prefer"]
        box.plane.publish(
            _delta("r2", "replace", "/access_policy/spec/grants/0/to", ["planning"])
        )
        assert eventually(lambda: not is_allowed(box.ask()))
    box.configure(keys={}, unsigned=True, url="http://127.0.0.1:1/gone")
    with box.serving():
        assert "revision 'r2'" in box.log
        assert reason_of(box.ask()) == Reason.NOT_GRANTED


def test_a_download_that_is_cut_off_again_and_again_comes_to_an_end(box: Box) -> None:
    bundle = box.signed(GOOD, "r1")
    box.plane.cut_at = len(bundle) // 3
    box.plane.publish(bundle)
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
    resumed = [request for request in box.plane.requests if "Range" in request]
    assert [request["Range"] for request in resumed[:2]] == [
        f"bytes={box.plane.cut_at}-",
        f"bytes={2 * box.plane.cut_at}-",
    ]


def test_a_server_killed_at_any_moment_starts_with_a_whole_verified_revision(
    box: Box,
) -> None:
    """Killed amid downloads and amid writes, it never starts without its policy."""
    box.plane.can_wait = False
    bundles = [box.signed(text, f"r{number}") for number, text in _revisions()]
    chance = random.Random(7)
    box.plane.publish(bundles[0])
    with box.serving():
        assert eventually(lambda: is_allowed(box.ask()))
    for _ in range(8):
        process = _start(box)
        end = time.monotonic() + chance.uniform(0.0, 0.4)
        while time.monotonic() < end:
            box.plane.cut_at = chance.choice([None, None, 900])
            box.plane.publish(chance.choice(bundles))
            time.sleep(0.004)
        process.kill()
        process.wait(timeout=10)
        url = box.plane.url
        box.configure(url="http://127.0.0.1:1/gone", status_url="")
        with box.serving():
            assert "began with the bundle that was kept" in box.log, box.log
            assert is_allowed(box.ask())
        box.configure(url=url)


def _revisions() -> Iterator[tuple[int, str]]:
    """Yield policies that all allow the camera's call, and are of several sizes."""
    for number in range(6):
        members = ", ".join(
            f'"spiffe://factory.example/ns/line1/sa/extra-{number}-{index}"'
            for index in range(1 + 40 * number)
        )
        yield number, GOOD.replace('spiffe: ["', f'spiffe: [{members}, "', 1)


def _start(box: Box) -> subprocess.Popen[bytes]:
    """Return a server that polls."""
    (box.folder / "log").unlink(missing_ok=True)
    with (box.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "authz_server", "serve"),
                *("--config", str(box.folder / "config.yaml")),
            ],
            stderr=log,
        )
    assert eventually(lambda: "listening on" in box.log)
    return process


@contextlib.contextmanager
def _link_down(box: Box) -> Iterator[None]:
    """Let the control plane answer nothing of use."""
    with _replaced(box.plane, "bundle", b""):
        yield


@contextlib.contextmanager
def _replaced(plane: ControlPlane, name: str, value: bytes) -> Iterator[None]:
    old = getattr(plane, name)
    setattr(plane, name, value)
    try:
        yield
    finally:
        setattr(plane, name, old)


def _delta(revision: str, operation: str, path: str, value: object) -> bytes:
    manifest = {"revision": revision, "roots": ["access_policy"]}
    change = {"op": operation, "path": path, "value": value}
    return write_archive(
        {
            ".manifest": json.dumps(manifest).encode(),
            "patch.json": json.dumps({"data": [change]}).encode(),
        }
    )


def _local_status(box: Box) -> dict[str, object]:
    line = next(line for line in box.log.splitlines() if "metrics at tcp://" in line)
    url = line.partition("tcp://")[2]
    with urllib.request.urlopen(f"http://{url}/v1/status", timeout=10) as answer:
        result: dict[str, object] = json.load(answer)["result"]
    return result


def _health_of_policy(box: Box) -> int:
    return main(["health", "--policy", "--config", str(box.folder / "config.yaml")])
