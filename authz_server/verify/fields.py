"""Reads the fields of an object strictly: what is not understood is never passed over.

As in Kubernetes, null is the same as nothing. An unknown field is an error: an object
that holds one can't be said to mean anything in particular.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class UnreadableError(Exception):
    """An object holds something that nothing is known about; the text says where."""


class Fields:
    """A mapping inside of an object.

    Args:
        where: its path there, e.g. ``spec.ingress[0]``.

    Raises:
        UnreadableError: if `value` is no mapping. So does each method, for a field
            that has another type.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise UnreadableError(f"{where} is no mapping")
        self._value: Mapping[str, Any] = value
        self._where = where

    def only(self, *names: str) -> None:
        """Raise `UnreadableError` if there is a field that is none of `names`."""
        for key, value in self._value.items():
            if key not in names and value is not None:
                raise UnreadableError(f"{self._where}.{key} is not known")

    def has(self, name: str) -> bool:
        """Return whether the field is there."""
        return self._value.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """Return a string."""
        value = self._value.get(name)
        return default if value is None else self._checked(name, value, str)

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """Return true or false."""
        value = self._value.get(name)
        return default if value is None else self._checked(name, value, bool)

    def number_or_text(self, name: str) -> int | str | None:
        """Return a whole number or a string; None without one."""
        value = self._value.get(name)
        if value is None or isinstance(value, str):
            return value
        number: int = self._checked(name, value, int)
        return number

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; empty without one."""
        values = self._value.get(name)
        if values is None:
            return ()
        return tuple(
            self._checked(name, item, str) for item in self._checked(name, values, list)
        )

    def labels(self, name: str) -> dict[str, str]:
        """Return a mapping of strings; empty without one."""
        values = self._value.get(name)
        if values is None:
            return {}
        return {
            self._checked(name, key, str): self._checked(name, value, str)
            for key, value in self._checked(name, values, dict).items()
        }

    def items(self) -> Iterator[tuple[object, object]]:
        """Yield all fields, whatever they are."""
        yield from self._value.items()

    def child(self, name: str) -> Fields | None:
        """Return a mapping; None without one."""
        value = self._value.get(name)
        return None if value is None else Fields(value, f"{self._where}.{name}")

    def children(self, name: str) -> tuple[Fields, ...]:
        """Return a list of mappings; empty without one."""
        values = self._value.get(name)
        if values is None:
            return ()
        # An empty item of YAML is null, and means what {} means.
        return tuple(
            Fields({} if item is None else item, f"{self._where}.{name}[{index}]")
            for index, item in enumerate(self._checked(name, values, list))
        )

    def _checked(self, name: str, value: Any, kind: type) -> Any:  # noqa: ANN401
        # A bool is an int to Python, and to nobody else.
        if type(value) is not kind:
            raise UnreadableError(f"{self._where}.{name} is no {_NAMES[kind]}")
        return value


_NAMES = {
    str: "string",
    bool: "true or false",
    int: "whole number",
    list: "list",
    dict: "mapping",
}
