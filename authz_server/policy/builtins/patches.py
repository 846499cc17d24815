"""json.patch: JSON Patch (RFC 6902) for Rego's values.

A set has its members for keys, so a path leads into one by the member itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any, Final

from authz_server.policy.builtins.operands import array, int64, pairs, string
from authz_server.policy.builtins.values import (
    MAX_DEPTH,
    Number,
    RefusedError,
    RegoSet,
    UndefinedError,
    are_equal,
    entries,
    make_object,
    order_key,
    unique,
)

_MAX_OPERATIONS: Final = 1000
_MAX_WORK: Final = 10_000_000
"""Members of containers that are copied: each change copies those on its path."""
_INDEX: Final = re.compile("0|[1-9][0-9]{0,17}")

_Change = Callable[[Any, Any], Any]
"""Takes a container and a key in it; returns the changed container."""


def patch(target: object, operations: object) -> Any:  # noqa: ANN401 - any value
    """Return `target` changed by `operations`, one after the other."""
    changes = array(operations)
    if len(changes) > _MAX_OPERATIONS:
        raise RefusedError("a patch has too many operations")
    patcher = _Patcher()
    for change in changes:
        target = patcher.apply(target, dict(pairs(change)))
    if target is _REMOVED:
        raise RefusedError("a patch leaves nothing")
    return target


_REMOVED: Final = object()
"""What is left of a document that was removed as a whole."""


class _Patcher:
    def __init__(self) -> None:
        self._work = 0
        self._has_shifted = False

    def apply(self, document: Any, change: dict[Any, Any]) -> Any:  # noqa: ANN401 - any value
        path = _path(_required(change, "path"))
        kind = string(_required(change, "op"))
        if kind == "test":
            if not are_equal(self._get(document, path), _required(change, "value")):
                raise UndefinedError
            return document
        if kind in ("move", "copy"):
            start = _path(_required(change, "from"))
            value = self._get(document, start)
            if kind == "move":
                document = self._remove(document, start)
            return self._add(document, path, value)
        if kind == "remove":
            return self._remove(document, path)
        if kind not in ("add", "replace"):
            raise UndefinedError
        if kind == "replace":
            document = self._remove(document, path)
        return self._add(document, path, _required(change, "value"))

    def _add(self, document: Any, path: list[Any], value: Any) -> Any:  # noqa: ANN401 - any value
        if not path:
            return value
        return self._change(document, path, lambda at, key: _with(at, key, value))

    def _remove(self, document: Any, path: list[Any]) -> Any:  # noqa: ANN401 - any value
        if not path:
            return _REMOVED
        return self._change(document, path, _without)

    def _change(self, document: Any, path: list[Any], change: _Change) -> Any:  # noqa: ANN401 - any value
        containers = [document]
        for key in path[:-1]:
            containers.append(self._child(containers[-1], key))
        if len(containers) > MAX_DEPTH:
            raise RefusedError("a value is nested too deep")
        self._work += sum(
            len(item) for item in containers if isinstance(item, list | dict | tuple)
        )
        if self._work > _MAX_WORK:
            raise RefusedError("a patch changes too much")
        parent = containers[-1]
        changed = change(parent, path[-1])
        if isinstance(parent, list) and changed[: len(parent)] != parent:
            self._has_shifted = True
        for container, key in zip(
            reversed(containers[:-1]), reversed(path[:-1]), strict=True
        ):
            changed = _replaced(container, key, changed)
        return changed

    def _get(self, document: Any, path: list[Any]) -> Any:  # noqa: ANN401 - any value
        for key in path:
            document = self._child(document, key)
        if document is _REMOVED:
            raise UndefinedError
        return document

    def _child(self, container: Any, key: Any) -> Any:  # noqa: ANN401 - any value
        if self._has_shifted and isinstance(container, list):
            # There OPA 1.22.2 still goes by the old places, against RFC 6902.
            raise RefusedError("a patch looks into an array that it has shifted")
        return _child(container, key)


def _required(change: dict[Any, Any], key: str) -> Any:  # noqa: ANN401 - any value
    if key not in change:
        raise UndefinedError
    return change[key]


def _path(value: object) -> list[Any]:
    """Return the segments of a path: RFC 6901's form, or an array of them."""
    if isinstance(value, list):
        return value
    text = string(value)
    if not text:
        return []
    segments = text.lstrip("/").split("/")
    return [segment.replace("~1", "/").replace("~0", "~") for segment in segments]


def _index(container: list[Any], key: object) -> int:
    """Return the place that `key` means; it need not be there."""
    if isinstance(key, str):
        if key == "-":
            return len(container)
        if not _INDEX.fullmatch(key):
            raise UndefinedError
        return int(key)
    if isinstance(key, int | Number) and not isinstance(key, bool):
        return int64(key)
    raise UndefinedError


def _found(container: object) -> dict[Hashable, tuple[Any, Any]]:
    """Return what an object or a set has, by what tells its keys apart."""
    if isinstance(container, RegoSet):
        return {order_key(item): (item, item) for item in container}
    found = entries(container)
    if found is None:
        raise UndefinedError
    return {order_key(key): (key, value) for key, value in found}


def _child(container: Any, key: Any) -> Any:  # noqa: ANN401 - any value
    if isinstance(container, list):
        index = _index(container, key)
        if not 0 <= index < len(container):
            raise UndefinedError
        return container[index]
    if isinstance(container, dict):
        if isinstance(key, str) and key in container:
            return container[key]
        raise UndefinedError
    found = _found(container).get(order_key(key))
    if found is None:
        raise UndefinedError
    return found[1]


def _with(container: Any, key: Any, value: Any) -> Any:  # noqa: ANN401 - any value
    if isinstance(container, list):
        index = _index(container, key)
        if not 0 <= index <= len(container):
            raise UndefinedError
        return [*container[:index], value, *container[index:]]
    if isinstance(container, dict) and isinstance(key, str):
        return {**container, key: value}
    if isinstance(container, RegoSet):
        if not are_equal(key, value):
            raise UndefinedError
        return unique([*container, value])
    found = _found(container)
    return make_object([*found.values(), (key, value)])


def _without(container: Any, key: Any) -> Any:  # noqa: ANN401 - any value
    _child(container, key)
    if isinstance(container, list):
        index = _index(container, key)
        return [*container[:index], *container[index + 1 :]]
    found = _found(container)
    del found[order_key(key)]
    if isinstance(container, RegoSet):
        return RegoSet(value for _, value in found.values())
    return make_object(found.values())


def _replaced(container: Any, key: Any, value: Any) -> Any:  # noqa: ANN401 - any value
    """Return `container` with `value` where there is something under `key`."""
    if isinstance(container, list):
        index = _index(container, key)
        return [*container[:index], value, *container[index + 1 :]]
    if isinstance(container, dict):
        return {**container, key: value}
    found = _found(container)
    if isinstance(container, RegoSet):
        # The member is its own key, so it changes both.
        del found[order_key(key)]
        return unique([*(item for item, _ in found.values()), value])
    found[order_key(key)] = (key, value)
    return make_object(found.values())
