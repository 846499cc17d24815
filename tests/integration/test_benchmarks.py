"""The benchmarks run and check their answers; what they measure is not asserted."""

import subprocess
import sys

import pytest
from parts import REPOSITORY

from authz_server.emit import TARGET_NAMES


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cost_of_identity_is_measured() -> None:
    out = run("identity_cost.py", "--certificates", "5", "--rounds", "1")
    assert "first sight" in out
    assert "seen before" in out


@pytest.mark.envoy
@pytest.mark.triton
@pytest.mark.long
def test_the_gate_is_measured_beside_the_same_stream_without_it() -> None:
    out = run("stream_gate.py", "--messages", "5", "--rounds", "1")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [(model, size, way) for model, size, _, way, *_ in rows] == [
        (model, size, way)
        for model in ("sequence", "decoupled")
        for size in ("1", "100", "8")
        for way in ("open", "gated")
    ]


def test_policies_of_all_sizes_are_measured() -> None:
    out = run("policy_scale.py", "--subjects", "100", "1000", "--decisions", "50")
    assert [line.split()[0] for line in out.splitlines()] == ["subjects", "100", "1000"]


@pytest.mark.envoy  # whose version it prints
@pytest.mark.parametrize(
    "targets",
    [
        ["spire", "openziti"],
        pytest.param(list(TARGET_NAMES), marks=pytest.mark.long),
    ],
)
def test_what_is_emitted_is_counted_and_measured(targets: list[str]) -> None:
    out = run(
        *("emit_scale.py", "--namespaces", "2", "12", "--rounds", "1"),
        *("--targets", *targets),
    )
    _, _, *rows = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in rows] == [
        [target, size] for target in targets for size in ("2", "12")
    ]


@pytest.mark.envoy
@pytest.mark.long
def test_a_hit_and_a_miss_are_measured_beside_the_floor() -> None:
    names = ["floor", "hit, native", "miss, native"]
    out = run("fast_path.py", "--quick", "--rivals", *names)
    for name in names:
        (row,) = [line for line in out.splitlines() if line.startswith(name + " ")]
        assert len(row.removeprefix(name).split()) == 8
