"""What a server tells about its bundle, in the form of OPA's status API.

https://www.openpolicyagent.org/docs/latest/management-status/: the same report is sent
to a control plane and shown to whoever asks this server.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_NEVER: Final = "0001-01-01T00:00:00Z"
"""How Go writes a time that there was none."""


@dataclass(frozen=True, slots=True)
class Status:
    """How far the distribution of one bundle has come. Times are wall-clock seconds.

    Attributes:
        name: of the bundle.
        active_revision: of the bundle in force; empty for none.
        requested_s: when the source was last asked.
        answered_s: when it last answered, new or not.
        downloaded_s: when a bundle last came.
        activated_s: when one last came into force.
        size: bytes of the last one that came.
        kind: ``snapshot`` or ``delta``.
        problem: why what came last is not in force, or nothing came; empty if it is.
    """

    name: str
    active_revision: str = ""
    requested_s: float = 0.0
    answered_s: float = 0.0
    downloaded_s: float = 0.0
    activated_s: float = 0.0
    size: int = 0
    kind: str = ""
    problem: str = ""

    def report(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Return the report of a server that is known by `labels`."""
        bundle: dict[str, Any] = {
            "name": self.name,
            "last_successful_activation": _time(self.activated_s),
            "last_successful_download": _time(self.downloaded_s),
            "last_successful_request": _time(self.answered_s),
            "last_request": _time(self.requested_s),
        }
        if self.active_revision:
            bundle["active_revision"] = self.active_revision
        if self.kind:
            bundle |= {"type": self.kind, "size": self.size}
        if self.problem:
            bundle |= {"code": "bundle_error", "message": self.problem}
        state = "OK" if self.active_revision and not self.problem else "ERROR"
        if not self.requested_s:
            state = "NOT_READY"
        return {
            "labels": dict(labels),
            "bundles": {self.name: bundle},
            "plugins": {"bundle": {"state": state}},
        }


def _time(at_s: float) -> str:
    if not at_s:
        return _NEVER
    moment = dt.datetime.fromtimestamp(at_s, dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
