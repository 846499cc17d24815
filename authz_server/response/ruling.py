"""CheckResponses as a policy of opa-envoy-plugin's form wants them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import Reason
from authz_server.response.check import (
    GATE_FACTS,
    allow,
    allow_message,
    deny_message,
    metadata_message,
)
from authz_server.response.messages import FIRST_REDIRECT, STATUSES, Pairs
from authz_server.response.status import FORBIDDEN, REASON_HEADER
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
_STATUSES: Final = frozenset(code for code in STATUSES if code >= FIRST_REDIRECT)


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
        metadata_message(_metadata(self.metadata))


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
        metadata_message(_metadata(self.metadata))


def allow_as(passage: Passage) -> bytes:
    """Return the CheckResponse that lets a request through, as a policy wants it.

    Headers of the request replace those that came, or a caller could add to them.
    opa-envoy-plugin leaves the action open, and Envoy does the same. Those of the
    response are added to what the upstream gives.
    """
    if passage == Passage():
        return allow()
    return allow_message(
        overwrite=passage.headers,
        remove=passage.remove,
        response_headers=passage.response_headers,
        query_set=passage.query_set,
        query_remove=passage.query_remove,
        metadata=_metadata(passage.metadata),
    )


def deny_as(refusal: Refusal, reason: Reason) -> bytes:
    """Return the CheckResponse that refuses a request, as a policy wants it."""
    return deny_message(
        refusal.status,
        ((REASON_HEADER, reason.value), *refusal.headers),
        refusal.body,
        _metadata(refusal.metadata),
    )


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


def _metadata(text: str) -> dict[str, Any] | None:
    """Return the object in `text`."""
    if not text:
        return None
    found = parse_json_object(text.encode("utf-8"))
    if GATE_FACTS in found:
        # The gate believes what it finds there.
        raise ValueError(f"metadata {GATE_FACTS} is not for a policy to set")
    return found
