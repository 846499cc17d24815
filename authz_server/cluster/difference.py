"""How two objects differ, field by field, in words that a person can read."""

from __future__ import annotations

import difflib
import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SERVER_FIELDS: Final = frozenset(
    {
        "status",
        "metadata.managedFields",
        "metadata.resourceVersion",
        "metadata.generation",
        "metadata.uid",
        "metadata.creationTimestamp",
        "metadata.selfLink",
    }
)
"""What the API server keeps for itself: no difference there is anybody's wish."""

MAX_SHOWN: Final = 240
"""Characters of a value on one line."""

# Fields by which an item of a list is known, whatever its place (containers, ports, …).
_NAMES: Final = ("name", "mountPath", "containerPort")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)


class Absent(enum.Enum):
    """Stands where a field is not there at all; null is a value."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs.

    Attributes:
        path: ``spec.ports[0].port``; of a list's item, its place in the list that it
            is in (the old one, if it is in both).
    """

    path: str
    old: Any
    new: Any

    def lines(self) -> tuple[str, ...]:
        """Return it as text: one line, or several where text of several changes."""
        if _is_text(self.old) and _is_text(self.new):
            changed = difflib.unified_diff(
                self.old.splitlines(), self.new.splitlines(), lineterm="", n=1
            )
            # The first two name files, which there are none of.
            return f"{self.path}:", *(f"  {line}" for line in list(changed)[2:])
        return (f"{self.path}: {_shown(self.old)} → {_shown(self.new)}",)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """Return how `new` differs from `old`, fields of the API server aside."""
    return tuple(_compare("", old, new))


def _compare(path: str, old: Any, new: Any) -> Iterator[Difference]:  # noqa: ANN401
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _compare_mappings(path, old, new)
    elif _is_list(old) and _is_list(new):
        names = _names(old, new)
        if names is None:
            yield from _compare_lists(path, old, new)
        else:
            yield from _compare_named(path, names, old, new)
    elif old != new or type(old) is not type(new):  # 1 is no true
        yield Difference(path, old, new)


def _compare_mappings(
    path: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Difference]:
    for key in sorted({*old, *new}):
        if not _PLAIN_KEY.fullmatch(key):
            inner = f"{path}[{json.dumps(key, ensure_ascii=False)}]"
        else:
            inner = f"{path}.{key}" if path else key
        if inner not in SERVER_FIELDS:
            yield from _compare(inner, old.get(key, ABSENT), new.get(key, ABSENT))


def _compare_named(
    path: str, name: str, old: Sequence[Any], new: Sequence[Any]
) -> Iterator[Difference]:
    before = {item[name]: item for item in old}
    after = {item[name]: item for item in new}
    for value in [*before, *(value for value in after if value not in before)]:
        yield from _compare(
            f"{path}[{name}={value}]",
            before.get(value, ABSENT),
            after.get(value, ABSENT),
        )
    common = [value for value in before if value in after]
    if common != [value for value in after if value in before]:
        yield Difference(f"{path} (order)", list(before), list(after))


def _compare_lists(
    path: str, old: Sequence[Any], new: Sequence[Any]
) -> Iterator[Difference]:
    # Aligned, so that an item put first is one difference and not one for each item.
    matcher = difflib.SequenceMatcher(
        a=[_canonical(item) for item in old],
        b=[_canonical(item) for item in new],
        autojunk=False,
    )
    for _, start, end, new_start, new_end in matcher.get_opcodes():
        paired = min(end - start, new_end - new_start)
        for i in range(paired):
            yield from _compare(
                f"{path}[{start + i}]", old[start + i], new[new_start + i]
            )
        for i in range(start + paired, end):
            yield Difference(f"{path}[{i}]", old[i], ABSENT)
        for i in range(new_start + paired, new_end):
            yield Difference(f"{path}[{i}]", ABSENT, new[i])


def _names(old: Sequence[Any], new: Sequence[Any]) -> str | None:
    """Return the field that tells the items of both lists apart; None if none does."""
    for name in _NAMES:
        if all(_are_told_by(name, items) for items in (old, new)):
            return name
    return None


def _are_told_by(name: str, items: Sequence[Any]) -> bool:
    values = [item.get(name) if isinstance(item, Mapping) else None for item in items]
    return all(isinstance(value, str | int) for value in values) and len(
        set(values)
    ) == len(values)


def _is_list(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_text(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, str) and "\n" in value


def _canonical(value: Any) -> str:  # noqa: ANN401 - any JSON
    return json.dumps(value, sort_keys=True)


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON
    if value is ABSENT:
        return "(none)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
