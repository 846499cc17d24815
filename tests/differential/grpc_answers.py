"""What Triton's gRPC answers say that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from differential.acts import EVERY, LOADS, SERVER, UNKNOWN, Act
from differential.answers import (
    Marks,
    Told,
    Twin,
    about,
    act,
    listing,
    spoken_of,
    trace,
)
from differential.wires import Answer
from tritonclient.grpc import service_pb2

from authz_server.operations.actions import Action

_STATISTICS: Final = b"/inference.GRPCInferenceService/ModelStatistics"

_SERVER_WIDE: Final = {
    "ServerLive": (Action.HEALTH, SERVER),
    "ServerReady": (Action.HEALTH, SERVER),
    "Check": (Action.HEALTH, SERVER),
    "ServerMetadata": (Action.METADATA, SERVER),
    "LogSettings": (Action.LOGGING, EVERY),
} | {
    f"{kind}SharedMemory{verb}": (Action.SHARED_MEMORY, EVERY)
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
}


def grpc_acts(method: str, answer: Answer, marks: Marks, twin: Twin) -> Iterator[Act]:
    """Yield what the answer to `method` says."""
    messages = list(_messages(answer.body))
    if method == "ModelStreamInfer":
        yield from _stream(messages)
    # HTTP/1.1 loses the trailers that say so, but there is no message in a failure.
    if answer.grpc_status == 0 or (answer.grpc_status == -1 and messages):
        yield from _good(method, messages, marks, twin)
    else:
        yield from spoken_of(answer.message.decode("latin-1"))


def _good(
    method: str, messages: list[bytes], marks: Marks, twin: Twin
) -> Iterator[Act]:
    if method in _SERVER_WIDE:
        action, model = _SERVER_WIDE[method]
        yield act(method, action, model)
    elif method.startswith("RepositoryModel"):
        yield Act(method, LOADS, UNKNOWN)
    elif messages and method == "TraceSetting":
        settings = service_pb2.TraceSettingResponse.FromString(messages[0]).settings
        yield trace("".join(settings["log_frequency"].value), marks)
    elif messages and method in _READERS:
        yield from _READERS[method](messages[0], twin)


def _messages(body: bytes) -> Iterator[bytes]:
    while len(body) >= 5 and body[0] == 0:
        size = int.from_bytes(body[1:5])
        yield body[5 : 5 + size]
        body = body[5 + size :]


def _stream(messages: list[bytes]) -> Iterator[Act]:
    for raw in messages:
        one = service_pb2.ModelStreamInferResponse.FromString(raw)
        yield from spoken_of(one.error_message)
        if one.infer_response.model_name:
            yield _ran(one.infer_response, Action.INFERENCE_STREAM)


def _ran(response: Any, action: Action) -> Act:
    return act("ran", action, response.model_name, response.model_version)


def _infer(raw: bytes, _: Twin) -> Iterator[Act]:
    yield _ran(service_pb2.ModelInferResponse.FromString(raw), Action.INFERENCE)


def _ready(raw: bytes, twin: Twin) -> Iterator[Act]:
    if service_pb2.ModelReadyResponse.FromString(raw).ready:
        acts = list(_by_twin(Action.HEALTH, twin))
        yield from acts or [act("said ready", Action.HEALTH, UNKNOWN)]


def _metadata(raw: bytes, twin: Twin) -> Iterator[Act]:
    metadata = service_pb2.ModelMetadataResponse.FromString(raw)
    yield act("described", Action.METADATA, metadata.name)
    yield from _by_twin(Action.METADATA, twin)


def _config(raw: bytes, twin: Twin) -> Iterator[Act]:
    config = service_pb2.ModelConfigResponse.FromString(raw).config
    yield act("described", Action.MODEL_CONFIG, config.name)
    yield from _by_twin(Action.MODEL_CONFIG, twin)


def _statistics(raw: bytes, _: Twin) -> Iterator[Act]:
    yield listing(Action.STATISTICS, _told(raw))


def _index(raw: bytes, _: Twin) -> Iterator[Act]:
    models = service_pb2.RepositoryIndexResponse.FromString(raw).models
    yield listing(Action.MODEL_LIST, [(one.name, one.version) for one in models])


def _by_twin(action: Action, twin: Twin) -> Iterator[Act]:
    """Yield what a request was about, from the statistics that the same bytes give."""
    answer = twin(_STATISTICS)
    if answer.grpc_status == 0:
        for raw in _messages(answer.body):
            yield about(action, _told(raw))


def _told(raw: bytes) -> Told:
    stats = service_pb2.ModelStatisticsResponse.FromString(raw).model_stats
    return [(one.name, one.version) for one in stats]


_READERS: Final[dict[str, Callable[[bytes, Twin], Iterator[Act]]]] = {
    "ModelInfer": _infer,
    "ModelReady": _ready,
    "ModelMetadata": _metadata,
    "ModelConfig": _config,
    "ModelStatistics": _statistics,
    "RepositoryIndex": _index,
}
