"""Whether a permission gives an operation, or takes it as part of a denial.

The rules are those of rego/access.rego, in words: each function returns what the
permission lacks, which is nothing if it matches.
"""

from __future__ import annotations

from typing import Final

from authz_server.operations.actions import DATASET_ACTIONS
from authz_server.operations.operation import Operation, Scope
from authz_server.policy.model import Permission, Upstream, UpstreamKind
from authz_server.policy.roles import ANY_MODEL, GATED_ACTIONS, SERVER_ACTIONS


def gives_not(permission: Permission, operation: Operation, upstream: Upstream) -> str:
    """Return why `permission` does not give `operation`; empty if it does."""
    return _is_elsewhere(permission, operation, upstream) or _GIVEN[
        operation.call.scope
    ](permission, operation)


def takes_not(permission: Permission, operation: Operation, upstream: Upstream) -> str:
    """Return why a denial of `permission` leaves `operation`; empty if it takes it."""
    return _is_elsewhere(permission, operation, upstream) or _DENIED[
        operation.call.scope
    ](permission, operation)


def names_model(permission: Permission, model: str) -> bool:
    """Return whether `model` is among the models of `permission`."""
    return any(
        model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern
        for pattern in permission.models
    )


def _is_elsewhere(
    permission: Permission, operation: Operation, upstream: Upstream
) -> str:
    action = operation.call.action
    is_dataset = action in DATASET_ACTIONS
    if action not in permission.actions or (
        is_dataset is not (upstream.kind is UpstreamKind.DATASET)
    ):
        return f"has no {action} there"
    if not permission.holds_on(upstream.name):
        return f"has {action} on other upstreams only"
    if is_dataset and operation.dataset not in upstream.datasets:
        return f"has no dataset {operation.dataset!r} there"
    return ""


# What a permission lacks to give something, by the scope of what is asked.


def _lacks_dataset(permission: Permission, operation: Operation) -> str:
    if operation.dataset in permission.datasets:
        return ""
    return f"has it on datasets: {', '.join(permission.datasets)}"


def _lacks_server(permission: Permission, operation: Operation) -> str:
    del permission
    if operation.call.action in SERVER_ACTIONS | GATED_ACTIONS:
        return ""
    return "gives nothing on the server as such"


def _lacks_every_model(permission: Permission, _: Operation) -> str:
    if (
        ANY_MODEL in permission.models
        and not permission.versions
        and not permission.adapters
    ):
        return ""
    return "has it on some models, and this call is on every model"


def _lacks_model(permission: Permission, operation: Operation) -> str:
    call = operation.call
    if not names_model(permission, call.model):
        named = ", ".join(permission.models) or "none"
        return f"has it on models: {named}"
    if permission.versions and call.version not in permission.versions:
        asked = f"version {call.version}" if call.version else "no version"
        named = ", ".join(permission.versions)
        return f"has versions {named} of {call.model}, and the call names {asked}"
    if permission.adapters and call.adapter not in permission.adapters:
        asked = f"adapter {call.adapter}" if call.adapter else "no adapter"
        named = ", ".join(permission.adapters)
        return f"has adapters {named} of {call.model}, and the call names {asked}"
    return ""


# And what a denial lacks to take it.


def _spares_server(permission: Permission, operation: Operation) -> str:
    if not permission.models:
        takes = operation.call.action in SERVER_ACTIONS
    else:
        takes = not _lacks_every_model(permission, operation)
    return "" if takes else "is about some models, not the server as such"


def _spares_every_model(permission: Permission, _: Operation) -> str:
    return "" if permission.models else "is about the server, not about models"


def _spares_model(permission: Permission, operation: Operation) -> str:
    call = operation.call
    is_unnamed = bool(permission.versions) and not call.version
    return (
        ""
        if is_unnamed and names_model(permission, call.model)
        else _lacks_model(permission, operation)
    )


_GIVEN: Final = {
    Scope.DATASET: _lacks_dataset,
    Scope.SERVER: _lacks_server,
    Scope.EVERY_MODEL: _lacks_every_model,
    Scope.MODEL: _lacks_model,
}
_DENIED: Final = {
    Scope.DATASET: _lacks_dataset,
    Scope.SERVER: _spares_server,
    Scope.EVERY_MODEL: _spares_every_model,
    Scope.MODEL: _spares_model,
}
