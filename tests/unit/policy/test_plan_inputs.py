"""What a policy reads of its input: never less than it does, and not much more."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rego_forge import random_input, random_policy

from authz_server.errors import PolicyError
from authz_server.facts.envoy_document import pruned
from authz_server.policy.building import build_plan, find_opa
from authz_server.policy.plan_inputs import inputs_of

NAMES = ["a", "b", "c"]
Statement = tuple[str, dict[str, Any]]


def local(number: int) -> dict[str, Any]:
    return {"type": "local", "value": number}


def name(text: str) -> dict[str, Any]:
    return {"type": "string_index", "value": NAMES.index(text)}


def dot(source: int, key: str, target: int) -> Statement:
    return "DotStmt", {"source": local(source), "key": name(key), "target": target}


def assign(source: int, target: int) -> Statement:
    return "AssignVarStmt", {"source": local(source), "target": target}


def once(source: int, target: int) -> Statement:
    return "AssignVarOnceStmt", {"source": local(source), "target": target}


def call(function: str, *arguments: int, result: int) -> Statement:
    operands = [local(each) for each in arguments]
    return "CallStmt", {"func": function, "args": operands, "result": result}


def returns(source: int) -> Statement:
    return "ReturnLocalStmt", {"source": source}


def block(*statements: Statement) -> dict[str, Any]:
    return {"stmts": [{"type": kind, "stmt": body} for kind, body in statements]}


def function(title: str, params: list[int], *blocks: dict[str, Any]) -> dict[str, Any]:
    return {"name": title, "params": params, "return": 99, "blocks": list(blocks)}


def plan(*blocks: dict[str, Any], functions: tuple[dict[str, Any], ...] = ()) -> bytes:
    return json.dumps(
        {
            "static": {"strings": [{"value": each} for each in NAMES]},
            "plans": {"plans": [{"name": "p", "blocks": list(blocks)}]},
            "funcs": {"funcs": list(functions)},
        }
    ).encode()


def read(*statements: Statement) -> list[str]:
    return inputs_of(plan(block(*statements))).texts()


def test_a_policy_that_reads_no_input_reads_nothing() -> None:
    assert read(dot(1, "a", 2), ("IsDefinedStmt", {"source": 0})) == []


def test_a_path_is_followed_through_keys_and_copies() -> None:
    assert read(dot(0, "a", 2), assign(2, 3), dot(3, "b", 4)) == ["a.b"]
    assert read(dot(0, "a", 2), dot(2, "b", 3), dot(0, "c", 2)) == ["a.b", "c"]


def test_what_is_looked_for_counts_even_if_nothing_is_done_with_it() -> None:
    assert read(dot(0, "a", 2)) == ["a"]
    assert read(dot(0, "a", 2), ("IsUndefinedStmt", {"source": 2})) == ["a"]


@pytest.mark.parametrize(
    "use",
    [
        ("LenStmt", {"source": local(2), "target": 9}),
        ("EqualStmt", {"a": local(9), "b": local(2)}),
        ("EqualStmt", {"a": local(2), "b": local(9)}),
        ("NotEqualStmt", {"a": local(2), "b": {"type": "bool", "value": False}}),
        ("NotEqualStmt", {"a": local(9), "b": local(2)}),
        ("IsArrayStmt", {"source": local(2)}),
        ("IsObjectStmt", {"source": local(2)}),
        ("IsSetStmt", {"source": local(2)}),
        ("ArrayAppendStmt", {"value": local(2), "array": 9}),
        ("SetAddStmt", {"value": local(2), "set": 9}),
        ("ObjectInsertStmt", {"key": local(2), "value": local(8), "object": 9}),
        ("ObjectInsertStmt", {"key": local(8), "value": local(2), "object": 9}),
        ("ObjectInsertOnceStmt", {"key": local(2), "value": local(8), "object": 9}),
        ("ObjectInsertOnceStmt", {"key": local(8), "value": local(2), "object": 9}),
        ("ObjectMergeStmt", {"a": 2, "b": 8, "target": 9}),
        ("ObjectMergeStmt", {"a": 8, "b": 2, "target": 9}),
        ("ResultSetAddStmt", {"value": 2}),
        ("DotStmt", {"source": local(2), "key": local(8), "target": 9}),
        ("DotStmt", {"source": local(8), "key": local(2), "target": 9}),
        ("ScanStmt", {"source": 2, "key": 8, "value": 9, "block": block()}),
        ("WithStmt", {"local": 1, "path": [], "value": local(2), "block": block()}),
        call("count", 2, result=9),
        (
            "CallDynamicStmt",
            {"args": [0, 1], "path": [name("a"), local(2)], "result": 9},
        ),
        ("CallDynamicStmt", {"args": [0, 1, 2], "path": [name("a")], "result": 9}),
    ],
)
def test_any_other_use_reads_the_whole_subtree(use: Statement) -> None:
    # Without the use, only `a.b` would be read.
    looked_into = (dot(0, "a", 2), dot(2, "b", 3))
    assert read(*looked_into) == ["a.b"]
    assert read(*looked_into, use) == ["a"]
    assert read(*looked_into, ("NotStmt", {"block": block(use)})) == ["a"]
    nested = ("BlockStmt", {"blocks": [block(), block(use)]})
    assert read(*looked_into, nested) == ["a"]
    scan = {"source": 1, "key": 6, "value": 7, "block": block(use)}
    assert read(*looked_into, ("ScanStmt", scan)) == ["a"]


@pytest.mark.parametrize(
    "statement",
    [
        ("NewStmt", {"source": local(2)}),
        ("DotStmt", {}),
        ("DotStmt", {"source": local(0), "key": {"type": "string_index", "value": 9}}),
        ("CallStmt", {"func": "f", "args": [local(1), local(1)], "result": 3}),
        ("CallStmt", {"func": "f", "args": [local(0)], "result": 3}),
        ("CallStmt", {"func": "f", "args": [local(0)] * 2, "result": 3}),
        ("CallDynamicStmt", {"args": [1, 1], "path": [], "result": 3}),
        (
            "WithStmt",
            {"local": 0, "path": [0], "value": local(8), "block": block()},
        ),
        ("AssignVarStmt", None),
    ],
)
def test_what_is_not_understood_reads_everything(statement: Statement) -> None:
    document = plan(
        block(dot(0, "a", 2), statement),
        functions=(function("f", [0, 1], block()),),
    )
    assert inputs_of(document).is_everything


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"plans": 1}', b"null", b"[" * 100_000]
)
def test_what_is_no_plan_is_refused(document: bytes) -> None:
    with pytest.raises(PolicyError):
        inputs_of(document)


def test_input_in_a_comparison_is_everything() -> None:
    assert read(assign(0, 2), ("NotEqualStmt", {"a": local(2), "b": local(1)})) == [""]


def test_a_variable_that_is_assigned_anew_is_followed_anew() -> None:
    later = block(dot(0, "c", 2), dot(2, "b", 3))
    assert inputs_of(plan(block(dot(0, "a", 2)), later)).texts() == ["a", "c.b"]


def test_a_block_may_end_anywhere() -> None:
    # Whichever of the two assignments was the last, `b` is looked for in it.
    first = block(dot(0, "a", 2), dot(0, "c", 2))
    after = block(dot(2, "b", 3))
    assert inputs_of(plan(first, after)).texts() == ["a.b", "c.b"]
    nested = block(("BlockStmt", {"blocks": [first]}), dot(2, "b", 3))
    assert inputs_of(plan(nested)).texts() == ["a.b", "c.b"]


def test_a_loop_finds_what_its_earlier_turns_left() -> None:
    turn = block(dot(2, "b", 3), dot(0, "c", 2))
    scan = {"source": 1, "key": 6, "value": 7, "block": turn}
    assert read(dot(0, "a", 2), ("ScanStmt", scan)) == ["a.b", "c.b"]


def test_a_loop_that_goes_ever_deeper_is_cut_off() -> None:
    scan = {"source": 1, "key": 6, "value": 7, "block": block(dot(2, "a", 2))}
    found = read(dot(0, "a", 2), ("ScanStmt", scan))
    assert found == [".".join(["a"] * 24)]


def test_a_variable_that_may_hold_too_much_is_read_whole() -> None:
    # Each turn copies what may be there, one key further.
    turn = block(dot(2, "a", 3), dot(2, "b", 4), assign(3, 2), assign(4, 2))
    blocks = [block(dot(2, "a", 2)), block(dot(2, "b", 2)), turn]
    scan = ("ScanStmt", {"source": 1, "key": 6, "value": 7, "block": block()})
    scan[1]["block"] = block(("BlockStmt", {"blocks": blocks}))
    assert "c" in read(dot(0, "c", 2), scan)


def test_a_second_value_for_one_variable_is_compared_with_the_first() -> None:
    both = (dot(0, "a", 2), dot(2, "b", 4), dot(0, "b", 3), dot(3, "b", 5))
    assert read(*both, once(2, 6)) == ["a.b", "b.b"]
    assert read(*both, once(2, 6), once(2, 6)) == ["a.b", "b.b"]
    assert read(*both, once(2, 6), once(3, 6)) == ["a", "b"]
    null = ("MakeNullStmt", {"target": 7})
    assert read(*both, null, once(2, 6), once(7, 6)) == ["a", "b.b"]
    # Not if it is not defined any more, or comes only where there is none.
    reset = ("ResetLocalStmt", {"target": 6})
    assert read(*both, once(2, 6), reset, once(3, 6)) == ["a.b", "b.b"]
    undefined = ("IsUndefinedStmt", {"source": 6})
    assert read(*both, once(2, 6), undefined, once(3, 6)) == ["a.b", "b.b"]


def test_arguments_and_results_of_planned_functions_are_followed() -> None:
    below = function("below", [0, 1, 2], block(dot(2, "b", 3), returns(3)))
    calls = block(
        dot(0, "a", 2), call("below", 0, 1, 2, result=3), dot(3, "c", 4), dot(0, "b", 5)
    )
    assert inputs_of(plan(calls, functions=(below,))).texts() == ["a.b.c", "b"]


def test_a_function_reads_for_each_of_its_callers() -> None:
    inner = function(
        "inner", [0, 1, 2], block(("LenStmt", {"source": local(2), "target": 3}))
    )
    outer = function("outer", [0, 1, 2], block(call("inner", 0, 1, 2, result=3)))
    calls = block(
        dot(0, "a", 2),
        dot(2, "b", 3),
        call("outer", 0, 1, 2, result=4),
        dot(0, "c", 5),
        call("inner", 0, 1, 5, result=6),
    )
    assert inputs_of(plan(calls, functions=(inner, outer))).texts() == ["a", "c"]


def test_a_dynamic_call_may_return_what_any_function_returns() -> None:
    rule = function("rule", [0, 1], block(dot(0, "a", 2), returns(2)))
    looks = block(call("rule", 0, 1, result=3), dot(3, "b", 4))
    assert inputs_of(plan(looks, functions=(rule,))).texts() == ["a.b"]
    dynamic = (
        "CallDynamicStmt",
        {"args": [0, 1], "path": [name("a"), name("b")], "result": 9},
    )
    assert inputs_of(plan(looks, block(dynamic), functions=(rule,))).texts() == ["a"]


# With the real OPA


def of_rego(folder: Path, text: str, entrypoint: str = "t/allow") -> list[str]:
    source = folder / "policy.rego"
    source.write_text(text, "utf-8")
    return inputs_of(build_plan([source], entrypoint, find_opa())).texts()


HTTP = "attributes.request.http"


@pytest.mark.go
@pytest.mark.parametrize(
    ("rego", "expected"),
    [
        ("allow := true", []),
        ("allow if input", [""]),
        ("allow := input.a", ["a"]),
        ("allow if input.a.b == 1", ["a.b"]),
        ("allow if not input.a.b", ["a.b"]),
        ("allow if input.a[0] == 1", ["a"]),
        ("allow if input.a[input.b]", ["a", "b"]),
        ("allow if some x in input.a.b", ["a.b"]),
        ('allow if input.a["x-y"].b', ['a["x-y"].b']),
        ('allow if object.get(input.a, "b", 1) == 1', ["a"]),
        ("allow if { x := input.a; y := x.b; y.c == 1; not x.d }", ["a.b.c", "a.d"]),
        ("default allow := false\nallow if input.a == 1", ["a"]),
        ("allow if {x | x := input.a.b[_]} == {1}", ["a.b"]),
        ("allow if every x in input.a { x == input.b.c }", ["a", "b.c"]),
        ("allow if walk(input.a, [_, 1])", ["a"]),
        ("allow if data.t.other with input as {}\nother if input.a", [""]),
        ("allow if data.t.other with data.x as input.b\nother if input.a", ["a", "b"]),
        (
            """import input.attributes.request.http
            allow if { http.method == "GET"; is_admin }
            is_admin if http.headers["x-role"] == "admin"
            """,
            [f'{HTTP}.headers["x-role"]', f"{HTTP}.method"],
        ),
        (
            # A rule for the request, and functions that take it.
            """http := input.attributes.request.http
            allow if { reads(http); owner(http) == input.parsed_path[1] }
            reads(r) if r.method == "GET"
            owner(r) := r.headers.user
            """,
            [f"{HTTP}.headers.user", f"{HTTP}.method", "parsed_path"],
        ),
        (
            "allow := x if { x := input.a; x.b } else := input.c if input.d",
            ["a", "c", "d"],
        ),
        (
            """allow := {"allowed": ok, "headers": {"x-a": input.a.b}}
            default ok := false
            ok if input.c
            """,
            ["a.b", "c"],
        ),
        (
            """allow if { name := input.n; data.t.tree[name].b }
            tree.first := input.a
            tree.second := input.c
            """,
            ["a", "c", "n"],
        ),
    ],
)
def test_the_answer_is_tight(tmp_path: Path, rego: str, expected: list[str]) -> None:
    assert of_rego(tmp_path, f"package t\n{rego}\n") == expected


POLICIES = 240
INPUTS = 40

# OPA 1.22 evaluates `with input as case.whole` in a comprehension to something else.
QUERY = """[[whole, cut] | some case in data.cases
  a := case.whole; b := case.cut
  whole := data.pol[case.policy].decision with input as a
  cut := data.pol[case.policy].decision with input as b]"""


@pytest.mark.go
def test_random_policies_answer_alike_on_what_they_read(tmp_path: Path) -> None:
    dice = random.Random(20261126)
    opa = find_opa()
    cases: list[dict[str, Any]] = []
    everything = 0
    for number in range(POLICIES):
        source = tmp_path / f"p{number}.rego"
        source.write_text(random_policy(dice, number), "utf-8")
        wanted = inputs_of(build_plan([source], f"pol/p{number}/decision", opa))
        everything += wanted.is_everything
        for _ in range(INPUTS):
            whole = random_input(dice)
            cases.append(
                {
                    "policy": f"p{number}",
                    "whole": whole,
                    "cut": pruned(whole, wanted),
                }
            )
    (tmp_path / "cases.json").write_text(json.dumps({"cases": cases}), "utf-8")
    output = subprocess.run(
        [opa, "eval", "--format", "json", "--data", tmp_path, QUERY],
        capture_output=True,
        check=True,
        text=True,
    )
    pairs = json.loads(output.stdout)["result"][0]["expressions"][0]["value"]
    assert len(pairs) == len(cases)
    different = [
        (case, pair)
        for case, pair in zip(cases, pairs, strict=True)
        if pair[0] != pair[1]
    ]
    assert different == []
    # Nor is the test empty: much is cut, and much holds.
    assert everything < POLICIES / 5
    assert sum(case["whole"] != case["cut"] for case in cases) > len(cases) / 2
    assert sum(bool(whole) for whole, _ in pairs) > len(cases) / 6
