"""Whose answer changes, held against brute force through the Wasm engine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parts import EXAMPLE
from random_policies import make_document, make_question

from authz_server.cli import main
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.operation import Operation
from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.difference import Difference, differences
from authz_server.policy.document import PolicyDocumentError, parse_policy
from authz_server.policy.engine import Engine
from authz_server.policy.model import AccessPolicy
from authz_server.policy.standing import Standings
from authz_server.policy.vocabulary import Asker, Vocabulary

PAIRS = 500
QUESTIONS = 40


def changed(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a policy document with a few things changed."""
    copy = json.loads(json.dumps(document))
    spec = copy["spec"]
    for _ in range(rng.randint(1, 3)):
        section = rng.choice(("grants", "denials", "roles", "groups"))
        if section in {"grants", "denials"}:
            entries = spec[section]
            if entries and rng.random() < 0.5:
                entries.pop(rng.randrange(len(entries)))
            elif entries:
                entry = rng.choice(entries)
                entry["to"] = [rng.choice(sorted(spec["groups"]))]
                if rng.random() < 0.5:
                    entry.pop("when", None)
        elif section == "roles":
            permission = rng.choice(spec["roles"][rng.choice(sorted(spec["roles"]))])
            for key in ("versions", "adapters", "models"):
                if key in permission and rng.random() < 0.5:
                    permission[key] = permission[key][:1]
        else:
            group = spec["groups"][rng.choice(("g1", "g2", "g3", "g4"))]
            group["spiffe"] = group["spiffe"][:1]
    return copy  # type: ignore[no-any-return]


def small_document(rng: random.Random) -> dict[str, Any]:
    """Return a policy of two upstreams with few users: there are many pairs of them."""
    document = make_document(rng)
    spec = document["spec"]
    for name in ("t2", "s2"):
        del spec["upstreams"][name]
    for section in ("grants", "denials"):
        spec[section] = [
            entry for entry in spec[section] if entry["on"][0] in spec["upstreams"]
        ]
    for permissions in spec["roles"].values():
        for permission in permissions:
            if "upstreams" in permission:
                permission["upstreams"] = ["t1"]
    for name in ("g2", "g3", "g4"):
        spec["groups"][name].pop("users", None)
    return document


def pairs(count: int) -> Iterator[tuple[random.Random, AccessPolicy, AccessPolicy]]:
    made, seed = 0, 0
    while made < count:
        seed += 1
        rng = random.Random(seed)
        first = small_document(rng)
        second = changed(rng, first) if rng.random() < 0.8 else small_document(rng)
        try:
            old, new = (parse_policy(json.dumps(item), "p") for item in (first, second))
        except PolicyDocumentError:
            continue  # what was taken away left a role with nothing to give
        made += 1
        yield rng, old, new


def question_of(asker: Asker, operation: Operation) -> bytes:
    claims: dict[str, list[str]] = {}
    for claim in asker.claims:
        claims.setdefault(claim.claim, []).append(claim.value)
    issuer = next((claim.issuer for claim in asker.claims), "")
    call = operation.call
    return json.dumps(
        {
            "principal": {
                "id": str(asker.spiffe_id),
                "trust_domain": asker.spiffe_id.trust_domain.name,
                "path": asker.spiffe_id.path,
            },
            "user": {"issuer": issuer, "subject": "", "claims": claims}
            if issuer
            else None,
            "operation": {
                "action": call.action,
                "scope": call.scope,
                "model": call.model,
                "version": call.version,
                "adapter": call.adapter,
                "upstream": operation.upstream,
                "dataset": operation.dataset,
            },
            "http": {"method": "GET", "path": "/", "host": "", "headers": {}},
            "time": {"open": sorted(asker.times)},
        }
    ).encode()


def engine_of(policy: AccessPolicy) -> Engine:
    data = compile_policy(policy).data
    return Engine(shipped_wasm(), data, timeout_s=10.0, instances=1)


@pytest.mark.long
def test_differences_are_those_that_the_engine_has() -> None:
    seen = {"widens": 0, "narrows": 0, "none": 0, "asked": 0}
    for rng, old, new in pairs(PAIRS):
        before, after = engine_of(old), engine_of(new)
        try:
            found = differences(old, new)
            check_each(rng, found, before, after)
            for difference in found:
                seen["widens" if difference.widens else "narrows"] += 1
            seen["none"] += not found
            seen["asked"] += check_questions(rng, found, (old, before), (new, after))
        finally:
            before.close()
            after.close()
    assert min(seen.values()) > 50, seen


def check_each(
    rng: random.Random, found: tuple[Difference, ...], before: Engine, after: Engine
) -> None:
    """Whatever is listed does differ, in the direction that is said."""
    for difference in rng.sample(found, min(6, len(found))):
        asker = rng.choice(difference.askers)
        for operation in rng.sample(
            difference.operations, min(3, len(difference.operations))
        ):
            asked = question_of(asker, operation)
            assert before.evaluate(asked).allow is not difference.widens
            assert after.evaluate(asked).allow is difference.widens


def check_questions(
    rng: random.Random,
    found: tuple[Difference, ...],
    old: tuple[AccessPolicy, Engine],
    new: tuple[AccessPolicy, Engine],
) -> int:
    """Whatever differs is listed; return how often something did."""
    count = 0
    standings = Standings(old[0]), Standings(new[0])
    vocabulary = Vocabulary((old[0], new[0]))
    possible = {
        (item.call.action, item.call.scope)
        for upstream in vocabulary.upstreams
        for item in vocabulary.operations(upstream)
    }
    for _ in range(QUESTIONS):
        asked = make_question(rng)
        operation = asked["operation"]
        if operation["upstream"] not in old[0].upstreams:
            continue
        if (operation["action"], operation["scope"]) not in possible:
            continue  # no call, or the beginning of one whose messages are judged
        raw = json.dumps(asked).encode()
        was, becomes = old[1].evaluate(raw).allow, new[1].evaluate(raw).allow
        if was is becomes:
            continue
        if operation["adapter"] or operation["dataset"] not in (
            "",
            *old[0].upstreams[operation["upstream"]].datasets,
        ):
            continue  # no call of Triton's names an adapter
        count += 1
        workload = Asker(SpiffeId.parse(asked["principal"]["id"]))
        kind = [item.groups(workload) for item in standings]
        assert any(
            difference.widens is becomes
            and difference.upstream == operation["upstream"]
            and any(
                [item.groups(Asker(asker.spiffe_id)) for item in standings] == kind
                and asker.times <= set(asked["time"]["open"])
                for asker in difference.askers
            )
            and any(
                (witness.call.action, witness.call.scope)
                == (operation["action"], operation["scope"])
                for witness in difference.operations
            )
            for difference in found
        ), (asked, found)
    return count


EXAMPLE_TEXT = EXAMPLE.read_text()


def example_differences(old: str, new: str) -> list[tuple[bool, list[str], list[str]]]:
    assert EXAMPLE_TEXT.count(old) == 1
    found = differences(
        parse_policy(EXAMPLE_TEXT, "old"),
        parse_policy(EXAMPLE_TEXT.replace(old, new), "new"),
    )
    return [
        (
            item.widens,
            [str(asker.spiffe_id) for asker in item.askers],
            list(item.words),
        )
        for item in found
    ]


def test_a_wider_role_is_one_difference() -> None:
    assert example_differences("[demand-forecast]}", "[demand-forecast, extra]}") == [
        (
            True,
            ["spiffe://factory.example/ns/planning/sa/forecaster"],
            ["health on extra", "inference on extra", "metadata on extra"],
        )
    ]


def test_what_means_the_same_is_no_difference() -> None:
    assert example_differences('["1", "2"]', '["2", "1"]') == []
    twice = "    - {role: planner, to: [planning], on: [triton]}\n"
    assert example_differences(twice, twice * 2) == []


@pytest.mark.parametrize("size", [1000, 30_000])
def test_many_workloads_of_one_kind_are_one_kind(size: int) -> None:
    ids = "".join(
        f'        - "spiffe://factory.example/ns/n{n % 300}/sa/a{n}"\n'
        for n in range(size)
    )
    text = EXAMPLE_TEXT.replace(
        "    planning:\n      spiffe: [",
        f"    planning:\n      spiffe:\n{ids}        - ",
        1,
    ).replace('forecaster"]', 'forecaster"', 1)
    policy = parse_policy(text, "p")
    assert len(policy.groups["planning"].spiffe) == size + 1
    assert len(Vocabulary((policy,)).workloads()) == 4  # 3 groups, and strangers


def run(tmp_path: Path, old: str, new: str, *words: str) -> int:
    before, after = tmp_path / "old.yaml", tmp_path / "new.yaml"
    before.write_text(EXAMPLE_TEXT)
    after.write_text(EXAMPLE_TEXT.replace(old, new))
    return main(["policy", "diff", str(before), str(after), *words])


def test_the_command_ends_with_one_where_access_widens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = ('["1", "2"]', '["1", "3"]')
    assert run(tmp_path, *change) == 1
    assert capsys.readouterr().out.splitlines() == [
        "narrows triton for factory-floor",
        "  e.g. spiffe://factory.example/ns/line2/sa/other",
        "    health on defect-detection (version 2)",
        "    inference on defect-detection (version 2)",
        "    metadata on defect-detection (version 2)",
        "widens triton for factory-floor",
        "  e.g. spiffe://factory.example/ns/line2/sa/other",
        "    health on defect-detection (version 3)",
        "    inference on defect-detection (version 3)",
        "    metadata on defect-detection (version 3)",
    ]
    assert run(tmp_path, *change, "--allow-widening") == 0
    assert run(tmp_path, '["1", "2"]', '["1"]') == 0
    assert run(tmp_path, "factory", "factory") == 0
    assert "no answer changes" in capsys.readouterr().out


def test_conditions_and_users_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = "    - {role: planner, to: [planning], on: [triton]}\n"
    when = "{users: [ml-engineers], times: [{from: '08:00', to: '18:00', zone: UTC}]}"
    more = grant.replace("planning", "factory-floor").replace(
        "[triton]}", f"[triton], when: {when}}}"
    )
    assert run(tmp_path, grant, grant + more, "--output", "json") == 1
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    assert found["change"] == "widens"
    (caller,) = found["callers"]
    assert caller["claims"][0]["value"] == "ml"
    assert caller["times"] == ["mon,tue,wed,thu,fri,sat,sun 08:00-18:00 UTC"]
    assert found["operations"][1] == "inference on demand-forecast"


def test_an_author_who_may_not_make_the_change_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = ('["1", "2"]', '["1"]')
    author = "spiffe://factory.example/ns/release/sa/deployer"
    assert run(tmp_path, *change, "--author", author) == 1
    assert "the author may not change roles: inspector changed" in (
        capsys.readouterr().out
    )
    words = ["--claim", "groups=ml"]
    assert run(tmp_path, *change, *words) == 1
    assert "needs --issuer" in capsys.readouterr().err
    words += ["--issuer", "https://idp.factory.example", "--output", "json"]
    assert run(tmp_path, *change, *words) == 1
    assert json.loads(capsys.readouterr().out)["forbidden"]
