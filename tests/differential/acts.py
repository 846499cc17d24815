"""What Triton did, and whether a call that was judged is the one that it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Scope

ANY_ACTION: Final = frozenset(Action)
INFERENCES: Final = frozenset({Action.INFERENCE, Action.INFERENCE_STREAM})
LOADS: Final = frozenset({Action.MODEL_REPOSITORY, Action.MODEL_LOAD_OVERRIDE})

SERVER: Final = "(server)"
EVERY: Final = "(every model)"
UNKNOWN: Final = "(unknown)"
"""In the place of a model. With the last one it was not seen which, nor whether any."""

ANY_VERSION: Final = "(any)"
"""In the place of a version that was not seen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """Something that Triton did, for its own part.

    Attributes:
        what: in a word.
        actions: those of which one must have been asked for.
        model: which it was done to, or one of the words above.
        version: which; empty if Triton was told none.
        parts: what it comes to, one by one: all of them together are this act.
    """

    what: str
    actions: frozenset[Action]
    model: str
    version: str = ANY_VERSION
    parts: tuple[Act, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} {self.model!r} {self.version!r}"

    def is_covered_by(self, calls: Collection[Call]) -> bool:
        """Return whether who may do all of `calls` may do this."""
        if any(self._is_part_of(call) for call in calls):
            return True
        return bool(self.parts) and all(p.is_covered_by(calls) for p in self.parts)

    def _is_part_of(self, call: Call) -> bool:
        if call.action not in self.actions:
            return False
        if self.model in {SERVER, UNKNOWN} or call.scope is Scope.EVERY_MODEL:
            return True
        return (
            call.scope is Scope.MODEL
            and call.model == self.model
            # To name no version is to ask for any.
            and (call.version in {"", self.version} or self.version == ANY_VERSION)
        )
