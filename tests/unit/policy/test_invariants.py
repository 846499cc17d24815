"""Invariants: what is proved, what breaks them, and what is said of a bad one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from parts import EXAMPLE
from random_policies import DOMAINS, make_document, make_question

from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import PolicyDocumentError, parse_policy
from authz_server.policy.engine import Engine
from authz_server.policy.model import AccessPolicy

EXAMPLE_TEXT = EXAMPLE.read_text()
DEPLOYER = "spiffe://factory.example/ns/release/sa/deployer"
FORECASTER = "spiffe://factory.example/ns/planning/sa/forecaster"


def with_invariant(text: str, policy: str = EXAMPLE_TEXT) -> str:
    return f"{policy}\n  invariants:\n    - {text}\n"


def problems_of(text: str) -> list[str]:
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(text, "p.yaml")
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    "invariant",
    [
        (
            "{name: a, never: {actions: [inference], models: [defect-detection]}, "
            "outside: [factory-floor]}"
        ),
        "{name: a, never: {actions: [model-load-override]}}",
        '{name: a, never: {actions: [model-repository]}, by: ["spiffe://supplier.example/**"]}',
        "{name: a, never: {models: [other-*]}, outside: [release]}",
        (
            "{name: a, never: {datasets: [line-images]}, "
            "outside: [planning, ml-engineers]}"
        ),
        (
            "{name: a, neverBoth: [{actions: [inference], models: [defect-detection]}, "
            "{actions: [inference], models: [demand-forecast]}]}"
        ),
        (
            "{name: a, neverBoth: [{actions: [model-repository]}, "
            "{datasets: [line-images]}], outside: [ml-engineers]}"
        ),
    ],
)
def test_what_holds_is_proved(invariant: str) -> None:
    policy = parse_policy(with_invariant(invariant), "p.yaml")
    assert [found.name for found in policy.invariants] == ["a"]


@pytest.mark.parametrize(
    ("invariant", "said"),
    [
        (
            "{name: a, never: {models: [other]}}",
            (
                f"invariant 'a' does not hold: {DEPLOYER} may do "
                "health on other (none named) at triton"
            ),
        ),
        (
            (
                "{name: a, never: {actions: [inference], models: [demand-*]}, "
                "outside: [factory-floor]}"
            ),
            (
                f"invariant 'a' does not hold: {FORECASTER} may do "
                "inference on demand-forecast (none named) at triton"
            ),
        ),
        (
            "{name: a, never: {datasets: [line-images]}, outside: [planning]}",
            (
                "invariant 'a' does not hold: spiffe://factory.example/other may do "
                "dataset-read on line-images at training-data, "
                "for a user with groups=ml of https://idp.factory.example"
            ),
        ),
        (
            '{name: a, never: {actions: [health]}, by: ["spiffe://factory.example/*/line2/**"]}',
            (
                "invariant 'a' does not hold: "
                "spiffe://factory.example/ns/line2/sa/other may do health on server "
                "at triton"
            ),
        ),
        (
            (
                "{name: a, neverBoth: [{actions: [model-repository]}, "
                "{datasets: [line-images]}]}"
            ),
            (
                f"invariant 'a' does not hold: {DEPLOYER} may do "
                "model-repository on every model at triton and dataset-read "
                "on line-images at training-data, "
                "for a user with groups=ml of https://idp.factory.example"
            ),
        ),
    ],
)
def test_what_does_not_hold_is_refused_with_a_caller(invariant: str, said: str) -> None:
    assert problems_of(with_invariant(invariant)) == [said]


def test_what_one_caller_may_at_different_times_counts_as_both() -> None:
    grants = "".join(
        f"    - {{role: {role}, to: [planning], on: [triton],\n"
        f"       when: {{times: [{{from: '{begin}', to: '{end}', zone: UTC}}]}}}}\n"
        for role, begin, end in (
            ("inspector", "00:00", "08:00"),
            ("deployer", "08:00", "12:00"),
        )
    )
    both = (
        "{name: a, neverBoth: [{actions: [inference], models: [defect-detection]}, "
        "{actions: [model-repository]}]}"
    )
    parse_policy(with_invariant(both), "p.yaml")
    (said,) = problems_of(with_invariant(both, EXAMPLE_TEXT + grants))
    assert f"does not hold: {FORECASTER} may do" in said


def test_a_caller_may_leave_its_user_out() -> None:
    # The workload reads, but not for an engineer; for one it loads models.
    more = (
        "    - {role: data-reader, to: [release], on: [training-data]}\n"
        "  denials:\n"
        "    - {role: data-reader, to: [ml-engineers], on: [training-data]}\n"
    )
    policy = EXAMPLE_TEXT.replace(
        "{role: deployer, to: [release], on: [triton]}",
        "{role: deployer, to: [release], on: [triton], when: {users: [ml-engineers]}}",
    )
    both = (
        "{name: a, neverBoth: [{actions: [model-repository]}, "
        "{datasets: [line-images]}], outside: [planning]}"
    )
    (said,) = problems_of(with_invariant(both, policy + more))
    assert f"does not hold: {DEPLOYER} may do" in said


@pytest.mark.parametrize(
    ("versions", "holds"), [('["3"]', True), ('["2"]', False), ('["1", "3"]', False)]
)
def test_versions_narrow_what_must_not_be(versions: str, *, holds: bool) -> None:
    text = with_invariant(
        "{name: a, never: {actions: [inference], models: [defect-detection], "
        f"versions: {versions}}}}}"
    )
    if holds:
        parse_policy(text, "p")
    else:
        assert "does not hold" in problems_of(text)[0]


def test_what_has_too_many_kinds_to_be_proved_is_refused() -> None:
    groups = "".join(
        f"    u{number}: {{users: [{{issuer: 'https://i.example', claim: g, "
        f"value: v{number}}}]}}\n"
        for number in range(60)
    )
    text = EXAMPLE_TEXT.replace("  roles:\n", f"{groups}  roles:\n", 1)
    rule = "{role: planner, to: [u1, planning], on: [triton], when: {users: [u2]}}"
    text += f"    - {rule}\n  denials:\n    - {rule}\n"
    invariant = "{name: a, never: {actions: [model-load-override]}}"
    (said,) = problems_of(with_invariant(invariant, text))
    assert said == "the invariants cannot be proved"


def test_names_and_prefixes_of_all_kinds_are_told_apart() -> None:
    for models in ('["line-*", line-0]', '["m*", "m0*"]', '["_*"]', '["_*", "0*", _]'):
        text = EXAMPLE_TEXT.replace("models: [demand-forecast]", f"models: {models}")
        invariant = "{name: a, never: {actions: [model-load-override]}}"
        assert parse_policy(with_invariant(invariant, text), "p").invariants


@pytest.mark.parametrize(
    ("invariant", "said"),
    [
        ("{never: {actions: [health]}}", "an invariant has no 'name'"),
        ("{name: a}", "needs one of 'never' and 'neverBoth'"),
        ("{name: a, never: {}}", "'never' of invariant 'a' is empty"),
        ("{name: a, never: {actions: [helth]}}", "action 'helth' is not defined"),
        ("{name: a, never: {models: [a/b]}}", "'a/b' is not a model name or prefix"),
        ("{name: a, never: {datasets: [x]}}", "dataset 'x' is not defined"),
        ("{name: a, never: {on: [x]}}", "upstream 'x' is not defined"),
        (
            "{name: a, never: {actions: [trace]}, outside: [x]}",
            "group 'x' is not defined",
        ),
        (
            "{name: a, never: {actions: [trace]}, by: [x]}",
            "'x': pattern does not start",
        ),
        ("{name: a, neverBoth: [{actions: [trace]}]}", "has 1 entries"),
        ("{name: a, never: {action: [trace]}}", "unknown key 'action'"),
        ("{name: a, never: {models: [m], versions: ['01']}}", "'01' is not a model v"),
        ("{name: a, never: {versions: ['1']}}", "has versions of no model"),
        ("{name: a, never: {actions: [trace], datasets: [line-images]}}", "is about n"),
        ("{name: a, never: {actions: [dataset-read], models: [m]}}", "about nothing"),
        ('{name: a, never: {on: [triton]}, by: ["spiffe://x.example/**"]}', "nobody"),
    ],
)
def test_a_bad_invariant_is_one_problem(invariant: str, said: str) -> None:
    (found,) = problems_of(with_invariant(invariant))
    assert said in found


def test_two_invariants_have_two_names() -> None:
    one = "{name: a, never: {actions: [model-load-override]}}"
    assert problems_of(with_invariant(f"{one}\n    - {one}")) == [
        "invariant 'a' is there twice"
    ]


def invariant_of(rng: random.Random) -> dict[str, Any]:
    deeds: dict[str, Any] = {
        "actions": rng.sample(("inference", "health", "model-repository"), 1)
    }
    if rng.random() < 0.6:
        deeds["models"] = [rng.choice(("m", "m-*", "k", "m*"))]
    found: dict[str, Any] = {"name": "a", "never": deeds}
    if rng.random() < 0.6:
        found["outside"] = rng.sample(("g1", "g2", "g3", "both"), rng.randint(1, 2))
    if rng.random() < 0.4:
        found["by"] = [f"spiffe://{rng.choice(DOMAINS)}/{rng.choice('ab')}/**"]
    return found


def breaks(invariant: dict[str, Any], asked: dict[str, Any], groups: set[str]) -> bool:
    """Whether a question that is allowed is one that must not be."""
    operation, deeds = asked["operation"], invariant["never"]
    if operation["action"] not in deeds["actions"]:
        return False
    if groups & set(invariant.get("outside", ())):
        return False
    for pattern in invariant.get("by", ()):
        if not asked["principal"]["id"].startswith(pattern.removesuffix("**")):
            return False
    if "models" not in deeds:
        return operation["scope"] in {"model", "server"}
    return operation["scope"] == "model" and any(
        operation["model"].startswith(model.removesuffix("*"))
        if model.endswith("*")
        else operation["model"] == model
        for model in deeds["models"]
    )


def test_no_question_breaks_what_was_proved_and_a_counterexample_does() -> None:
    proved = broken = asked_count = 0
    for seed in range(200):
        rng = random.Random(seed)
        document = make_document(rng)
        document["spec"]["invariants"] = [invariant_of(rng)]
        invariant = document["spec"]["invariants"][0]
        policy = parsed(document)
        if policy is None:
            broken += 1
            continue
        proved += 1
        engine = Engine(
            shipped_wasm(), compile_policy(policy).data, timeout_s=10.0, instances=1
        )
        try:
            for _ in range(60):
                asked = make_question(rng)
                operation = asked["operation"]
                operation["adapter"] = ""
                if operation["scope"] == "server" and operation["action"] != "health":
                    continue
                if engine.evaluate(json.dumps(asked).encode()).allow:
                    asked_count += 1
                    groups = groups_of(policy, asked)
                    assert not breaks(invariant, asked, groups), (invariant, asked)
        finally:
            engine.close()
    assert min(proved, broken) > 30
    assert asked_count > 20


def parsed(document: dict[str, Any]) -> AccessPolicy | None:
    """Return the policy, or None if its invariant does not hold."""
    try:
        return parse_policy(json.dumps(document), "p")
    except PolicyDocumentError as error:
        if "does not hold" in str(error):
            return None
        raise


def groups_of(policy: Any, asked: dict[str, Any]) -> set[str]:
    from authz_server.identity.spiffe_id import SpiffeId

    spiffe_id, user = SpiffeId.parse(asked["principal"]["id"]), asked["user"]
    return {
        group.name
        for group in policy.groups.values()
        if any(pattern.matches(spiffe_id) for pattern in group.spiffe)
        or any(
            user["issuer"] == member.issuer
            and member.value
            in (
                claim
                if isinstance(claim := user["claims"].get(member.claim), list)
                else [claim]
            )
            for member in (group.users if user else ())
        )
    }
