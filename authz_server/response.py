"""Stage 6, respond: from a decision to CheckResponse bytes. Denial is the default.

Envoy reads a CheckResponse without a status as *allow*. So only this module builds
one, and `allow` is the only function in it whose answer lets a request through.
A denial is always a `denied_response`, never a gRPC error or an `error_response`:
Envoy's `failure_mode_allow` would turn those into an allow.
"""

from __future__ import annotations

import functools
import json
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google import rpc

from authz_server.errors import Reason

REASON_HEADER: Final = "x-authz-reason"
"""Carries the reason code to the caller, over HTTP and gRPC alike."""

# google.rpc.Code
_OK: Final = 0
_PERMISSION_DENIED: Final = 7
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
    }
)
_ABOUT_US: Final = frozenset(
    {
        Reason.POLICY_UNAVAILABLE,
        Reason.TRUST_BUNDLE_UNAVAILABLE,
        Reason.REVOCATIONS_UNAVAILABLE,
        Reason.DEADLINE_EXCEEDED,
        Reason.OVERLOADED,
        Reason.AUDIT_UNAVAILABLE,
        Reason.INTERNAL_ERROR,
    }
)


@functools.cache
def allow() -> bytes:
    """Return the CheckResponse that lets a request through."""
    return bytes(
        auth.CheckResponse(
            status=rpc.Status(code=_OK), ok_response=auth.OkHttpResponse()
        )
    )


@functools.cache
def deny(reason: Reason, *, is_grpc: bool = False) -> bytes:
    """Return the CheckResponse that refuses a request.

    The caller sees the reason code and nothing else: no model, no rule, no error text.

    Args:
        is_grpc: whether the caller gets the message as a gRPC status (plain text)
            rather than as a body (JSON, as Triton writes its own errors).
    """
    message = f"access denied ({reason})"
    headers = {REASON_HEADER: reason.value}
    if not is_grpc:
        headers["content-type"] = "application/json"
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
                    for name, value in headers.items()
                ],
                body=message if is_grpc else json.dumps({"error": message}),
            ),
        )
    )


def prepare() -> None:
    """Build every response once, so that no request waits for it."""
    allow()
    for reason in Reason:
        for is_grpc in (False, True):
            deny(reason, is_grpc=is_grpc)


def _http_status(reason: Reason) -> int:
    if reason in _ABOUT_IDENTITY:
        return _UNAUTHORIZED
    if reason in _ABOUT_US:
        return _SERVICE_UNAVAILABLE
    return _FORBIDDEN
