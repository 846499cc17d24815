"""A difference between the policy and what a layer enforces, with both witnesses."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from authz_server.verify.limits import Limit


class Layer(enum.StrEnum):
    """An enforcement point, by the name of the target that emits it."""

    KUBERNETES = "kubernetes"
    CILIUM = "cilium"
    ISTIO = "istio"
    SPIRE = "spire"
    OPENZITI = "openziti"


class Kind(enum.StrEnum):
    """In which direction a layer differs."""

    MISSING = "missing"
    """The policy allows it, the layer does not."""
    EXTRA = "extra"
    """The layer allows it, the policy does not."""
    UNCLEAR = "unclear"
    """What the layer does can't be told, or depends on what comes first."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Callers of one kind for whom a layer differs from the policy.

    Attributes:
        who: callers, at least one unless `kind` is UNCLEAR.
        target: what they reach: an upstream, the server, or another name.
        what: ports or operations, in a few words.
        policy: the policy's answer for the first of `who`, with the grant or reason.
        enforced: the layer's answer, with the objects that give it and their places.
        limit: which declared limit explains it; None if none does.
    """

    layer: Layer
    kind: Kind
    who: tuple[str, ...]
    target: str
    what: str
    policy: str
    enforced: str
    limit: Limit | None = None

    @property
    def is_known_limit(self) -> bool:
        """Whether a declared limit explains it."""
        return self.limit is not None


def merged(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return `differences` with those that differ in their callers alone as one.

    What no limit explains comes first; within each part the order is the layers'.
    """
    found: dict[tuple[object, ...], list[Difference]] = {}
    for item in differences:
        # Of what is known, one witness is enough.
        where = "" if item.is_known_limit else item.enforced
        key = (item.layer, item.kind, item.target, item.what, item.limit, where)
        found.setdefault(key, []).append(item)
    layers = list(Layer)
    joined = [
        replace(
            items[0],
            who=tuple(
                # The first stays it, since the policy's answer is for that one.
                dict.fromkeys(
                    [
                        *items[0].who[:1],
                        *sorted(name for item in items for name in item.who),
                    ]
                )
            ),
        )
        for items in found.values()
    ]
    return tuple(
        sorted(
            joined,
            key=lambda item: (
                item.is_known_limit,
                layers.index(item.layer),
                item.kind,
                item.limit or "",
                item.target,
                item.who,
                item.what,
                item.enforced,
            ),
        )
    )
