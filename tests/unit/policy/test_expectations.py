"""Tables of expected answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from parts import EXAMPLE, REPOSITORY

from authz_server.cli import main

TABLE = REPOSITORY / "examples" / "plant-7-test.yaml"

CONDITIONAL = EXAMPLE.read_text().replace(
    "    - {role: planner, to: [planning], on: [triton]}\n",
    "    - role: planner\n"
    "      to: [planning]\n"
    "      on: [triton]\n"
    "      when:\n"
    "        times: [{from: '08:00', to: '18:00', zone: Europe/Berlin}]\n",
)
HEAD = "apiVersion: authz.edge/v1\nkind: PolicyTest\npolicy: access.yaml\ncases:\n"
CASE = """\
  - name: forecasts by day
    principal: spiffe://factory.example/ns/planning/sa/forecaster
    on: triton
    action: inference
    model: demand-forecast
    at: "2026-11-25T12:00:00+01:00"
    expect: allow
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "access.yaml").write_text(CONDITIONAL)
    file = tmp_path / "cases.yaml"
    file.write_text(HEAD + CASE)
    return file


def test_the_example_is_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", str(TABLE)]) == 0
    assert capsys.readouterr().out == f"{TABLE}: 7 of 7 cases as expected\n"


def test_a_case_is_asked_at_its_own_time(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = CASE.replace("by day", "by night").replace("T12", "T23")
    table.write_text(HEAD + CASE + night)
    assert main(["policy", "test", str(table)]) == 1
    assert capsys.readouterr().out == (
        f"{table}:12: forecasts by night: expected allow, got deny (not_granted)\n"
        f"{table}: 1 of 2 cases as expected\n"
    )


def test_another_role_is_another_answer(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(HEAD + CASE + "    role: inspector\n")
    assert main(["policy", "test", str(table)]) == 1
    assert (
        "expected allow by role inspector, got allow (granted) by role planner"
        in capsys.readouterr().out
    )


def test_a_table_can_be_run_on_another_policy(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(HEAD + CASE.replace("T12", "T23"))
    assert main(["policy", "test", str(table), "--policy", str(EXAMPLE)]) == 0
    assert "1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model: demand", "modl: demand", "9:5: unknown key 'modl' in a case; did you"),
        ("on: triton", "on: tritn", "5:5: upstream 'tritn' is not defined; did you"),
        ("action: inference", "action: infer", "5:5: unknown action 'infer'; did you"),
        ("model: demand-forecast", "model: a/b", "5:5: not an acceptable model name"),
        ("model: demand-forecast", "dataset: x", "inference is on models, not on a"),
        ("action: inference", "action: dataset-read", "5:5: dataset-read is on a"),
        ("spiffe://factory", "factory", "6:16: SPIFFE ID does not start with"),
        ("/ns/planning/sa/forecaster", "", "6:16: SPIFFE ID names a trust domain"),
        ("+01:00", "", "10:9: '2026-11-25T12:00:00' is no time with a zone"),
        ("expect: allow", "expect: allowed", "11:13: no policy answers 'allowed'"),
        ("    expect: allow\n", "", "5:5: a case has no 'expect'"),
        ("name: forecasts by day", "name: 7", "5:11: name must be a string"),
        (CASE, "  []\n", "cases is empty; write a case"),
        ("kind: PolicyTest", "kind: AccessPolicy", "2:7: kind is 'AccessPolicy'"),
        ("policy: access.yaml\n", "", "1:1: the table has no 'policy'"),
        ("policy: access.yaml", "policy: none.yaml", "none.yaml:1:1: cannot read"),
    ],
)
def test_a_fault_of_a_table_is_reported_where_it_is(
    table: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    text = HEAD + CASE
    assert text.count(old) == 1
    table.write_text(text.replace(old, new))
    assert main(["policy", "test", str(table)]) == 1
    assert said in capsys.readouterr().err
