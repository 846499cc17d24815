"""Triton's HTTP surface: method and path to what the call does.

The expressions are those of Triton's own router (server, src/http_server.cc), which
matches them against the raw path in this order. Whatever matches none of them, or has
another method than the one that Triton answers, is unknown and denied.
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, OperationError, Scope

_MODEL: Final = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
    r"(?:/(?P<verb>infer|generate|generate_stream|ready|config|stats|trace/setting))?",
    re.ASCII,
)
_SHARED_MEMORY: Final = re.compile(
    r"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?"
    r"/(?P<verb>status|register|unregister)",
    re.ASCII,
)
_REPOSITORY: Final = re.compile(
    r"/v2/repository(?P<repository>/[^/]+)?"
    r"/(?:index|models/(?P<model>[^/]+)/(?P<verb>load|unload))",
    re.ASCII,
)

# Exact paths come first in Triton too: a model named "stats" does not hide them.
_EXACT: Final[dict[tuple[str, str], Call]] = {
    ("GET", "/v2/models/stats"): Call(Action.STATISTICS, Scope.EVERY_MODEL),
    ("GET", "/v2/logging"): Call(Action.LOGGING, Scope.EVERY_MODEL),
    ("POST", "/v2/logging"): Call(Action.LOGGING, Scope.EVERY_MODEL),
    ("GET", "/v2"): Call(Action.METADATA, Scope.SERVER),
    ("GET", "/v2/health/live"): Call(Action.HEALTH, Scope.SERVER),
    ("GET", "/v2/health/ready"): Call(Action.HEALTH, Scope.SERVER),
    ("GET", "/v2/trace/setting"): Call(Action.TRACE, Scope.EVERY_MODEL),
    ("POST", "/v2/trace/setting"): Call(Action.TRACE, Scope.EVERY_MODEL),
    ("GET", "/metrics"): Call(Action.METRICS, Scope.EVERY_MODEL),
    ("GET", "/metrics/"): Call(Action.METRICS, Scope.EVERY_MODEL),
}
_EXACT_PATHS: Final = frozenset(path for _, path in _EXACT)

_MODEL_VERBS: Final[dict[tuple[str, str | None], Action]] = {
    ("POST", "infer"): Action.INFERENCE,
    ("POST", "generate"): Action.INFERENCE,
    ("POST", "generate_stream"): Action.INFERENCE,
    ("GET", None): Action.METADATA,
    ("GET", "config"): Action.MODEL_CONFIG,
    ("GET", "stats"): Action.STATISTICS,
    ("GET", "ready"): Action.HEALTH,
    ("GET", "trace/setting"): Action.TRACE,
    ("POST", "trace/setting"): Action.TRACE,
}


def classify_http(method: str, path: str) -> Call:
    """Return what ``method path`` makes Triton do.

    Args:
        method: as sent; methods are case-sensitive (RFC 9110 §9.1).
        path: a path that `parse_path` accepted.

    Raises:
        OperationError: if Triton has no such route, or its name is not acceptable.
    """
    exact = _EXACT.get((method, path))
    if exact is not None:
        return exact
    if path not in _EXACT_PATHS:
        for route, classify in (
            (_MODEL, _classify_model),
            (_SHARED_MEMORY, _classify_shared_memory),
            (_REPOSITORY, _classify_repository),
        ):
            match = route.fullmatch(path)
            if match is not None:
                return classify(method, match)
    raise OperationError("not a route of Triton")


def _classify_model(method: str, match: re.Match[str]) -> Call:
    model, version, verb = match.groups()
    action = _MODEL_VERBS.get((method, verb))
    # Trace settings have no versions: Triton answers 404.
    if action is None or (action is Action.TRACE and version is not None):
        raise OperationError("not a method of this Triton route")
    return Call(action, Scope.MODEL, model, version or "")


def _classify_shared_memory(method: str, match: re.Match[str]) -> Call:
    if method != ("GET" if match["verb"] == "status" else "POST"):
        raise OperationError("not a method of this Triton route")
    # A region belongs to no model, and any inference may read or write it by name.
    return Call(Action.SHARED_MEMORY, Scope.EVERY_MODEL)


def _classify_repository(method: str, match: re.Match[str]) -> Call:
    if method != "POST":
        raise OperationError("not a method of this Triton route")
    if match["verb"] is None:
        return Call(Action.MODEL_LIST, Scope.EVERY_MODEL)
    if match["repository"] is not None:
        raise OperationError("Triton does not load from a named repository")
    # The bodies of these two are not sent along, so the worst that they may ask for is
    # what is judged: a load with the caller's own configuration and files, an unload
    # that takes dependent ensembles down too. The gRPC methods can be judged exactly.
    if match["verb"] == "load":
        return Call(Action.MODEL_LOAD_OVERRIDE, Scope.MODEL, match["model"])
    return Call(Action.MODEL_REPOSITORY, Scope.EVERY_MODEL)
