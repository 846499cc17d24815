"""Everything that can be at an end of a connection: pods, and what has an address.

Pods stand for all of their namespace with the same labels. Beside those that policy
and site name, there is a stranger in each namespace, and one for every selector that
the objects to be verified hold: so whomever a rule opens something to, it is one of
these.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy, Group, Upstream
from authz_server.site.model import SERVER, Mesh, Pods, Shape, Site

SERVER_LABELS = {"app.kubernetes.io/name": SERVER}
METADATA_NAME = "kubernetes.io/metadata.name"
"""Set by the API server on every namespace."""

STRANGER_ACCOUNT = "stranger"
"""The service account of pods that nobody has named."""

PROBES = (
    "169.254.7.127/32",
    "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128",
)
"""Where Istio lets the kubelet's probes come from in ambient mode."""


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)


class Place(enum.Enum):
    """What an endpoint is."""

    POD = enum.auto()
    NODE = enum.auto()
    """A node, and every pod on its network."""
    API_SERVER = enum.auto()
    RESOLVER = enum.auto()
    """NodeLocal DNS."""
    PROBE = enum.auto()
    ELSEWHERE = enum.auto()
    """Any address that the site doesn't name."""


Wanted = tuple[str, Mapping[str, str]]
"""A namespace and labels, of whom there must be an endpoint; no name for any."""


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One end of a connection.

    Attributes:
        name: for people.
        accounts: service accounts that such pods are known to run as.
        networks: CIDRs of its address; empty for pods, whose addresses nobody knows.
        is_managed: whether a packet filter is to keep others from it.
    """

    name: str
    place: Place
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    accounts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    is_managed: bool = False

    def is_one_of(self, chosen: Pods) -> bool:
        """Return whether it is one of these pods."""
        return (
            self.place is Place.POD
            and self.namespace == chosen.namespace
            and all(
                self.labels.get(key) == value for key, value in chosen.labels.items()
            )
        )

    def ids(self, policy: AccessPolicy) -> tuple[SpiffeId, ...]:
        """Return the IDs of its service accounts."""
        return tuple(
            SpiffeId(policy.trust_domain, ("ns", self.namespace, "sa", account))
            for account in self.accounts
        )


def upstream_pods(upstream: Upstream) -> Pods:
    """Return the pods of `upstream`."""
    return Pods(upstream.namespace, upstream.pod_selector)


def deployed(policy: AccessPolicy) -> tuple[Upstream, ...]:
    """Return the upstreams that run in Kubernetes, by name."""
    return tuple(
        upstream
        for _, upstream in sorted(policy.upstreams.items())
        if upstream.namespace
    )


def server_pods(site: Site) -> Pods | None:
    """Return the server's own pods; None if it is in the upstreams' ones."""
    if site.server.shape is Shape.SIDECAR:
        return None
    return Pods(site.server.namespace, SERVER_LABELS)


def managed_namespaces(policy: AccessPolicy, site: Site) -> frozenset[str]:
    """Return the namespaces in which nobody may reach anybody unasked."""
    found = {upstream.namespace for upstream in deployed(policy)}
    server = server_pods(site)
    if server is not None:
        found.add(server.namespace)
    for group in policy.groups.values():
        found.update(item.namespace for item in group.workloads)
    return frozenset(found)


def group_pods(group: Group) -> tuple[Pods, ...]:
    """Return the pods that stand for `group`, without those on the host's network."""
    return tuple(
        Pods(item.namespace, item.pod_selector)
        for item in group.workloads
        if not item.host_network
    )


def endpoints(
    policy: AccessPolicy,
    site: Site,
    wanted: Iterable[Wanted] = (),
) -> tuple[Endpoint, ...]:
    """Return all endpoints.

    Args:
        wanted: namespaces and labels that selectors match, of whom there must be one.
    """
    pods: dict[tuple[str, frozenset[tuple[str, str]]], tuple[str, list[str]]] = {}

    def add(name: str, chosen: Pods, account: str) -> None:
        key = (chosen.namespace, frozenset(chosen.labels.items()))
        accounts = pods.setdefault(key, (name, []))[1]
        if account and account not in accounts:
            accounts.append(account)

    for name, chosen, account in _named(policy, site):
        add(name, chosen, account)
    managed = managed_namespaces(policy, site)
    known = {namespace for namespace, _ in pods}
    foreign = "elsewhere"
    while foreign in known | managed:
        foreign += "-"
    for namespace in (*sorted(managed | known), foreign):
        add(f"{namespace}/any other pod", Pods(namespace), STRANGER_ACCOUNT)
    for namespace, labels in wanted:
        if namespace and _NAMESPACE.fullmatch(namespace) is None:
            continue  # There can't be one of this name.
        shown = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        where = namespace or foreign
        add(
            f"{where}/{shown or 'any other pod'}",
            Pods(where, labels),
            STRANGER_ACCOUNT,
        )
    spire = site.spire.server if site.spire is not None else None
    found = [
        Endpoint(name, Place.POD, namespace, dict(labels), tuple(accounts))
        for (namespace, labels), (name, accounts) in pods.items()
    ]
    return (
        *(
            Endpoint(
                item.name,
                item.place,
                item.namespace,
                item.labels,
                item.accounts,
                is_managed=item.namespace in managed
                or (spire is not None and item.is_one_of(spire)),
            )
            for item in found
        ),
        *addresses(site),
    )


def _named(policy: AccessPolicy, site: Site) -> Iterator[tuple[str, Pods, str]]:
    for upstream in deployed(policy):
        yield (
            f"upstream {upstream.name}",
            upstream_pods(upstream),
            upstream.service_account,
        )
    server = server_pods(site)
    if server is not None:
        yield SERVER, server, SERVER
    for _, group in sorted(policy.groups.items()):
        for item in group.workloads:
            if not item.host_network:
                labels = ",".join(
                    f"{k}={v}" for k, v in sorted(item.pod_selector.items())
                )
                yield (
                    f"{item.namespace}/{labels or 'any pod'}",
                    Pods(item.namespace, item.pod_selector),
                    item.service_account,
                )
    yield "DNS", site.cluster.dns, ""
    if site.mesh is Mesh.SIDECAR:
        yield "istiod", site.istio.istiod, ""
    if site.monitoring is not None:
        yield "monitoring", site.monitoring, ""
    if site.spire is not None and site.spire.server is not None:
        yield "SPIRE server", site.spire.server, ""


def addresses(site: Site) -> tuple[Endpoint, ...]:
    """Return the endpoints that have addresses."""
    cluster = site.cluster
    found = [
        Endpoint("a node", Place.NODE, networks=cluster.nodes),
        Endpoint("the API server", Place.API_SERVER, networks=cluster.api_server),
        Endpoint("NodeLocal DNS", Place.RESOLVER, networks=cluster.dns_addresses),
        Endpoint("an address that the site doesn't name", Place.ELSEWHERE),
    ]
    if site.mesh is Mesh.AMBIENT:
        found.append(
            Endpoint("the kubelet's probes", Place.PROBE, networks=PROBES),
        )
    return tuple(found)


def with_pairs(
    policy: AccessPolicy, site: Site, wanted: Iterable[Wanted]
) -> list[Wanted]:
    """Return `wanted`, and who would have two of its sets of labels at once.

    A pod with one label that lets it out and another that lets it in needs both. Those
    that policy and site name are pods of their own.
    """
    named = {
        (item.namespace, frozenset(item.labels.items()))
        for item in endpoints(policy, site)
    }
    found = {
        (namespace, frozenset(labels.items())): labels for namespace, labels in wanted
    }
    by_namespace: dict[str, list[Mapping[str, str]]] = {}
    for (namespace, _), labels in found.items():
        by_namespace.setdefault(namespace, []).append(labels)
    pairs = [
        (key[0], {**labels, **others})
        for key, labels in found.items()
        if key not in named
        for others in by_namespace[key[0]]
        if others is not labels
        and all(labels.get(name, value) == value for name, value in others.items())
    ]
    return [*((namespace, labels) for (namespace, _), labels in found.items()), *pairs]
