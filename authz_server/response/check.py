"""CheckResponses of our own: allow and deny."""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass, field
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google import protobuf, rpc

from authz_server.errors import Reason
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


OK: Final = 0
"""google.rpc.Code of an allow."""

Pairs = tuple[tuple[str, str], ...]
"""Names with their values."""


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
            status=rpc.Status(code=OK),
            ok_response=auth.OkHttpResponse(
                headers=overwriting(changes.overwrite),
                headers_to_remove=list(changes.remove),
            ),
        )
    )


def overwriting(headers: Pairs) -> list[core.HeaderValueOption]:
    """Return headers of the request that replace those that came."""
    return [
        core.HeaderValueOption(
            header=core.HeaderValue(key=name, value=value),
            append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers
    ]


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
    status = http_status(reason)
    return bytes(
        auth.CheckResponse(
            status=rpc.Status(
                code=UNAUTHENTICATED if status == UNAUTHORIZED else PERMISSION_DENIED
            ),
            denied_response=auth.DeniedHttpResponse(
                status=envoy_type.HttpStatus(code=envoy_type.StatusCode(status)),
                headers=[
                    core.HeaderValueOption(
                        header=core.HeaderValue(key=name, value=value)
                    )
                    for name, value in denial_headers(reason, is_grpc=is_grpc).items()
                ],
                body=denial_message(reason, is_grpc=is_grpc),
            ),
        )
    )
