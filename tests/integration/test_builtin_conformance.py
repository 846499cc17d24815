"""OPA's own conformance cases for every built-in function that we host."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from opa_cases import Case, agree, load_cases, source_folder, uses

from authz_server.policy.building import find_opa, read_wasm
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.wasm import Instance, Module, WasmError

pytestmark = pytest.mark.go

BATCHES = 4
MAX_PAGES = 4096

DOCUMENT = Path(__file__).parents[2] / "docs" / "policy.md"
WITHOUT_A_CALL = ("assign", "eq", "print", "trace", "internal.*", "cast_*")
"""What the compiler itself makes something else of, or has no use in a server."""

WITHOUT_CASES: dict[str, str] = {}
"""Functions of ours for which OPA has no case, each with the reason."""

SIGNS = "it signs a token first, and io.jwt.encode_sign is not offered"
NOT_APPLICABLE: dict[str, str] = {
    "jwtdecodeverify/invalid-exp": SIGNS,
    "jwtdecodeverify/invalid-nbf": SIGNS,
    "jwtdecodeverify/missing-iss-while-required": SIGNS,
    "withkeyword/builtin-builtin: arity 0": "opa.runtime is never offered",
    "time/time caching": "it waits by a function that only OPA's tests have",
}
"""Cases that a module built for Wasm cannot answer, each with the reason."""


def hosted_cases() -> list[Case]:
    names = list(HOST_FUNCTIONS)
    return [
        case for case in load_cases() if any(uses(case.text, name) for name in names)
    ]


@cache
def all_functions() -> frozenset[str]:
    output = subprocess.run(
        [find_opa(), "capabilities", "--current"], capture_output=True, check=True
    )
    return frozenset(item["name"] for item in json.loads(output.stdout)["builtins"])


def native_functions() -> frozenset[str]:
    """Return the functions that Wasm has itself, by OPA's own list."""
    source = source_folder() / "internal/compiler/wasm/wasm.go"
    listed = re.search(r"builtinsFunctions = map.*?\n}", source.read_text(), re.DOTALL)
    assert listed is not None
    names = dict(
        re.findall(
            r'var (\w+) = &Builtin\{\s*Name:\s*"([^"]+)"',
            (source_folder() / "v1/ast/builtins.go").read_text(),
        )
    )
    return frozenset(names[go] for go in re.findall(r"ast\.(\w+)\.Name", listed[0]))


def staged(case: Case, number: int) -> list[str]:
    """Return the modules of a case in a package of its own, and one that queries."""
    own = f"c{number}"

    def moved(text: str) -> str:
        return re.sub(r"\bdata\.(?=[a-z])", f"data.{own}.", text)

    names = {name for result in case.wanted or () for name in result}
    bindings = ", ".join(f'"{name}": {name}' for name in sorted(names))
    given = f" with input as {case.input_term}" if case.input_term else ""
    body = moved(case.query).strip() + given
    query = f"package q{number}\nfound := [{{{bindings}}} | {body}]\n"
    modules = [
        re.sub(r"(?m)^package (\S+)", rf"package {own}.\1", moved(module))
        for module in case.modules
    ]
    return [query, *modules]


def build(cases: list[tuple[int, Case]]) -> bytes:
    """Return the Wasm of many cases: what costs is the start, not the size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [str(find_opa()), "build", "-t", "wasm", "-o", f"{name}/out.tar.gz"]
        for number, case in cases:
            command += ["-e", f"q{number}/found"]
            for position, module in enumerate(staged(case, number)):
                path = folder / f"c{number}_{position}.rego"
                path.write_text(module)
                command.append(str(path))
        output = subprocess.run(command, capture_output=True, text=True, check=False)
        assert output.returncode == 0, output.stdout + output.stderr
        return read_wasm(folder / "out.tar.gz")


def answer(module: Module, case: Case, number: int) -> Any:
    """Return the results of a case, as the interpreter gives them, or what failed."""
    document = b"" if case.input is None else json.dumps(case.input).encode()
    data = json.dumps({f"c{number}": case.data}).encode()
    instance = Instance(module, data, max_pages=MAX_PAGES)
    entrypoint = module.entrypoints[f"q{number}/found"]
    try:
        found = decimals(
            instance.evaluate(document, entrypoint, timeout_s=20, max_bytes=1 << 24)
        )
    except WasmError as error:
        return f"failed: {error}"
    finally:
        instance.close()
    return found[0]["result"]


def decimals(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal)


def expected(case: Case) -> Any:
    if not case.error:
        return decimals(json.dumps(case.wanted).encode())
    # An error that only strict mode makes one is no answer in a server.
    return [] if case.is_lenient else "failed"


def check(cases: list[tuple[int, Case]]) -> list[str]:
    module = Module(build(cases), HOST_FUNCTIONS)
    wrong = []
    for number, case in cases:
        found, wanted = answer(module, case, number), expected(case)
        if isinstance(found, str) and wanted == "failed":
            continue
        if not agree(found, wanted):
            wrong.append(f"{case.note}: {found!r} is not {wanted!r}")
    return wrong


def applicable_cases() -> list[Case]:
    return [case for case in hosted_cases() if case.note not in NOT_APPLICABLE]


def test_every_case_of_opa_has_the_answer_of_opa() -> None:
    cases = list(enumerate(applicable_cases()))
    with ThreadPoolExecutor(BATCHES) as pool:
        parts = [cases[start::BATCHES] for start in range(BATCHES)]
        wrong = [text for part in pool.map(check, parts) for text in part]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_function_that_we_host_has_cases() -> None:
    cases = applicable_cases()
    counts = {
        name: sum(uses(case.text, name) for case in cases) for name in HOST_FUNCTIONS
    }
    without = {name for name, count in counts.items() if not count}
    assert without == WITHOUT_CASES.keys(), counts


def test_what_is_said_of_a_case_is_said_of_one_that_is_there() -> None:
    assert {case.note for case in hosted_cases()} >= NOT_APPLICABLE.keys()


def test_every_function_of_opa_is_in_wasm_or_hosted_or_refused_in_writing() -> None:
    native, hosted = native_functions(), HOST_FUNCTIONS.keys()
    assert not native & hosted
    assert hosted <= all_functions()
    section = DOCUMENT.read_text().partition("### Built-in functions")[2]
    refused = section.partition("Never\nthere are:")[2].partition("Where OPA's own")[0]
    patterns = [*re.findall("`([^`]+)`", refused), *WITHOUT_A_CALL]
    left = {
        name
        for name in all_functions() - native - hosted
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    assert not left
