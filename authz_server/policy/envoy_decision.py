"""What a policy written for opa-envoy-plugin answers, read strictly.

The answer is true or false, or an object with ``allowed`` and, beside it, what Envoy is
to do. The keys are the plugin's, and so is which of them count for an allow and which
for a denial: the others are not read. Keys that it does not know are the policy's own,
for the decision log. Where the plugin answers with an error, this raises one: whatever
is wrong with an answer, nobody gets in by it.

Beyond the plugin, an answer is unusable that has a header, status or parameter which
Envoy refuses, or which changes more than it says: see `authz_server.response`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from authz_server.policy.engine import Form, unusable
from authz_server.response import Pairs, Passage, Refusal

_DEFAULT_STATUS: Final = 403


_ALLOWED: Final = Passage()
_DENIED: Final = Refusal()


def read_decision(result: object) -> Passage | Refusal:
    """Return what `result`, JSON as Python reads it, says.

    Raises:
        PolicyError: with POLICY_RESULT_INVALID, if it is not a decision.
    """
    if isinstance(result, bool):
        return _ALLOWED if result else _DENIED
    if not isinstance(result, dict):
        raise unusable("it is neither an object nor true or false")
    allowed = result.get("allowed")
    # Not truthiness: a policy that answers "false" must not allow.
    if not isinstance(allowed, bool):
        raise unusable("'allowed' is not true or false")
    try:
        return _passage(result) if allowed else _refusal(result)
    except (ValueError, RecursionError) as error:
        raise unusable(str(error)) from error


# Nobody asks for nothing: what is worth allowing anybody is a policy's own business.
_WARM_UP: Final = json.dumps(
    {
        "attributes": {
            "source": {},
            "destination": {},
            "request": {
                "http": {"method": "GET", "path": "/", "host": "", "headers": {}}
            },
        },
        "parsed_path": [""],
        "parsed_query": {},
        "parsed_body": None,
        "truncated_body": False,
        "version": {"ext_authz": "v3", "encoding": "protojson"},
    }
).encode()

OPA_ENVOY: Final = Form("envoy/authz/allow", _WARM_UP, read_decision)
"""Policies that are written for opa-envoy-plugin."""


def _passage(result: dict[str, Any]) -> Passage:
    return Passage(
        headers=_headers(result, "headers"),
        remove=tuple(
            name.lower() for name in _names(result, "request_headers_to_remove")
        ),
        response_headers=_headers(result, "response_headers_to_add"),
        query_set=_pairs(result, "query_parameters_to_set"),
        query_remove=_names(result, "query_parameters_to_remove"),
        metadata=_metadata(result),
    )


def _refusal(result: dict[str, Any]) -> Refusal:
    status = result.get("http_status", _DEFAULT_STATUS)
    if isinstance(status, bool) or not isinstance(status, int):
        raise unusable("'http_status' is not a whole number")
    body = result.get("body", "")
    if not isinstance(body, str):
        raise unusable("'body' is not a string")
    return Refusal(
        status=status,
        headers=_headers(result, "headers"),
        body=body,
        metadata=_metadata(result),
    )


def _headers(result: dict[str, Any], key: str) -> Pairs:
    """Return the headers under `key`, an object or an array of objects."""
    value = result.get(key, {})
    return tuple(
        (name.lower(), text)
        for each in (value if isinstance(value, list) else [value])
        for name, text in _each(each, key)
    )


def _pairs(result: dict[str, Any], key: str) -> Pairs:
    return tuple(_each(result.get(key, {}), key))


def _each(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of an object whose values are strings or arrays of them."""
    if not isinstance(value, dict):
        raise unusable(f"'{key}' is not an object")
    for name, given in sorted(value.items()):
        for text in given if isinstance(given, list) else [given]:
            if not isinstance(text, str):
                raise unusable(f"'{key}' has a value that is not a string")
            yield name, text


def _names(result: dict[str, Any], key: str) -> tuple[str, ...]:
    names = result.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise unusable(f"'{key}' is not an array of strings")
    return tuple(names)


def _metadata(result: dict[str, Any]) -> str:
    if "dynamic_metadata" not in result:
        return ""
    metadata = result["dynamic_metadata"]
    if not isinstance(metadata, dict):
        raise unusable("'dynamic_metadata' is not an object")
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)
