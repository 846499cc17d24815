"""Nothing opens while things go wrong under load, through the real Envoy."""

import contextlib
import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from parts import (
    EXAMPLE,
    camera_connection,
    camera_status,
    edge_envoy,
    eventually,
    resident_bytes,
    serve_process,
    trail,
    write_edge_files,
)

pytestmark = pytest.mark.envoy

ALLOWED = "/v2/models/defect-detection/versions/1/infer"
DENIED = "/v2/models/demand-forecast/infer"
CALLERS = 4


@dataclass
class Load:
    """Callers that ask for both calls, in turn, until they are told to stop.

    Attributes:
        seen: how often which path got which status.
        pause_s: of each caller after both calls.
    """

    folder: Path
    port: int
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)
    pause_s: float = 0.0

    def status(self, path: str) -> int:
        return camera_status(self.folder, self.port, path)

    def call(self, name: int) -> None:
        with contextlib.closing(
            camera_connection(self.folder, self.port)
        ) as connection:
            count = 0
            while not self.stop.is_set():
                # Every other call is one that no cache has seen.
                count += 1
                query = f"?n={name}-{count}" if count % 2 else ""
                for path in (ALLOWED, DENIED):
                    connection.request("POST", path + query)
                    answer = connection.getresponse()
                    answer.read()
                    self.seen[path, answer.status] += 1
                self.stop.wait(self.pause_s)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [
            threading.Thread(target=self.call, args=(name,)) for name in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def wait_for(self, path: str, status: int, more: int = 20) -> None:
        wanted = self.seen[path, status] + more
        assert eventually(lambda: self.seen[path, status] >= wanted), self.seen


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    (tmp_path / "access.yaml").write_text(EXAMPLE.read_text())
    (tmp_path / "config.yaml").write_text(
        f"listen: {{address: 'unix://{tmp_path}/s'}}\n"
        f"policy: {{file: '{tmp_path}/access.yaml', reload_interval_s: 0.05}}\n"
        "identity: {bundles: {factory.example: "
        f"'{tmp_path}/factory.example.pem'}}}}\n"
        f"audit: {{file: '{tmp_path}/audit.jsonl'}}\n"
    )
    write_edge_files(tmp_path)
    with edge_envoy(tmp_path, "edge-unix-socket") as port:
        yield Load(tmp_path, port)


def assert_nothing_opened(load: Load) -> None:
    assert {status for path, status in load.seen if path == DENIED} == {403}
    assert {status for path, status in load.seen if path == ALLOWED} <= {200, 403}


def test_a_server_that_is_killed_lets_nothing_through_and_one_that_returns_serves(
    load: Load,
) -> None:
    with serve_process(load.folder) as first:
        assert eventually(lambda: load.status(ALLOWED) == 200)
        with load.running():
            load.wait_for(ALLOWED, 200)
            load.wait_for(DENIED, 403)
            first.send_signal(signal.SIGKILL)
            first.wait(timeout=10)
            load.wait_for(ALLOWED, 403)
            at_death = load.seen[ALLOWED, 200]
            load.wait_for(DENIED, 403, more=50)
            assert load.seen[ALLOWED, 200] == at_death
            with serve_process(load.folder):
                load.wait_for(ALLOWED, 200)
                load.wait_for(DENIED, 403)
    assert_nothing_opened(load)


def test_a_policy_that_stops_parsing_under_load_changes_no_answer(load: Load) -> None:
    policy = load.folder / "access.yaml"
    good = policy.read_text()
    with serve_process(load.folder):
        assert eventually(lambda: load.status(ALLOWED) == 200)
        with load.running():
            load.wait_for(ALLOWED, 200)
            policy.write_text(good[: len(good) // 2] + "\n  - {[")
            log = load.folder / "log"
            assert eventually(
                lambda: "was not loaded, the old one stays" in log.read_text()
            )
            load.wait_for(ALLOWED, 200)
            load.wait_for(DENIED, 403)
            policy.unlink()
            load.wait_for(ALLOWED, 200)
            policy.write_text(good)
            load.wait_for(ALLOWED, 200)
    assert_nothing_opened(load)
    assert load.seen[ALLOWED, 403] == 0


CHANGES = 1000


def storm_policy(number: int) -> str:
    """Return a policy of its own, of which every other gives what is denied else."""
    text = EXAMPLE.read_text().replace("plant-7", f"storm-{number}")
    if number % 2:
        text += "    - {role: planner, to: [factory-floor], on: [triton]}\n"
    return text


@pytest.mark.long
def test_a_storm_of_changes_fails_no_call_and_mixes_no_answers(load: Load) -> None:
    policy, log = load.folder / "access.yaml", load.folder / "log"
    config = load.folder / "config.yaml"
    config.write_text(
        config.read_text().replace("0.05", "0.01") + "cache: {max_entries: 50}\n"
    )
    load.pause_s = 0.02
    grown = 0
    with serve_process(load.folder) as server:
        assert eventually(lambda: load.status(ALLOWED) == 200)
        with load.running():
            for number in range(CHANGES):
                part = policy.with_suffix(".new")
                part.write_text(storm_policy(number))
                part.replace(policy)
                wait_for_line(log, f"policy 'storm-{number}' revision")
                if number == CHANGES // 4:
                    grown = resident_bytes(server.pid)
        grown = resident_bytes(server.pid) - grown
    in_force = re.findall(r"policy 'storm-(\d+)' revision (\w+)", log.read_text())
    gives = {revision: bool(int(number) % 2) for number, revision in in_force}
    assert len(gives) == CHANGES
    assert load.seen[ALLOWED, 200] > CHANGES
    assert {status for path, status in load.seen if path == ALLOWED} == {200}
    assert {status for path, status in load.seen if path == DENIED} == {200, 403}
    answers: Counter[tuple[bool, bool]] = Counter()
    for line in trail(load.folder / "audit.jsonl"):
        event = json.loads(line)
        if event["model"] == "demand-forecast" and event["policy_revision"] in gives:
            is_allowed = event["decision"] == "allow"
            assert is_allowed is gives[event["policy_revision"]]
            answers[is_allowed, event["cache_hit"]] += 1
    assert len(answers) == 4
    # The Wasm of a policy is 23 MB, and a few are about to be freed at any time.
    assert grown < 200 * 1024 * 1024


def wait_for_line(log: Path, wanted: str) -> None:
    """Return once `wanted` is near the end of `log`."""
    deadline = time.monotonic() + 20
    while True:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            if wanted.encode() in file.read():
                return
        assert time.monotonic() < deadline, wanted
        time.sleep(0.005)
