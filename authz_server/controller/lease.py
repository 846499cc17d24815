"""Who of several controllers acts: decided on a Lease, by the rules of client-go.

A Lease's times are another machine's clock. So a holder is given up only when its
record has not changed for a whole lease by our own, monotonic clock (k8s.io/client-go,
``tools/leaderelection``).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from authz_server.emit.manifest import Object

LEASE_S: Final = 15
RENEW_S: Final = 10.0
"""How long a holder goes on without having renewed: less than others wait."""
RETRY_S: Final = 2.0

API_VERSION: Final = "coordination.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Observed:
    """A Lease as we saw it.

    Attributes:
        record: its spec; it changes with every renewal.
        seen_s: when we first saw this record, by our monotonic clock.
    """

    record: Any
    seen_s: float

    def is_over(self, now_s: float) -> bool:
        """Whether its holder has not renewed it in time."""
        seconds = self.record.get("leaseDurationSeconds") or LEASE_S
        return now_s >= self.seen_s + seconds


def observe(lease: Object, before: Observed | None, now_s: float) -> Observed:
    """Return what is known of `lease`, of which `before` was known until now."""
    record = lease.get("spec") or {}
    if before is not None and before.record == record:
        return before
    return Observed(record, now_s)


def may_take(observed: Observed, identity: str, now_s: float) -> bool:
    """Whether `identity` may make the lease its own, or renew it."""
    holder = observed.record.get("holderIdentity")
    return not holder or holder == identity or observed.is_over(now_s)


def new_lease(name: str, namespace: str, identity: str, at: dt.datetime) -> Object:
    """Return a Lease that `identity` holds from `at` on."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
        "spec": _spec(identity, at, at, transitions=0),
    }


def taken(lease: Object, identity: str, at: dt.datetime) -> Object:
    """Return `lease` as `identity` holds it at `at`.

    It keeps its resource version, so of two who take it at a time one is refused.
    """
    record = lease.get("spec") or {}
    transitions = record.get("leaseTransitions") or 0
    if record.get("holderIdentity") == identity:
        spec = {**record, "renewTime": _text(at), "leaseDurationSeconds": LEASE_S}
    else:
        spec = _spec(identity, at, at, transitions=transitions + 1)
    return {**lease, "spec": spec}


def released(lease: Object, identity: str) -> Object | None:
    """Return `lease` without a holder; None if `identity` does not hold it."""
    record = lease.get("spec") or {}
    if record.get("holderIdentity") != identity:
        return None
    return {
        **lease,
        "spec": {**record, "holderIdentity": "", "leaseDurationSeconds": 1},
    }


def _spec(
    identity: str, acquired: dt.datetime, renewed: dt.datetime, *, transitions: int
) -> dict[str, Any]:
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": LEASE_S,
        "acquireTime": _text(acquired),
        "renewTime": _text(renewed),
        "leaseTransitions": transitions,
    }


def _text(at: dt.datetime) -> str:
    # MicroTime: always six places (k8s.io/apimachinery, `RFC3339Micro`).
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
