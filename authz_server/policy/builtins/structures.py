"""object.subset and graph.reachable_paths."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

from authz_server.policy.builtins.operands import members, pairs
from authz_server.policy.builtins.values import (
    MAX_DEPTH,
    RefusedError,
    RegoSet,
    UndefinedError,
    are_equal,
    entries,
    order_key,
    unique,
)

_MAX_STEPS: Final = 100_000
"""Of a walk through a graph: the number of paths grows without bound."""
_MAX_COMPARISONS: Final = 1_000_000


def subset(larger: object, smaller: object) -> bool:
    """Return whether `smaller` is part of `larger`, in objects also further down."""
    if entries(larger) is not None and entries(smaller) is not None:
        return _is_object_part(larger, smaller)
    if isinstance(larger, RegoSet | list) and isinstance(smaller, RegoSet):
        keys = {order_key(item) for item in larger}
        # OPA stops at the last of the set, and an empty one has none.
        if isinstance(larger, list) and not smaller:
            return bool(larger)
        return all(order_key(item) in keys for item in smaller)
    if isinstance(larger, list) and isinstance(smaller, list):
        return _is_run_in(larger, smaller)
    raise UndefinedError


def reachable_paths(graph: object, start: object) -> RegoSet:
    """Return the longest paths that lead from `start` along the edges of `graph`."""
    return _Walk(graph).paths(members(start))


def _is_object_part(larger: object, smaller: object) -> bool:
    found = {order_key(key): value for key, value in entries(larger) or []}
    for key, value in entries(smaller) or []:
        identity = order_key(key)
        if identity not in found:
            return False
        other = found[identity]
        if are_equal(other, value):
            continue
        same_kind = (
            (entries(other) is not None and entries(value) is not None)
            or (isinstance(other, RegoSet) and isinstance(value, RegoSet))
            or (isinstance(other, list) and isinstance(value, list))
        )
        if not same_kind or not subset(other, value):
            return False
    return True


def _is_run_in(larger: list[Any], smaller: list[Any]) -> bool:
    if len(larger) * len(smaller) > _MAX_COMPARISONS:
        raise RefusedError("arrays are too long to be searched")
    wide = [order_key(item) for item in larger]
    narrow = [order_key(item) for item in smaller]
    count = len(narrow)
    return any(wide[at : at + count] == narrow for at in range(len(wide) - count + 1))


class _Walk:
    """Goes through a graph: an object of nodes, each with an array or set of nodes."""

    def __init__(self, graph: object) -> None:
        self._edges: dict[Hashable, list[Any]] = {
            order_key(node): list(following) if isinstance(following, list | RegoSet)
            else []
            for node, following in pairs(graph)
        }  # fmt: skip
        self._found: list[list[Any]] = []
        self._steps = 0

    def paths(self, starts: list[Any]) -> RegoSet:
        for start in starts:
            following = self._edges.get(order_key(start))
            if following == []:
                self._found.append([start])
            for node in following or []:
                # An edge from the start to itself is followed once.
                self._enter([start], node, {order_key(start)})
        return unique(self._found)

    def _enter(self, path: list[Any], node: Any, passed: set[Hashable]) -> None:  # noqa: ANN401 - any value
        self._steps += len(path)
        if self._steps > _MAX_STEPS or len(path) > MAX_DEPTH:
            raise RefusedError("a graph has too many paths")
        identity = order_key(node)
        following = self._edges.get(identity)
        if following is None:
            self._found.append(path)
            return
        path = [*path, node]
        if not following:
            self._found.append(path)
        for neighbour in following:
            if order_key(neighbour) in passed | {identity}:
                self._found.append(path)
            else:
                self._enter(path, neighbour, passed | {identity})
