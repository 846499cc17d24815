"""What a delta bundle changes in the data document.

The operations are OPA's (https://www.openpolicyagent.org/docs/latest/management-bundles/
#delta-bundles): those of JSON Patch (RFC 6902), of which `upsert` adds or replaces and
makes the objects above it.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz_server.errors import PolicyError
from authz_server.policy.bundles.manifest import Path
from authz_server.strict_json import parse_json_object

PATCH: Final = "patch.json"

_UPSERT: Final = "upsert"
_REMOVE: Final = "remove"
_REPLACE: Final = "replace"
_OPERATIONS: Final = (_UPSERT, _REMOVE, _REPLACE)
_END: Final = "-"
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)  # RFC 6901 §4


@dataclass(frozen=True, slots=True)
class Change:
    """One operation on one place of the data document."""

    operation: str
    path: Path
    value: Any = None


def parse_patch(text: bytes) -> tuple[Change, ...]:
    """Return the changes that a `patch.json` lists.

    Raises:
        PolicyError: if it is none.
    """
    try:
        document = parse_json_object(text)
    except ValueError as error:
        raise PolicyError(f"the bundle's {PATCH} is no JSON: {error}") from error
    entries = document.get("data", [])
    if document.keys() - {"data"} or not isinstance(entries, list):
        raise PolicyError(f"the bundle's {PATCH} is no list of changes to data")
    return tuple(map(_change, entries))


def apply_patch(
    data: Mapping[str, Any], changes: Sequence[Change]
) -> Mapping[str, Any]:
    """Return `data` after all `changes`; `data` itself stays as it is.

    Raises:
        PolicyError: if one of them has nothing to change.
    """
    result: Any = data
    for change in changes:
        try:
            result = _changed(result, change.path, change)
        except LookupError as error:
            raise PolicyError(
                f"the delta bundle cannot {change.operation} "
                f"/{'/'.join(change.path)}: there is no such place"
            ) from error
    if not isinstance(result, dict):
        raise PolicyError("the delta bundle leaves no object of data")
    return result


def _change(entry: object) -> Change:
    if isinstance(entry, dict):
        operation, path = entry.get("op"), entry.get("path")
        if operation in _OPERATIONS and isinstance(path, str):
            steps = tuple(map(_unescape, path.strip("/").split("/")))
            if steps != ("",):
                return Change(operation, steps, entry.get("value"))
    raise PolicyError(
        f"the bundle's {PATCH} has something that is no {_UPSERT}, {_REMOVE} or "
        f"{_REPLACE} of a path below the root"
    )


def _unescape(step: str) -> str:
    # First as in a URL and then as in a JSON pointer (RFC 6901 §4), as OPA does.
    return urllib.parse.unquote(step).replace("~1", "/").replace("~0", "~")


def _changed(node: Any, path: Path, change: Change) -> Any:  # noqa: ANN401 - JSON
    """Return `node` with the change at `path` below it, sharing what stays."""
    step, rest = path[0], path[1:]
    if isinstance(node, dict):
        return _changed_object(node, step, rest, change)
    if isinstance(node, list):
        return _changed_array(node, step, rest, change)
    raise LookupError(step)


def _changed_object(
    node: dict[str, Any], step: str, rest: Path, change: Change
) -> dict[str, Any]:
    if rest:
        below = node.get(step, {} if change.operation == _UPSERT else None)
        return {**node, step: _changed(below, rest, change)}
    if change.operation != _UPSERT and step not in node:
        raise LookupError(step)
    if change.operation == _REMOVE:
        return {key: value for key, value in node.items() if key != step}
    return {**node, step: change.value}


def _changed_array(node: list[Any], step: str, rest: Path, change: Change) -> list[Any]:
    if not rest and step in {_END, str(len(node))} and change.operation == _UPSERT:
        return [*node, change.value]
    if _INDEX.fullmatch(step) is None or int(step) >= len(node):
        raise LookupError(step)
    index = int(step)
    before, behind = node[:index], node[index + 1 :]
    if rest:
        return [*before, _changed(node[index], rest, change), *behind]
    if change.operation == _REMOVE:
        return [*before, *behind]
    if change.operation == _UPSERT:
        return [*before, change.value, node[index], *behind]
    return [*before, change.value, *behind]
