"""Gives every group the members of the groups that are nested in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from authz_server.policy.model import Group, Workload
from authz_server.policy.nodes import Map, Node, Problems, Scalar, Sequence, suggest

_Member = TypeVar("_Member", bound=Hashable)


def flatten(
    problems: Problems, node: Node | None, groups: Mapping[str, Group]
) -> dict[str, Group]:
    """Return `groups`, each with its nested groups' members among its own.

    Notes nested names that are not defined, and groups that contain themselves.

    Args:
        node: where the groups were read from.
    """
    places = _places(node)
    for name, group in groups.items():
        for nested in group.groups:
            if nested not in groups:
                problems.add(
                    places[name, nested],
                    f"group {nested!r} is not defined",
                    suggest(nested, groups),
                )
    flat: dict[str, Group] = {}
    for name in _innermost_first(problems, groups, places):
        group = groups[name]
        if not group.groups and len(group.workloads) <= 1:
            flat[name] = group
            continue
        inner = [flat[nested] for nested in group.groups if nested in flat]
        flat[name] = replace(
            group,
            spiffe=_united(group.spiffe, *(item.spiffe for item in inner)),
            workloads=_distinct(
                workload for item in (group, *inner) for workload in item.workloads
            ),
            users=_united(group.users, *(item.users for item in inner)),
        )
    return {name: flat[name] for name in groups}


def _innermost_first(
    problems: Problems,
    groups: Mapping[str, Group],
    places: Mapping[tuple[str, str], Scalar],
) -> list[str]:
    """Return the names so that each comes behind those that are nested in it."""
    order: dict[str, None] = {}
    for root in groups:
        # (name, whether what is nested in it has been seen to)
        stack = [(root, False)]
        around: set[str] = set()
        while stack:
            name, is_done = stack.pop()
            if is_done:
                around.discard(name)
                order[name] = None
                continue
            if name in order:
                continue
            around.add(name)
            stack.append((name, True))
            for nested in groups[name].groups:
                if nested in around:
                    problems.add(
                        places[name, nested],
                        f"group {nested!r} contains itself",
                        "take it out",
                    )
                elif nested in groups:
                    stack.append((nested, False))
    return list(order)


def _united(*members: tuple[_Member, ...]) -> tuple[_Member, ...]:
    if len(members) == 1:
        return members[0]
    return tuple(dict.fromkeys(chain.from_iterable(members)))


def _distinct(workloads: Iterable[Workload]) -> tuple[Workload, ...]:
    # They have mappings in them, so no set takes them; there are few.
    found: list[Workload] = []
    for workload in workloads:
        if workload not in found:
            found.append(workload)
    return tuple(found)


def _places(node: Node | None) -> dict[tuple[str, str], Scalar]:
    """Return where which group names which other."""
    places: dict[tuple[str, str], Scalar] = {}
    for name, group in node.entries if isinstance(node, Map) else ():
        for key, value in group.entries if isinstance(group, Map) else ():
            if key.text == "groups" and isinstance(value, Sequence):
                for item in value.items:
                    if isinstance(item, Scalar):
                        places[name.text, item.text] = item
    return places
