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
from authz_server.operations.actions import Action, is_model_name
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

    An adapter (LoRA) that is named behind the model is checked for its form alone: the
    call is one on the model.

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
        return Call(Action.INFERENCE, Scope.MODEL, _model_in(body, separator))
    match = _MODEL.fullmatch(path)
    if match is None:
        raise OperationError("not a route of the OpenAI-compatible frontend")
    verb, name = match["verb"], match["model"]
    if verb is None and method == "GET":
        return Call(Action.METADATA, Scope.MODEL, _base_model(name, separator))
    if verb is not None and method == "POST":
        # Neither takes anything from the caller but the name; and the name is the
        # model's alone: the frontend looks for no adapter here.
        return Call(Action.MODEL_REPOSITORY, Scope.MODEL, name)
    raise OperationError("not a method of this route")


def _model_in(body: Body, separator: str) -> str:
    require_complete(body)
    return _base_model(body.value(VALUE).decode("utf-8"), separator)


def _base_model(name: str, separator: str) -> str:
    """Return the model in ``model`` or ``model SEPARATOR adapter``.

    The frontend splits what has exactly two parts, and takes anything else for a
    model's name; which no name is that has the separator in it.

    Raises:
        OperationError: if what stands for the adapter is not acceptable.
    """
    parts = name.split(separator) if separator else [name]
    if len(parts) != 2:  # noqa: PLR2004 - model and adapter
        return name
    model, adapter = parts
    if not is_model_name(adapter):
        raise OperationError(
            "not an acceptable adapter name", Reason.MODEL_NAME_INVALID
        )
    return model
