"""What grpc.health.v1 says of this server, on every transport.

Messages: grpc/health/v1/health.proto. They are so small that the native listener has no
other use for protobuf's library, which costs memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from authz_server.errors import RequestError
from authz_server.wire import LEN, read_fields

SERVICE: Final = "envoy.service.auth.v3.Authorization"

POLICY_HEALTH: Final = "authz_server.policy"
"""Health of this name tells whether the newest policy file is the one in force."""

TRUST_HEALTH: Final = "authz_server.trust"
"""Health of this name tells whether every trust bundle is good and fresh."""


_SERVICE_NAME: Final = 1


class ServingStatus(IntEnum):
    """How a service is (HealthCheckResponse.ServingStatus)."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Health:
    """How this server is.

    Attributes:
        can_answer: whether a policy is in force.
        is_current: whether it is the newest one, not one that a bad file left behind.
        is_trusting: whether every trust bundle is good and fresh.
    """

    can_answer: bool
    is_current: bool
    is_trusting: bool = True

    def statuses(self) -> dict[str, ServingStatus]:
        """Return the ServingStatus of every name that has one."""
        return {
            "": _status(serving=self.can_answer),
            SERVICE: _status(serving=self.can_answer),
            POLICY_HEALTH: _status(serving=self.can_answer and self.is_current),
            TRUST_HEALTH: _status(serving=self.is_trusting),
        }


def _status(*, serving: bool) -> ServingStatus:
    return ServingStatus.SERVING if serving else ServingStatus.NOT_SERVING


def service_asked(request: bytes) -> str:
    """Return the service that a HealthCheckRequest asks about.

    Raises:
        RequestError: if it is no such message.
    """
    name = b""
    for number, wire_type, start, end in read_fields(request, 0, len(request)):
        if number == _SERVICE_NAME and wire_type == LEN:
            name = request[start:end]
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError("the name of the service is not UTF-8") from error


def health_response(status: ServingStatus) -> bytes:
    """Return a HealthCheckResponse."""
    return bytes((0x08, status))  # field 1, a varint
