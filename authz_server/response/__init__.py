"""Stage 6, respond: from a decision to CheckResponse bytes. Denial is the default.

Envoy reads a CheckResponse without a status as *allow*. So only this room builds
them, and `allow` and `allow_as` are the only functions in it whose answers let a
request through.
A denial is always a `denied_response`, never a gRPC error or an `error_response`:
Envoy's `failure_mode_allow` would turn those into an allow.
"""

from authz_server.errors import Reason
from authz_server.response.check import (
    GATE_FACTS,
    NO_CHANGES,
    RequestChanges,
    allow,
    deny,
    with_gate,
)
from authz_server.response.messages import Pairs
from authz_server.response.processing import (
    end,
    end_answer,
    proceed,
    replace_body,
    replace_chunk,
)
from authz_server.response.ruling import Passage, Refusal, allow_as, deny_as
from authz_server.response.status import REASON_HEADER

__all__ = [
    "GATE_FACTS",
    "NO_CHANGES",
    "REASON_HEADER",
    "Pairs",
    "Passage",
    "Refusal",
    "RequestChanges",
    "allow",
    "allow_as",
    "deny",
    "deny_as",
    "end",
    "end_answer",
    "prepare",
    "proceed",
    "replace_body",
    "replace_chunk",
    "with_gate",
]


def prepare() -> None:
    """Build every response once, so that no request waits for it."""
    allow()
    for reason in Reason:
        end_answer(reason)
        for is_grpc in (False, True):
            deny(reason, is_grpc=is_grpc)
            end(reason, is_grpc=is_grpc)
