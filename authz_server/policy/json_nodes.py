"""Makes nodes of JSON that was parsed, as it comes in a bundle.

A place in it is where ``jq .`` shows the value: every member and every item on a line
of its own, two spaces deeper than what it is in.
"""

from __future__ import annotations

import json
from typing import Any, Final

from authz_server.policy.item_lines import ItemLines
from authz_server.policy.nodes import (
    KINDS,
    MAX_NESTING,
    STRING,
    Map,
    Node,
    Place,
    Problems,
    Scalar,
    Sequence,
)

_INDENT: Final = 2
_KIND_OF: Final = {
    str: STRING,
    int: KINDS["int"],
    float: KINDS["float"],
    bool: KINDS["bool"],
    type(None): KINDS["null"],
}


def nodes_of(value: object, source: str, problems: Problems) -> Node | None:
    """Return the root of `value`; None, with a problem noted, if it is nested too deep.

    Args:
        value: JSON as Python reads it.
        source: names the document in problems.
    """
    layout = _Layout(source)
    try:
        return layout.node(value, 1, 0)
    except _TooDeepError as error:
        problems.add(
            error.place, f"nested deeper than {MAX_NESTING} levels", "flatten it"
        )
        return None


class _TooDeepError(Exception):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


class _Layout:
    """Knows on which line it is.

    Raises nothing but `_TooDeepError`.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._line = 1

    def node(self, value: Any, column: int, depth: int) -> Node:  # noqa: ANN401 - JSON
        """Return the node of `value`, which begins here, and go to where it ends."""
        place = Place(self._line, column, self._source)
        if not isinstance(value, dict | list):
            text = value if isinstance(value, str) else json.dumps(value)
            return Scalar(place, text, _KIND_OF[type(value)])
        if depth == MAX_NESTING:
            raise _TooDeepError(place)
        made = (
            self._map(value, place, depth)
            if isinstance(value, dict)
            else self._list(value, place, depth)
        )
        if value:
            self._line += 1  # the closing bracket's
        return made

    def _map(self, value: dict[str, Any], place: Place, depth: int) -> Map:
        made = Map(place)
        column = 1 + _INDENT * (depth + 1)
        for key, member in value.items():
            self._line += 1
            name = Scalar(Place(self._line, column, self._source), key, STRING)
            behind = column + len(json.dumps(key, ensure_ascii=False)) + len(": ")
            made.entries.append((name, self.node(member, behind, depth + 1)))
        return made

    def _list(self, value: list[Any], place: Place, depth: int) -> Sequence:
        made = Sequence(place)
        column = 1 + _INDENT * (depth + 1)
        if value and all(isinstance(item, str) and item for item in value):
            # Long lists are lists of names, and small as long as they stay together.
            made.held.append(ItemLines(self._line + 1, column, value))
            self._line += len(value)
            return made
        for item in value:
            self._line += 1
            made.held.append(self.node(item, column, depth + 1))
        return made
