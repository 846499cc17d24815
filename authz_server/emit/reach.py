"""Which groups may open a connection to which upstream, and on which ports."""

from __future__ import annotations

from dataclasses import dataclass

from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy.model import (
    AccessPolicy,
    Group,
    Permission,
    Upstream,
    UpstreamKind,
)
from authz_server.site.model import Mesh, Site


@dataclass(frozen=True, slots=True)
class Reach:
    """`group` holds at least one grant on `upstream`."""

    group: Group
    upstream: Upstream
    ports: tuple[int, ...]


def reaches(policy: AccessPolicy, upstream: Upstream, site: Site) -> tuple[Reach, ...]:
    """Return who reaches `upstream`, by the group's name.

    Coarser than the policy by nature: a packet filter sees neither action nor model.
    """
    actions: dict[str, set[Action]] = {}
    for grant in policy.grants:
        if upstream.name in grant.on:
            granted = {
                action
                for permission in policy.roles[grant.role].permissions
                for action in _given(permission, upstream)
            }
            for name in grant.to:
                actions.setdefault(name, set()).update(granted)
    return tuple(
        Reach(policy.groups[name], upstream, _ports(upstream, granted, site))
        for name, granted in sorted(actions.items())
        if granted
    )


def _given(permission: Permission, upstream: Upstream) -> set[Action]:
    """Return which of the actions of `permission` there can be on `upstream`."""
    # A role may be about models and datasets: of either, the other kind has nothing.
    if not permission.holds_on(upstream.name):
        return set()
    if upstream.kind is not UpstreamKind.DATASET:
        return set(permission.actions) - DATASET_ACTIONS
    if upstream.datasets.keys().isdisjoint(permission.datasets):
        return set()
    return set(permission.actions) & DATASET_ACTIONS


def upstream_ports(upstream: Upstream, site: Site) -> tuple[int, ...]:
    """Return the ports on which `upstream` serves anything but metrics."""
    if site.mesh is not Mesh.SIDECAR:
        return (site.ports.envoy,)
    if upstream.kind is UpstreamKind.DATASET:
        return (site.ports.dataset,)
    if upstream.kind is UpstreamKind.OPENAI:
        return (site.ports.openai,)
    return (site.ports.triton_http, site.ports.triton_grpc)


def _ports(upstream: Upstream, actions: set[Action], site: Site) -> tuple[int, ...]:
    if upstream.kind is UpstreamKind.OPENAI:
        # It serves metrics beside everything else.
        return upstream_ports(upstream, site)
    ports: tuple[int, ...] = ()
    if actions != {Action.METRICS}:
        ports = upstream_ports(upstream, site)
    if Action.METRICS in actions:
        metrics = (site.ports.triton_metrics,)
        ports += metrics if site.mesh is Mesh.SIDECAR else (site.ports.envoy,)
    return tuple(sorted(set(ports)))
