"""What the API server's refusals mean, and their mends."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from authz_server.cluster.steps import Conflict
from authz_server.errors import SetupError

# How RBAC's refusal is worded (k8s.io/apiserver, `ForbiddenErrorMessage`).
_FORBIDDEN: Final = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)"'
    r' in API group "(?P<group>[^"]*)"(?P<place>.*)'
)
_CONFLICT_WITH: Final = re.compile(r'conflict with "(?P<manager>[^"]*)"')


class RefusedError(SetupError):
    """The API server said no.

    Attributes:
        status: HTTP status.
        about: kind of what it is about, where the server says (``namespaces``).
        name: of what it is about.
        conflicts: who has set what otherwise, if that is why.
    """

    def __init__(
        self,
        message: str,
        status: int,
        about: str = "",
        name: str = "",
        conflicts: tuple[Conflict, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.about = about
        self.name = name
        self.conflicts = conflicts

    @property
    def is_missing_namespace(self) -> bool:
        """Whether the object's namespace isn't there."""
        return self.status == HTTPStatus.NOT_FOUND and self.about == "namespaces"


def refusal(host: str, status: int, document: Mapping[str, Any]) -> RefusedError:
    """Return what the API server's answer means, and its mend.

    Args:
        document: a ``Status`` of the API; empty if it was none.
    """
    message = str(document.get("message") or f"answered with HTTP {status}")
    details = document.get("details") or {}
    about, name = str(details.get("kind", "")), str(details.get("name", ""))
    if status == HTTPStatus.UNAUTHORIZED:
        message = (
            f"{host}: doesn't accept your credentials; log in again, or choose "
            "another user of the kubeconfig (--context)"
        )
    denied = _FORBIDDEN.search(message)
    if denied is not None:
        message = _rbac(denied)
    conflicts: tuple[Conflict, ...] = ()
    if status == HTTPStatus.CONFLICT:
        conflicts = _conflicts(details.get("causes") or ())
    return RefusedError(message, status, about, name, conflicts)


def _rbac(denied: re.Match[str]) -> str:
    group, resource, verb = denied["group"], denied["resource"], denied["verb"]
    rule = json.dumps({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
    what = f"{resource}.{group}" if group else resource
    return (
        f"{denied['user']} may not {verb} {what}{denied['place']}; add this rule to a "
        f"ClusterRole that is bound to it: {rule} (docs/apply.md has them all)"
    )


def _conflicts(causes: Any) -> tuple[Conflict, ...]:  # noqa: ANN401 - any JSON
    fields: dict[str, list[str]] = {}
    for cause in causes:
        if cause.get("reason") == "FieldManagerConflict":
            found = _CONFLICT_WITH.search(str(cause.get("message", "")))
            owner = found["manager"] if found else "somebody else"
            fields.setdefault(owner, []).append(str(cause.get("field", "")))
    return tuple(
        Conflict(f'"{owner}"', tuple(sorted(set(names))))
        for owner, names in sorted(fields.items())
    )
