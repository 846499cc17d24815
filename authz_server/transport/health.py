"""What grpc.health.v1 says of this server, on every transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grpc_health.v1 import health_pb2

SERVICE: Final = "envoy.service.auth.v3.Authorization"

POLICY_HEALTH: Final = "authz_server.policy"
"""Health of this name tells whether the newest policy file is the one in force."""

TRUST_HEALTH: Final = "authz_server.trust"
"""Health of this name tells whether every trust bundle is good and fresh."""


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

    def statuses(self) -> dict[str, int]:
        """Return the ServingStatus of every name that has one."""
        return {
            "": _status(serving=self.can_answer),
            SERVICE: _status(serving=self.can_answer),
            POLICY_HEALTH: _status(serving=self.can_answer and self.is_current),
            TRUST_HEALTH: _status(serving=self.is_trusting),
        }


def _status(*, serving: bool) -> int:
    status = health_pb2.HealthCheckResponse
    return int(status.SERVING if serving else status.NOT_SERVING)


NOT_SERVING: Final = _status(serving=False)
