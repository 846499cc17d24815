"""Prints how a candidate policy's answers differ, each difference once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_OPERATION: Final = ("action", "scope", "model", "version", "adapter", "dataset")
_WHO: Final = ("principal", "user_issuer", "user")
_ANSWERS: Final = ("reason", "candidate_reason", "role", "candidate_role")
_KEY: Final = ("change", *_WHO, *_OPERATION, "upstream", *_ANSWERS)


@dataclass(slots=True)
class _Seen:
    """One difference.

    Attributes:
        first, last: when it was seen, as the file has it.
    """

    count: int
    first: str
    last: str


def print_differences(events: Iterable[Mapping[str, Any]], output: str) -> bool:
    """Print the differences among `events`, the most frequent first.

    Args:
        output: ``table`` or ``json``.

    Returns:
        Whether one of them widens access.
    """
    seen = _collect(events)
    rows = sorted(seen.items(), key=lambda item: (-item[1].count, item[0]))
    if output == "json":
        print(
            json.dumps(
                [
                    {
                        **dict(zip(_KEY, key, strict=True)),
                        "count": found.count,
                        "first": found.first,
                        "last": found.last,
                    }
                    for key, found in rows
                ],
                indent=2,
            )
        )
    else:
        for key, found in rows:
            print(_line(dict(zip(_KEY, key, strict=True)), found))
        if not rows:
            print("no differences")
    return any(key[0] == "widens" for key in seen)


def _collect(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], _Seen]:
    seen: dict[tuple[str, ...], _Seen] = {}
    for event in events:
        key = tuple(str(event.get(name, "")) for name in _KEY)
        time = str(event.get("time", ""))
        found = seen.setdefault(key, _Seen(0, time, time))
        found.count += 1
        found.first, found.last = min(found.first, time), max(found.last, time)
    return seen


def _line(key: Mapping[str, str], found: _Seen) -> str:
    target = key["dataset"] or key["model"] or key["scope"]
    target += f"@{key['version']}" if key["version"] else ""
    target += f"+{key['adapter']}" if key["adapter"] else ""
    user = f" for {key['user']}" if key["user"] else ""
    before, after = (
        f"{reason} ({role})" if role else reason
        for reason, role in (
            (key["reason"], key["role"]),
            (key["candidate_reason"], key["candidate_role"]),
        )
    )
    return (
        f"{key['change']:<8}{found.count:>7}  {key['action']} {target} at "
        f"{key['upstream']} by {key['principal']}{user}: {before} -> {after}"
    )
