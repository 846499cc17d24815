"""Which groups may open a connection to which upstream, and on which ports."""

from __future__ import annotations

from dataclasses import dataclass

from authz_server.emit.manifest import EmitOptions, Mesh
from authz_server.operations.actions import Action
from authz_server.policy.model import AccessPolicy, Group, Upstream, UpstreamKind


@dataclass(frozen=True, slots=True)
class Reach:
    """`group` holds at least one grant on `upstream`."""

    group: Group
    upstream: Upstream
    ports: tuple[int, ...]


def reaches(
    policy: AccessPolicy, upstream: Upstream, options: EmitOptions
) -> tuple[Reach, ...]:
    """Return who reaches `upstream`, by the group's name.

    Coarser than the policy by nature: a packet filter sees neither action nor model.
    """
    actions: dict[str, set[Action]] = {}
    for grant in policy.grants:
        if upstream.name in grant.on:
            granted = {
                action
                for permission in policy.roles[grant.role].permissions
                if permission.holds_on(upstream.name)
                for action in permission.actions
            }
            for name in grant.to:
                actions.setdefault(name, set()).update(granted)
    return tuple(
        Reach(policy.groups[name], upstream, _ports(upstream, granted, options))
        for name, granted in sorted(actions.items())
        if granted
    )


def upstream_ports(upstream: Upstream, options: EmitOptions) -> tuple[int, ...]:
    """Return the ports on which `upstream` serves anything but metrics."""
    if options.mesh is Mesh.NONE:
        return (options.envoy_port,)
    if upstream.kind is UpstreamKind.DATASET:
        return (options.dataset_port,)
    if upstream.kind is UpstreamKind.OPENAI:
        return (options.openai_port,)
    return (options.triton_http_port, options.triton_grpc_port)


def _ports(
    upstream: Upstream, actions: set[Action], options: EmitOptions
) -> tuple[int, ...]:
    if upstream.kind is UpstreamKind.OPENAI:
        # It serves metrics beside everything else.
        return upstream_ports(upstream, options)
    ports: tuple[int, ...] = ()
    if actions != {Action.METRICS}:
        ports = upstream_ports(upstream, options)
    if Action.METRICS in actions:
        metrics = (options.triton_metrics_port,)
        ports += metrics if options.mesh is Mesh.SIDECAR else (options.envoy_port,)
    return tuple(sorted(set(ports)))
