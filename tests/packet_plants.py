"""Policies whose callers and upstreams are pods, and everybody who might connect."""

from __future__ import annotations

import random
from dataclasses import replace

from packet_filters import End, Flow

from authz_server.emit.manifest import SERVER_LABELS
from authz_server.policy.model import AccessPolicy, Workload
from authz_server.site.model import Cluster, Pods, Site, Spire

RESOLVER = "10.20.0.9/32"
NODES = Cluster(nodes=("10.20.0.0/24",), api_server=("10.96.0.1/32",))
EVERYTHING = Site(
    cluster=replace(NODES, dns_addresses=(RESOLVER,)),
    monitoring=Pods("monitoring", {"app": "prometheus"}),
    spire=Spire(server=Pods("spire", {"app": "spire-server"})),
)

# What is no pod. The resolver on the node has an address of the node's, so that to both
# sets it is one and the same.
OUTSIDE = (
    End("node", address="10.20.0.5", entities=frozenset({"remote-node"})),
    End("API server", address="10.96.0.1", entities=frozenset({"kube-apiserver"})),
    End("own node", address="10.20.0.9", entities=frozenset({"host"})),
    End("probe", address="169.254.7.127", entities=frozenset({"world"})),
    End("stranger", address="192.0.2.1", entities=frozenset({"world"})),
)
FLOWS: list[Flow] = [
    ("UDP", 53),
    *(
        ("TCP", port)
        for port in (
            *(53, 443, 6443, 8000, 8001, 8002, 8081, 8443, 9000, 9191, 9192, 9443),
            *(10250, 15008, 15012, 15020, 15090),
        )
    ),
]


def with_pods(policy: AccessPolicy, rng: random.Random) -> AccessPolicy:
    """The policy with all in Kubernetes, and some of it on the host's network."""
    namespaces = ("n1", "n2", "n3")
    return replace(
        policy,
        upstreams={
            name: replace(
                upstream,
                namespace=rng.choice(namespaces),
                pod_selector={"app": name},
                service_account=name,
            )
            for name, upstream in policy.upstreams.items()
        },
        groups={
            name: replace(
                group,
                workloads=tuple(
                    Workload(
                        namespace,
                        {"app": rng.choice(("w1", "w2", "t1"))},
                        "",
                        host_network=rng.random() < 0.2,
                    )
                    for namespace in rng.sample(namespaces, rng.randint(0, 2))
                ),
            )
            for name, group in policy.groups.items()
        },
    )


def ends(policy: AccessPolicy, site: Site) -> list[End]:
    """Every pod that is named, one without labels in each namespace, and the rest."""
    named = [
        *((item.namespace, item.pod_selector) for item in policy.upstreams.values()),
        *(
            (item.namespace, item.pod_selector)
            for group in policy.groups.values()
            for item in group.workloads
        ),
        *(
            (pods.namespace, pods.labels)
            for pods in (
                *(site.monitoring, site.spire and site.spire.server),
                *(site.cluster.dns, site.istio.istiod),
                Pods(site.server.namespace, SERVER_LABELS),
            )
            if pods
        ),
    ]
    named += [(namespace, {"app": "rogue"}) for namespace, _ in named]
    pods = {
        (namespace, *sorted(labels.items())): End(
            f"{namespace}/{dict(labels)}", namespace, labels
        )
        for namespace, labels in named
        if namespace
    }
    return [*pods.values(), *OUTSIDE]
