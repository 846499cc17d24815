"""Makes nodes of YAML.

The reader is built on the parser's events and not on its composer: the composer
recurses, follows aliases and builds objects of tags, none of which a security policy
needs.
"""

from __future__ import annotations

from typing import Final, Protocol

import yaml
from yaml.resolver import Resolver

from authz_server.policy.item_lines import ShortenedText, shorten
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
    item_scalar,
)

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""About 200,000 SPIFFE IDs; a bound on what one reload may cost."""

_ENDS: Final = frozenset(
    {"found unexpected end of stream", "found unexpected document indicator"}
)
_TAG_PREFIX: Final = "tag:yaml.org,2002:"

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
            or first != item_scalar(run, 0, self._source)
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
            return STRING
        tag: object = self._resolver.resolve(  # type: ignore[no-untyped-call]
            yaml.ScalarNode, event.value, event.implicit
        )
        name = str(tag).removeprefix(_TAG_PREFIX)
        return KINDS.get(name, name)

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
