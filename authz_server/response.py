"""Stage 6, respond: from a decision to CheckResponse bytes. Denial is the default.

Envoy reads a CheckResponse without a status as *allow*. So only this module builds
one, and `allow` is the only function in it whose answer lets a request through.
A denial is always a `denied_response`, never a gRPC error or an `error_response`:
Envoy's `failure_mode_allow` would turn those into an allow.
"""

from __future__ import annotations

import base64
import functools
import json
from dataclasses import dataclass, field
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google import protobuf, rpc

from authz_server.errors import Reason

GATE_FACTS: Final = "authz_server_facts"
"""Key of what `with_gate` hands on, in the namespace of the ext_authz filter."""

REASON_HEADER: Final = "x-authz-reason"
"""Carries the reason code to the caller, over HTTP and gRPC alike."""

# google.rpc.Code
_OK: Final = 0
_PERMISSION_DENIED: Final = 7
_UNAVAILABLE: Final = 14
_UNAUTHENTICATED: Final = 16

# Envoy derives the gRPC status from these: 401 is UNAUTHENTICATED, 403
# PERMISSION_DENIED, 503 UNAVAILABLE, which clients may try again.
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_SERVICE_UNAVAILABLE: Final = 503

_ABOUT_IDENTITY: Final = frozenset(
    {
        Reason.PRINCIPAL_MISSING,
        Reason.PRINCIPAL_INVALID,
        Reason.TRUST_DOMAIN_UNKNOWN,
        Reason.CERTIFICATE_MISSING,
        Reason.CERTIFICATE_INVALID,
        Reason.CERTIFICATE_MISMATCH,
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET_VALID,
        Reason.CERTIFICATE_UNTRUSTED,
        Reason.CERTIFICATE_REVOKED,
        Reason.PRINCIPAL_REVOKED,
        Reason.FORWARDED_INVALID,
        Reason.TOKEN_MALFORMED,
        Reason.TOKEN_UNTRUSTED,
        Reason.TOKEN_AUDIENCE,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_NOT_YET_VALID,
        Reason.TOKEN_REVOKED,
        Reason.TOKEN_MISMATCH,
    }
)
_ABOUT_US: Final = frozenset(
    {
        Reason.POLICY_UNAVAILABLE,
        Reason.ACCESS_SECRET_UNAVAILABLE,
        Reason.TRUST_BUNDLE_UNAVAILABLE,
        Reason.REVOCATIONS_UNAVAILABLE,
        Reason.TOKEN_KEYS_UNAVAILABLE,
        Reason.DEADLINE_EXCEEDED,
        Reason.OVERLOADED,
        Reason.AUDIT_UNAVAILABLE,
        Reason.INTERNAL_ERROR,
    }
)


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
    return bytes(
        auth.CheckResponse(
            status=rpc.Status(code=_OK),
            ok_response=auth.OkHttpResponse(
                headers=[
                    core.HeaderValueOption(
                        header=core.HeaderValue(key=name, value=value),
                        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
                    )
                    for name, value in changes.overwrite
                ],
                headers_to_remove=list(changes.remove),
            ),
        )
    )


_UNCHANGED: Final = _allow(NO_CHANGES)


def with_gate(response: bytes, facts: bytes) -> bytes:
    """Return the CheckResponse `response`, which hands `facts` on to the gate.

    Envoy gives them to its ext_proc filter as dynamic metadata, which nobody but its
    own filters can write.
    """
    message = auth.CheckResponse.parse(response)
    text = base64.b64encode(facts).decode("ascii")
    message.dynamic_metadata = protobuf.Struct(
        fields={GATE_FACTS: protobuf.Value(string_value=text)}
    )
    return bytes(message)


@functools.cache
def deny(reason: Reason, *, is_grpc: bool = False) -> bytes:
    """Return the CheckResponse that refuses a request.

    The caller sees the reason code and nothing else: no model, no rule, no error text.

    Args:
        is_grpc: whether the caller gets the message as a gRPC status (plain text)
            rather than as a body (JSON, as Triton writes its own errors).
    """
    status = _http_status(reason)
    return bytes(
        auth.CheckResponse(
            status=rpc.Status(
                code=_UNAUTHENTICATED if status == _UNAUTHORIZED else _PERMISSION_DENIED
            ),
            denied_response=auth.DeniedHttpResponse(
                status=envoy_type.HttpStatus(code=envoy_type.StatusCode(status)),
                headers=[
                    core.HeaderValueOption(
                        header=core.HeaderValue(key=name, value=value)
                    )
                    for name, value in _headers(reason, is_grpc=is_grpc).items()
                ],
                body=_message(reason, is_grpc=is_grpc),
            ),
        )
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
    status = _grpc_status(_http_status(reason))
    trailers = {
        "grpc-status": str(status),
        "grpc-message": _message(reason, is_grpc=True),
        **_headers(reason, is_grpc=True),
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
    status = _http_status(reason)
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
                        for name, value in _headers(reason, is_grpc=is_grpc).items()
                    ]
                ),
                body=_message(reason, is_grpc=is_grpc).encode(),
                grpc_status=ext_proc.GrpcStatus(status=_grpc_status(status))
                if is_grpc
                else None,
                details="authz_server",
            )
        )
    )


def _message(reason: Reason, *, is_grpc: bool) -> str:
    text = f"access denied ({reason})"
    return text if is_grpc else json.dumps({"error": text})


def _headers(reason: Reason, *, is_grpc: bool) -> dict[str, str]:
    headers = {REASON_HEADER: reason.value}
    if not is_grpc:
        headers["content-type"] = "application/json"
    return headers


def _grpc_status(status: int) -> int:
    return {
        _UNAUTHORIZED: _UNAUTHENTICATED,
        _SERVICE_UNAVAILABLE: _UNAVAILABLE,
    }.get(status, _PERMISSION_DENIED)


def prepare() -> None:
    """Build every response once, so that no request waits for it."""
    allow()
    for reason in Reason:
        end_answer(reason)
        for is_grpc in (False, True):
            deny(reason, is_grpc=is_grpc)
            end(reason, is_grpc=is_grpc)


def _http_status(reason: Reason) -> int:
    if reason in _ABOUT_IDENTITY:
        return _UNAUTHORIZED
    if reason in _ABOUT_US:
        return _SERVICE_UNAVAILABLE
    return _FORBIDDEN
