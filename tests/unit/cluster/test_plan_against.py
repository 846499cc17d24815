from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from authz_server.cli import emit, plan
from authz_server.errors import SetupError

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"


def run(*argv: str | Path, policy: Path = EXAMPLE) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    emit.add_parser(commands)
    plan.add_parser(commands)
    args = parser.parse_args([*map(str, argv), "--policy", str(policy)])
    return int(args.run(args))


@pytest.fixture
def emitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    run("emit", "kubernetes", "istio", "--out", tmp_path / "last")
    capsys.readouterr()
    return tmp_path / "last"


def test_what_was_emitted_last_is_as_it_should_be(
    emitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", "kubernetes", "istio", "--against", emitted) == 0
    assert capsys.readouterr().out == "0 to create, 0 to change, 0 to delete\n"


def test_each_record_that_differs_is_shown(
    emitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = emitted / "kubernetes" / "network-policies.yaml"
    first, *others = path.read_text().split("---\n")
    path.write_text(
        "---\n".join(others).replace("namespace: line1", "namespace: line9")
    )
    assert first

    assert run("plan", "kubernetes", "istio", "--against", emitted) == 1
    printed = capsys.readouterr().out
    assert "create  kubernetes: NetworkPolicy line1/default-deny\n" in printed
    assert "delete  kubernetes: NetworkPolicy line9/default-deny\n" in printed


def test_it_is_for_programs_too(
    emitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = emitted / "istio" / "mesh-config.yaml"
    path.write_text(path.read_text().replace("trustDomain: ", "trustDomain: x"))

    assert run("plan", "istio", "kubernetes", "--against", emitted, "--output", "json")
    [step] = json.loads(capsys.readouterr().out)["steps"]
    assert step["action"] == "change"
    assert step["name"] == "mesh-config.yaml"
    assert step["differences"][0]["new"] == "factory.example"
    assert step["commands"] == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="none: is no folder; make it with emit --out"):
        run("plan", "istio", "--against", tmp_path / "none")


def test_a_file_that_is_no_text_is_named(emitted: Path) -> None:
    (emitted / "istio" / "x.yaml").write_bytes(b"\xff")

    with pytest.raises(SetupError, match=r"x\.yaml: is no text in UTF-8; emit it"):
        run("plan", "istio", "--against", emitted)


def test_a_live_file_that_can_not_be_read_is_named(emitted: Path) -> None:
    with pytest.raises(SetupError, match="none: can't be read: No such file"):
        run("plan", "istio", "--against", emitted, "--live", emitted / "none")


def test_what_is_live_is_looked_at(
    emitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = emitted / "live.json"
    live.write_text('{"entries": []}')

    run("plan", "kubernetes", "istio", "--against", emitted, "--live", live)
    assert capsys.readouterr().out == "0 to create, 0 to change, 0 to delete\n"


def test_what_is_live_alone_says_nothing_of_what_was_ours(emitted: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run("plan", "istio", "--live", emitted / "live.json")
    assert ended.value.code == 2


def test_what_to_run_stands_below_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "{apiVersion: authz.edge/v1, kind: Site, metadata: {name: s}, spec: {spire: "
        '{address: "spire.example:8081", clusterName: c}, boxes: {gate: {attestor: '
        'x509pop, nodeSelectors: ["x509pop:subject:cn:gate"], workloads: [{spiffe: '
        '"spiffe://factory.example/gate", selectors: ["unix:user:gate"]}]}}}}'
    )
    last = tmp_path / "last"
    run("emit", "spire", "--site", site, "--out", last)
    site.write_text(site.read_text().replace("cn:gate", "cn:door"))
    capsys.readouterr()

    assert run("plan", "spire", "--site", site, "--against", last) == 1
    printed = capsys.readouterr().out
    assert (
        "change  spire: entries plant-7.gate\n"
        '          selectors[0].value: "subject:cn:gate" → "subject:cn:door"\n'
        "          $ spire-server entry update -entryID plant-7.gate -spiffeID "
    ) in printed
