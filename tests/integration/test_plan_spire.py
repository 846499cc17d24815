"""What `plan --against` says to run, run on a real SPIRE server."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz_server.cli import emit, plan
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import FACTORY
from authz_server.demo.spire import SpireServer

pytestmark = pytest.mark.go

EXAMPLE = Path(__file__).parents[2] / "examples" / "plant-7.yaml"
SITE = """
apiVersion: authz.edge/v1
kind: Site
metadata: {name: plant-7}
spec:
  spire: {address: "spire.factory.example:8081", clusterName: plant-7}
  boxes:
    press-3:
      attestor: x509pop
      nodeSelectors: ["x509pop:subject:cn:press-3"]
      serves: [triton]
    gate-1:
      attestor: x509pop
      nodeSelectors: ["x509pop:subject:cn:gate-1"]
      workloads:
        - spiffe: "spiffe://factory.example/ns/line1/sa/camera"
          selectors: ["unix:user:camera"]
"""


@pytest.fixture
def server() -> Iterator[SpireServer]:
    # A unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="spire-") as name:
        port, endpoint = free_ports(2)
        folder = Path(name)
        with SpireServer(
            folder, FACTORY, port, endpoint_port=endpoint, partners={}
        ) as found:
            found.wait()
            yield found


def order(server: SpireServer, *arguments: str) -> str:
    at = ("-socketPath", str(server.socket))
    said = subprocess.run(
        [str(server.binaries.server), *arguments[:2], *at, *arguments[2:]],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def run(command: Any, folder: Path, *argv: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    name = command.__name__.rpartition(".")[2]
    files = ["--policy", EXAMPLE, "--site", folder / "site.yaml"]
    args = parser.parse_args([name, "spire", *map(str, [*argv, *files])])
    return int(args.run(args))


def test_running_what_a_plan_says_makes_the_server_as_emitted(
    server: SpireServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, live = tmp_path / "last", tmp_path / "live.json"
    (tmp_path / "site.yaml").write_text(SITE)
    (last / "spire").mkdir(parents=True)

    def commands(*options: str | Path) -> list[list[str]]:
        capsys.readouterr()
        run(plan, tmp_path, "--against", last, "--output", "json", *options)
        return [
            shlex.split(line)
            for step in json.loads(capsys.readouterr().out)["steps"]
            for line in step["commands"]
        ]

    def follow(*options: str | Path) -> list[str]:
        found = commands(*options)
        for words in found:
            assert words[0] == "spire-server"
            order(server, *words[1:])
        return [words[2] for words in found]

    def look() -> dict[str, Any]:
        live.write_text(order(server, "entry", "show", "-output", "json"))
        items = json.loads(live.read_text())["entries"]
        return {item["id"]: item for item in items}

    # Nothing was emitted yet: all entries are created, as `entry create -data` would.
    assert set(follow()) == {"create"}
    run(emit, tmp_path, "--out", last)
    first = look()
    entries = json.loads((last / "spire" / "entries.json").read_text())["entries"]
    assert first.keys() == {item["entry_id"] for item in entries}
    assert commands("--live", live) == []

    # One workload's selectors change, one box goes; one entry is somebody's own.
    order(
        server,
        *("entry", "create", "-spiffeID", f"spiffe://{FACTORY}/by-hand"),
        *("-parentID", f"spiffe://{FACTORY}/box/gate-1", "-selector", "unix:uid:7"),
    )
    site = SITE.replace("cn:gate-1", "cn:gate-9")
    start, end = site.index("    press-3:"), site.index("    gate-1:")
    (tmp_path / "site.yaml").write_text(site[:start] + site[end:])
    assert sorted(follow()) == ["delete", "delete", "delete", "update"]
    run(emit, tmp_path, "--out", last)
    second = look()
    assert first.keys() - second.keys() == {name for name in first if "press-3" in name}
    assert len(second) == len(first) - 3 + 1
    assert second["plant-7.gate-1"]["selectors"] == [
        {"type": "x509pop", "value": "subject:cn:gate-9"}
    ]
    assert commands("--live", live) == []

    # Somebody edits one entry and deletes another.
    [camera] = [name for name in second if "gate-1." in name]
    parts = second["plant-7.gate-1"]
    order(
        server,
        *("entry", "update", "-entryID", "plant-7.gate-1"),
        *("-spiffeID", f"spiffe://{FACTORY}{parts['spiffe_id']['path']}"),
        *("-parentID", f"spiffe://{FACTORY}/spire/server"),
        *("-selector", "x509pop:subject:cn:intruder"),
    )
    order(server, "entry", "delete", "-entryID", camera)
    look()
    assert commands() == []
    assert sorted(follow("--live", live)) == ["create", "update"]
    third = look()
    assert third.keys() == second.keys()
    assert third["plant-7.gate-1"]["selectors"] == second["plant-7.gate-1"]["selectors"]
    assert commands("--live", live) == []
