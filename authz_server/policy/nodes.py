"""A YAML file as nodes that know their place, with every problem collected.

The reader is built on the parser's events and not on its composer: the composer
recurses, follows aliases and builds objects of tags, none of which a security policy
needs. It knows YAML, and nothing of access policies.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import yaml
from yaml.resolver import Resolver

from authz_server.errors import PolicyError
from authz_server.policy.item_lines import ItemLines, ShortenedText, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""About 200,000 SPIFFE IDs; a bound on what one reload may cost."""

MAX_NESTING: Final = 16
"""An access policy needs 8 levels."""

_SHOWN_PROBLEMS: Final = 50
_SHOWN_NAMES: Final = 20
_MAX_CANDIDATES: Final = 2000
"""Above it no near names are looked for: the search reads every name each time."""

_ENDS: Final = frozenset(
    {"found unexpected end of stream", "found unexpected document indicator"}
)
_TAG_PREFIX: Final = "tag:yaml.org,2002:"
_STRING: Final = "string"
_KINDS: Final = {
    "str": _STRING,
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
                    _scalar(held, number, self.place.source)
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
            elif isinstance(held, Scalar) and held.kind == _STRING and held.text:
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


def _scalar(lines: ItemLines, number: int, source: str) -> Scalar:
    place = Place(lines.line + number, lines.column, source)
    return Scalar(place, lines.texts[number], _STRING)


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
            if key.kind != _STRING:
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
            self._wrong_type(node, what, _STRING)
            return None
        if node.kind != _STRING:
            self._not_a_string(node, what)
            return None
        if not node.text:
            self.add(node, f"{what} is empty", "write a value")
            return None
        return node

    def _wrong_type(self, node: Node, what: str, expected: str) -> None:
        self.add(
            node,
            f"{what} must be a {expected}, not {_article(node.kind)}",
            f"write a {expected} here",
        )

    def _not_a_string(self, scalar: Scalar, what: str) -> None:
        if scalar.kind == _KINDS["null"]:
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
    if kind in {_KINDS["null"], _KINDS["bool"]}:
        return kind
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


# libyaml is some twenty times faster; PyYAML can be built without it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Mark(Protocol):
    """Where libyaml or PyYAML saw something, counted from 0."""

    line: int
    column: int


class _Composer:
    """Turns a stream of parser events into one tree, without recursion."""

    def __init__(self, problems: Problems, text: ShortenedText, source: str) -> None:
        self._problems = problems
        self._text = text
        self._waiting = {run.line: run for run in text.runs}
        self._source = source
        self._resolver = Resolver()
        self._open: list[Sequence | Map] = []
        self._keys: list[Node | None] = []
        self.documents = 0
        self.root: Node | None = None

    @property
    def is_whole(self) -> bool:
        """Whether everything that was left out of the text has found its place."""
        return not self._waiting

    def feed(self, event: yaml.Event) -> bool:
        """Take one event; return whether the next one is wanted."""
        place = self._place(event.start_mark)
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            return self._node(event, place)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._problems.add(
                    place, "a second YAML document begins", "keep one in a file"
                )
                return False
        elif isinstance(event, yaml.AliasEvent):
            self._problems.add(
                place, f"alias '*{event.anchor}' is not allowed", "write it out"
            )
            self._attach(Scalar(place, "", "alias"))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._attach_closed()
        return True

    def _node(self, event: yaml.NodeEvent, place: Place) -> bool:
        if event.anchor is not None:
            self._problems.add(
                place, f"anchor '&{event.anchor}' is not allowed", "take it out"
            )
        if isinstance(event, yaml.ScalarEvent):
            if not event.value.isascii() and not _is_unicode(event.value):
                self._problems.add(
                    place, "half of a surrogate pair", "write the character itself"
                )
            scalar = Scalar(place, event.value, self._kind(event, place))
            if not self._put_back(scalar):
                self._attach(scalar)
            return True
        if isinstance(event, yaml.CollectionStartEvent) and event.tag is not None:
            self._tagged(event.tag, place)
        if len(self._open) == MAX_NESTING:
            self._problems.add(
                place, f"nested deeper than {MAX_NESTING} levels", "flatten it"
            )
            return False
        is_list = isinstance(event, yaml.SequenceStartEvent)
        self._open.append(Sequence(place) if is_list else Map(place))
        self._keys.append(None)
        return True

    def _put_back(self, first: Scalar) -> bool:
        """Attach a run of items if `first` is the one that was left of it."""
        run = self._waiting.get(first.place.line)
        parent = self._open[-1] if self._open else None
        if (
            run is None
            or first != _scalar(run, 0, self._source)
            or not isinstance(parent, Sequence)
        ):
            return False
        parent.held.append(run)
        del self._waiting[run.line]
        return True

    def _place(self, mark: _Mark | None) -> Place:
        place = _place(mark, self._source)
        if not self._text.runs:
            return place
        return Place(self._text.original_line(place.line), place.column, place.source)

    def _kind(self, event: yaml.ScalarEvent, place: Place) -> str:
        if event.tag is not None:
            self._tagged(event.tag, place)
        if event.style or event.value[:1] not in Resolver.yaml_implicit_resolvers:
            return _STRING
        tag: object = self._resolver.resolve(  # type: ignore[no-untyped-call]
            yaml.ScalarNode, event.value, event.implicit
        )
        name = str(tag).removeprefix(_TAG_PREFIX)
        return _KINDS.get(name, name)

    def _tagged(self, tag: str, place: Place) -> None:
        shown = tag.replace(_TAG_PREFIX, "!!")
        self._problems.add(place, f"tag {shown!r} is not allowed", "take it out")

    def _attach_closed(self) -> None:
        node = self._open.pop()
        self._keys.pop()
        self._attach(node)

    def _attach(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent, Sequence):
            parent.held.append(node)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = node
            return
        self._keys[-1] = None
        if isinstance(key, Scalar):
            parent.entries.append((key, node))
        else:
            self._problems.add(
                key, f"a key must be a string, not a {key.kind}", "write a name"
            )


def compose(text: str, source: str, problems: Problems) -> Node | None:
    """Return the root of the one document in `text`; what is amiss is in `problems`.

    Args:
        source: names the document in problems.
    """
    start = Place(1, 1, source)
    # A lone surrogate is the only text that UTF-8 cannot hold.
    size = len(text if text.isascii() else text.encode("utf-8", "surrogatepass"))
    if size > MAX_DOCUMENT_BYTES:
        problems.add(
            start,
            f"the document has {size} bytes, more than {MAX_DOCUMENT_BYTES}",
            "use wildcard patterns",
        )
        return None
    shortened = shorten(text)
    if shortened.runs:
        # What is wrong is found, and placed, in the text as it is.
        found = Problems()
        root = _compose(shortened, source, found)
        if root is not None and not found.found:
            return root
    return _compose(ShortenedText(text), source, problems)


def _compose(text: ShortenedText, source: str, problems: Problems) -> Node | None:
    """Return the root of the document in `text`, if nothing was left out for good."""
    start = Place(1, 1, source)
    composer = _Composer(problems, text, source)
    try:
        for event in yaml.parse(text.text, Loader=_LOADER):
            if not composer.feed(event):
                return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.problem in _ENDS and error.context_mark is not None:
            mark = error.context_mark  # where that began which does not end
        problems.add(
            _place(mark, source), f"not YAML: {error.problem}", "correct the syntax"
        )
        return None
    except yaml.reader.ReaderError as error:
        # libyaml counts bytes.
        data = text.text.encode("utf-8", "surrogatepass")[: error.position]
        before = data.decode("utf-8", "replace")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"), source)
        problems.add(place, "not YAML: a control character", "take it out")
        return None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        problems.add(start, f"not YAML: {_first_line(error)}", "use printable text")
        return None
    if composer.root is None:
        problems.add(start, "the document is empty", "write an access policy")
    return composer.root if composer.is_whole else None


def _place(mark: _Mark | None, source: str) -> Place:
    if mark is None:
        return Place(1, 1, source)
    return Place(mark.line + 1, mark.column + 1, source)


def _is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogate, which only PyYAML's own parser lets by."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
