"""What an AccessPolicy's status says, and the events beside it."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_server.emit.crd import GROUP, KIND, VERSION
from authz_server.emit.manifest import Object
from authz_server.site.model import SERVER

MAX_MESSAGE: Final = 1024
"""Of an event (k8s.io/api/core/v1); a status keeps to it too."""


class State(enum.Enum):
    """How it stands with an AccessPolicy: reason of its Ready condition, and whether.

    The reasons are public and stable.
    """

    APPLIED = ("Applied", True)
    INVALID = ("Invalid", False)
    """It is no valid access policy, or can't be expressed; nothing was changed."""
    CONFLICT = ("Conflict", False)
    """Somebody else has set what would change; nothing was changed."""
    REFUSED = ("Refused", False)
    """The API server refused something; a part may have been applied."""

    @property
    def reason(self) -> str:
        """The condition's reason."""
        return self.value[0]

    @property
    def is_ready(self) -> bool:
        """The condition's status."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of looking at an AccessPolicy.

    Attributes:
        message: for people; of several lines where there are several problems.
        objects: how many are emitted for it; None if that is not known.
        changed: how many were created, changed or deleted.
        findings: what is amiss in the cluster, a sentence each.
    """

    state: State
    message: str
    objects: int | None = None
    changed: int = 0
    findings: tuple[str, ...] = ()


def new_status(item: Object, outcome: Outcome, at: dt.datetime) -> dict[str, Any]:
    """Return the status of `item` after `outcome`.

    A condition's time stays where its status does (Kubernetes API conventions,
    "Typical status properties").
    """
    before: Mapping[str, Any] = item.get("status") or {}
    generation = item["metadata"].get("generation", 0)
    known = {entry["type"]: entry for entry in before.get("conditions", ())}
    found = "; ".join(outcome.findings)
    conditions = [
        _condition(
            known.get("Ready"),
            {
                "type": "Ready",
                "status": _truth(outcome.state.is_ready),
                "reason": outcome.state.reason,
                "message": _cut(outcome.message),
            },
            generation,
            at,
        ),
        _condition(
            known.get("PodsFound"),
            {
                "type": "PodsFound",
                "status": _truth(not outcome.findings),
                "reason": "Missing" if outcome.findings else "AllFound",
                "message": _cut(found or "every selector matches a pod"),
            },
            generation,
            at,
        ),
    ]
    objects = before.get("objects") if outcome.objects is None else outcome.objects
    return {
        "observedGeneration": generation,
        **({} if objects is None else {"objects": objects}),
        "conditions": conditions,
    }


def has_changed(item: Object, status: Mapping[str, Any]) -> bool:
    """Whether `status` says anything that the status of `item` does not."""
    return (item.get("status") or {}) != status


def event(item: Object, outcome: Outcome, at: dt.datetime) -> Object:
    """Return the event that tells of `outcome`."""
    meta = item["metadata"]
    when = at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    message = _cut("; ".join((outcome.message, *outcome.findings)))
    # The same of the same version at the same time is one event. Without the version it
    # could come, go and come within a second.
    words = repr((outcome.state.reason, message, when, meta["resourceVersion"]))
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta['name']}.{digest}",
            "namespace": meta["namespace"],
        },
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "type": "Normal" if outcome.state.is_ready else "Warning",
        "reason": outcome.state.reason,
        "message": message,
        "source": {"component": f"{SERVER}-controller"},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }


def _condition(
    before: Mapping[str, Any] | None,
    condition: dict[str, Any],
    generation: int,
    at: dt.datetime,
) -> dict[str, Any]:
    since = at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if before is not None and before["status"] == condition["status"]:
        since = before["lastTransitionTime"]
    return {
        **condition,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def _truth(value: bool) -> str:  # noqa: FBT001 - turned into a word
    return "True" if value else "False"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"
