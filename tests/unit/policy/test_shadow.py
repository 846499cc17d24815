"""A candidate policy beside the one in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import CAMERA, FORECASTER, check_request
from parts import EXAMPLE, MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline, show
from authz_server.cli import main
from authz_server.errors import ConfigError
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.policy import shadow as shadow_module
from authz_server.policy.shadow import Answer, Shadow
from authz_server.policy.store import PolicyStore

INFER = "/v2/models/{}/versions/1/infer"

# The camera may forecast, and the forecaster may not.
CANDIDATE = EXAMPLE.read_text().replace(
    "to: [planning], on: [triton]", "to: [factory-floor], on: [triton]"
)


@pytest.fixture
def candidates(tmp_path: Path) -> Iterator[PolicyStore]:
    file = tmp_path / "candidate.yaml"
    file.write_text(CANDIDATE)
    store = PolicyStore(file, timeout_s=10.0, instances=1)
    yield store
    store.close()


def ask(pipeline: Pipeline, principal: str, model: str, times: int = 1) -> None:
    for _ in range(times):
        pipeline.check(
            bytes(check_request(path=INFER.format(model), principal=principal))
        )


def lines_of(report: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.read_text().splitlines()]


def counted(shadow: Shadow) -> dict[str, int]:
    return {answer: count for answer, count in shadow.counts.items() if count}


def test_differences_are_counted_and_written_and_change_no_answer(
    candidates: PolicyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert candidates.reload()
    report, sink = tmp_path / "shadow.jsonl", MemorySink()
    config = example_config()
    with loaded_policies(config) as policies:
        shadow = Shadow(candidates, report)
        pipeline = build_pipeline(
            config, policies, sink, IdentitySources(), onlooker=show(shadow)
        )
        ask(pipeline, CAMERA, "defect-detection")
        ask(pipeline, CAMERA, "demand-forecast", times=3)
        ask(pipeline, FORECASTER, "demand-forecast")
        shadow.close()
        assert policies.current is not None
        assert candidates.current is not None
        revisions = {policies.current.revision}, {candidates.current.revision}
    decisions = [json.loads(item)["decision"] for item in sink.events]
    assert decisions == ["allow", "deny", "deny", "deny", "allow"]
    # A remembered decision is none that was made.
    assert counted(shadow) == {"same": 1, "widens": 1, "narrows": 1}
    wider, narrower = lines_of(report)
    assert (wider["change"], wider["principal"]) == ("widens", CAMERA)
    assert (wider["reason"], wider["candidate_reason"]) == ("not_granted", "granted")
    assert (narrower["change"], narrower["role"]) == ("narrows", "planner")
    assert {wider["policy_revision"]} == revisions[0]
    assert {wider["candidate_revision"]} == revisions[1]

    assert main(["policy", "shadow", "report", str(report)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        (
            f"narrows       1  inference demand-forecast@1 at triton by {FORECASTER}: "
            "granted (planner) -> not_granted"
        ),
        (
            f"widens        1  inference demand-forecast@1 at triton by {CAMERA}: "
            "not_granted -> granted (planner)"
        ),
    ]


def test_a_candidate_that_is_not_there_fails_alone(
    candidates: PolicyStore, tmp_path: Path
) -> None:
    config, sink = example_config(), MemorySink()
    with loaded_policies(config) as policies:
        shadow = Shadow(candidates, tmp_path / "shadow.jsonl")
        pipeline = build_pipeline(
            config, policies, sink, IdentitySources(), onlooker=show(shadow)
        )
        ask(pipeline, CAMERA, "defect-detection")
        shadow.close()
    assert json.loads(sink.events[0])["decision"] == "allow"
    assert counted(shadow) == {"failed": 1}


def test_what_is_too_much_is_left_out_and_counted(
    candidates: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MAX_WAITING", 2)
    monkeypatch.setattr(Shadow, "_run", lambda _: None)
    config = example_config()
    with loaded_policies(config) as policies:
        shadow = Shadow(candidates, tmp_path / "shadow.jsonl")
        pipeline = build_pipeline(
            config, policies, MemorySink(), IdentitySources(), onlooker=show(shadow)
        )
        for number in range(5):
            ask(pipeline, CAMERA, f"model-{number}")
    assert counted(shadow) == {Answer.LEFT_OUT: 3}
    shadow._waiting.get()
    shadow.close()


def test_the_file_of_differences_is_bounded(
    candidates: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert candidates.reload()
    monkeypatch.setattr(shadow_module, "MAX_REPORT_BYTES", 1200)
    report, config = tmp_path / "shadow.jsonl", example_config()
    with loaded_policies(config) as policies:
        for _ in range(2):
            shadow = Shadow(candidates, report)
            pipeline = build_pipeline(
                config, policies, MemorySink(), IdentitySources(), onlooker=show(shadow)
            )
            for version in range(1, 9):
                path = f"/v2/models/demand-forecast/versions/{version}/infer"
                pipeline.check(bytes(check_request(path=path, principal=CAMERA)))
            shadow.close()
            assert counted(shadow) == {"widens": 8}
    assert 0 < len(lines_of(report)) < 8
    assert report.stat().st_size <= 1200


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(
    candidates: PolicyStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"policy\.shadow_report: cannot append to"):
        Shadow(candidates, tmp_path / "none" / "shadow.jsonl")
