"""The demo: real Triton, real Envoy, authz-server, and nothing left afterwards."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc
from parts import trail

from authz_server.demo import plant as plant_module
from authz_server.demo import scenario
from authz_server.demo.calls import Caller, Verdict
from authz_server.demo.interrupts import Interrupts
from authz_server.demo.plant import Plant, running_plant
from authz_server.demo.report import by_hand
from authz_server.demo.scenario import Attempt, Row, attempts, play
from authz_server.errors import SetupError

pytestmark = [pytest.mark.envoy, pytest.mark.triton]

REPOSITORY = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Whoever inherited a dead orphan may be slow to collect it.
    return status.rpartition(")")[2].split()[0] != "Z"


def descendants(pid: int) -> set[int]:
    """Return all processes below `pid`, through every thread's children."""
    found: set[int] = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread can end while we look; its children are then another thread's.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, file.read_text().split()):
                found |= {child} | descendants(child)
    return found


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    steps: list[str] = []
    with running_plant(steps.append, Interrupts()) as running:
        assert steps[-1] == "Triton has loaded its models"
        yield running
    assert not running.folder.exists()
    assert not any(is_alive(pid) for pid in running.pids.values())
    assert not list(SHARED_MEMORY.glob(f"authz-server-demo-{os.getpid()}-*"))


@pytest.fixture(scope="module")
def rows(plant: Plant) -> list[Row]:
    return list(play(plant.edge, plant.identities))


def test_every_call_ends_as_it_must(rows: list[Row]) -> None:
    assert [row for row in rows if not row.is_right] == []
    assert len(rows) == len(list(attempts()))


@pytest.mark.parametrize(
    ("who", "verdicts"),
    [
        (scenario.CAMERA, {Verdict.ALLOWED, Verdict.DENIED}),
        (scenario.FORECASTER, {Verdict.ALLOWED, Verdict.DENIED}),
        (scenario.DEPLOYER, {Verdict.ALLOWED, Verdict.DENIED}),
        (scenario.ROGUE, {Verdict.DENIED}),
        (scenario.EXPIRED, {Verdict.REFUSED}),
        (scenario.IMPOSTOR, {Verdict.REFUSED}),
        (scenario.NOBODY, {Verdict.REFUSED}),
    ],
)
def test_each_caller_is_tried_over_both_protocols(
    rows: list[Row], who: str, verdicts: set[Verdict]
) -> None:
    mine = [row for row in rows if row.attempt.who == who]
    assert {row.outcome.verdict for row in mine} == verdicts
    assert {row.attempt.protocol for row in mine} == {scenario.HTTP, scenario.GRPC}


def test_every_decision_is_in_the_audit_log(plant: Plant, rows: list[Row]) -> None:
    events = [json.loads(line) for line in trail(plant.audit)]
    asked = [r for r in rows if r.outcome.verdict in {Verdict.ALLOWED, Verdict.DENIED}]
    # Loading and unloading each ask whether the model is ready afterwards.
    assert len(events) >= len(asked) + 2


def test_a_denial_over_http_says_why_in_header_and_body(plant: Plant) -> None:
    camera = plant.identities[scenario.CAMERA]
    context = ssl.create_default_context(cafile=str(plant.edge.bundle))
    context.load_cert_chain(camera.certificate, camera.key)
    connection = http.client.HTTPSConnection(
        "localhost", plant.edge.port, timeout=10, context=context
    )
    connection.request("GET", "/v2/models/demand-forecast")
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == 403
    assert answer.headers["x-authz-reason"] == "not_granted"
    assert body == {"error": "access denied (not_granted)"}


def test_a_wrong_expectation_shows_as_a_wrong_row(plant: Plant) -> None:
    wrong = Attempt(
        scenario.CAMERA,
        "infer",
        scenario.GRPC,
        scenario.NOT_GRANTED,
        lambda caller: caller.find_defects("1"),
    )
    (row,) = play(plant.edge, plant.identities, [wrong])
    assert not row.is_right


def test_a_stream_that_nothing_denies_gives_the_right_answer(plant: Plant) -> None:
    # Past Envoy, as the policy grants nobody a stream.
    arguments = Path(f"/proc/{plant.pids['Triton']}/cmdline").read_text().split("\0")
    (port,) = [a for a in arguments if a.startswith("--grpc-port=")]
    caller = Caller(plant.edge, scenario.GRPC, None)
    url = f"127.0.0.1:{port.partition('=')[2]}"
    caller._client = tritonclient.grpc.InferenceServerClient(url)
    assert caller.stream_defects("1")
    caller._client.close()


def test_the_commands_to_try_by_hand_work(plant: Plant) -> None:
    text = by_hand(plant)
    assert str(plant.audit) in text
    snippet = text.partition("Or with tritonclient:")[2].partition("Other callers")[0]
    program = textwrap.dedent(snippet)
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert 'name: "defect-detection"' in result.stdout
    commands = text.partition("As the camera:")[2].partition("Or with")[0]
    result = subprocess.run(
        ["bash", "-c", commands], capture_output=True, text=True, check=True, timeout=60
    )
    assert '"name":"defect-detection"' in result.stdout
    assert "x-authz-reason: not_granted" in result.stdout


@pytest.mark.long
def test_a_part_that_does_not_start_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(plant_module, "CONFIGURATION", "none")
    before = descendants(os.getpid())
    with (
        pytest.raises(SetupError, match="from a clone"),
        running_plant(lambda _: None, Interrupts()),
    ):
        pass
    assert descendants(os.getpid()) <= before
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def start_demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command; a test that fails half-way ends it, and with it its parts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "authz_server", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what the process has printed up to the line with `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(seen)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("moment", "code", "number"),
    [
        ("Triton is starting", 1, signal.SIGTERM),
        pytest.param("Triton is starting", 1, signal.SIGINT, marks=LONG),
        pytest.param("Triton is starting", 1, signal.SIGHUP, marks=LONG),
        ("Envoy listens", 1, signal.SIGINT),
        pytest.param("Envoy listens", 1, signal.SIGTERM, marks=LONG),
        pytest.param("Envoy listens", 1, signal.SIGHUP, marks=LONG),
        pytest.param("triton.log", 0, signal.SIGINT, marks=LONG),
        pytest.param("triton.log", 0, signal.SIGTERM, marks=LONG),
        pytest.param("triton.log", 0, signal.SIGHUP, marks=LONG),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, moment: str, code: int
) -> None:
    with start_demo(tmp_path, "--keep") as process:
        seen = read_until(process, moment)
        children = descendants(process.pid)
        process.send_signal(number)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=40)
    assert children
    assert process.returncode == code, seen + rest
    assert "everything is stopped and removed" in rest
    assert not any(is_alive(child) for child in children)
    assert list(tmp_path.iterdir()) == []
    assert not list(SHARED_MEMORY.glob(f"authz-server-demo-{process.pid}-*"))


def test_the_demo_answers_within_20_seconds_and_all_is_right(tmp_path: Path) -> None:
    start = time.monotonic()
    with start_demo(tmp_path) as process:
        output, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 20
    assert process.returncode == 0, output
    count = len(list(attempts()))
    assert f"{count} of {count} ended as they must" in output
    assert "WRONG" not in output
