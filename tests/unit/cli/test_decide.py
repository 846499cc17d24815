import json
from pathlib import Path

import pytest
import yaml
from checks import CAMERA, FORECASTER, check_request
from parts import EXAMPLE

from authz_server.cli import main

ALLOWED = check_request().to_json()
DENIED = check_request(principal=FORECASTER).to_json()
OPTIONS = [
    *("--policy-file", str(EXAMPLE)),
    *("--identity-chain", "proxy"),
    *("--identity-require-certificate", "false"),
]


def decide(file: Path, *options: str) -> int:
    return main(["decide", str(file), *OPTIONS, *options])


def test_each_request_gets_decision_reason_operation_and_response(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(f"{ALLOWED}\n\n{DENIED}\n")
    assert decide(file) == 1
    allowed, denied = map(json.loads, capsys.readouterr().out.splitlines())
    assert allowed["decision"] == "allow"
    assert allowed["reason"] == "granted"
    assert allowed["principal"] == CAMERA
    assert allowed["role"] == "inspector"
    assert allowed["operation"] == {
        "action": "inference",
        "scope": "model",
        "model": "defect-detection",
        "version": "1",
        "adapter": "",
        "upstream": "triton",
    }
    assert "okResponse" in allowed["response"]
    assert denied["decision"] == "deny"
    assert denied["reason"] == "not_granted"
    assert denied["response"]["status"] == {"code": 7}


def test_the_exit_code_is_0_when_all_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(ALLOWED)
    assert decide(file) == 0


def test_yaml_is_the_same_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(ALLOWED)
    decide(file)
    expected = json.loads(capsys.readouterr().out)
    decide(file, "--output", "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == expected


def test_a_table_has_a_line_a_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requests.jsonl"
    health = check_request(method="GET", path="/v2/health/live").to_json()
    file.write_text(f"{ALLOWED}\n{health}\n")
    decide(file, "--output", "table")
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["allow", "granted", "inference", "defect-detection@1"]
    assert second.split()[:4] == ["allow", "granted", "health", "server"]


def test_requests_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(ALLOWED))
    assert main(["decide", *OPTIONS]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "allow"


@pytest.mark.parametrize("line", ["{", "[]", '{"attributex": {}}', '{"attributes": 1}'])
def test_a_line_that_is_no_check_request_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(f"{ALLOWED}\n{line}\n")
    assert decide(file) == 1
    assert f"{file}:2: not a CheckRequest" in capsys.readouterr().err


def test_a_missing_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide(tmp_path / "gone") == 1
    assert "gone: cannot be read" in capsys.readouterr().err


def test_a_policy_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decide", *OPTIONS, "--policy-file", str(tmp_path / "gone.yaml")]) == 1
    assert "gone.yaml" in capsys.readouterr().err


def test_an_own_bundle_that_is_missing_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*OPTIONS, "--policy-bundle", str(tmp_path / "gone.tar.gz")]
    assert main(["decide", *options]) == 1
    assert "gone.tar.gz" in capsys.readouterr().err
