"""Looks things up in the nodes of a policy.

The reader has accepted them, so what is looked for has its form.
"""

from __future__ import annotations

from collections.abc import Iterator

from authz_server.policy.nodes import Map, Node, Scalar, Sequence


def value_of(node: Node | None, key: str) -> Node | None:
    """Return the value of `key`, if there is one."""
    return next((value for name, value in entries_of(node) if name.text == key), None)


def entries_of(node: Node | None) -> list[tuple[Scalar, Node]]:
    """Return the keys of a mapping and their values."""
    return node.entries if isinstance(node, Map) else []


def items_of(node: Node | None) -> list[Node]:
    """Return the items of a list."""
    return node.items if isinstance(node, Sequence) else []


def scalars_of(node: Node | None) -> list[Scalar]:
    """Return the items of a list of single values."""
    return [item for item in items_of(node) if isinstance(item, Scalar)]


def text_of(node: Node | None) -> str:
    """Return a single value, or nothing where there is none."""
    return node.text if isinstance(node, Scalar) else ""


def words_in(node: Node) -> Iterator[str]:
    """Yield every single value in `node`, however deep."""
    stack = [node]
    while stack:
        inner = stack.pop()
        if isinstance(inner, Scalar):
            yield inner.text
        stack += items_of(inner)
        stack += [value for _, value in entries_of(inner)]


def named(node: Node, key: str, text: str) -> Iterator[Scalar]:
    """Yield where the list at `key` has `text` in it."""
    for scalar in scalars_of(value_of(node, key)):
        if scalar.text == text:
            yield scalar
