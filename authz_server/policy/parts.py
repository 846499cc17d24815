"""Puts the parts of a policy, which are files of their own, together to one.

Each part has the form of a whole policy, less what stands in another part. Mappings
are united, and a name that is in two parts is a conflict, as it would be in one file;
lists are joined in the order of the files' names.
"""

from __future__ import annotations

from collections.abc import Sequence as Parts
from typing import Final

from authz_server.policy.nodes import Map, Node, Problems, Scalar, Sequence

_HEAD: Final = ("apiVersion", "kind", "metadata")


def unite(problems: Problems, roots: Parts[Node]) -> Node:
    """Return the root of the policy whose parts have these `roots`, at least one."""
    first, *others = roots
    if not others:
        return first
    united = Map(first.place)
    by_key: dict[str, list[tuple[Scalar, Node]]] = {}
    for root in roots:
        if not isinstance(root, Map):
            return root  # The reader says what is wrong with it.
        for key, value in _distinct(problems, root, "the policy"):
            by_key.setdefault(key.text, []).append((key, value))
    for name, entries in by_key.items():
        key, value = entries[0]
        if name == "spec":
            value = _unite_specs(problems, [node for _, node in entries])
        elif name in _HEAD:
            _same(problems, name, [node for _, node in entries])
            for root in roots:
                if name not in _keys(root):
                    problems.add(root, f"the policy has no {name!r}", f"add '{name}:'")
        united.entries.append((key, value))
    return united


def _unite_specs(problems: Problems, specs: list[Node]) -> Node:
    united = Map(specs[0].place)
    by_key: dict[str, list[tuple[Scalar, Node]]] = {}
    for spec in specs:
        if not isinstance(spec, Map):
            return spec
        for key, value in _distinct(problems, spec, "spec"):
            by_key.setdefault(key.text, []).append((key, value))
    for entries in by_key.values():
        key, _ = entries[0]
        values = [value for _, value in entries]
        united.entries.append((key, _unite_section(problems, key.text, values)))
    return united


def _unite_section(problems: Problems, name: str, values: list[Node]) -> Node:
    first, *others = values
    if not others:
        return first
    if isinstance(first, Map):
        section = Map(first.place)
        for value in values:
            if not isinstance(value, Map):
                return value
            section.entries.extend(value.entries)
        return section
    if isinstance(first, Sequence):
        joined = Sequence(first.place)
        for value in values:
            if not isinstance(value, Sequence):
                return value
            # One by one, since long lists do not say which file they are of.
            joined.held.extend(value.items)
        return joined
    _same(problems, name, values)
    return first


def _same(problems: Problems, name: str, values: list[Node]) -> None:
    """Note each value that is not what the first part says."""
    first = values[0]
    for value in values[1:]:
        if _plain(value) != _plain(first):
            problems.add(
                value,
                f"{name} is not what it is at {first.place}",
                "parts of one policy must agree",
            )


def _distinct(problems: Problems, node: Map, what: str) -> list[tuple[Scalar, Node]]:
    """Return the entries of a part; the same key twice in it is no second part."""
    fields = problems.fields(node, what, (), {key.text for key, _ in node.entries})
    keys = {key.text: key for key, _ in reversed(node.entries)}
    return [(keys[name], value) for name, value in fields.items()]


def _keys(node: Node) -> set[str]:
    return {key.text for key, _ in node.entries} if isinstance(node, Map) else set()


def _plain(node: Node) -> object:
    """Return what `node` says, without where."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    return [(key.text, _plain(value)) for key, value in node.entries]
