"""ProcessingResponses: what the gate lets Envoy do to a call that flows."""

from __future__ import annotations

import functools
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.type import v3 as envoy_type

from authz_server.errors import Reason
from authz_server.response.status import (
    denial_headers,
    denial_message,
    grpc_status,
    http_status,
)

_PROCEED: Final = {
    "request_headers": ext_proc.ProcessingResponse(
        request_headers=ext_proc.HeadersResponse()
    ),
    "request_body": ext_proc.ProcessingResponse(request_body=ext_proc.BodyResponse()),
    "request_trailers": ext_proc.ProcessingResponse(
        request_trailers=ext_proc.TrailersResponse()
    ),
    "response_headers": ext_proc.ProcessingResponse(
        response_headers=ext_proc.HeadersResponse()
    ),
    "response_body": ext_proc.ProcessingResponse(response_body=ext_proc.BodyResponse()),
    "response_trailers": ext_proc.ProcessingResponse(
        response_trailers=ext_proc.TrailersResponse()
    ),
}


def proceed(part: str) -> bytes:
    """Return the ProcessingResponse that lets a part of a call flow on unchanged.

    Args:
        part: ``request_`` or ``response_``, and ``headers``, ``body`` or ``trailers``.
    """
    return bytes(_PROCEED[part])


def replace_body(body: bytes) -> bytes:
    """Return the ProcessingResponse that puts `body` in the place of a response's."""
    return bytes(
        ext_proc.ProcessingResponse(
            response_body=ext_proc.BodyResponse(
                response=ext_proc.CommonResponse(
                    header_mutation=ext_proc.HeaderMutation(
                        set_headers=[
                            core.HeaderValueOption(
                                header=core.HeaderValue(
                                    key="content-length",
                                    raw_value=str(len(body)).encode(),
                                ),
                                append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS,
                            )
                        ]
                    ),
                    body_mutation=ext_proc.BodyMutation(body=body),
                )
            )
        )
    )


def replace_chunk(data: bytes) -> bytes:
    """Return the ProcessingResponse that puts `data` in the place of a request's chunk.

    Whether the request ends with the chunk stays as it was.
    """
    return bytes(
        ext_proc.ProcessingResponse(
            request_body=ext_proc.BodyResponse(
                response=ext_proc.CommonResponse(
                    body_mutation=ext_proc.BodyMutation(body=data)
                    if data
                    else ext_proc.BodyMutation(clear_body=True)
                )
            )
        )
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
    return bytes(
        ext_proc.ProcessingResponse(
            response_trailers=ext_proc.TrailersResponse(
                header_mutation=ext_proc.HeaderMutation(
                    set_headers=[
                        core.HeaderValueOption(
                            header=core.HeaderValue(key=name, raw_value=value.encode()),
                            append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
                        )
                        for name, value in trailers.items()
                    ]
                )
            )
        )
    )


@functools.cache
def end(reason: Reason, *, is_grpc: bool) -> bytes:
    """Return the ProcessingResponse that ends a call, with what `deny` would say."""
    status = http_status(reason)
    return bytes(
        ext_proc.ProcessingResponse(
            immediate_response=ext_proc.ImmediateResponse(
                status=envoy_type.HttpStatus(code=envoy_type.StatusCode(status)),
                headers=ext_proc.HeaderMutation(
                    set_headers=[
                        core.HeaderValueOption(
                            # All that ext_proc reads; ext_authz reads `value`.
                            header=core.HeaderValue(key=name, raw_value=value.encode())
                        )
                        for name, value in denial_headers(
                            reason, is_grpc=is_grpc
                        ).items()
                    ]
                ),
                body=denial_message(reason, is_grpc=is_grpc).encode(),
                grpc_status=ext_proc.GrpcStatus(status=grpc_status(status))
                if is_grpc
                else None,
                details="authz_server",
            )
        )
    )
