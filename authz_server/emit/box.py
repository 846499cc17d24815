"""Machines without Kubernetes: what they serve, and where things lie on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

from authz_server.errors import PolicyError
from authz_server.operations.actions import Action
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.site.model import Box, Ports, Site

CONFIG_FILE: Final = "/etc/authz-server/config.yaml"
ENVOY_FILE: Final = "/etc/envoy/envoy.yaml"
POLICY_FOLDER: Final = "/etc/authz-server/policy"
TLS_FOLDER: Final = "/etc/authz-server/tls"
RUN_FOLDER: Final = "/run/authz-server"
CHECK_SOCKET: Final = f"{RUN_FOLDER}/check.sock"
LOG_FOLDER: Final = "/var/log/authz-server"
METRICS_PORT: Final = 9192
"""Of the server, on loopback."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A box, and the upstreams behind its Envoy, by name.

    Attributes:
        with_metrics: names of those, of kind triton, whose metrics somebody may read.
        agent_socket: of SPIRE's agent, if certificates come from there; else empty.
        for_users: whether a grant on one of them names users.
    """

    box: Box
    upstreams: tuple[Upstream, ...]
    with_metrics: frozenset[str]
    agent_socket: str
    for_users: bool

    def serves(self, kind: UpstreamKind) -> bool:
        """Return whether one of the upstreams is of `kind`."""
        return any(upstream.kind is kind for upstream in self.upstreams)


def bundle_file(trust_domain: object) -> str:
    """Return where the CA certificates of a trust domain lie."""
    return f"{TLS_FOLDER}/{trust_domain}.pem"


def serving_boxes(policy: AccessPolicy, site: Site) -> tuple[Serving, ...]:
    """Return the boxes that serve something, by name.

    Raises:
        PolicyError: if there is none, or what one serves can't be told apart.
    """
    boxes = tuple(
        _serving(policy, site, box)
        for box in sorted(site.boxes, key=lambda item: item.name)
        if box.serves
    )
    if not boxes:
        raise PolicyError(
            "spec.boxes: no box of the site serves an upstream; add one with 'serves', "
            "or emit for another target"
        )
    return boxes


def upstream_ports(upstream: Upstream, ports: Ports) -> tuple[int, ...]:
    """Return the ports on loopback at which `upstream` has to listen on a box."""
    if upstream.kind is UpstreamKind.TRITON:
        return (ports.triton_http, ports.triton_grpc, ports.triton_metrics)
    if upstream.kind is UpstreamKind.DATASET:
        return (ports.dataset,)
    return (ports.openai,)


def _serving(policy: AccessPolicy, site: Site, box: Box) -> Serving:
    upstreams = tuple(policy.upstreams[name] for name in sorted(set(box.serves)))
    if box.uses_spire and site.spire is None:
        raise PolicyError(
            f"spec.boxes.{box.name}: its certificates come from SPIRE, which the site "
            "does not have; add spec.spire, or write certificates: files"
        )
    if len(upstreams) > 1:
        _check_hosts(box, upstreams)
    _check_ports(box, upstreams, site.ports)
    names = {upstream.name for upstream in upstreams}
    return Serving(
        box,
        upstreams,
        frozenset(
            upstream.name
            for upstream in upstreams
            if upstream.kind is UpstreamKind.TRITON and _has_metrics(policy, upstream)
        ),
        site.spire.agent_socket if box.uses_spire and site.spire else "",
        any(
            policy.groups[group].users
            for grant in policy.grants
            if names & set(grant.on)
            for group in (*grant.to, *grant.when.users)
        ),
    )


def _has_metrics(policy: AccessPolicy, upstream: Upstream) -> bool:
    return any(
        Action.METRICS in permission.actions
        for grant in policy.grants
        if upstream.name in grant.on
        for permission in policy.roles[grant.role].permissions
        if permission.holds_on(upstream.name)
    )


def _check_hosts(box: Box, upstreams: tuple[Upstream, ...]) -> None:
    """Refuse upstreams that the Host header does not tell apart."""
    for upstream in upstreams:
        if not upstream.hosts:
            raise PolicyError(
                f"spec.upstreams.{upstream.name}: hosts are missing; box {box.name} "
                "serves more than one upstream and tells them by the host"
            )
    for one, other in combinations(upstreams, 2):
        for host in sorted(set(one.hosts) & set(other.hosts)):
            raise PolicyError(
                f"spec.upstreams.{other.name}: host {host} is also one of {one.name}, "
                f"and box {box.name} serves both; give each its own"
            )


def _check_ports(box: Box, upstreams: tuple[Upstream, ...], ports: Ports) -> None:
    """Refuse two listeners on one port."""
    taken = {ports.envoy: "Envoy"}
    for upstream in upstreams:
        for port in upstream_ports(upstream, ports):
            if port in taken:
                raise PolicyError(
                    f"spec.boxes.{box.name}: {upstream.name} and {taken[port]} would "
                    f"both listen on port {port}; change spec.ports, or let another "
                    "box serve one of them"
                )
            taken[port] = upstream.name
    if METRICS_PORT in taken:
        raise PolicyError(
            f"spec.boxes.{box.name}: {taken[METRICS_PORT]} has port {METRICS_PORT}, "
            "where authz-server tells its metrics; change spec.ports"
        )
