"""What a plant needs of its network, and no more.

From Rego's answers for the IDs of pods, from the workloads that stand for a group, and
from what the site says that it needs beside its calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from types import MappingProxyType
from typing import Final

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.actions import Action
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.site.model import Mesh, Pods, Shape, Site
from authz_server.verify.calls import call_ports, ports_of
from authz_server.verify.difference import Layer
from authz_server.verify.endpoints import (
    Endpoint,
    Place,
    deployed,
    group_pods,
    server_pods,
    upstream_pods,
)
from authz_server.verify.network_policies import within
from authz_server.verify.packets import PortSpace
from authz_server.verify.truth import Truth

TUNNEL_PORT: Final = 15008
"""Where ztunnel takes whatever comes from elsewhere (HBONE)."""

ISTIOD_PORT: Final = 15012
SIDECAR_METRICS: Final = (15020, 15090)
SERVER_METRICS: Final = 9192
SPIRE_PORT: Final = 8081
SPIRE_WEBHOOK: Final = 9443
API_SERVER_PORTS: Final = (443, 6443)
NODE_DNS_PORT: Final = 53

CONTROLLER_LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {"app.kubernetes.io/name": "authz-server-controller"}
)


def known_ports(policy: AccessPolicy, site: Site) -> frozenset[int]:
    """Return every port that something is needed on."""
    return frozenset(
        {
            *SIDECAR_METRICS,
            *API_SERVER_PORTS,
            *(TUNNEL_PORT, ISTIOD_PORT, SERVER_METRICS, SPIRE_PORT, SPIRE_WEBHOOK),
            *(NODE_DNS_PORT, site.cluster.dns_port, site.server.port),
            site.ports.triton_metrics,
            *chain.from_iterable(call_ports(item, site) for item in deployed(policy)),
        }
    )


@dataclass(slots=True)
class Need:
    """Ports from one endpoint to another.

    Attributes:
        allowed: that Rego allows an ID of the sender to use.
        listed: that a group has a grant for, for which the sender stands.
        other: that the plant needs beside its calls.
    """

    allowed: int = 0
    listed: int = 0
    other: int = 0


class Needs:
    """All needs, by the positions of sender and receiver among `endpoints`."""

    def __init__(
        self,
        layer: Layer,
        truth: Truth,
        site: Site,
        endpoints: Sequence[Endpoint],
        space: PortSpace,
    ) -> None:
        self._layer = layer
        self._truth = truth
        self._site = site
        self._endpoints = endpoints
        self._space = space
        self.pairs: dict[tuple[int, int], Need] = {}
        self._need_calls()
        self._need_names()
        self._need_mesh()
        self._need_server()
        self._need_metrics()
        self._need_spire()
        self._need_controller()
        self._also_inner_networks()

    def mask(self, upstream: Upstream, actions: Iterable[Action]) -> int:
        """Return the ports that these actions take."""
        site = self._site
        ports = {
            port for action in actions for port in ports_of(action, upstream, site)
        }
        if ports and site.mesh is Mesh.AMBIENT:
            ports.add(TUNNEL_PORT)
        return self._space.ports("TCP", ports)

    def pods(self, chosen: Pods) -> list[int]:
        """Return the positions of these pods."""
        return [
            index
            for index, item in enumerate(self._endpoints)
            if item.is_one_of(chosen)
        ]

    def _need(self, source: int, target: int) -> Need:
        return self.pairs.setdefault((source, target), Need())

    def _need_calls(self) -> None:
        for upstream in deployed(self._truth.policy):
            targets = self.pods(upstream_pods(upstream))
            for source, sender in enumerate(self._endpoints):
                allowed = self._allowed(sender, upstream)
                listed = self._listed(sender, upstream)
                for target in targets:
                    if target != source and allowed | listed:
                        need = self._need(source, target)
                        need.allowed |= allowed
                        need.listed |= listed

    def _allowed(self, sender: Endpoint, upstream: Upstream) -> int:
        truth, policy = self._truth, self._truth.policy
        ids = (
            tuple(_on_nodes(policy))
            if sender.place is Place.NODE
            else sender.ids(policy)
        )
        actions = {
            operation.call.action
            for caller in ids
            # Whom only users bring here, no packet filter can know.
            if (held := truth.held(caller, upstream.name))
            for operation in truth.allowed(caller, upstream.name)
            if operation.call.action in held
        }
        return self.mask(upstream, actions)

    def _listed(self, sender: Endpoint, upstream: Upstream) -> int:
        actions = {
            action
            for group in self._truth.groups_with_grants(upstream.name)
            if any(sender.is_one_of(chosen) for chosen in group_pods(group))
            or (
                sender.place is Place.NODE
                and any(item.host_network for item in group.workloads)
            )
            for action in self._truth.granted(group.name, upstream.name)
        }
        return self.mask(upstream, actions)

    def _places(self, place: Place) -> list[int]:
        return [i for i, item in enumerate(self._endpoints) if item.place is place]

    def _need_names(self) -> None:
        cluster, space = self._site.cluster, self._space
        managed = self._managed()
        self._other(managed, self.pods(cluster.dns), _dns(space, cluster.dns_port))
        if not cluster.dns_addresses:
            return
        near = _dns(space, NODE_DNS_PORT)
        self._other(managed, self._places(Place.RESOLVER), near)
        if self._layer is Layer.CILIUM:
            # Which knows no more of it than that it is on the pod's own node.
            for source, node in product(managed, self._places(Place.NODE)):
                self._need(source, node).listed |= near

    def _need_mesh(self) -> None:
        site, space = self._site, self._space
        inside = [index for index in self._managed() if not self._is_spire(index)]
        if site.mesh is Mesh.SIDECAR:
            istiod = self.pods(site.istio.istiod)
            self._other(inside, istiod, space.ports("TCP", [ISTIOD_PORT]))
        if site.mesh is Mesh.AMBIENT:
            # What is probed is the application's choice.
            self._other(self._places(Place.PROBE), inside, space.all)

    def _managed(self) -> list[int]:
        return [i for i, item in enumerate(self._endpoints) if item.is_managed]

    def _need_server(self) -> None:
        site = self._site
        server = server_pods(site)
        if server is None or site.server.shape is not Shape.DEPLOYMENT:
            return  # Asked over a unix socket.
        targets = self.pods(server)
        ports = {site.server.port} | (
            {TUNNEL_PORT} if site.mesh is Mesh.AMBIENT else set()
        )
        for upstream in deployed(self._truth.policy):
            self._other(
                self.pods(upstream_pods(upstream)),
                targets,
                self._space.ports("TCP", ports),
            )

    def _need_metrics(self) -> None:
        site = self._site
        if site.monitoring is None:
            return
        readers = self.pods(site.monitoring)
        for upstream in deployed(self._truth.policy):
            ports: set[int] = set()
            if site.mesh is Mesh.SIDECAR:
                ports.update(SIDECAR_METRICS)
            elif upstream.kind is UpstreamKind.TRITON:
                ports.add(site.ports.triton_metrics)
            if site.server.shape is Shape.SIDECAR:
                ports.add(SERVER_METRICS)
            self._other(
                readers,
                self.pods(upstream_pods(upstream)),
                self._space.ports("TCP", ports),
            )
        server = server_pods(site)
        if server is not None:
            self._other(
                readers, self.pods(server), self._space.ports("TCP", [SERVER_METRICS])
            )

    def _is_spire(self, index: int) -> bool:
        spire = self._site.spire
        return (
            spire is not None
            and spire.server is not None
            and self._endpoints[index].is_one_of(spire.server)
        )

    def _need_spire(self) -> None:
        space, cluster = self._space, self._site.cluster
        servers = [i for i in range(len(self._endpoints)) if self._is_spire(i)]
        # Cilium knows both without being told their addresses.
        is_cilium = self._layer is Layer.CILIUM
        if cluster.nodes or is_cilium:
            nodes = self._places(Place.NODE)
            self._other(nodes, servers, space.ports("TCP", [SPIRE_PORT]))
        if cluster.api_server or is_cilium:
            api_server = self._places(Place.API_SERVER)
            self._other(api_server, servers, space.ports("TCP", [SPIRE_WEBHOOK]))
            self._other(servers, api_server, space.ports("TCP", API_SERVER_PORTS))

    def _need_controller(self) -> None:
        """Let the controller, where objects tell of it, reach the API server."""
        site = self._site
        if site.cluster.api_server:
            self._other(
                self.pods(Pods(site.server.namespace, CONTROLLER_LABELS)),
                self._places(Place.API_SERVER),
                self._space.ports("TCP", API_SERVER_PORTS),
            )

    def _other(self, sources: Iterable[int], targets: Sequence[int], mask: int) -> None:
        if not mask:
            return
        for source in sources:
            for target in targets:
                if source != target:
                    self._need(source, target).other |= mask

    def _also_inner_networks(self) -> None:
        """Give what is within the nodes' networks what nodes have."""
        [node] = self._places(Place.NODE)
        inner = [
            index
            for index, item in enumerate(self._endpoints)
            if item.place in {Place.API_SERVER, Place.RESOLVER}
            and (
                # What is on a node is a node to Cilium.
                self._layer is Layer.CILIUM
                or any(
                    within(mine, theirs)
                    for mine in item.networks
                    for theirs in self._endpoints[node].networks
                )
            )
        ]
        for (source, target), need in list(self.pairs.items()):
            for index in inner:
                if source == node:
                    self._need(index, target).listed |= need.listed | need.other
                if target == node:
                    self._need(source, index).listed |= need.listed | need.other


def _on_nodes(policy: AccessPolicy) -> Iterator[SpiffeId]:
    """Yield the IDs of workloads on the host's network."""
    for group in policy.groups.values():
        for item in group.workloads:
            if item.host_network and item.service_account:
                path = ("ns", item.namespace, "sa", item.service_account)
                yield SpiffeId(policy.trust_domain, path)


def _dns(space: PortSpace, port: int) -> int:
    # Answers that don't fit a datagram are asked for again over TCP.
    return space.ports("UDP", [port]) | space.ports("TCP", [port])
