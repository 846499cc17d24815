"""`authz-server demo` on a plant that is not there: what it prints and returns."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz_server.cli import main
from authz_server.demo import plant as plant_module
from authz_server.demo import scenario
from authz_server.demo.calls import Caller, Edge, Outcome, Protocol, Verdict
from authz_server.demo.pki import SvidFiles
from authz_server.demo.plant import Plant
from authz_server.demo.scenario import ALLOWED, CAMERA, Attempt, Row


@pytest.fixture(autouse=True)
def no_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    audit.write_text("{}\n")
    camera = SvidFiles(tmp_path / "camera.crt", tmp_path / "camera.key")
    edge = Edge(8443, tmp_path / "bundle.pem")

    @contextlib.contextmanager
    def running_plant(*_: object) -> Iterator[Plant]:
        yield Plant(tmp_path, edge, {CAMERA: camera}, audit, {})

    monkeypatch.setattr(plant_module, "running_plant", running_plant)


def set_outcome(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    attempt = Attempt(CAMERA, "infer", Protocol.HTTP, ALLOWED, Caller.forecast)
    rows = [Row(attempt, Outcome(verdict))]
    monkeypatch.setattr(scenario, "play", lambda *_: iter(rows))


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.ALLOWED, 0), (Verdict.WRONG, 1)]
)
def test_the_exit_code_says_whether_all_rows_are_right(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, code: int
) -> None:
    set_outcome(monkeypatch, verdict)
    assert main(["demo"]) == code


def test_keep_prints_commands_and_stays_until_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_outcome(monkeypatch, Verdict.ALLOWED)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    assert main(["demo", "--keep"]) == 0
    timer.join()
    output = capsys.readouterr().out
    assert "curl --cacert" in output
    assert output.endswith("everything is stopped and removed\n")


def test_an_interrupted_demo_has_shown_nothing_and_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> Iterator[Row]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.setattr(scenario, "play", interrupted)
    assert main(["demo"]) == 1
