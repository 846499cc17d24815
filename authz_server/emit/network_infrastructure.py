"""NetworkPolicies for what a plant needs beside its calls.

Names, certificates, probes and metrics: each opened for exactly who provides or reads
it, and only where the site says that it is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from authz_server.emit.manifest import SERVER_LABELS, Object, deployed, dns_name
from authz_server.emit.network_rules import (
    Rule,
    addresses,
    incoming,
    incoming_on_any_port,
    network_policy,
    outgoing,
    pods,
)
from authz_server.emit.server_config import METRICS_PORT
from authz_server.policy.model import AccessPolicy, UpstreamKind
from authz_server.site.model import SERVER, Mesh, Pods, Shape, Site, Spire

ISTIOD_PORT: Final = 15012
"""mTLS. On 15010 istiod speaks plain text, so it is never opened."""

SIDECAR_METRICS_PORTS: Final = (15020, 15090)
"""The agent's, with the application's metrics merged in, and Envoy's own."""

PROBE_ADDRESSES: Final = (
    "169.254.7.127/32",
    "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128",
)
"""In ambient mode the kubelet's probes come from here (Istio's documentation, "Ambient
and Kubernetes NetworkPolicy")."""

SPIRE_PORT: Final = 8081
SPIRE_WEBHOOK_PORT: Final = 9443
API_SERVER_PORTS: Final = (443, 6443)
"""Of its Service and its own: which counts depends on the network plugin."""

_DNS_PORT: Final = 53


def for_namespaces(
    policy: AccessPolicy, site: Site, namespaces: Iterable[str]
) -> Iterable[Object]:
    """Yield the policies that each of `namespaces` has."""
    for namespace in namespaces:
        everybody = Pods(namespace)
        yield network_policy(policy, "default-deny", everybody)
        yield network_policy(policy, "allow-dns", everybody, egress=_dns(site))
        if site.mesh is Mesh.SIDECAR:
            yield network_policy(
                policy,
                "allow-istiod",
                everybody,
                egress=[outgoing([pods(site.istio.istiod)], [ISTIOD_PORT])],
            )
        if site.mesh is Mesh.AMBIENT:
            # The probed port is the application's choice.
            yield network_policy(
                policy,
                "allow-probes",
                everybody,
                ingress=[incoming_on_any_port(addresses(PROBE_ADDRESSES))],
            )


def for_monitoring(
    policy: AccessPolicy, site: Site, namespaces: Collection[str]
) -> Iterable[Object]:
    """Yield the policies that let metrics be scraped; nothing without monitoring.

    Args:
        namespaces: those with a default-deny, which may be monitoring's own.
    """
    if site.monitoring is None:
        return
    reader = pods(site.monitoring)
    scraped = list(_scraped(policy, site))
    for name, target, ports in scraped:
        yield network_policy(
            policy,
            dns_name(name, "from", "monitoring"),
            target,
            ingress=[incoming([reader], ports)],
        )
    # Elsewhere it would shut monitoring in, which is nobody's wish.
    if scraped and site.monitoring.namespace in namespaces:
        yield network_policy(
            policy,
            "allow-monitoring",
            site.monitoring,
            egress=[outgoing([pods(target)], ports) for _, target, ports in scraped],
        )


def _scraped(
    policy: AccessPolicy, site: Site
) -> Iterable[tuple[str, Pods, tuple[int, ...]]]:
    """Yield what has metrics: its name, its pods, and the ports they are on."""
    for upstream in deployed(policy):
        ports: tuple[int, ...] = ()
        if site.mesh is Mesh.SIDECAR:
            ports = SIDECAR_METRICS_PORTS
        elif upstream.kind is UpstreamKind.TRITON:
            ports = (site.ports.triton_metrics,)
        if site.server.shape is Shape.SIDECAR:
            ports = (*ports, METRICS_PORT)
        if ports:
            yield upstream.name, Pods(upstream.namespace, upstream.pod_selector), ports
    if site.server.shape is not Shape.SIDECAR:
        yield SERVER, Pods(site.server.namespace, SERVER_LABELS), (METRICS_PORT,)


def for_spire(policy: AccessPolicy, site: Site) -> Iterable[Object]:
    """Yield what SPIRE's server needs; nothing where it is not in this cluster.

    Its agents are on the host's network, so they are told by their nodes' addresses.
    Workloads reach their agent over a unix socket, which no packet filter sees.
    """
    if site.spire is None or site.spire.server is None:
        return
    server = site.spire.server
    yield network_policy(policy, "spire-server-dns", server, egress=_dns(site))
    if site.cluster.nodes:
        yield network_policy(
            policy,
            "spire-server-from-agents",
            server,
            ingress=[incoming(addresses(site.cluster.nodes), [SPIRE_PORT])],
        )
    if site.cluster.api_server:
        api_server = addresses(site.cluster.api_server)
        yield network_policy(
            policy,
            "spire-server-api-server",
            server,
            # The controller manager in the same pod is called for its webhook.
            ingress=[incoming(api_server, [SPIRE_WEBHOOK_PORT])],
            egress=[outgoing(api_server, API_SERVER_PORTS)],
        )


def spire_limits(spire: Spire | None, site: Site) -> Iterable[str]:
    """Yield what the policies of `for_spire` leave shut, in words."""
    if spire is None or spire.server is None:
        return
    if not site.cluster.nodes:
        yield (
            "SPIRE's agents are on the host's network, and the site names no nodes: "
            "nothing lets them reach the server. Add cluster.nodes."
        )
    if not site.cluster.api_server:
        yield (
            "SPIRE's server can't reach the API server, which checks the tokens of "
            "its agents: add cluster.apiServer."
        )
    yield (
        "SPIRE's server and the bundle endpoints of other trust domains can't reach "
        "each other: their addresses need rules of your own."
    )


def _dns(site: Site) -> list[Rule]:
    cluster = site.cluster
    # Answers that don't fit a datagram are asked for again over TCP.
    protocols = ("UDP", "TCP")
    rules = [outgoing([pods(cluster.dns)], [cluster.dns_port], protocols)]
    if cluster.dns_addresses:
        rules.append(outgoing(addresses(cluster.dns_addresses), [_DNS_PORT], protocols))
    return rules
