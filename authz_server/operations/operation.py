"""What a call does, as the policy sees it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from authz_server.errors import Reason, RequestError
from authz_server.facts import Body, BodyState
from authz_server.operations.actions import Action, is_model_name, is_version


class Scope(enum.StrEnum):
    """How much a call touches."""

    MODEL = "model"
    """Exactly the one model that it names."""
    EVERY_MODEL = "every-model"
    """All models of the upstream: it changes or discloses what is common to them."""
    SERVER = "server"
    """Nothing of any model: health and description of the server itself, or the
    beginning of a call whose messages will be judged one by one."""
    DATASET = "dataset"


class OperationError(RequestError):
    """The call is not one that can be judged."""

    default_reason = Reason.OPERATION_UNKNOWN


_BODY_REASONS: Final = {
    BodyState.PARTIAL: Reason.BODY_PARTIAL,
    BodyState.COMPRESSED: Reason.BODY_COMPRESSED,
    BodyState.MALFORMED: Reason.BODY_MALFORMED,
}


def require_complete(body: Body) -> None:
    """Return if `body` was seen whole, and can be read in one way only.

    Raises:
        OperationError: if not, with what is the matter.
    """
    if body.state is not BodyState.COMPLETE:
        raise OperationError(
            f"the request's body is {body.state.name.lower()}",
            _BODY_REASONS.get(body.state, Reason.BODY_MISSING),
        )


@dataclass(frozen=True, slots=True)
class Call:
    """An action on the model of an upstream that is not known yet.

    Attributes:
        model: name of the model; empty unless `scope` is MODEL.
        version: its version; empty for the latest ready one.
        adapter: what the model is asked to run with (LoRA); empty for itself alone.

    Raises:
        OperationError: if model, version or adapter is not one that may be named.
    """

    action: Action
    scope: Scope
    model: str = ""
    version: str = ""
    adapter: str = ""

    def __post_init__(self) -> None:
        if self.scope is Scope.MODEL and not is_model_name(self.model):
            raise OperationError(
                "not an acceptable model name", Reason.MODEL_NAME_INVALID
            )
        if self.version and not is_version(self.version):
            raise OperationError(
                "not an acceptable model version", Reason.MODEL_VERSION_INVALID
            )
        if self.adapter and not is_model_name(self.adapter):
            raise OperationError(
                "not an acceptable adapter name", Reason.MODEL_NAME_INVALID
            )


@dataclass(frozen=True, slots=True)
class Operation:
    """A `Call` on a named upstream.

    Attributes:
        dataset: name of the dataset; empty unless the call's scope is DATASET.
        also: what the same request does beside it, e.g. reading the source of a copy.
            A request is allowed only if both are.
    """

    call: Call
    upstream: str
    dataset: str = ""
    also: Operation | None = None
