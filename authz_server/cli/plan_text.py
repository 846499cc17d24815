"""Plans as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from authz_server.cluster.difference import ABSENT, Difference
from authz_server.cluster.instructions import instructions
from authz_server.cluster.records import RecordStep
from authz_server.cluster.steps import Change, Leave, Plan, Step

_INDENT = " " * 10


def print_plan(plan: Plan, output: str) -> None:
    """Print `plan`; as ``table``, what is kept is only counted."""
    if output == "json":
        print(json.dumps({"steps": [_as_json(step) for step in plan.steps]}, indent=2))
        return
    for step in plan.steps:
        for line in step_lines(step):
            print(line)
    counts = Counter(action(step) for step in plan.steps)
    print(
        f"{counts['create']} to create, {counts['change']} to change, "
        f"{counts['delete']} to delete, {counts['keep']} as they should be"
    )


def print_records(steps: Sequence[RecordStep], output: str) -> None:
    """Print what differs from what was emitted last, and what to run about it."""
    if output == "json":
        print(json.dumps({"steps": [_record_json(s) for s in steps]}, indent=2))
        return
    for step in steps:
        print(f"{step.action:<8}{step.key}")
        for line in (*_difference_lines(step.differences), *_commands(step)):
            print(line)
    counts = Counter(step.action for step in steps)
    print(
        f"{counts['create']} to create, {counts['change']} to change, "
        f"{counts['delete']} to delete"
    )


def action(step: Step) -> str:
    """Return ``create``, ``change``, ``keep``, ``delete`` or ``leave``."""
    return type(step).__name__.lower()


def step_lines(step: Step) -> Iterator[str]:
    """Yield `step` as lines; none for what is kept."""
    name = action(step)
    if name == "keep":
        return
    yield f"{name:<8}{step.key}" + (f": {step.why}" if isinstance(step, Leave) else "")
    if isinstance(step, Change):
        yield from _difference_lines(step.differences)
        if not step.differences and not step.conflicts:
            yield f"{_INDENT}as it should be; its fields become those of authz-server"
        for conflict in step.conflicts:
            yield f"{_INDENT}conflict: {conflict}"


def _difference_lines(found: Iterable[Difference]) -> Iterator[str]:
    for difference in found:
        for line in difference.lines():
            yield f"{_INDENT}{line}"


def _commands(step: RecordStep) -> Iterator[str]:
    for line in instructions(step):
        yield f"{_INDENT}$ {line}"


def _as_json(step: Step) -> dict[str, Any]:
    described: dict[str, Any] = {
        "action": action(step),
        "apiVersion": step.key.api_version,
        "kind": step.key.kind,
        "namespace": step.key.namespace,
        "name": step.key.name,
    }
    if isinstance(step, Change):
        described["differences"] = _differences_json(step.differences)
        described["conflicts"] = [
            {"owner": item.owner, "fields": list(item.fields)}
            for item in step.conflicts
        ]
    if isinstance(step, Leave):
        described["why"] = step.why
    return described


def _record_json(step: RecordStep) -> dict[str, Any]:
    return {
        "action": step.action,
        "target": step.key.target,
        "section": step.key.section,
        "name": step.key.name,
        "differences": _differences_json(step.differences),
        "commands": list(instructions(step)),
    }


def _differences_json(found: Iterable[Difference]) -> list[dict[str, Any]]:
    """Return differences; a side where the field is absent is left out."""
    return [
        {"path": item.path}
        | {
            side: value
            for side, value in (("old", item.old), ("new", item.new))
            if value is not ABSENT
        }
        for item in found
    ]
