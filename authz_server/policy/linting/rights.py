"""Takes apart what a permission gives on an upstream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from authz_server.operations.actions import DATASET_ACTIONS, OPENAI_ACTIONS, Action
from authz_server.policy.model import Permission, Upstream, UpstreamKind
from authz_server.policy.roles import ANY_MODEL, SERVER_ACTIONS

DANGEROUS: Final = frozenset(
    {
        Action.DATASET_WRITE,
        Action.LOGGING,
        Action.MODEL_LOAD_OVERRIDE,
        Action.MODEL_REPOSITORY,
        Action.SHARED_MEMORY,
        Action.TRACE,
    }
)
"""Actions that change what the server does for others, or where it writes."""


class Right(NamedTuple):
    """One action on one model, prefix or dataset; on the server itself if `on` is "".

    Attributes:
        limit: a version or an adapter; empty for every one.
    """

    action: Action
    on: str
    limit: str = ""


def rights_of(
    permission: Permission, upstream: Upstream, *, takes: bool = False
) -> Iterator[Right]:
    """Yield what `permission` gives on `upstream`, or as a denial takes."""
    limits = (
        *(f"version {version}" for version in permission.versions),
        *(f"adapter {adapter}" for adapter in permission.adapters),
    ) or ("",)
    # A denial on some models leaves the server's own health and metadata.
    with_server = not (takes and permission.models and is_limited(permission))
    for action in actions_on(permission, upstream):
        if action in DATASET_ACTIONS:
            for name in permission.datasets:
                if name in upstream.datasets:
                    yield Right(action, name)
            continue
        if action in SERVER_ACTIONS and with_server:
            yield Right(action, "")
        for model in permission.models:
            for limit in limits:
                yield Right(action, model, limit)


def actions_on(permission: Permission, upstream: Upstream) -> list[Action]:
    """Return those actions of `permission` that there are on `upstream`."""
    if not permission.holds_on(upstream.name):
        return []
    is_dataset = upstream.kind is UpstreamKind.DATASET
    return [
        action
        for action in permission.actions
        if (action in DATASET_ACTIONS) is is_dataset
        and (upstream.kind is not UpstreamKind.OPENAI or action in OPENAI_ACTIONS)
    ]


def is_limited(permission: Permission) -> bool:
    """Whether there is a model, a version or an adapter that it leaves out."""
    return bool(
        ANY_MODEL not in permission.models or permission.versions or permission.adapters
    )
