"""CheckResponses of our own: allow and deny.

Messages: envoy/service/auth/v3/external_auth.proto, google/rpc/status.proto.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import Reason
from authz_server.response.messages import (
    Action,
    Pairs,
    headers,
    http_status_message,
    parameters,
    struct,
    texts,
)
from authz_server.response.protobuf import integer, message, text
from authz_server.response.status import (
    PERMISSION_DENIED,
    UNAUTHENTICATED,
    UNAUTHORIZED,
    denial_headers,
    denial_message,
    http_status,
)

GATE_FACTS: Final = "authz_server_facts"
"""Key of what `with_gate` hands on, in the namespace of the ext_authz filter."""

# CheckResponse
_STATUS: Final = 1
_DENIED: Final = 2
_OK: Final = 3
_METADATA: Final = 4
# google.rpc.Status
_CODE: Final = 1
# OkHttpResponse
_HEADERS: Final = 2
_HEADERS_TO_REMOVE: Final = 5
_RESPONSE_HEADERS: Final = 6
_PARAMETERS: Final = 7
_PARAMETERS_TO_REMOVE: Final = 8
# DeniedHttpResponse
_DENIED_STATUS: Final = 1
_DENIED_HEADERS: Final = 2
_DENIED_BODY: Final = 3


@dataclass(frozen=True, slots=True)
class RequestChanges:
    """What Envoy does to the headers of a request that it lets through.

    Attributes:
        overwrite: (lower-case name, value): replaces every copy that came.
        remove: lower-case names.
    """

    overwrite: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    remove: tuple[str, ...] = ()


NO_CHANGES: Final = RequestChanges()


def allow(changes: RequestChanges = NO_CHANGES) -> bytes:
    """Return the CheckResponse that lets a request through, with `changes` made to it.

    Not checked: that Envoy's ``decoder_header_mutation_rules`` allow them. Without
    ``disallow_is_error`` it drops those that they do not, and lets the request through.
    """
    return _UNCHANGED if changes == NO_CHANGES else _allow(changes)


def _allow(changes: RequestChanges) -> bytes:
    return allow_message(overwrite=changes.overwrite, remove=changes.remove)


def allow_message(
    *,
    overwrite: Pairs = (),
    remove: tuple[str, ...] = (),
    response_headers: Pairs = (),
    query_set: Pairs = (),
    query_remove: tuple[str, ...] = (),
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the CheckResponse that lets a request through, changed so.

    Headers of the request replace those that came, or a caller could add to them.

    Raises:
        ValueError: if protobuf cannot hold the metadata.
    """
    return b"".join(
        (
            # There must be a status; its code is 0, the default, which is not written.
            message(_STATUS),
            message(
                _OK,
                headers(_HEADERS, overwrite, Action.OVERWRITE_IF_EXISTS_OR_ADD),
                texts(_HEADERS_TO_REMOVE, remove),
                headers(_RESPONSE_HEADERS, response_headers),
                parameters(_PARAMETERS, query_set),
                texts(_PARAMETERS_TO_REMOVE, query_remove),
            ),
            metadata_message(metadata),
        )
    )


def deny_message(
    status: int,
    denied_headers: Pairs,
    body: str,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the CheckResponse that refuses a request with this HTTP response.

    Raises:
        ValueError: if protobuf cannot hold the metadata.
    """
    code = UNAUTHENTICATED if status == UNAUTHORIZED else PERMISSION_DENIED
    return b"".join(
        (
            message(_STATUS, integer(_CODE, code)),
            message(
                _DENIED,
                http_status_message(_DENIED_STATUS, status),
                headers(_DENIED_HEADERS, denied_headers),
                text(_DENIED_BODY, body),
            ),
            metadata_message(metadata),
        )
    )


def metadata_message(metadata: Mapping[str, Any] | None) -> bytes:
    """Return the field of a CheckResponse with dynamic metadata; none for None."""
    return b"" if metadata is None else struct(_METADATA, metadata)


_UNCHANGED: Final = _allow(NO_CHANGES)


def with_gate(response: bytes, facts: bytes) -> bytes:
    """Return the CheckResponse `response`, which hands `facts` on to the gate.

    Envoy gives them to its ext_proc filter as dynamic metadata, which nobody but its
    own filters can write.

    Args:
        response: of `allow`, so without metadata.
    """
    handed_on = base64.b64encode(facts).decode("ascii")
    return response + metadata_message({GATE_FACTS: handed_on})


@functools.cache
def deny(reason: Reason, *, is_grpc: bool = False) -> bytes:
    """Return the CheckResponse that refuses a request.

    The caller sees the reason code and nothing else: no model, no rule, no error text.

    Args:
        is_grpc: whether the caller gets the message as a gRPC status (plain text)
            rather than as a body (JSON, as Triton writes its own errors).
    """
    return deny_message(
        http_status(reason),
        tuple(denial_headers(reason, is_grpc=is_grpc).items()),
        denial_message(reason, is_grpc=is_grpc),
    )
