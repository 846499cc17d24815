"""A document as nodes that know their place, with every problem collected.

`yaml_nodes` and `json_nodes` make the nodes. Nothing here knows access policies.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from authz_server.errors import PolicyError
from authz_server.policy.item_lines import ItemLines

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_PROBLEMS: Final = 50
_SHOWN_NAMES: Final = 20
_MAX_CANDIDATES: Final = 2000
"""Above it no near names are looked for: the search reads every name each time."""

MAX_NESTING: Final = 16
"""Levels of a document; an access policy needs 8."""

STRING: Final = "string"
KINDS: Final = {
    "str": STRING,
    "int": "integer",
    "float": "number",
    "bool": "true/false",
    "null": "nothing",
}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a document, where it is, and how to mend it."""

    source: str
    line: int
    column: int
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}: {self.message}; {self.mend}"


class PolicyDocumentError(PolicyError):
    """A policy file is unusable; holds every problem found, in the file's order.

    Attributes:
        problems: at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        lines = [str(problem) for problem in self.problems[:_SHOWN_PROBLEMS]]
        if len(self.problems) > _SHOWN_PROBLEMS:
            lines.append(f"... and {len(self.problems) - _SHOWN_PROBLEMS} more")
        super().__init__("\n".join(lines))


class Place(NamedTuple):
    """Line and column, both counted from 1, in the file `source`."""

    line: int
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


class Scalar(NamedTuple):
    """A single value; `kind` is what YAML takes it for, e.g. ``integer`` for ``1``."""

    place: Place
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list.

    Attributes:
        held: its items, where those of long lists stay together.
    """

    place: Place
    held: list[Node | ItemLines] = field(default_factory=list)
    kind: str = "list"

    @property
    def items(self) -> list[Node]:
        """Its items, each as a node of its own, which a long list has no room for."""
        items: list[Node] = []
        for held in self.held:
            if isinstance(held, ItemLines):
                items += [
                    item_scalar(held, number, self.place.source)
                    for number in range(len(held.texts))
                ]
            else:
                items.append(held)
        return items

    def texts(self) -> list[str] | None:
        """Return its items if all are strings that are not empty."""
        texts: list[str] = []
        for held in self.held:
            if isinstance(held, ItemLines):
                texts += held.texts
            elif isinstance(held, Scalar) and held.kind == STRING and held.text:
                texts.append(held.text)
            else:
                return None
        return texts


@dataclass(frozen=True, slots=True)
class Map:
    """A mapping, duplicates included; keys that are not scalars are left out."""

    place: Place
    entries: list[tuple[Scalar, Node]] = field(default_factory=list)
    kind: str = "mapping"


Node = Scalar | Sequence | Map


def item_scalar(lines: ItemLines, number: int, source: str) -> Scalar:
    """Return one of the items that are held together, as a node of its own."""
    place = Place(lines.line + number, lines.column, source)
    return Scalar(place, lines.texts[number], STRING)


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return the mend for an unknown name: the nearest known one, or all of them."""
    known = sorted(map(str, candidates))
    near = (
        difflib.get_close_matches(name, known, n=1)
        if len(known) <= _MAX_CANDIDATES
        else []
    )
    if near:
        return f"did you mean {near[0]!r}?"
    if not known:
        return "none is defined"
    more = ", ..." if len(known) > _SHOWN_NAMES else ""
    return f"use one of: {', '.join(known[:_SHOWN_NAMES])}{more}"


class Problems:
    """Collects the problems of a policy, and reads typed values from its nodes.

    Each reading method returns what is usable and notes what is not, so that one run
    finds everything.
    """

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, where: Node | Place, message: str, mend: str) -> None:
        """Note a problem at `where`."""
        place = where if isinstance(where, Place) else where.place
        self.found.append(
            Problem(place.source, place.line, place.column, message, mend)
        )

    def fields(
        self, node: Node, what: str, required: Iterable[str], optional: Iterable[str]
    ) -> dict[str, Node]:
        """Return the known keys of a mapping with fixed keys."""
        required = tuple(required)
        known = {*required, *optional}
        if not isinstance(node, Map):
            self._wrong_type(node, what, "mapping")
            return {}
        fields: dict[str, Node] = {}
        for key, value in node.entries:
            # By its text alone: `on:` is a boolean to YAML 1.1.
            if key.text not in known:
                self.add(
                    key, f"unknown key {key.text!r} in {what}", suggest(key.text, known)
                )
            elif key.text in fields:
                self._duplicate_key(key, what, fields[key.text])
            else:
                fields[key.text] = value
        for name in required:
            if name not in fields:
                self.add(node, f"{what} has no {name!r}", f"add '{name}:'")
        return fields

    def entries(self, node: Node | None, what: str) -> list[tuple[Scalar, Node]]:
        """Return the entries of a mapping whose keys are names of the author's."""
        if node is None:
            return []
        if not isinstance(node, Map):
            self._wrong_type(node, what, "mapping")
            return []
        seen: dict[str, Scalar] = {}
        entries = []
        for key, value in node.entries:
            if key.kind != STRING:
                self._not_a_string(key, f"key in {what}")
            elif key.text in seen:
                self._duplicate_key(key, what, seen[key.text])
            else:
                seen[key.text] = key
                entries.append((key, value))
        return entries

    def items(
        self, node: Node | None, what: str, mend_empty: str = "leave the key out"
    ) -> list[Node]:
        """Return the items of a list that is not empty."""
        if node is None:
            return []
        items = self.sequence(node, what)
        if not items and isinstance(node, Sequence):
            self.add(node, f"{what} is empty", mend_empty)
        return items

    def sequence(self, node: Node, what: str) -> list[Node]:
        """Return the items of a list, which may be empty."""
        if not isinstance(node, Sequence):
            self._wrong_type(node, what, "list")
            return []
        return node.items

    def strings(
        self, node: Node | None, what: str, mend_empty: str = "leave the key out"
    ) -> list[Scalar]:
        """Return the items of a list of distinct strings."""
        strings: dict[str, Scalar] = {}
        for item in self.items(node, what, mend_empty):
            scalar = self.string(item, f"item of {what}")
            if scalar is None:
                continue
            if scalar.text in strings:
                self.add(scalar, f"{scalar.text!r} is twice in {what}", "take one out")
            else:
                strings[scalar.text] = scalar
        return list(strings.values())

    def string(self, node: Node | None, what: str) -> Scalar | None:
        """Return a string that is not empty."""
        if node is None:
            return None
        if not isinstance(node, Scalar):
            self._wrong_type(node, what, STRING)
            return None
        if node.kind != STRING:
            self._not_a_string(node, what)
            return None
        if not node.text:
            self.add(node, f"{what} is empty", "write a value")
            return None
        return node

    def boolean(self, node: Node | None, what: str) -> bool:
        """Return whether ``true`` is written; false without a node."""
        if node is None:
            return False
        if not isinstance(node, Scalar) or node.text not in {"true", "false"}:
            self.add(node, f"{what} must be true or false", "write one of them")
            return False
        return node.text == "true"

    def _wrong_type(self, node: Node, what: str, expected: str) -> None:
        self.add(
            node,
            f"{what} must be a {expected}, not {_article(node.kind)}",
            f"write a {expected} here",
        )

    def _not_a_string(self, scalar: Scalar, what: str) -> None:
        if scalar.kind == KINDS["null"]:
            self.add(scalar, f"{what} has no value", "write one, or leave the key out")
            return
        self.add(
            scalar,
            f"{what} must be a string, but YAML reads {scalar.text} as "
            f"{_article(scalar.kind)}",
            f'quote it: "{scalar.text}"',
        )

    def _duplicate_key(self, key: Scalar, what: str, first: Node) -> None:
        elsewhere = first.place.source != key.place.source
        also = f", also at {first.place}" if elsewhere else ""
        self.add(key, f"key {key.text!r} is twice in {what}{also}", "take one out")


def _article(kind: str) -> str:
    if kind in {KINDS["null"], KINDS["bool"]}:
        return kind
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"
