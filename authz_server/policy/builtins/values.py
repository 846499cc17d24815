"""Rego's values as Python has them, and the text in which they cross into Wasm.

The text is Rego's own: JSON, and besides it sets and keys that are no strings. Null,
booleans, strings, arrays and integers are Python's own. Whatever else a number is stays
as it was written, since a binary float would change it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn, Self

MAX_DEPTH: Final = 200
"""Of values in values: Python's stack ends at about a thousand calls."""
MAX_TEXT_BYTES: Final = 1024 * 1024
"""Of a text that a function makes: as much as an input may have."""
MAX_ITEMS: Final = 100_000
"""Of a collection that a function makes."""

_BLANK: Final = " \t\r\n"
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
# As Rego writes them: .5 is one, too.
_NUMBER: Final = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORDS: Final[Mapping[str, Any]] = {"null": None, "true": True, "false": False}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MAX_EXPONENT: Final = 400
"""Of a number that is to become an integer: as much as a float can have, and more."""
_MAX_DIGITS: Final = 4000


class UndefinedError(Exception):
    """OPA's own function would have failed: the expression is undefined."""


class RefusedError(Exception):
    """OPA's own function might have an answer, and this one will not give it.

    The evaluation fails. Undefined would not do: under `not` it reads as true.
    """


class Number(Decimal):
    """A number that is not written as an integer.

    Attributes:
        text: how it is written.
    """

    text: str

    def __new__(cls, text: str) -> Self:
        """Return the number that is written `text`."""
        try:
            number = super().__new__(cls, text)
        except InvalidOperation as error:
            raise RefusedError("a number is too large") from error
        number.text = text
        return number


class RegoSet(tuple[Any, ...]):
    """The members of a set, in no particular order."""

    __slots__ = ()


class RegoObject(tuple[tuple[Any, Any], ...]):
    """The keys and values of an object with a key that is no string."""

    __slots__ = ()


def parse_value(text: str) -> Any:  # noqa: ANN401 - any value
    """Return the value that Wasm wrote as `text`.

    Raises:
        RefusedError: if it is nested too deep, or has a number of too many digits.
        ValueError: if it is not a value.
    """
    try:
        return json.loads(
            text, parse_float=Number, parse_int=parse_integer, parse_constant=_refuse
        )
    except ValueError:
        return _Parser(text).parse()
    except RecursionError as error:
        raise RefusedError("a value is nested too deep") from error


def parse_json(text: str) -> Any:  # noqa: ANN401 - any value
    """Return the value of the JSON in `text`, which somebody else wrote.

    As in Go, of equal keys the last counts, and half of a surrogate pair is the
    replacement character.

    Raises:
        RefusedError: if it is nested too deep, or has a number of too many digits.
        ValueError: if it is not JSON.
    """
    try:
        value = json.loads(
            text, parse_float=Number, parse_int=parse_integer, parse_constant=_refuse
        )
        return _mend(value, 0) if "\\u" in text else value
    except RecursionError as error:
        raise RefusedError("a value is nested too deep") from error


def dump_value(value: Any) -> str:  # noqa: ANN401 - any value
    """Return `value` as text that Wasm can read.

    Raises:
        RefusedError: if it is nested too deep.
    """
    parts: list[str] = []
    _write(value, parts, 0)
    return "".join(parts)


def order_key(value: Any, depth: int = 0) -> tuple[Any, ...]:  # noqa: ANN401 - any value
    """Return a key by which values compare, and are equal, as OPA has it.

    Raises:
        RefusedError: if it is nested too deep.
    """
    if depth > MAX_DEPTH:
        raise RefusedError("a value is nested too deep")
    if value is None or isinstance(value, bool | int | Decimal | str):
        return _scalar_key(value)
    if isinstance(value, list):
        return (4, *(order_key(item, depth + 1) for item in value))
    if isinstance(value, RegoSet):
        return (6, *sorted(order_key(item, depth + 1) for item in value))
    pairs = entries(value)
    if pairs is None:
        raise TypeError(f"{type(value).__name__} is no value of Rego's")
    keys = ((order_key(k, depth + 1), order_key(v, depth + 1)) for k, v in pairs)
    return (5, *sorted(keys))


def _scalar_key(value: bool | float | Decimal | str | None) -> tuple[Any, ...]:  # noqa: FBT001 - a value of Rego's
    if value is None:
        return (0,)
    if isinstance(value, bool):
        return (1, value)
    return (3, value) if isinstance(value, str) else (2, value)


def are_equal(one: Any, other: Any) -> bool:  # noqa: ANN401 - any values
    """Return whether they are the same value to Rego, to which true is not 1."""
    return order_key(one) == order_key(other)


def unique(values: Iterable[Any]) -> RegoSet:
    """Return the set of `values`."""
    return RegoSet({order_key(value): value for value in values}.values())


def entries(value: Any) -> list[tuple[Any, Any]] | None:  # noqa: ANN401 - any value
    """Return the keys and values of an object; None if `value` is none."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, RegoObject):
        return list(value)
    return None


def make_object(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any] | RegoObject:
    """Return the object of `pairs`; of equal keys the last counts."""
    found = list({order_key(key): (key, value) for key, value in pairs}.values())
    if all(isinstance(key, str) for key, _ in found):
        return dict(found)
    return RegoObject(found)


def parse_integer(text: str) -> int:
    """Return the integer written `text`.

    Raises:
        RefusedError: if it has too many digits: reading them costs their square.
    """
    if len(text) > _MAX_DIGITS:
        raise RefusedError("a number has too many digits")
    return int(text)


def to_integer(value: int | Decimal) -> int:
    """Return the integer that `value` is.

    Raises:
        UndefinedError: if it is none.
        RefusedError: if it has too many digits.
    """
    if isinstance(value, int):
        return value
    if value and abs(value.adjusted()) > _MAX_EXPONENT:
        if value.adjusted() < 0:
            raise UndefinedError
        raise RefusedError("a number is too large")
    whole = int(value)
    if whole != value:
        raise UndefinedError
    return whole


def bounded(text: str) -> str:
    """Return `text`.

    Raises:
        RefusedError: if it is longer than the result of a function may be.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise RefusedError("a text gets too long")
    return text


def to_text(content: bytes) -> str:
    """Return `content` as a string.

    Raises:
        RefusedError: if it is not UTF-8: OPA's own interpreter then has a string that
            Wasm has not.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RefusedError("a text is not UTF-8") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _mend(value: Any, depth: int) -> Any:  # noqa: ANN401 - any value
    if depth > MAX_DEPTH:
        raise RefusedError("a value is nested too deep")
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_mend(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            _mend(key, depth + 1): _mend(item, depth + 1) for key, item in value.items()
        }
    return value


def _write(value: Any, parts: list[str], depth: int) -> None:  # noqa: ANN401 - any value
    if depth > MAX_DEPTH:
        raise RefusedError("a value is nested too deep")
    if isinstance(value, list):
        _write_all("[", value, "]", parts, depth)
    elif isinstance(value, RegoSet):
        if value:
            _write_all("{", value, "}", parts, depth)
        else:
            parts.append("set()")
    elif isinstance(value, Number):
        parts.append(value.text)
    elif value is None or isinstance(value, bool | int | str):
        parts.append(json.dumps(value))
    else:
        pairs = entries(value)
        if pairs is None:
            raise TypeError(f"{type(value).__name__} is no value of Rego's")
        parts.append("{")
        for position, (key, item) in enumerate(pairs):
            parts.append("," if position else "")
            _write(key, parts, depth + 1)
            parts.append(":")
            _write(item, parts, depth + 1)
        parts.append("}")


def _write_all(
    start: str, values: Iterable[Any], end: str, parts: list[str], depth: int
) -> None:
    parts.append(start)
    for position, item in enumerate(values):
        parts.append("," if position else "")
        _write(item, parts, depth + 1)
    parts.append(end)


class _Parser:
    """Reads what is not JSON: a value with a set, or with a key that is no string."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Any:  # noqa: ANN401 - any value
        value = self._value(0)
        if self._peek():
            raise self._wrong()
        return value

    def _value(self, depth: int) -> Any:  # noqa: ANN401 - any value
        if depth > MAX_DEPTH:
            raise RefusedError("a value is nested too deep")
        first = self._peek()
        if first == "{":
            return self._braces(depth)
        if first == "[":
            self._at += 1
            return self._items("]", depth)
        if first == '"':
            return str(json.loads(self._token(_STRING)))
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        if self._text.startswith("set()", self._at):
            self._at += len("set()")
            return RegoSet()
        token = self._token(_NUMBER)
        is_integer = token.lstrip("-").isdigit()
        return parse_integer(token) if is_integer else Number(token)

    def _braces(self, depth: int) -> Any:  # noqa: ANN401 - an object or a set
        self._at += 1
        if self._skip("}"):
            return {}
        first = self._value(depth + 1)
        if not self._skip(":"):
            if self._skip("}"):
                return RegoSet((first,))
            self._expect(",")
            return RegoSet((first, *self._items("}", depth)))
        pairs = [(first, self._value(depth + 1))]
        while not self._skip("}"):
            self._expect(",")
            key = self._value(depth + 1)
            self._expect(":")
            pairs.append((key, self._value(depth + 1)))
        if all(isinstance(key, str) for key, _ in pairs):
            return dict(pairs)
        return RegoObject(pairs)

    def _items(self, end: str, depth: int) -> list[Any]:
        if self._skip(end):
            return []
        items = [self._value(depth + 1)]
        while not self._skip(end):
            self._expect(",")
            items.append(self._value(depth + 1))
        return items

    def _peek(self) -> str:
        text = self._text
        while self._at < len(text) and text[self._at] in _BLANK:
            self._at += 1
        return text[self._at : self._at + 1]

    def _skip(self, sign: str) -> bool:
        is_there = self._peek() == sign
        self._at += is_there
        return is_there

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise self._wrong()

    def _token(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._wrong()
        self._at = found.end()
        return found.group()

    def _wrong(self) -> ValueError:
        return ValueError(f"it is no value of Rego's from character {self._at} on")
