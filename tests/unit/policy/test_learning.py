"""The tightest policy for what was used."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from parts import EXAMPLE
from random_policies import make_policy, make_question

from authz_server.cli import main
from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import load_policy, parse_policy
from authz_server.policy.engine import Engine
from authz_server.policy.learning import observe
from authz_server.policy.model import AccessPolicy
from authz_server.policy.proposal import propose


def event_of(asked: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Return the audit event of an allowed question."""
    user = asked["user"] or {"issuer": "", "subject": ""}
    return {
        "decision": "allow",
        "verified": True,
        "principal": asked["principal"]["id"],
        "user_issuer": user["issuer"],
        "user": user["subject"],
        **asked["operation"],
        "also": "",
        **changes,
    }


def engine_of(policy: AccessPolicy) -> Engine:
    data = compile_policy(policy).data
    return Engine(shipped_wasm(), data, timeout_s=10.0, instances=1)


def is_sensible(asked: dict[str, Any]) -> bool:
    """Whether a call can be so: versions are of models, and Triton has no adapters."""
    operation = asked["operation"]
    operation["adapter"] = ""
    if operation["scope"] != "model":
        operation["version"] = ""
    return bool(operation["upstream"] != "s1" or operation["scope"] == "dataset")


@pytest.mark.parametrize("seed", range(25))
def test_a_proposal_permits_what_was_used_and_nothing_beside(seed: int) -> None:
    rng = random.Random(seed)
    old = make_policy(rng)
    questions = [q for q in (make_question(rng) for _ in range(800)) if is_sensible(q)]
    before = engine_of(old)
    allowed = [
        asked
        for asked in questions
        if before.evaluate(json.dumps(asked).encode()).allow
    ]
    used = allowed[: len(allowed) // 2]
    proposal = propose(old, observe(old, map(event_of, used)), 1)
    new = parse_policy(json.dumps(proposal.document), "proposal")
    after = engine_of(new)
    try:
        for asked in used:
            operation = asked["operation"]
            if operation["scope"] == "server" and proposal.notes:
                continue  # what named no model
            # Of users the trail does not say more than who gave the token.
            if asked["user"] is None:
                assert after.evaluate(json.dumps(asked).encode()).allow, asked
        done = {
            (
                asked["principal"]["id"],
                asked["operation"]["action"],
                asked["operation"]["upstream"],
            )
            for asked in used
        }
        for asked in questions:
            if after.evaluate(json.dumps(asked).encode()).allow:
                assert before.evaluate(json.dumps(asked).encode()).allow, asked
                operation = asked["operation"]
                key = (operation["action"], operation["upstream"])
                assert (asked["principal"]["id"], *key) in done
    finally:
        before.close()
        after.close()


CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
ROBOT = "spiffe://factory.example/ns/line2/sa/robot"
BROWSER = "spiffe://factory.example/ns/office/sa/browser"


def call(principal: str, action: str, **more: str) -> dict[str, Any]:
    words = dict.fromkeys(("model", "version", "adapter", "dataset", "also"), "")
    return {
        "decision": "allow",
        "verified": True,
        "principal": principal,
        "user_issuer": "",
        **words,
        "action": action,
        "scope": "model",
        "upstream": "triton",
        **more,
    }


EVENTS = [
    *[call(CAMERA, "inference", model="defect-detection", version="1")] * 5,
    call(CAMERA, "health", scope="server"),
    *[call(ROBOT, "inference", model="defect-detection", version="1")] * 3,
    call(ROBOT, "inference", model="defect-detection", version="2"),
    call(
        BROWSER,
        "dataset-read",
        scope="dataset",
        dataset="line-images",
        upstream="training-data",
        user_issuer="https://idp.factory.example",
    ),
    call(CAMERA, "inference", model="gone", upstream="elsewhere"),
    call(CAMERA, "inference", model="demand-forecast"),
    {**call(CAMERA, "inference", model="defect-detection"), "decision": "deny"},
    {**call("spiffe://factory.example/liar", "inference"), "verified": False},
]


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return file


def test_the_command_prints_a_policy_and_says_what_is_left(
    trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "learn", str(EXAMPLE), str(trail)]) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "proposal.yaml"
    file.write_text(out)
    policy = load_policy(file)
    assert {name: list(map(str, group.spiffe)) for name, group in
            policy.groups.items()} == {
        "factory-floor": [CAMERA],
        "factory-floor-2": [ROBOT],
        "callers": [BROWSER],
        "ml-engineers": [],
    }  # fmt: skip
    assert policy.groups["factory-floor"].workloads[0].pod_selector == {"app": "camera"}
    (first, second) = policy.roles["factory-floor-triton"].permissions
    assert (first.actions, first.models) == (("health",), ())
    assert (second.models, second.versions) == (("defect-detection",), ("1",))
    robots = policy.roles["factory-floor-2-triton"].permissions
    assert [part.versions for part in robots] == [("1", "2")]
    assert [grant.when.users for grant in policy.grants if grant.when.users] == [
        ("ml-engineers",)
    ]
    assert err.splitlines() == [
        "unused: inspector to factory-floor on triton: metadata",
        "unused: planner to planning on triton",
        "unused: deployer to release on triton",
        "unused: data-reader to planning on training-data",
        "left out: 1 allowed calls: no grant gives it any more",
        "left out: 1 allowed calls: upstream 'elsewhere' is not defined any more",
    ]


def test_what_was_done_too_seldom_is_left_out_and_named(
    trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["policy", "learn", str(EXAMPLE), str(trail), "--min-support", "3"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "proposal.yaml"
    file.write_text(out)
    policy = load_policy(file)
    assert [grant.to for grant in policy.grants] == [("factory-floor",)]
    assert set(map(str, policy.groups["factory-floor"].spiffe)) == {CAMERA, ROBOT}
    assert f"left out: {ROBOT}: inference at triton, only 1 times" in err


@pytest.mark.parametrize("line", ["{", "[]", "7", ""])
def test_a_line_that_is_no_event_is_named(
    trail: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    trail.write_text(json.dumps(EVENTS[0]) + "\n" + line + "\n")
    assert main(["policy", "learn", str(EXAMPLE), str(trail)]) == 1
    assert f"{trail}:2: not an event" in capsys.readouterr().err
