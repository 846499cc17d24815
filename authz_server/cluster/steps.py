"""What is to be done to a cluster: steps, found without asking it anything.

`planning` gets the answers that this judges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_server.cluster.difference import Difference, differences
from authz_server.cluster.kinds import NEVER_DELETED, Key, kind_of, place
from authz_server.emit.manifest import MANAGED_BY, PART_OF, Object
from authz_server.site.model import SERVER

FIELD_MANAGER: Final = SERVER
"""As whom fields are set (server-side apply)."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What somebody else has set otherwise.

    Attributes:
        owner: the other field manager, or whose the whole object is.
        fields: as the API server names them; none for the whole object.
    """

    owner: str
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.fields:
            return f"the object is {self.owner}"
        return f"{', '.join(self.fields)} set by {self.owner}"


@dataclass(frozen=True, slots=True)
class Create:
    """The object is not there."""

    key: Key
    body: Object


@dataclass(frozen=True, slots=True)
class Change:
    """The object differs from what is wanted.

    Attributes:
        differences: from what there is to what applying it would make; empty where
            only who owns its fields changes.
        conflicts: what only force takes over.
    """

    key: Key
    body: Object
    differences: tuple[Difference, ...]
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """The object is as wanted."""

    key: Key


@dataclass(frozen=True, slots=True)
class Delete:
    """The object is the policy's, and no longer emitted.

    Attributes:
        uid, resource_version: of exactly the object that was looked at.
    """

    key: Key
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The object is no longer emitted, and yet not to be deleted."""

    key: Key
    why: str


Step = Create | Change | Keep | Delete | Leave


@dataclass(frozen=True, slots=True)
class Plan:
    """Every step, in the order in which it is done."""

    steps: tuple[Step, ...]

    @property
    def differs(self) -> bool:
        """Whether there is anything to do."""
        return any(isinstance(step, Create | Change | Delete) for step in self.steps)

    @property
    def conflicts(self) -> tuple[Change, ...]:
        """The changes that only force makes."""
        return tuple(
            step for step in self.steps if isinstance(step, Change) and step.conflicts
        )


def in_order(objects: Iterable[Object]) -> list[Object]:
    """Return `objects` in the order in which they are created.

    Raises:
        SetupError: if one is of a kind that is not known.
    """
    return sorted(objects, key=lambda item: place(Key.of(item)))


def is_of(item: Object, part_of: str) -> bool:
    """Whether `item` carries our labels, and those of the policy `part_of`."""
    labels = item["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY) == SERVER and labels.get(PART_OF) == part_of


def part_of(item: Object) -> str:
    """Return the label of the policy that `item`, one that was emitted, is of."""
    return str(item["metadata"]["labels"][PART_OF])


def step_for(
    wanted: Object, live: Object, applied: Object, conflicts: tuple[Conflict, ...]
) -> Change | Keep:
    """Return what is to be done about an object that is there.

    Args:
        live: as it is.
        applied: as it would be afterwards: the answer to a dry run, so that defaults
            which the API server fills in are on both sides.
        conflicts: those of the dry run without force.
    """
    key = Key.of(wanted)
    conflicts = (*_of_others(wanted, live), *conflicts)
    found = differences(live, applied)
    if found or conflicts or _owned(live) != _owned(applied):
        return Change(key, wanted, found, conflicts)
    return Keep(key)


def left_over(
    live: Iterable[Object], emitted: Collection[Key], policy: str
) -> list[Delete | Leave]:
    """Return what is to be done about objects that are no longer emitted.

    Args:
        emitted: keys of all that the policy gives, for any target.
        policy: the label of the policy; an object of another one is not looked at.
    """
    steps: list[Delete | Leave] = []
    for item in live:
        key, meta = Key.of(item), item["metadata"]
        if key in emitted or not is_of(item, policy) or "deletionTimestamp" in meta:
            continue
        if key.kind in NEVER_DELETED:
            steps.append(Leave(key, "it may hold what others have put there"))
        elif meta.get("ownerReferences"):
            owner = meta["ownerReferences"][0]
            steps.append(Leave(key, f"it goes with {owner['kind']} {owner['name']}"))
        else:
            steps.append(Delete(key, meta["uid"], meta["resourceVersion"]))
    return sorted(steps, key=lambda step: place(step.key), reverse=True)


def _of_others(wanted: Object, live: Object) -> tuple[Conflict, ...]:
    """Return whose `live` is, if applying would take it from somebody."""
    policy = part_of(wanted)
    labels: Mapping[str, str] = live["metadata"].get("labels") or {}
    if is_of(live, policy) or kind_of(Key.of(wanted)) == ("v1", "Namespace"):
        return ()
    owner = labels.get(PART_OF)
    if labels.get(MANAGED_BY) == SERVER and owner is not None:
        return (Conflict(f"part of the policy {owner}"),)
    if any(entry.get("manager") == FIELD_MANAGER for entry in _entries(live)):
        return ()  # Ours: somebody took a label off, which is a difference like others.
    return (Conflict("not one that authz-server made"),)


def _owned(item: Object) -> Any:  # noqa: ANN401 - a set of fields, in the API's form
    """Return the fields that are ours by server-side apply."""
    return [
        entry.get("fieldsV1")
        for entry in _entries(item)
        if entry.get("manager") == FIELD_MANAGER
        and entry.get("operation") == "Apply"
        and not entry.get("subresource")
    ]


def _entries(item: Object) -> list[Mapping[str, Any]]:
    return item["metadata"].get("managedFields") or []
