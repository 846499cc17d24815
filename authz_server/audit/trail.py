"""Reads what was recorded: JSON objects, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from authz_server.errors import AuditError


def read_events(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the events of `files`, in their order.

    Raises:
        AuditError: if a file cannot be read, or a line is no event.
    """
    for file in files:
        try:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    yield _event(line, f"{file}:{number}")
        except (OSError, UnicodeDecodeError) as error:
            raise AuditError(f"{file}: cannot be read: {error}") from error


def _event(line: str, place: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise AuditError(f"{place}: not an event; take the line out") from error
    if not isinstance(event, dict):
        raise AuditError(f"{place}: not an event; take the line out")
    return event
