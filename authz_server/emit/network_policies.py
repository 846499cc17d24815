"""NetworkPolicies: who may open a connection at all.

A rule exists only for pods that the policy file names. An empty peer list, a missing
one and an empty peer all mean "anyone" to Kubernetes, so none of them is ever written:
a group without pods gives no rule. Ports are the pods' own and numeric, since named
ones and Service ports mean different things to different network plugins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from authz_server.emit import notes
from authz_server.emit.manifest import (
    SERVER_LABELS,
    Manifest,
    Object,
    check_unique,
    deployed,
    dns_name,
    metadata,
    objects_file,
)
from authz_server.emit.reach import Reach, reaches
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy, Group, Workload
from authz_server.site.model import SERVER, Mesh, Pods, Site

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Set by the API server, so a namespace can't claim another one's name."""

ISTIOD_PORT: Final = 15012


def managed_namespaces(policy: AccessPolicy, site: Site) -> tuple[str, ...]:
    """Return every namespace that the policy names, and the server's own."""
    names = {site.server.namespace}
    names.update(upstream.namespace for upstream in deployed(policy))
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
    objects = (
        *_for_every_namespace(policy, site),
        *_for_callers(policy, site),
        *_for_server(policy, site),
    )
    check_unique(objects)
    return objects_file("network-policies.yaml", (*head, *_limits(policy)), objects)


def _for_every_namespace(policy: AccessPolicy, site: Site) -> Iterable[Object]:
    resolver = _peer(site.cluster.dns)
    istiod = _peer(site.istio.istiod)
    for namespace in managed_namespaces(policy, site):
        yield _network_policy(policy, "default-deny", namespace, {})
        yield _network_policy(
            policy,
            "allow-dns",
            namespace,
            {},
            # Answers that don't fit a datagram are asked for again over TCP.
            egress=_rule(
                "to", [resolver], [site.cluster.dns_port], protocols=("UDP", "TCP")
            ),
        )
        if site.mesh is Mesh.SIDECAR:
            yield _network_policy(
                policy,
                "allow-istiod",
                namespace,
                {},
                egress=_rule("to", [istiod], [ISTIOD_PORT]),
            )


def _for_callers(policy: AccessPolicy, site: Site) -> Iterable[Object]:
    for upstream in deployed(policy):
        target = _peer(Pods(upstream.namespace, upstream.pod_selector))
        for reach in reaches(policy, upstream, site):
            workloads = _workloads(reach.group)
            if not workloads:
                continue
            yield _network_policy(
                policy,
                dns_name(upstream.name, "from", reach.group.name),
                upstream.namespace,
                upstream.pod_selector,
                ingress=_rule(
                    "from",
                    [
                        _peer(Pods(item.namespace, item.pod_selector))
                        for item in workloads
                    ],
                    reach.ports,
                ),
            )
            for item in workloads:
                yield _network_policy(
                    policy,
                    _egress_name(reach, item, workloads),
                    item.namespace,
                    item.pod_selector,
                    egress=_rule("to", [target], reach.ports),
                )


def _for_server(policy: AccessPolicy, site: Site) -> Iterable[Object]:
    upstreams = deployed(policy)
    server = _peer(Pods(site.server.namespace, SERVER_LABELS))
    for upstream in upstreams:
        yield _network_policy(
            policy,
            dns_name(upstream.name, "to", SERVER),
            upstream.namespace,
            upstream.pod_selector,
            egress=_rule("to", [server], [site.server.port]),
        )
    yield _network_policy(
        policy,
        "authz-server-from-proxies",
        site.server.namespace,
        SERVER_LABELS,
        ingress=_rule(
            "from",
            [_peer(Pods(item.namespace, item.pod_selector)) for item in upstreams],
            [site.server.port],
        ),
    )


def _network_policy(
    policy: AccessPolicy,
    name: str,
    namespace: str,
    selector: Mapping[str, str],
    ingress: dict[str, Any] | None = None,
    egress: dict[str, Any] | None = None,
) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(policy, name, namespace),
        "spec": {
            "podSelector": _selector(selector),
            # Written out always: left to its default, it changes with the rules.
            "policyTypes": ["Ingress", "Egress"],
            **({"ingress": [ingress]} if ingress else {}),
            **({"egress": [egress]} if egress else {}),
        },
    }


def _rule(
    direction: str,
    peers: Sequence[dict[str, Any]],
    ports: Sequence[int],
    protocols: Sequence[str] = ("TCP",),
) -> dict[str, Any]:
    assert peers, "a rule without a peer lets everyone in"  # noqa: S101
    assert ports, "a rule without a port opens them all"  # noqa: S101
    unique = [peer for n, peer in enumerate(peers) if peer not in peers[:n]]
    return {
        direction: unique,
        "ports": [
            {"protocol": protocol, "port": port}
            for protocol in protocols
            for port in ports
        ],
    }


def _peer(pods: Pods) -> dict[str, Any]:
    # One entry with both selectors means AND; two entries would mean OR.
    return {
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: pods.namespace}},
        **({"podSelector": _selector(pods.labels)} if pods.labels else {}),
    }


def _selector(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"matchLabels": dict(sorted(labels.items()))} if labels else {}


def _workloads(group: Group) -> tuple[Workload, ...]:
    return tuple(
        sorted(
            group.workloads,
            key=lambda item: (item.namespace, sorted(item.pod_selector.items())),
        )
    )


def _egress_name(
    reach: Reach, workload: Workload, workloads: tuple[Workload, ...]
) -> str:
    parts = [reach.group.name, "to", reach.upstream.name]
    # A position would rename objects when a line is added; a digest does not.
    if sum(item.namespace == workload.namespace for item in workloads) > 1:
        labels = repr((sorted(workload.pod_selector.items()), workload.service_account))
        parts.append(hashlib.sha256(labels.encode()).hexdigest()[:8])
    return dns_name(*parts)


def _limits(policy: AccessPolicy) -> Iterable[str]:
    yield from notes.PACKET_FILTER
    for name, upstream in sorted(policy.upstreams.items()):
        if not upstream.namespace:
            yield f"Upstream {name} runs outside Kubernetes: no rule mentions it."
    granted = sorted({name for grant in policy.grants for name in grant.to})
    for name in granted:
        yield from _group_limits(policy, policy.groups[name])


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
    identities = [
        SpiffeId(
            policy.trust_domain, ("ns", item.namespace, "sa", item.service_account)
        )
        for item in group.workloads
        if item.service_account
    ]
    for pattern in sorted(group.spiffe):
        covered = any(pattern.matches(identity) for identity in identities)
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
