"""The input document of opa-envoy-plugin, made from the bytes of a CheckRequest.

So that policies written for the plugin load unchanged: the keys ``attributes``,
``parsed_path``, ``parsed_query``, ``parsed_body``, ``truncated_body``,
``source_principal`` and ``version``, each in the plugin's form. The document is cut
down to what the policy reads, and canonical: it can be the key of remembered answers.

Where the plugin leaves something to chance, this one refuses the request:

- It splits the path before it decodes it. The plugin decodes first, so that
  ``/public%2Fsecret`` becomes two segments, which the server behind may take for one,
  or the other way round. Both readings open something: a rule that allows below
  ``public``, or one that denies ``admin`` and is asked for ``/%2Fadmin``. So an encoded
  slash is refused.
- Dot segments, also encoded ones, backslashes and control characters in the path, which
  servers resolve in their own ways. As in the plugin, ``//admin`` is ``["admin"]``.
- Malformed escapes, text that is not UTF-8, ``;`` in a query: as in the plugin.
- Bodies that two readers may take for different ones: see
  `authz_server.facts.envoy_body`. Media types are told without regard to case, and are
  also found where Envoy sends headers raw (``encode_raw_headers``), where the plugin
  sees no body at all.
- A CheckRequest that has a singular field, a key of a map or a choice twice, metadata
  with a value of no kind, or a number that JSON has not; and one of the TCP filter.

What is not computed is not checked: a policy that reads no ``parsed_path`` gets
requests with any path. gRPC bodies are null, as in the plugin without a descriptor.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from authz_server.errors import Reason, RequestError
from authz_server.facts.envoy_body import (
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    PARTIAL_BODY,
    Payload,
    decoded,
    read_body,
    read_form,
)
from authz_server.facts.envoy_message import Wanted, narrowed, read_check_request
from authz_server.facts.input_paths import InputPaths, Path

_VERSION: Final = {"ext_authz": "v3", "encoding": "protojson"}

_BODY_HEADERS: Final = (CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, PARTIAL_BODY)

_HTTP: Final = ("attributes", "request", "http")
_PATH: Final = (*_HTTP, "path")
_PRINCIPAL: Final = ("attributes", "source", "principal")
_BODY: Final = (
    (*_HTTP, "body"),
    (*_HTTP, "rawBody"),
    (*_HTTP, "size"),
    (*_HTTP, "headerMap"),
    *((*_HTTP, "headers", name) for name in _BODY_HEADERS),
)
_SOURCES: Final[Mapping[str, tuple[Path, ...]]] = {
    "parsed_path": (_PATH,),
    "parsed_query": (_PATH,),
    "parsed_body": _BODY,
    "truncated_body": _BODY,
    "source_principal": (_PRINCIPAL,),
}
"""What of the request each computed key is made from."""

_FROM_BODY: Final = frozenset({"parsed_body", "truncated_body"})

# Besides what ends a path or is no character of one, what servers take for a slash.
_ODD: Final = re.compile(r"[\x00-\x1f\x7f\\]")


def build_document(raw: bytes, wanted: InputPaths) -> bytes:
    """Return the input document for a CheckRequest: JSON, sorted, compact, ASCII.

    What is not wanted is not in it. Of an object or another value on the way to
    something wanted that is not there, an empty object or null is left, so that a
    policy that reads nothing but `wanted` cannot tell the document from the whole one.

    Args:
        raw: wire bytes of an envoy.service.auth.v3.CheckRequest.
        wanted: what the policy reads.

    Raises:
        RequestError: if what the document is made from is malformed or ambiguous, or it
            is no HTTP request.
    """
    tree, sources = _trees(wanted)
    request = read_check_request(raw, sources)
    http = request.get("attributes", {}).get("request", {}).get("http")
    if http is None:
        raise RequestError("CheckRequest has no HTTP request", Reason.REQUEST_NOT_HTTP)
    keys = frozenset(_SOURCES if tree is None else tree)
    document = request | dict(_computed(request, http, keys))
    return json.dumps(
        narrowed(document, tree),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        default=_base64,
    ).encode("ascii")


def pruned(document: Mapping[str, Any], wanted: InputPaths) -> dict[str, Any]:
    """Return the wanted part of `document`, as `build_document` cuts its own."""
    found: dict[str, Any] = narrowed(dict(document), _trees(wanted)[0])
    return found


@functools.lru_cache(maxsize=64)
def _trees(wanted: InputPaths) -> tuple[Wanted, Wanted]:
    """Return `wanted` as a tree, and what of the request is to be read for it."""
    if wanted.is_everything:
        return None, None
    tree: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for path in wanted.paths:
        _plant(tree, path, None)
        _plant(sources, path, None)
        for source in _SOURCES.get(path[0], ()):
            _plant(sources, source, None)
    # Whether it is an HTTP request.
    _plant(sources, _HTTP, {})
    return tree, sources


def _plant(tree: dict[str, Any], path: Path, leaf: Wanted) -> None:
    """Put `leaf` at `path`, unless everything is wanted from above there on."""
    for key in path[:-1]:
        below = tree.setdefault(key, {})
        if below is None:
            return
        tree = below
    if leaf is None:
        tree[path[-1]] = None
    else:
        tree.setdefault(path[-1], dict(leaf))


def _computed(
    request: Mapping[str, Any],
    http: Mapping[str, Any],
    keys: frozenset[str],
) -> Iterator[tuple[str, Any]]:
    """Yield those of `keys` that are not in the request itself."""
    yield "version", _VERSION
    path, _, query = http.get("path", "").partition("?")
    if "parsed_path" in keys:
        yield "parsed_path", _segments(path)
    if "parsed_query" in keys:
        yield "parsed_query", _parameters(query)
    if keys & _FROM_BODY:
        body, is_truncated = read_body(_payload(http))
        yield "parsed_body", body
        yield "truncated_body", is_truncated
    principal = request["attributes"].get("source", {}).get("principal")
    if principal:
        yield "source_principal", principal


def _segments(path: str) -> list[str]:
    """Return the decoded segments of `path`; one empty one if there are none."""
    try:
        segments = [decoded(part) for part in path.lstrip("/").split("/")]
    except ValueError as error:
        raise RequestError(
            f"the path is refused: {error}", Reason.PATH_INVALID
        ) from None
    for segment in segments:
        if "/" in segment:
            raise RequestError("the path has an encoded slash", Reason.PATH_INVALID)
        if _ODD.search(segment) or segment in {".", ".."}:
            raise RequestError(
                "the path has a segment that servers take for different things",
                Reason.PATH_INVALID,
            )
    return segments


def _parameters(query: str) -> dict[str, list[str]]:
    try:
        return read_form(query.encode("utf-8"))
    except RequestError as error:
        raise RequestError(
            "the query is refused: an escape or a parameter is malformed",
            Reason.PATH_INVALID,
        ) from error


def _payload(http: Mapping[str, Any]) -> Payload:
    text, raw = http.get("body", ""), http.get("rawBody", b"")
    if text and raw:
        raise RequestError("CheckRequest has two bodies")
    return Payload(
        raw=raw or text.encode("utf-8"),
        size=http.get("size", 0),
        headers={name: _header(http, name) for name in _BODY_HEADERS},
    )


def _header(http: Mapping[str, Any], name: str) -> list[str]:
    """Return every value of a header, in whichever form Envoy sends them."""
    values = [http["headers"][name]] if name in http.get("headers", {}) else []
    for header in http.get("headerMap", {}).get("headers", ()):
        if header.get("key") == name:
            if "value" in header and "rawValue" in header:
                raise RequestError("a header has two kinds of value")
            raw = header.get("rawValue", header.get("value", "").encode("utf-8"))
            # The names and numbers that count are ASCII; all else is no match.
            values.append(raw.decode("ascii", "replace"))
    return values


def _base64(value: object) -> str:
    """Return bytes as protobuf's JSON has them."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is no part of a document")
    return base64.b64encode(value).decode("ascii")
