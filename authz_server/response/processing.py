"""ProcessingResponses: what the gate lets Envoy do to a call that flows.

Messages: envoy/service/ext_proc/v3/external_processor.proto.
"""

from __future__ import annotations

import functools
from typing import Final

from authz_server.errors import Reason
from authz_server.response.messages import Action, headers, http_status_message
from authz_server.response.protobuf import integer, message, text
from authz_server.response.status import (
    denial_headers,
    denial_message,
    grpc_status,
    http_status,
)

# ProcessingResponse
_PARTS: Final = {
    "request_headers": 1,
    "response_headers": 2,
    "request_body": 3,
    "response_body": 4,
    "request_trailers": 5,
    "response_trailers": 6,
}
_IMMEDIATE_RESPONSE: Final = 7
# BodyResponse
_RESPONSE: Final = 1
# CommonResponse
_HEADER_MUTATION: Final = 2
_BODY_MUTATION: Final = 3
# BodyMutation
_BODY: Final = 1
_CLEAR_BODY: Final = 2
# HeaderMutation
_SET_HEADERS: Final = 1
# TrailersResponse
_TRAILER_MUTATION: Final = 1
# ImmediateResponse
_STATUS: Final = 1
_HEADERS: Final = 2
_IMMEDIATE_BODY: Final = 3
_GRPC_STATUS: Final = 4
_DETAILS: Final = 5
# GrpcStatus
_CODE: Final = 1


def proceed(part: str) -> bytes:
    """Return the ProcessingResponse that lets a part of a call flow on unchanged.

    Args:
        part: ``request_`` or ``response_``, and ``headers``, ``body`` or ``trailers``.
    """
    return message(_PARTS[part])


def replace_body(body: bytes) -> bytes:
    """Return the ProcessingResponse that puts `body` in the place of a response's."""
    length = (("content-length", str(len(body))),)
    return message(
        _PARTS["response_body"],
        message(
            _RESPONSE,
            message(
                _HEADER_MUTATION,
                headers(_SET_HEADERS, length, Action.OVERWRITE_IF_EXISTS, is_raw=True),
            ),
            message(_BODY_MUTATION, message(_BODY, body)),
        ),
    )


def replace_chunk(data: bytes) -> bytes:
    """Return the ProcessingResponse that puts `data` in the place of a request's chunk.

    Whether the request ends with the chunk stays as it was.
    """
    change = message(_BODY, data) if data else integer(_CLEAR_BODY, 1)
    return message(
        _PARTS["request_body"], message(_RESPONSE, message(_BODY_MUTATION, change))
    )


@functools.cache
def end_answer(reason: Reason) -> bytes:
    """Return the ProcessingResponse that lets an answer under way end with a denial.

    It is for a gRPC call, whose status comes in trailers.
    """
    status = grpc_status(http_status(reason))
    trailers = {
        "grpc-status": str(status),
        "grpc-message": denial_message(reason, is_grpc=True),
        **denial_headers(reason, is_grpc=True),
    }
    return message(
        _PARTS["response_trailers"],
        message(
            _TRAILER_MUTATION,
            headers(
                _SET_HEADERS,
                trailers.items(),
                Action.OVERWRITE_IF_EXISTS_OR_ADD,
                is_raw=True,
            ),
        ),
    )


@functools.cache
def end(reason: Reason, *, is_grpc: bool) -> bytes:
    """Return the ProcessingResponse that ends a call, with what `deny` would say."""
    status = http_status(reason)
    told = denial_headers(reason, is_grpc=is_grpc)
    return message(
        _IMMEDIATE_RESPONSE,
        http_status_message(_STATUS, status),
        message(_HEADERS, headers(_SET_HEADERS, told.items(), is_raw=True)),
        text(_IMMEDIATE_BODY, denial_message(reason, is_grpc=is_grpc)),
        message(_GRPC_STATUS, integer(_CODE, grpc_status(status))) if is_grpc else b"",
        text(_DETAILS, "authz_server"),
    )
