"""Triton's gRPC surface: path and message outline to what the call does.

Methods and field numbers: grpc_service.proto of package inference. The number of the
model's name is 1 in most messages and 2 in some, which is why there is a table and no
general rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from authz_server.facts import Body, BodyState, Keep, Outline
from authz_server.operations.actions import Action
from authz_server.operations.operation import (
    Call,
    OperationError,
    Scope,
    require_complete,
)

SERVICE: Final = "/inference.GRPCInferenceService/"


@dataclass(frozen=True, slots=True)
class _Method:
    """How one method's message becomes a call.

    Attributes:
        outline: the fields that matter.
        judge: from the complete message's outline to the call.
    """

    outline: Outline
    judge: Callable[[Body], Call]


def _named(action: Action, *, empty: Scope | None = None) -> _Method:
    """A method with the name in field 1 and the version in field 2.

    `empty` is what an empty name means; without it an empty name is refused.
    """

    def judge(body: Body) -> Call:
        model, version = _text(body.value(1)), _text(body.value(2))
        if not model and empty is not None:
            # Checks the version too, which Triton ignores here.
            return Call(action, empty, version=version)
        return Call(action, Scope.MODEL, model, version)

    return _Method({1: Keep.VALUE, 2: Keep.VALUE}, judge)


def _load(body: Body) -> Call:
    action = Action.MODEL_LOAD_OVERRIDE if body.has(3) else Action.MODEL_REPOSITORY
    return Call(action, Scope.MODEL, _repository_model(body))


# tritonclient always sends this parameter: key "unload_dependents", bool_param false.
_KEEP_DEPENDENTS: Final = b"\x0a\x11unload_dependents\x12\x02\x08\x00"


def _unload(body: Body) -> Call:
    model = _repository_model(body)
    if all(parameter == _KEEP_DEPENDENTS for parameter in body.values(3)):
        return Call(Action.MODEL_REPOSITORY, Scope.MODEL, model)
    return Call(Action.MODEL_REPOSITORY, Scope.EVERY_MODEL)


def _repository_model(body: Body) -> str:
    if body.value(1):
        raise OperationError("Triton does not load from a named repository")
    return _text(body.value(2))


def _trace(body: Body) -> Call:
    model = _text(body.value(2))
    if not model:
        return Call(Action.TRACE, Scope.EVERY_MODEL)
    return Call(Action.TRACE, Scope.MODEL, model)


_WITH_MODEL: Final[dict[str, _Method]] = {
    "ModelReady": _named(Action.HEALTH),
    "ModelMetadata": _named(Action.METADATA),
    "ModelConfig": _named(Action.MODEL_CONFIG),
    "ModelStatistics": _named(Action.STATISTICS, empty=Scope.EVERY_MODEL),
    "ModelInfer": _named(Action.INFERENCE),
    "ModelStreamInfer": _named(Action.INFERENCE_STREAM),
    "RepositoryModelLoad": _Method(
        {1: Keep.VALUE, 2: Keep.VALUE, 3: Keep.PRESENCE}, _load
    ),
    "RepositoryModelUnload": _Method(
        {1: Keep.VALUE, 2: Keep.VALUE, 3: Keep.EACH}, _unload
    ),
    "TraceSetting": _Method({2: Keep.VALUE}, _trace),
}

_WITHOUT_MODEL: Final[dict[str, Call]] = {
    SERVICE + "ServerLive": Call(Action.HEALTH, Scope.SERVER),
    SERVICE + "ServerReady": Call(Action.HEALTH, Scope.SERVER),
    SERVICE + "ServerMetadata": Call(Action.METADATA, Scope.SERVER),
    SERVICE + "RepositoryIndex": Call(Action.MODEL_LIST, Scope.EVERY_MODEL),
    SERVICE + "LogSettings": Call(Action.LOGGING, Scope.EVERY_MODEL),
    "/grpc.health.v1.Health/Check": Call(Action.HEALTH, Scope.SERVER),
} | {
    f"{SERVICE}{kind}SharedMemory{verb}": Call(Action.SHARED_MEMORY, Scope.EVERY_MODEL)
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
}

STREAM: Final = SERVICE + "ModelStreamInfer"

_GATED: Final = {
    SERVICE + "ModelInfer": Call(Action.INFERENCE, Scope.SERVER),
    STREAM: Call(Action.INFERENCE_STREAM, Scope.SERVER),
}
"""What a gated route's call is while no message was seen: whoever may do it with some
model may begin, and each message is judged by what it names."""

_UNSEEN_STREAM: Final = Call(Action.INFERENCE_STREAM, Scope.EVERY_MODEL)
"""A stream whose messages nobody sees: each may name another model."""

_BY_PATH: Final = {SERVICE + name: method for name, method in _WITH_MODEL.items()}

OUTLINES: Final[dict[bytes, Outline]] = {
    path.encode("ascii"): method.outline
    for path, method in _BY_PATH.items()
    if path != STREAM
}
"""For the extraction plan: what to keep of which method's one message."""

GATED_OUTLINES: Final[dict[bytes, Outline]] = {
    path.encode("ascii"): _BY_PATH[path].outline for path in _GATED
}
"""What to keep of each message of a gated call."""

UNARY: Final = frozenset(OUTLINES)
"""Paths whose calls have exactly one message."""


def is_grpc_path(path: str) -> bool:
    """Return whether `path` is one of a gRPC service that Triton serves."""
    return path.startswith((SERVICE, "/grpc.health.v1.Health/"))


def classify_grpc(
    method: str, path: str, body: Body, *, is_gated: bool = False
) -> Call:
    """Return what a gRPC call makes Triton do.

    Args:
        body: the call's message, or one message of a stream.
        is_gated: whether every message of the call is judged on its own.

    Raises:
        OperationError: if Triton has no such method, or its message was not seen whole
            and uncompressed, or names an unacceptable model.
    """
    if method != "POST":
        raise OperationError("gRPC calls are POST requests")
    if path in _WITHOUT_MODEL:
        return _WITHOUT_MODEL[path]
    known = _BY_PATH.get(path)
    if known is None:
        raise OperationError("not a method of Triton")
    if body.state is BodyState.UNREAD:
        if is_gated and path in _GATED:
            return _GATED[path]
        if path == STREAM:
            return _UNSEEN_STREAM
    require_complete(body)
    return known.judge(body)


def _text(value: bytes) -> str:
    """Return `value` as text; bytes that no name may have stay visibly wrong."""
    return value.decode("ascii", "backslashreplace")
