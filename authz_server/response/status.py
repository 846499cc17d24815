"""What a denial says: its HTTP and gRPC status, headers and message, by its reason."""

from __future__ import annotations

import json
from typing import Final

from authz_server.errors import Reason

REASON_HEADER: Final = "x-authz-reason"
"""Carries the reason code to the caller, over HTTP and gRPC alike."""

# google.rpc.Code
PERMISSION_DENIED: Final = 7
_UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

# Envoy derives the gRPC status from these: 401 is UNAUTHENTICATED, 403
# PERMISSION_DENIED, 503 UNAVAILABLE, which clients may try again.
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
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
        Reason.POLICY_STALE,
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


def http_status(reason: Reason) -> int:
    """Return the status by which the caller can tell what to do about it."""
    if reason in _ABOUT_IDENTITY:
        return UNAUTHORIZED
    if reason in _ABOUT_US:
        return _SERVICE_UNAVAILABLE
    return FORBIDDEN


def denial_message(reason: Reason, *, is_grpc: bool) -> str:
    """Return the text: of the gRPC status, or the body in JSON as Triton writes it."""
    text = f"access denied ({reason})"
    return text if is_grpc else json.dumps({"error": text})


def denial_headers(reason: Reason, *, is_grpc: bool) -> dict[str, str]:
    """Return the headers of the denial."""
    headers = {REASON_HEADER: reason.value}
    if not is_grpc:
        headers["content-type"] = "application/json"
    return headers


def grpc_status(status: int) -> int:
    """Return the gRPC status that Envoy derives from an HTTP one."""
    return {
        UNAUTHORIZED: UNAUTHENTICATED,
        _SERVICE_UNAVAILABLE: _UNAVAILABLE,
    }.get(status, PERMISSION_DENIED)
