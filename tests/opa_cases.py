"""OPA's own conformance cases, out of the source of the pinned version."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from authz_server.policy.building import OPA_VERSION
from authz_server.policy.builtins.values import order_key

MODULE = f"github.com/open-policy-agent/opa@v{OPA_VERSION}"
CASES = "v1/test/cases/testdata/v1"


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        note: its name, unlike any other's.
        query: what gives the bindings.
        input_term: the input in Rego's notation, if it is given so.
        wanted: the bindings; None if an error is wanted.
        error: the code of an error that is wanted; empty for none.
        is_lenient: whether the error is none outside of OPA's strict mode, but makes
            the result undefined.
    """

    note: str
    query: str
    modules: tuple[str, ...]
    data: dict[str, Any]
    input: Any
    input_term: str
    wanted: list[dict[str, Any]] | None
    error: str
    is_lenient: bool

    @property
    def text(self) -> str:
        return "\n".join((*self.modules, self.query))


@cache
def source_folder() -> Path:
    """Return where the source of the pinned OPA is, from which it was installed."""
    found = subprocess.run(
        ["go", "mod", "download", "-json", MODULE],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(json.loads(found.stdout)["Dir"])


def load_cases() -> list[Case]:
    """Return all cases for Rego v1, by name."""
    found = []
    for path in sorted((source_folder() / CASES).rglob("*.yaml")):
        document = yaml.load(path.read_text(), _Loader)
        found += [_read(case) for case in document["cases"]]
    return sorted(found, key=lambda case: case.note)


def uses(text: str, name: str) -> bool:
    """Return whether the Rego in `text` calls the function `name`."""
    return re.search(rf"(?<![\w.]){re.escape(name)}\(", text) is not None


def agree(found: Any, wanted: Any) -> bool:
    """Return whether the values are equal; true is not 1.

    JSON has no sets: OPA lists theirs in order, and Wasm in any.
    """
    if isinstance(found, list) and isinstance(wanted, list):
        if len(found) != len(wanted):
            return False
        ordered = sorted(wanted, key=order_key)
        return all(map(agree, found, wanted)) or (
            order_key(wanted) == order_key(ordered)
            and all(map(agree, sorted(found, key=order_key), wanted))
        )
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(
            agree(found[key], wanted[key]) for key in found
        )
    return order_key(found) == order_key(wanted)


def _read(case: dict[str, Any]) -> Case:
    error = case.get("want_error_code") or case.get("want_error") or ""
    wanted = case.get("want_result")
    if wanted is None and case.get("want_defined") is False:
        wanted = []
    return Case(
        note=case["note"],
        query=case["query"],
        modules=tuple(case.get("modules") or ()),
        data=case.get("data") or {},
        input=case.get("input"),
        input_term=case.get("input_term", ""),
        wanted=None if error else wanted,
        error=error,
        is_lenient=bool(case.get("strict_error")),
    )


class _Loader(yaml.CSafeLoader):
    """Reads YAML as Go does: a date is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if "timestamp" not in tag]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
