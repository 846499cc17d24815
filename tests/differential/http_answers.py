"""What Triton's HTTP answers say that it did.

They are told apart by what they hold, never by the path that was asked for.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

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

from authz_server.operations.actions import Action


def http_acts(path: bytes, answer: Answer, marks: Marks, twin: Twin) -> Iterator[Act]:
    """Yield what `answer` says."""
    if answer.grpc_status != -1:
        # Envoy's own, which refused what calls itself gRPC.
        return
    route = path.partition(b"?")[0]
    found = list(_objects(answer.body))
    if answer.status == 200 and not answer.body:
        yield from _silent(route, twin)
    for one in found:
        if isinstance(one, dict) and isinstance(one.get("error"), str):
            yield from spoken_of(one["error"])
        elif answer.status == 200 and isinstance(one, list):
            yield _list(one)
        elif answer.status == 200:
            yield from _described(one, route, twin)
            yield from _did(one, marks)


def _objects(body: bytes) -> Iterator[Any]:
    """Yield the JSON of an answer: one value, or those of server-sent events."""
    text = body.decode("utf-8", "replace")
    pieces = text.split("data: ") if text.startswith("data: ") else [text]
    for piece in pieces:
        with contextlib.suppress(ValueError):
            yield json.JSONDecoder().raw_decode(piece)[0]


def _silent(route: bytes, twin: Twin) -> Iterator[Act]:
    """Yield what an answer of no content is about."""
    if route.endswith(b"load"):
        yield Act("repository", LOADS, UNKNOWN)
    elif b"sharedmemory" in route:
        yield act("shared memory", Action.SHARED_MEMORY, EVERY)
    elif route.endswith(b"/ready") and b"/models/" in route:
        acts = list(_by_twin(route, b"/ready", Action.HEALTH, twin))
        yield from acts or [act("said ready", Action.HEALTH, UNKNOWN)]
    else:
        yield act("server health", Action.HEALTH, SERVER)


def _list(found: list[Any]) -> Act:
    if all("state" in one for one in found) and found:
        told = [(one["name"], one.get("version", "")) for one in found]
        return listing(Action.MODEL_LIST, told)
    return act("shared memory", Action.SHARED_MEMORY, EVERY)


def _described(one: Any, route: bytes, twin: Twin) -> Iterator[Act]:
    match one:
        case {"name": _, "extensions": _}:
            yield act("described", Action.METADATA, SERVER)
        case {"name": str(name), "versions": _}:
            yield act("described", Action.METADATA, name)
            yield from _by_twin(route, b"", Action.METADATA, twin)
        case {"name": str(name), "max_batch_size": _}:
            yield act("described", Action.MODEL_CONFIG, name)
            yield from _by_twin(route, b"/config", Action.MODEL_CONFIG, twin)


def _did(one: Any, marks: Marks) -> Iterator[Act]:
    match one:
        case {"model_stats": stats}:
            yield listing(Action.STATISTICS, _told(stats))
        case {"model_name": str(name), "model_version": str(version)}:
            yield act("ran", Action.INFERENCE, name, version)
        case {"log_verbose_level": _}:
            yield act("logging", Action.LOGGING, EVERY)
        case {"log_frequency": str(mark)}:
            yield trace(mark, marks)


def _by_twin(route: bytes, suffix: bytes, action: Action, twin: Twin) -> Iterator[Act]:
    """Yield what a request was about, from the statistics under the same name."""
    answer = twin(route.removesuffix(suffix) + b"/stats")
    for one in _objects(answer.body):
        if isinstance(one, dict) and "model_stats" in one:
            yield about(action, _told(one["model_stats"]))


def _told(stats: list[Any]) -> Told:
    return [(model["name"], model["version"]) for model in stats]
