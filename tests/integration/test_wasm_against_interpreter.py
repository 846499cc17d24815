"""The same Rego in Wasm here and in OPA's own interpreter, on random inputs."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from checks import check_request
from opa_cases import agree
from random_calls import CALLS, make_call
from random_policies import make_policy, make_question

from authz_server.errors import PolicyError, Reason
from authz_server.facts import Facts, Plan, extract
from authz_server.identity.identify import Identity
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.user_token import User
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.building import (
    LIBRARY,
    SHIPPED_POLICY,
    find_opa,
    read_wasm,
    shipped_wasm,
)
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.compiler import compile_policy
from authz_server.policy.engine import Engine
from authz_server.policy.question import build_question
from authz_server.policy.wasm import Instance, Module, WasmError

pytestmark = pytest.mark.go

SEED = 20261126
ALWAYS = {"valid_from_s": 0.0, "valid_until_s": math.inf}
FACTS = Facts.decode(extract(bytes(check_request(path="/v2/x")), Plan())[0])
POLICIES = 10
QUESTIONS = 1000
CALLS_EACH = 250
TAKES_SETS = (
    *("graph.reachable_paths", "net.cidr_contains_matches", "net.cidr_merge"),
    *("object.subset", "sprintf", "strings.any_prefix_match", "json.patch"),
    *(
        "strings.any_suffix_match",
        "urlquery.encode_object",
        "json.marshal_with_options",
    ),
)
MOST_GIVEN_UP = 0.2
"""The share of a function's calls that it may refuse, which are odd on purpose."""


def interpret(folder: Path, query: str, *files: Path) -> Any:
    """Return what OPA's interpreter says to `query`."""
    data = [part for path in files for part in ("--data", str(path))]
    output = subprocess.run(
        [find_opa(), "eval", "--format", "raw", *data, query],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert output.returncode == 0, (output.stdout + output.stderr)[:2500]
    return read(output.stdout)


def read(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal)


def ask_as_server(rng: random.Random) -> dict[str, Any]:
    """Return a question as the server builds it, one in five spoilt afterwards."""
    made = make_question(rng)
    user = made["user"]
    identity = Identity(
        SpiffeId.parse(made["principal"]["id"]),
        None if user is None else User(**user, **ALWAYS, token_id=""),
    )
    told = made["operation"]
    call = Call(
        Action(told["action"]),
        Scope(told["scope"]),
        *(told[name] for name in ("model", "version", "adapter")),
    )
    operation = Operation(call, told["upstream"], told["dataset"])
    document = build_question(identity, operation, FACTS, made["time"]["open"])
    question: dict[str, Any] = json.loads(document)
    return odd(rng, question) if rng.random() < 0.2 else question


def odd(rng: random.Random, question: dict[str, Any]) -> dict[str, Any]:
    """Return `question` with something missing, or of a wrong type."""
    found = json.loads(json.dumps(question))
    part = rng.choice(list(found))
    target = found
    if isinstance(found[part], dict) and found[part] and rng.random() < 0.7:
        target, part = found[part], rng.choice(list(found[part]))
    if rng.random() < 0.4:
        del target[part]
    else:
        target[part] = rng.choice(
            (None, True, 0, -1.5, "", "x", [], ["m"], {}, {"any": "m"}, [[]], "\u0000")
        )
    return found


def test_the_shipped_policy_decides_alike_in_both(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    policies = [make_policy(rng) for _ in range(POLICIES)]
    questions = [[ask_as_server(rng) for _ in range(QUESTIONS)] for _ in policies]
    differences: list[str] = []
    reasons: Counter[Reason] = Counter()
    for policy, asked in zip(policies, questions, strict=True):
        data = compile_policy(policy).data
        (tmp_path / "data.json").write_bytes(data)
        (tmp_path / "asked.json").write_text(json.dumps({"asked": asked}))
        told = interpret(
            tmp_path,
            "[decision | some question in data.asked\n"
            "decision := [d | d := data.authz.decision with input as question]]",
            *(LIBRARY, SHIPPED_POLICY, tmp_path / "data.json", tmp_path / "asked.json"),
        )
        assert len(told) == len(asked)
        engine = Engine(shipped_wasm(), data, timeout_s=5.0, instances=1)
        try:
            for question, expected in zip(asked, told, strict=True):
                found = decide(engine, question)
                differences += (
                    [f"{question}: {found} is not {expected}"]
                    if found != expected
                    else []
                )
                reasons[Reason(found[0]["reason"])] += bool(found)
        finally:
            engine.close()
    assert not differences, (SEED, len(differences), differences[:5])
    # Not all the same, or there was nothing to compare.
    for reason in (Reason.GRANTED, Reason.NOT_GRANTED, Reason.PRINCIPAL_UNKNOWN):
        assert reasons[reason] > QUESTIONS // 10, reasons


def decide(engine: Engine, question: dict[str, Any]) -> list[Any]:
    """Return the decision in a list, and an empty one for none."""
    try:
        return [engine.ask(json.dumps(question).encode())[0]]
    except PolicyError as error:
        if error.reason is Reason.POLICY_UNDEFINED:
            return []
        return [f"failed: {error}"]


def rule(name: str) -> str:
    return "call_" + name.replace(".", "_")


def rego_of_calls() -> str:
    """Return a rule for each function that calls it with what the input says."""
    rng = random.Random(SEED)
    lines = [
        "package calls",
        "as_set(x) := {y | some y in x} if is_array(x)",
        "as_set(x) := x if not is_array(x)",
        "inner(x) := [as_set(y) | some y in x] if is_array(x)",
        "inner(x) := {k: as_set(y) | some k, y in x} if is_object(x)",
        "inner(x) := x if {", "\tnot is_array(x)", "\tnot is_object(x)", "}",
    ]  # fmt: skip
    for name in CALLS:
        count = len(make_call(rng, name))
        given = [f"input.of[{position}]" for position in range(count)]
        lines.append(f"{rule(name)} := {name}({', '.join(given)})")
        if name in TAKES_SETS:
            for kind in ("as_set", "inner"):
                sets = [f"{kind}({item})" for item in given]
                if name == "sprintf":
                    sets = [given[0], f"inner({given[1]})"]
                if name == "json.patch":
                    sets = [f"{kind}({given[0]})", given[1]]
                if name == "json.marshal_with_options":
                    sets = [f"{kind}({given[0]})", given[1]]
                lines.append(f"{kind}_{rule(name)} := {name}({', '.join(sets)})")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Module]:
    folder = tmp_path_factory.mktemp("calls")
    (folder / "calls.rego").write_text(rego_of_calls())
    command = [str(find_opa()), "build", "-t", "wasm", "-o", "out.tar.gz", "calls.rego"]
    for name in rules():
        command += ["-e", f"calls/{name}"]
    output = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    assert output.returncode == 0, output.stdout + output.stderr
    return folder, Module(read_wasm(folder / "out.tar.gz"), HOST_FUNCTIONS)


def rules() -> dict[str, str]:
    """Return the names of all rules, each with the function that it calls."""
    found = {rule(name): name for name in CALLS}
    for name in TAKES_SETS:
        found |= {f"as_set_{rule(name)}": name, f"inner_{rule(name)}": name}
    return found


def test_every_function_that_we_host_answers_alike_in_both(
    calls: tuple[Path, Module],
) -> None:
    folder, module = calls
    assert CALLS.keys() == HOST_FUNCTIONS.keys() - {"time.now_ns"}
    rng = random.Random(SEED)
    inputs = {
        name: [{"of": make_call(rng, function)} for _ in range(CALLS_EACH)]
        for name, function in rules().items()
    }
    told = ask_interpreter(folder, inputs)
    caller = Caller(module)
    differences: list[str] = []
    refused: Counter[str] = Counter()
    defined: Counter[str] = Counter()
    for name, asked in inputs.items():
        for given, expected in zip(asked, told[name], strict=True):
            found = caller.ask(name, given)
            if isinstance(found, str) and "gave up" in found:
                refused[name] += 1
            elif not agree(found, expected):
                differences.append(f"{name} {given['of']}: {found} is not {expected}")
            else:
                defined[name] += bool(expected)
    assert not differences, (SEED, len(differences), differences[:10])
    assert all(count <= MOST_GIVEN_UP * CALLS_EACH for count in refused.values()), (
        refused
    )
    assert all(defined[name] > CALLS_EACH // 20 for name in inputs), defined


def ask_interpreter(folder: Path, inputs: dict[str, list[Any]]) -> Any:
    """Return by rule what the interpreter says to each input, in a list or not."""
    (folder / "inputs.json").write_text(json.dumps({"inputs": inputs}))
    rules = [
        f'told["{name}"] := [found |\n\tsome given in data.inputs["{name}"]\n'
        f"\tfound := [r | r := data.calls.{name} with input as given]\n]"
        for name in inputs
    ]
    (folder / "asking.rego").write_text("\n".join(["package asking", *rules]))
    files = [folder / name for name in ("calls.rego", "inputs.json", "asking.rego")]
    return interpret(folder, "data.asking.told", *files)


class Caller:
    """Asks the module, in one instance for as long as it lives."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._instance: Instance | None = None

    def ask(self, name: str, given: dict[str, Any]) -> Any:
        if self._instance is None:
            self._instance = Instance(self._module, b"{}", max_pages=4096)
        try:
            found = self._instance.evaluate(
                json.dumps(given).encode(),
                self._module.entrypoints[f"calls/{name}"],
                timeout_s=5,
                max_bytes=1 << 24,
            )
        except WasmError as error:
            self._instance.close()
            self._instance = None
            return f"failed: {error}"
        return [item["result"] for item in read(found)]
