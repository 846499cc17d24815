"""Remembers what was read of nodes, for when the same ones come again."""

from __future__ import annotations

from typing import Generic, TypeVar

from authz_server.policy.nodes import Node

_Value = TypeVar("_Value")


class Readings(Generic[_Value]):
    """What was read, without a problem, of nodes that stay as long as it remembers.

    It knows a node again by being the same object, which nodes of a file that did not
    change are. What is not asked for during a whole reading is forgotten with it.
    """

    def __init__(self) -> None:
        self._context: object = None
        # With the node, so that no other one can get its `id`.
        self._before: dict[int, tuple[Node, _Value]] = {}
        self._now: dict[int, tuple[Node, _Value]] = {}

    def begin(self, context: object = None) -> None:
        """Begin a reading; nodes mean what they did if `context` is what it was."""
        self._before = self._now if context == self._context else {}
        self._now = {}
        self._context = context

    def end(self) -> None:
        """Forget what the reading that ends did not ask for."""
        self._before = {}

    def recall(self, node: Node) -> _Value | None:
        """Return what was read of `node`."""
        found = self._before.get(id(node))
        return None if found is None else found[1]

    def keep(self, node: Node, value: _Value) -> None:
        """Remember what was read of `node` for the next reading."""
        self._now[id(node)] = (node, value)
