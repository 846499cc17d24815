"""NetworkPolicies: who may open a connection at all.

A rule exists only for pods that the policy file names: a group without pods gives no
rule.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from authz_server.emit import notes
from authz_server.emit.manifest import (
    SERVER_LABELS,
    Manifest,
    Object,
    check_unique,
    deployed,
    dns_name,
    objects_file,
)
from authz_server.emit.network_infrastructure import (
    for_monitoring,
    for_namespaces,
    for_spire,
    spire_limits,
)
from authz_server.emit.network_rules import (
    Peer,
    addresses,
    incoming,
    network_policy,
    outgoing,
    pods,
)
from authz_server.emit.reach import Reach, reaches
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy, Group, Workload
from authz_server.site.model import SERVER, Mesh, Pods, Shape, Site

TUNNEL_PORT: Final = 15008
"""Where ztunnel takes what comes from other nodes, whatever port is meant (HBONE)."""


def managed_namespaces(policy: AccessPolicy, site: Site) -> tuple[str, ...]:
    """Return every namespace that the policy names, and the server's own."""
    names = {upstream.namespace for upstream in deployed(policy)}
    if site.server.shape is not Shape.SIDECAR:
        names.add(site.server.namespace)
    for group in policy.groups.values():
        names.update(workload.namespace for workload in group.workloads)
    return tuple(sorted(names))


def network_policies(
    policy: AccessPolicy, site: Site, head: tuple[str, ...]
) -> Manifest:
    """Return the file with all NetworkPolicies; `head` opens its comment.

    Raises:
        PolicyError: if two objects would get the same name.
    """
    return objects_file(
        "network-policies.yaml",
        (*head, *network_limits(policy, site)),
        network_objects(policy, site),
    )


def network_objects(policy: AccessPolicy, site: Site) -> tuple[Object, ...]:
    """Return all NetworkPolicies.

    Raises:
        PolicyError: if two objects would get the same name.
    """
    namespaces = managed_namespaces(policy, site)
    objects = (
        *for_namespaces(policy, site, namespaces),
        *_for_callers(policy, site),
        *_for_server(policy, site),
        *for_monitoring(policy, site, namespaces),
        *for_spire(policy, site),
    )
    check_unique(objects)
    return objects


def _for_callers(policy: AccessPolicy, site: Site) -> Iterable[Object]:
    for upstream in deployed(policy):
        target = Pods(upstream.namespace, upstream.pod_selector)
        for reach in reaches(policy, upstream, site):
            workloads = _workloads(reach.group)
            if not workloads:
                continue
            ports = _on_the_wire(reach.ports, site)
            in_namespace = Counter(item.namespace for item in workloads)
            yield network_policy(
                policy,
                dns_name(upstream.name, "from", reach.group.name),
                target,
                ingress=[incoming(_callers(reach.group, workloads, site), ports)],
            )
            for item in workloads:
                if not item.host_network:
                    yield network_policy(
                        policy,
                        _egress_name(
                            reach, item, is_alone=in_namespace[item.namespace] == 1
                        ),
                        Pods(item.namespace, item.pod_selector),
                        egress=[outgoing([pods(target)], ports)],
                    )


def _callers(group: Group, workloads: Sequence[Workload], site: Site) -> list[Peer]:
    peers = [
        pods(Pods(item.namespace, item.pod_selector))
        for item in workloads
        if not item.host_network
    ]
    if len(peers) == len(workloads):
        return peers
    if not site.cluster.nodes:
        raise PolicyError(
            f"spec.groups.{group.name}: a workload is on the host's network, where no "
            "pod selector matches it; name the nodes' networks in the site "
            "(cluster.nodes), or take hostNetwork from the pods"
        )
    return [*peers, *addresses(site.cluster.nodes)]


def _for_server(policy: AccessPolicy, site: Site) -> Iterable[Object]:
    if site.server.shape is not Shape.DEPLOYMENT:
        return  # It is asked over a unix socket.
    server = Pods(site.server.namespace, SERVER_LABELS)
    ports = _on_the_wire((site.server.port,), site)
    proxies = [
        Pods(upstream.namespace, upstream.pod_selector) for upstream in deployed(policy)
    ]
    for upstream, proxy in zip(deployed(policy), proxies, strict=True):
        yield network_policy(
            policy,
            dns_name(upstream.name, "to", SERVER),
            proxy,
            egress=[outgoing([pods(server)], ports)],
        )
    yield network_policy(
        policy,
        f"{SERVER}-from-proxies",
        server,
        ingress=[incoming([pods(proxy) for proxy in proxies], ports)],
    )


def _on_the_wire(ports: tuple[int, ...], site: Site) -> tuple[int, ...]:
    # Never wider than the ports that go through it: whoever may open the tunnel
    # reaches every port behind it, as far as packets go.
    return (*ports, TUNNEL_PORT) if site.mesh is Mesh.AMBIENT else ports


def _workloads(group: Group) -> tuple[Workload, ...]:
    return tuple(
        sorted(
            group.workloads,
            key=lambda item: (item.namespace, sorted(item.pod_selector.items())),
        )
    )


def _egress_name(reach: Reach, workload: Workload, *, is_alone: bool) -> str:
    """Return its policy's name; `is_alone` of its group in its namespace."""
    parts = [reach.group.name, "to", reach.upstream.name]
    # A position would rename objects when a line is added; a digest does not.
    if not is_alone:
        labels = repr((sorted(workload.pod_selector.items()), workload.service_account))
        parts.append(hashlib.sha256(labels.encode()).hexdigest()[:8])
    return dns_name(*parts)


def network_limits(policy: AccessPolicy, site: Site) -> Iterable[str]:
    """Yield what these policies can't enforce, or leave shut, in words."""
    yield from notes.PACKET_FILTER
    for name, upstream in sorted(policy.upstreams.items()):
        if not upstream.namespace:
            yield f"Upstream {name} runs outside Kubernetes: no rule mentions it."
    yield from _shut_in(policy, site)
    yield from spire_limits(site.spire, site)
    granted = sorted({name for grant in policy.grants for name in grant.to})
    for name in granted:
        yield from _group_limits(policy, policy.groups[name])


def _shut_in(policy: AccessPolicy, site: Site) -> Iterable[str]:
    managed = managed_namespaces(policy, site)
    services = [("resolver", site.cluster.dns)]
    if site.mesh is Mesh.SIDECAR:
        services.append(("istiod", site.istio.istiod))
    for name, chosen in services:
        if chosen.namespace in managed:
            yield (
                f"default-deny of {chosen.namespace} cuts off the cluster's {name}, "
                "which needs rules of your own before this is applied."
            )


def _group_limits(policy: AccessPolicy, group: Group) -> Iterable[str]:
    if not group.workloads:
        members = " and ".join(
            kind
            for kind, present in (
                ("SPIFFE IDs", group.spiffe),
                ("users", group.users),
            )
            if present
        )
        yield (
            f"Group {group.name} has {members or 'no members'} but no workloads: "
            "nothing in the packet filter represents it, so it gets no rule."
        )
        return
    if any(item.host_network for item in group.workloads):
        yield (
            f"Group {group.name}: some of its pods are on the host's network. Their "
            "nodes' addresses have the rule, so every process of those nodes has it."
        )
    identities = [
        SpiffeId(
            policy.trust_domain, ("ns", item.namespace, "sa", item.service_account)
        )
        for item in group.workloads
        if item.service_account
    ]
    exact = {str(identity) for identity in identities}
    for pattern in sorted(group.spiffe):
        # A group may have thousands of both, so not each is held against each.
        covered = pattern.text in exact or (
            not pattern.is_exact and any(map(pattern.matches, identities))
        )
        if not covered or not pattern.is_exact:
            yield (
                f"Group {group.name}: of {pattern}, only the pods listed under "
                "workloads have a rule"
                + ("." if covered else ", and none of them has such an ID.")
            )
    if group.users:
        yield (
            f"Group {group.name}: its users have no rule of their own; they reach an "
            "upstream only from a workload that has one."
        )
