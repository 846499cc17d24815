"""CheckResponses as a policy of opa-envoy-plugin's form wants them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google import protobuf, rpc

from authz_server.errors import Reason
from authz_server.response.check import (
    GATE_FACTS,
    OK,
    Pairs,
    allow,
    overwriting,
)
from authz_server.response.status import (
    FORBIDDEN,
    PERMISSION_DENIED,
    REASON_HEADER,
    UNAUTHENTICATED,
    UNAUTHORIZED,
)
from authz_server.strict_json import parse_json_object

# What frames a message or names its target is Envoy's: a policy that set it would let
# another request through than the one that was judged. `host` stands for :authority,
# and no pseudo-header has a name that passes `_HEADER_NAME`.
_NOT_TO_CHANGE: Final = frozenset(
    {
        "host",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# RFC 9110 §5.1 and §5.5; HTTP/2 and Envoy have names in lower case.
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HEADER_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# RFC 3986 §3.4 without what ends a parameter: Envoy puts both in as they are.
_QUERY_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9._~!$'()*+,:@/?-]|%[0-9A-Fa-f]{2})+", re.ASCII
)
_QUERY_VALUE: Final = re.compile(
    r"(?:[A-Za-z0-9._~!$'()*+,:@/?=-]|%[0-9A-Fa-f]{2})*", re.ASCII
)
_MAX_METADATA_DEPTH: Final = 16

_FIRST_REDIRECT: Final = 300
_STATUSES: Final = frozenset(
    int(code) for code in envoy_type.StatusCode if int(code) >= _FIRST_REDIRECT
)


@dataclass(frozen=True, slots=True)
class Passage:
    """How a policy wants a request to be let through.

    A name may come several times, with a value each. Envoy 1.40 then keeps the last for
    headers of the request and parameters, and adds all to the response.

    Attributes:
        headers: (lower-case name, value): of the request, on its way upstream.
        remove: lower-case names of headers of the request.
        response_headers: (lower-case name, value), added to the response.
        query_set: (name, value) of parameters, encoded as in a URL.
        query_remove: names of parameters.
        metadata: a JSON object for Envoy's dynamic metadata; empty for none.

    Raises:
        ValueError: if Envoy would refuse or ignore one of them, or it would change more
            than it says. Quotes no value.
    """

    headers: Pairs = field(default=(), repr=False)
    remove: tuple[str, ...] = ()
    response_headers: Pairs = field(default=(), repr=False)
    query_set: Pairs = field(default=(), repr=False)
    query_remove: tuple[str, ...] = ()
    metadata: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _check_headers((*self.headers, *self.response_headers))
        for name in self.remove:
            _check_name(name)
        for name, value in self.query_set:
            _check_parameter(name)
            if _QUERY_VALUE.fullmatch(value) is None:
                raise ValueError(f"the value of query parameter {name} is not encoded")
        for name in self.query_remove:
            _check_parameter(name)
        _metadata(self.metadata)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a policy wants a request to be refused.

    Not a 1xx or 2xx status, though Envoy would send it: to the caller, that would be no
    refusal.

    Attributes:
        status: of the HTTP response.
        headers: (lower-case name, value) of the HTTP response.
        body: of the HTTP response, or message of the gRPC status.
        metadata: a JSON object for Envoy's dynamic metadata; empty for none.

    Raises:
        ValueError: as for `Passage`, and if the status is none that Envoy knows or says
            that all is well. Quotes no value.
    """

    status: int = FORBIDDEN
    headers: Pairs = field(default=(), repr=False)
    body: str = field(default="", repr=False)
    metadata: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.status not in _STATUSES:
            raise ValueError(f"{self.status} is no HTTP status for a denial")
        _check_headers(self.headers)
        if any(name == REASON_HEADER for name, _ in self.headers):
            raise ValueError(f"{REASON_HEADER} is not for a policy to set")
        _check_text(self.body, "the body")
        _metadata(self.metadata)


def allow_as(passage: Passage) -> bytes:
    """Return the CheckResponse that lets a request through, as a policy wants it.

    Headers of the request replace those that came, or a caller could add to them.
    opa-envoy-plugin leaves the action open, and Envoy does the same. Those of the
    response are added to what the upstream gives.
    """
    if passage == Passage():
        return allow()
    return bytes(
        auth.CheckResponse(
            status=rpc.Status(code=OK),
            ok_response=auth.OkHttpResponse(
                headers=overwriting(passage.headers),
                headers_to_remove=list(passage.remove),
                response_headers_to_add=_options(passage.response_headers),
                query_parameters_to_set=[
                    core.QueryParameter(key=name, value=value)
                    for name, value in passage.query_set
                ],
                query_parameters_to_remove=list(passage.query_remove),
            ),
            dynamic_metadata=_metadata(passage.metadata),
        )
    )


def deny_as(refusal: Refusal, reason: Reason) -> bytes:
    """Return the CheckResponse that refuses a request, as a policy wants it."""
    return bytes(
        auth.CheckResponse(
            status=rpc.Status(
                code=UNAUTHENTICATED
                if refusal.status == UNAUTHORIZED
                else PERMISSION_DENIED
            ),
            denied_response=auth.DeniedHttpResponse(
                status=envoy_type.HttpStatus(
                    code=envoy_type.StatusCode(refusal.status)
                ),
                headers=_options(((REASON_HEADER, reason.value), *refusal.headers)),
                body=refusal.body,
            ),
            dynamic_metadata=_metadata(refusal.metadata),
        )
    )


def _options(headers: Pairs) -> list[core.HeaderValueOption]:
    return [
        core.HeaderValueOption(header=core.HeaderValue(key=name, value=value))
        for name, value in headers
    ]


def _check_headers(headers: Pairs) -> None:
    for name, value in headers:
        _check_name(name)
        _check_text(value, f"the value of header {name}")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise ValueError(
                f"the value of header {name} has a character that none may"
            )


def _check_name(name: str) -> None:
    if _HEADER_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a lower-case header name")
    if name in _NOT_TO_CHANGE:
        raise ValueError(f"header {name} is not for a policy to change")


def _check_parameter(name: str) -> None:
    if _QUERY_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not an encoded name of a query parameter")


def _check_text(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} has half a character") from None


def _metadata(text: str) -> protobuf.Struct | None:
    """Return the object in `text` as protobuf has it."""
    if not text:
        return None
    found = _struct(parse_json_object(text.encode("utf-8")), 0)
    if GATE_FACTS in found.fields:
        # The gate believes what it finds there.
        raise ValueError(f"metadata {GATE_FACTS} is not for a policy to set")
    return found


def _struct(values: dict[str, Any], depth: int) -> protobuf.Struct:
    if depth > _MAX_METADATA_DEPTH:
        raise ValueError("the metadata is nested too deeply")
    return protobuf.Struct(
        fields={key: _struct_value(value, depth) for key, value in values.items()}
    )


def _struct_value(value: object, depth: int) -> protobuf.Value:
    if isinstance(value, bool):
        return protobuf.Value(bool_value=value)
    if isinstance(value, int | float):
        try:
            return protobuf.Value(number_value=float(value))
        except OverflowError:
            raise ValueError("the metadata has a number that is too large") from None
    if isinstance(value, str):
        return protobuf.Value(string_value=value)
    if isinstance(value, dict):
        return protobuf.Value(struct_value=_struct(value, depth + 1))
    if isinstance(value, list):
        if depth > _MAX_METADATA_DEPTH:
            raise ValueError("the metadata is nested too deeply")
        return protobuf.Value(
            list_value=protobuf.ListValue(
                values=[_struct_value(each, depth + 1) for each in value]
            )
        )
    return protobuf.Value(null_value=protobuf.NullValue.NULL_VALUE)
