"""Which grant gave it, or what is missing."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from parts import EXAMPLE
from random_policies import make_policy, make_question

from authz_server.cli import main
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.engine import Engine
from authz_server.policy.explanation import explain
from authz_server.policy.inquiry import Inquiry, make_user

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
FORECASTER = "spiffe://factory.example/ns/planning/sa/forecaster"


def inquiry_of(asked: dict[str, Any]) -> Inquiry:
    operation, user = asked["operation"], asked["user"]
    return Inquiry(
        SpiffeId.parse(asked["principal"]["id"]),
        None if user is None else make_user(user["issuer"], user["claims"]),
        Operation(
            Call(
                Action(operation["action"]),
                Scope(operation["scope"]),
                operation["model"],
                operation["version"],
                operation["adapter"],
            ),
            operation["upstream"],
            operation["dataset"],
        ),
        at_s=0.0,
    )


@pytest.mark.parametrize("seed", range(30))
def test_an_explanation_agrees_with_the_engine(seed: int) -> None:
    rng = random.Random(seed)
    policy = make_policy(rng)
    engine = Engine(
        shipped_wasm(), compile_policy(policy).data, timeout_s=10.0, instances=1
    )
    seen = set()
    try:
        for _ in range(200):
            asked = make_question(rng)
            operation = asked["operation"]
            if operation["dataset"] not in (
                "",
                *policy.upstreams[operation["upstream"]].datasets,
            ):
                continue
            verdict = engine.evaluate(json.dumps(asked).encode())
            found = explain(policy, inquiry_of(asked), asked["time"]["open"])
            given = {finding.grant.role for finding in found.given}
            taken = {finding.grant.role for finding in found.taken}
            expected = (
                ("explicitly_denied", min(taken))
                if given and taken
                else ("granted", min(given))
                if given
                else ("not_granted" if found.groups else "principal_unknown", "")
            )
            assert (verdict.reason, verdict.role) == expected, asked
            seen.add(verdict.reason)
    finally:
        engine.close()
    assert len(seen) >= 2


CONDITIONAL = EXAMPLE.read_text().replace(
    "    - {role: planner, to: [planning], on: [triton]}\n",
    "    - role: planner\n"
    "      to: [planning]\n"
    "      on: [triton]\n"
    "      when:\n"
    "        users: [ml-engineers]\n"
    "        namespaces: [planning]\n"
    "        upstreams: [triton]\n"
    "        times: [{from: '08:00', to: '18:00', zone: UTC}]\n",
) + (
    "  denials:\n"
    "    - {role: inspector, to: [factory-floor], on: [triton],\n"
    '       when: {until: "2026-01-01T00:00:00Z"}}\n'
)  # fmt: skip


def run(policy: str, tmp_path: Any, *words: str) -> int:
    file = tmp_path / "access.yaml"
    file.write_text(policy)
    return main(["policy", "explain", str(file), *words])


def test_the_one_thing_that_is_missing_is_said(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--principal", CAMERA, "--on", "triton", "--action", "inference"]
    words += ["--model", "defect-detection"]
    assert run(EXAMPLE.read_text(), tmp_path, *words) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[:4] == [
        "denied (not_granted): inference on defect-detection at triton",
        "  caller is in: factory-floor",
        "  near: inspector to factory-floor on triton",
        (
            "    role inspector has versions 1, 2 of defect-detection, "
            "and the call names no version"
        ),
    ]
    assert run(EXAMPLE.read_text(), tmp_path, *words, "--version", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "allowed (granted): inference on defect-detection, version 2 at triton",
        "  caller is in: factory-floor",
        "  given by: inspector to factory-floor on triton",
    ]


def test_conditions_that_are_not_met_are_said(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--principal", FORECASTER, "--on", "triton", "--action", "inference"]
    words += ["--model", "demand-forecast", "--at", "2026-11-25T19:00:00+00:00"]
    assert run(CONDITIONAL, tmp_path, *words) == 1
    assert capsys.readouterr().out.splitlines()[2:6] == [
        "  near: planner to planning on triton",
        "    it is for a user of: ml-engineers",
        "    it is for calls by: triton",
        "    it holds mon,tue,wed,thu,fri,sat,sun 08:00-18:00 UTC",
    ]


def test_a_denial_is_named_while_it_holds(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--principal", CAMERA, "--on", "triton", "--action", "inference"]
    words += ["--model", "defect-detection", "--version", "1"]
    assert run(CONDITIONAL, tmp_path, *words) == 0
    assert "denial" not in capsys.readouterr().out
    assert run(CONDITIONAL, tmp_path, *words, "--at", "2025-12-31T00:00:00Z") == 1
    out = capsys.readouterr().out
    assert "denied (explicitly_denied)" in out
    assert "taken by the denial: inspector to factory-floor on triton" in out


def test_a_user_counts_and_the_answer_can_be_json(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--principal", "spiffe://factory.example/x", "--on", "training-data"]
    words += ["--action", "dataset-read", "--dataset", "line-images"]
    words += ["--issuer", "https://idp.factory.example", "--claim", "groups=staff"]
    assert run(EXAMPLE.read_text(), tmp_path, *words, "--output", "json") == 1
    words += ["--claim", "groups=ml", "--output", "json"]
    capsys.readouterr()
    assert run(EXAMPLE.read_text(), tmp_path, *words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["allowed"] is True
    assert answer["groups"] == ["ml-engineers"]
    assert answer["role"] == "data-reader"
    assert answer["grants"][0]["missing"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--claim", "groups=ml"], "needs --issuer"),
        (["--claim", "groups", "--issuer", "https://i.example"], "NAME=VALUE"),
        (["--at", "noon"], "--at noon"),
        (["--at", "2026-01-01"], "it has no zone"),
        (["--model", "m\0"], "not an acceptable model name"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    asked = ["--principal", CAMERA, "--on", "triton", "--action", "inference"]
    assert run(EXAMPLE.read_text(), tmp_path, *asked, *words) == 1
    assert said in capsys.readouterr().err
