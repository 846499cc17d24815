"""``authz-server doctor`` on a live set-up whose links are cut one after the other."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import (
    EXAMPLE,
    FACTORY_CA,
    SUPPLIER_CA,
    edge_envoy,
    eventually,
    serve_process,
    write_edge_files,
)

from authz_server.cli import main
from authz_server.demo.pki import DevelopmentCa, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import CAMERA_ID, FACTORY, SUPPLIER

pytestmark = pytest.mark.envoy


@dataclass
class Live:
    """A server and an Envoy that asks it, and the files of both."""

    folder: Path
    port: int
    capsys: pytest.CaptureFixture[str]

    def doctor(self, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Return the exit code, and the links by name."""
        code = main(
            [
                *("doctor", "--config", str(self.folder / "config.yaml")),
                *("--timeout", "1", "--output", "json", *arguments),
            ]
        )
        links = json.loads(self.capsys.readouterr().out)
        return code, {link["link"]: link for link in links}

    def through_proxy(self, name: str = "camera", port: int = 0) -> tuple[int, str]:
        """Return the exit code, and the name of the broken link."""
        code, links = self.doctor(
            *("--proxy", f"localhost:{port or self.port}"),
            *("--certificate", str(self.folder / f"{name}.crt")),
            *("--key", str(self.folder / f"{name}.key")),
        )
        broken = [link for link in links.values() if link["state"] == "BROKEN"]
        assert len(broken) <= 1
        assert all(link["mend"] for link in broken)
        return code, broken[0]["link"] if broken else ""


@pytest.fixture
def live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Live]:
    write_edge_files(tmp_path)
    (tmp_path / "access.yaml").write_text(EXAMPLE.read_text())
    (tmp_path / "config.yaml").write_text(
        f"listen: {{address: 'unix://{tmp_path}/s', socket_mode: '0600'}}\n"
        f"policy: {{file: {tmp_path}/access.yaml}}\n"
        "identity:\n  bundles:\n"
        f"    {FACTORY}: {tmp_path}/{FACTORY}.pem\n"
        f"    {SUPPLIER}: {tmp_path}/{SUPPLIER}.pem\n"
        f"audit: {{file: {tmp_path}/audit.jsonl}}\n"
    )
    with (
        serve_process(tmp_path),
        edge_envoy(tmp_path, "edge-unix-socket") as port,
    ):
        assert eventually((tmp_path / "s").exists)
        yield Live(tmp_path, port, capsys)


def test_a_set_up_that_is_whole_has_no_broken_link(live: Live) -> None:
    code, links = live.doctor(
        *("--proxy", f"localhost:{live.port}"),
        *("--certificate", str(live.folder / "camera.crt")),
        *("--key", str(live.folder / "camera.key")),
    )
    assert code == 0
    assert [link["state"] for link in links.values()] == [
        "ok",  # policy
        "not tried",  # no agent is configured
        *["ok"] * 5,
    ]
    assert CAMERA_ID in links["own SVID"]["says"]
    assert "GET /v2/health/live: 200" in links["decision"]["says"]


def test_without_a_proxy_the_server_itself_is_tried(live: Live) -> None:
    code, links = live.doctor()
    assert code == 0
    assert links["server"]["state"] == "ok"
    assert links["decision"]["state"] == "not tried"


def test_a_denial_is_a_decision_and_its_reason_is_shown(live: Live) -> None:
    code, links = live.doctor(
        *("--proxy", f"localhost:{live.port}", "--path", "/v2/models/stats"),
        *("--certificate", str(live.folder / "camera.crt")),
        *("--key", str(live.folder / "camera.key")),
    )
    assert code == 0
    assert links["decision"]["says"] == "GET /v2/models/stats: 403 not_granted"


def test_a_policy_that_is_wrong_is_the_first_broken_link(live: Live) -> None:
    (live.folder / "access.yaml").write_text("kind: Nonsense")
    assert live.through_proxy() == (1, "policy")


def test_a_missing_bundle_is_named(live: Live) -> None:
    (live.folder / f"{SUPPLIER}.pem").write_text("")
    assert live.through_proxy() == (1, "trust bundles")


def test_an_svid_that_has_ended_is_named(live: Live) -> None:
    write_svid(live.folder, "old", FACTORY_CA.issue_expired(CAMERA_ID))
    assert live.through_proxy("old") == (1, "own SVID")


def test_an_svid_that_cannot_be_read_is_named(live: Live) -> None:
    (live.folder / "odd.crt").write_text("x")
    assert live.through_proxy("odd") == (1, "own SVID")
    assert live.through_proxy("gone") == (1, "own SVID")


def test_a_proxy_that_is_not_there_is_named(live: Live) -> None:
    (port,) = free_ports(1)
    assert live.through_proxy(port=port) == (1, "handshake with the proxy")


def test_a_proxy_of_an_unknown_ca_is_named(live: Live) -> None:
    other = DevelopmentCa(FACTORY)
    (live.folder / f"{FACTORY}.pem").write_bytes(other.bundle_pem)
    assert live.through_proxy() == (1, "handshake with the proxy")


def test_a_caller_whom_the_proxy_refuses_is_named(live: Live) -> None:
    write_svid(live.folder, "forged", SUPPLIER_CA.issue(CAMERA_ID))
    code, link = live.through_proxy("forged")
    assert code == 1
    assert link in {"handshake with the proxy", "decision"}


def test_a_server_that_does_not_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_edge_files(tmp_path)
    (tmp_path / "config.yaml").write_text(
        f"listen: {{address: 'unix://{tmp_path}/s'}}\n"
        f"policy: {{file: {EXAMPLE}}}\nidentity: {{chain: proxy}}\n"
    )
    live = Live(tmp_path, 1, capsys)
    assert live.through_proxy() == (1, "server")


def test_a_proxy_that_cannot_ask_is_told_from_a_server_that_denies(
    live: Live,
) -> None:
    with contextlib.ExitStack() as stack:
        # Another proxy, whose check goes to a socket at which nobody listens.
        other = live.folder / "other"
        other.mkdir()
        for name in ("server.crt", "server.key", f"{FACTORY}.pem", f"{SUPPLIER}.pem"):
            (other / name).write_bytes((live.folder / name).read_bytes())
        port = stack.enter_context(edge_envoy(other, "edge-unix-socket"))
        assert live.through_proxy(port=port) == (1, "decision")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--proxy", "localhost"], "is not HOST:PORT"),
        (["--certificate", "a.crt"], "give both"),
    ],
)
def test_wrong_use_is_told(
    arguments: list[str],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "c.yaml").write_text("{policy: {file: p}, identity: {chain: proxy}}")
    assert main(["doctor", "--config", str(tmp_path / "c.yaml"), *arguments]) == 1
    assert why in capsys.readouterr().err


def test_text_is_for_people(live: Live) -> None:
    live.capsys.readouterr()
    (live.folder / "access.yaml").write_text("kind: Nonsense")
    assert main(["doctor", "--config", str(live.folder / "config.yaml")]) == 1
    lines = live.capsys.readouterr().out.splitlines()
    assert lines[0].startswith("BROKEN     policy")
    assert any("mend: authz-server policy check" in line for line in lines)
    assert lines[-1].startswith("not tried")
