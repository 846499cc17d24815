"""``authz-server policy``: what needs no OPA."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from authz_server.cli import policy as command
from authz_server.errors import SetupError

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["policy", *argv])
    return int(args.run(args))


def test_a_valid_policy_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(EXAMPLE)) == 0
    out = capsys.readouterr().out
    assert "plant-7.yaml: valid: policy plant-7 revision " in out
    assert out.endswith("2 upstreams, 4 groups, 4 roles, 4 grants\n")


def test_one_invalid_policy_among_valid_ones_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: AccessPolicy\n")
    assert run("check", str(EXAMPLE), str(bad)) == 1
    out = capsys.readouterr().out
    assert f"{bad}:1:1: the policy has no 'spec'; add 'spec:'" in out


def test_problems_are_also_given_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.yaml"
    assert run("check", "--output", "json", str(EXAMPLE), str(missing)) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert good["valid"] is True
    assert good["grants"] == 4
    assert bad["valid"] is False
    assert bad["problems"][0]["line"] == 1
    assert bad["problems"][0]["mend"] == "check path and permissions"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["check"],
        ["build"],
        ["test", "--threshold", "101"],
        ["test", "--threshold", "all"],
    ],
    ids=" ".join,
)
def test_wrong_use_ends_with_two(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*argv)
    assert caught.value.code == 2


def test_a_build_into_a_missing_folder_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there is no folder"):
        run("build", "-o", str(tmp_path / "none" / "out.tar.gz"))


def test_what_is_hardly_meant_is_said_and_strictly_is_no_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("check", str(EXAMPLE)) == 0
    assert "on every model; name the models [dangerous-wildcard]" in (
        capsys.readouterr().out
    )
    assert run("check", "--strict", str(EXAMPLE)) == 1
    capsys.readouterr()
    assert run("check", "--output", "json", str(EXAMPLE)) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert [finding["code"] for finding in report["findings"]] == ["dangerous-wildcard"]


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out)["$id"].startswith("https://authz.edge/")
