"""Triton's OpenAI-compatible frontend: method, path and body to what the call does.

Routes of the server's python/openai, which a FastAPI application serves: it decodes a
path before it looks for a route, so a path with an escape never gets here. The three
routes that run a model name it in the JSON body.
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.errors import Reason
from authz_server.facts import Body
from authz_server.facts.json_body import VALUE
from authz_server.operations.actions import Action
from authz_server.operations.operation import (
    Call,
    OperationError,
    Scope,
    require_complete,
)

_INFERENCE: Final = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
)

JSON_MODELS: Final[dict[bytes, str]] = {
    path.encode("ascii"): "model" for path in sorted(_INFERENCE)
}
"""For the extraction plan: under which key of which path's body the model is named."""

_EXACT: Final[dict[tuple[str, str], Call]] = {
    ("GET", "/v1/models"): Call(Action.MODEL_LIST, Scope.EVERY_MODEL),
    ("GET", "/metrics"): Call(Action.METRICS, Scope.EVERY_MODEL),
    ("GET", "/health/ready"): Call(Action.HEALTH, Scope.SERVER),
}

_MODEL: Final = re.compile(r"/v1/models/(?P<model>[^/]+)(?:/(?P<verb>load|unload))?")

# A page that lets a browser try out every route, and what it is made from.
_DOCUMENTATION: Final = frozenset(
    {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
)


def classify_openai(method: str, path: str, body: Body, separator: str) -> Call:
    """Return what ``method path`` makes the frontend do.

    Args:
        method: as sent; methods are case-sensitive (RFC 9110 §9.1).
        path: a path that `parse_path` accepted.
        body: the outline that `JSON_MODELS` asks for.
        separator: what stands between a model and an adapter; empty for no adapters.

    Raises:
        OperationError: if the frontend has no such route, the body was not seen whole
            and unambiguous, or what it names is not acceptable.
    """
    exact = _EXACT.get((method, path))
    if exact is not None:
        return exact
    if path in _DOCUMENTATION:
        raise OperationError("FastAPI's documentation pages are not served")
    if method == "POST" and path in _INFERENCE:
        require_complete(body)
        name = body.value(VALUE).decode("utf-8")
        return _call(Action.INFERENCE, name, separator)
    match = _MODEL.fullmatch(path)
    if match is None:
        raise OperationError("not a route of the OpenAI-compatible frontend")
    verb, name = match["verb"], match["model"]
    if verb is None and method == "GET":
        return _call(Action.METADATA, name, separator)
    if verb is not None and method == "POST":
        # Neither takes anything from the caller but the name; and the name is the
        # model's alone: the frontend looks for no adapter here.
        return Call(Action.MODEL_REPOSITORY, Scope.MODEL, name)
    raise OperationError("not a method of this route")


def _call(action: Action, name: str, separator: str) -> Call:
    """Return `action` on the model in ``model`` or ``model SEPARATOR adapter``.

    The frontend splits what has exactly two parts, and takes anything else for a
    model's name; which no name is that has the separator in it.

    Raises:
        OperationError: if what stands for the model or the adapter is not acceptable.
    """
    model, found, adapter = name.partition(separator) if separator else (name, "", "")
    if found and (not adapter or separator in adapter):
        raise OperationError(
            "not exactly a model and an adapter", Reason.MODEL_NAME_INVALID
        )
    return Call(action, Scope.MODEL, model, adapter=adapter)
