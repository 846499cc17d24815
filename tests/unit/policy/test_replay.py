"""Recorded decisions under a candidate policy, and reports of differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parts import EXAMPLE

from authz_server.cli import main

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
FORECASTER = "spiffe://factory.example/ns/planning/sa/forecaster"

CANDIDATE = (
    EXAMPLE.read_text()
    .replace(
        "    - {role: planner, to: [planning], on: [triton]}\n",
        "    - {role: planner, to: [planning, factory-floor], on: [triton],\n"
        "       when: {times: [{from: '08:00', to: '18:00', zone: UTC}]}}\n",
    )
    .replace("[planning, ml-engineers], on", "[ml-engineers], on")
)


def event(principal: str, decision: str, **more: object) -> dict[str, Any]:
    words = dict.fromkeys(
        ("user_issuer", "user", "version", "adapter", "dataset", "also", "role"), ""
    )
    return {
        "decision": decision,
        "reason": "granted" if decision == "allow" else "not_granted",
        "verified": True,
        "principal": principal,
        **words,
        "action": "inference",
        "scope": "model",
        "model": "demand-forecast",
        "upstream": "triton",
        "time": "2026-11-25T12:00:00+00:00",
        **more,
    }


IMAGES = {
    "action": "dataset-read",
    "scope": "dataset",
    "model": "",
    "dataset": "line-images",
    "upstream": "training-data",
}
USER = {"user_issuer": "https://idp.factory.example", "user": "ann"}
TRAIL = [
    *[event(CAMERA, "deny")] * 3,
    event(FORECASTER, "allow", role="planner"),
    event(FORECASTER, "allow", role="planner", time="2026-11-25T19:00:00+00:00"),
    event(FORECASTER, "allow", role="data-reader", **IMAGES),
    event(FORECASTER, "allow", **IMAGES, **USER),
    event(FORECASTER, "allow", upstream="gone"),
    event(CAMERA, "deny", reason="path_invalid", action="", scope=""),
    event(CAMERA, "deny", verified=False),
]


def replay(tmp_path: Path, trail: list[dict[str, Any]], *words: str) -> int:
    audit, candidate = tmp_path / "audit.jsonl", tmp_path / "candidate.yaml"
    audit.write_text("".join(json.dumps(item) + "\n" for item in trail))
    candidate.write_text(CANDIDATE)
    return main(["audit", "replay", str(audit), "--policy", str(candidate), *words])


def test_each_difference_is_listed_once_at_its_own_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, TRAIL) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        (
            f"widens        3  inference demand-forecast at triton by {CAMERA}: "
            "not_granted -> granted (planner)"
        ),
        (
            "narrows       1  dataset-read line-images at training-data by "
            f"{FORECASTER}: granted (data-reader) -> not_granted"
        ),
        (
            f"narrows       1  inference demand-forecast at triton by {FORECASTER}: "
            "granted (planner) -> not_granted"
        ),
    ]
    assert err.splitlines() == [
        "8 decisions asked again",
        "1 depend on claims of users, which no trail has",
        "1 left out: upstream 'gone' is not defined",
    ]


def test_what_only_narrows_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, TRAIL[4:6], "--output", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["change"] for item in found] == ["narrows", "narrows"]
    assert found[0]["first"] == found[0]["last"] == "2026-11-25T12:00:00+00:00"


def test_a_trail_without_a_difference_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path, TRAIL[3:4]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_a_copy_needs_both_of_its_halves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = event(
        FORECASTER,
        "allow",
        **{**IMAGES, "action": "dataset-write", "also": "dataset-read line-images"},
    )
    assert replay(tmp_path, [copy]) == 0
    assert "narrows" in capsys.readouterr().out
