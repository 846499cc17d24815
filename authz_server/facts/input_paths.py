"""Which parts of an input document a policy reads, as a value.

The module knows paths only: not what lies at them, and not who reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

Path = tuple[str, ...]
"""Object keys from the top of the document downwards."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_POSITION: Final = re.compile(r"\[(?:0|[1-9][0-9]*)\]", re.ASCII)

_HTTP: Final = ("attributes", "request", "http")
_HEADERS: Final = (*_HTTP, "headers")
_VOLATILE: Final = (
    ("attributes", "request", "time"),
    # Envoy's id of the stream, and what it or a tracer numbers requests with.
    (*_HTTP, "id"),
    (*_HTTP, "headerMap"),
    (*_HEADERS, "x-request-id"),
    (*_HEADERS, "traceparent"),
    (*_HEADERS, "b3"),
    (*_HEADERS, "x-b3-traceid"),
    (*_HEADERS, "x-b3-spanid"),
)
"""What differs between any two requests. ``headerMap`` is an array, taken whole."""


@dataclass(frozen=True, slots=True)
class InputPaths:
    """A set of paths; each stands for the whole subtree below it.

    The empty path stands for everything. A path that goes through an array ends there:
    positions are never told apart. Whatever the arguments, `paths` is sorted and holds
    no path below another, so equal sets are equal values.

    Attributes:
        paths: the paths.
    """

    paths: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        kept: list[Path] = []
        # A path sorts right behind those that it lies below.
        for path in sorted(set(self.paths)):
            if not kept or path[: len(kept[-1])] != kept[-1]:
                kept.append(path)
        object.__setattr__(self, "paths", tuple(kept))

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Return the set of the paths in `texts`.

        Dots separate keys; a key that is no plain name stands in brackets, as in Rego:
        ``attributes.request.http.headers["x-role"]``. The empty text is everything.

        Raises:
            ValueError: if a text is no such path; the message quotes it.
        """
        return cls(tuple(_parse_path(text) for text in texts))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self.paths == ((),)

    @property
    def is_volatile(self) -> bool:
        """Whether any two requests differ in it, so that remembering is of no use."""
        return any(
            path[: len(other)] == other[: len(path)]
            for path in self.paths
            for other in _VOLATILE
        )

    def texts(self) -> list[str]:
        """Return the paths as `parse` reads them, sorted."""
        return sorted(_path_text(path) for path in self.paths)

    def __str__(self) -> str:
        return str(self.texts())


EVERYTHING: Final = InputPaths(((),))


def _parse_path(text: str) -> Path:
    keys: list[str] = []
    position = 0
    while position < len(text):
        if text[position] == "[":
            if _POSITION.match(text, position):
                raise ValueError(
                    f"input path {text!r} has an array position: let it end at the "
                    "array, which is taken whole"
                )
            key, position = _bracketed(text, position)
        else:
            if keys:
                if text[position] != ".":
                    raise _bad(text, position)
                position += 1
            name = _NAME.match(text, position)
            if name is None:
                raise _bad(text, position)
            key, position = name.group(), name.end()
        keys.append(key)
    return tuple(keys)


def _bracketed(text: str, position: int) -> tuple[str, int]:
    quoted = _STRING.match(text, position + 1)
    if quoted is None or text[quoted.end() : quoted.end() + 1] != "]":
        raise _bad(text, position)
    try:
        key: str = json.loads(quoted.group())
        key.encode("utf-8")
    except ValueError as error:
        raise _bad(text, position) from error
    return key, quoted.end() + 1


def _bad(text: str, position: int) -> ValueError:
    return ValueError(
        f"input path {text!r} is malformed at character {position + 1}: write keys "
        'with dots between them, and odd ones as ["key"]'
    )


def _path_text(path: Path) -> str:
    text = ""
    for key in path:
        if _NAME.fullmatch(key) is None:
            text += f"[{json.dumps(key)}]"
        else:
            text += f".{key}" if text else key
    return text
