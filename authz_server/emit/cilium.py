"""Target ``cilium``: the NetworkPolicies' meaning as CiliumNetworkPolicies.

Translated from those rather than derived a second time, so that the two can't drift.
What NetworkPolicies know by address, nodes and the API server, Cilium knows as
entities, and by no CIDR. L3 and L4 only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from authz_server.emit import notes
from authz_server.emit.manifest import (
    Manifest,
    Object,
    kustomization,
    objects_file,
)
from authz_server.emit.network_policies import network_limits, network_objects
from authz_server.emit.network_rules import NAMESPACE_LABEL
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site

NAMESPACE: Final = "k8s:io.kubernetes.pod.namespace"
"""The label that Cilium gives each pod for its namespace. Without it, a rule means the
policy's own namespace."""

# Stand in a site where addresses do otherwise, and are no addresses: so a rule of
# NetworkPolicies tells which of them it means.
_NODES: Final = "nodes"
_API_SERVER: Final = "API server"
_NODE_RESOLVER: Final = "resolver on the node"

_ENTITIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # A pod's own node, and all others.
        _NODES: ("host", "remote-node"),
        _API_SERVER: ("kube-apiserver",),
        _NODE_RESOLVER: ("host",),
    }
)

# What Cilium's default filter keeps out of a pod's identity, which is what selectors
# see (its documentation, "Limiting Identity-Relevant Labels").
_HIDDEN_LABEL: Final = re.compile(
    r"io\.kubernetes|kubernetes\.io|.*beta\.kubernetes\.io|k8s\.io"
    r"|statefulset\.kubernetes\.io/pod-name|apps\.kubernetes\.io/pod-index"
    r"|batch\.kubernetes\.io/job-completion-index"
    r"|pod-template-generation|pod-template-hash|controller-revision-hash"
    r"|annotation|etcd_node"
)

_SOURCE: Final = "k8s:"

_CILIUM: Final = (
    """
CiliumNetworkPolicies that mean what the kubernetes target's NetworkPolicies mean. Apply
one of the two sets: rules add up, so with both, a grant is gone only when it is gone
from both. Needs Cilium 1.16 for enableDefaultDeny.
""",
    """
Without rules.http: mTLS ends in the pod, so Cilium sees no HTTP, and such a rule would
break every call. Without authentication.mode: it proves IDs that Cilium makes itself
(spiffe://spiffe.cilium/identity/NUMBER), which are none of this policy's.
""",
    """
Nodes and the API server are named as entities: in Cilium no CIDR matches them. By
Cilium's default the node that a pod runs on reaches it whatever stands here, which the
kubelet's probes need. In a Cluster Mesh before Cilium 1.19, pods of the same namespace
and labels in other clusters count too.
""",
)

_NODE_RESOLVER_NOTE: Final = """
Names are also asked for on the pod's own node (NodeLocal DNS), and so allowed at port
53 of any of its addresses. Where Cilium redirects that traffic to a pod instead, that
pod needs a rule of your own.
"""


def emit_cilium(policy: AccessPolicy, site: Site) -> tuple[Manifest, ...]:
    """Return the CiliumNetworkPolicies.

    Raises:
        PolicyError: as for NetworkPolicies, except that pods on the host's network
            need no addresses of nodes.
    """
    named = replace(
        site,
        cluster=replace(
            site.cluster,
            nodes=(_NODES,),
            api_server=(_API_SERVER,),
            dns_addresses=(_NODE_RESOLVER,) if site.cluster.dns_addresses else (),
        ),
    )
    objects = tuple(_translated(item) for item in network_objects(policy, named))
    manifests = (
        objects_file(
            "network-policies.yaml",
            (
                notes.GENERATED,
                *_CILIUM,
                *((_NODE_RESOLVER_NOTE,) if site.cluster.dns_addresses else ()),
                *network_limits(policy, named),
                *_hidden_labels(objects),
            ),
            objects,
        ),
    )
    return (*manifests, kustomization(manifests))


def _translated(network_policy: Object) -> Object:
    spec = network_policy["spec"]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": network_policy["metadata"],
        "spec": {
            "endpointSelector": _selector(_labels(spec["podSelector"])),
            # Written out as policyTypes are, whatever the rules are.
            "enableDefaultDeny": {"ingress": True, "egress": True},
            # To Cilium an empty list says nothing; an empty rule lets nobody through.
            "ingress": _rules(spec.get("ingress", ()), "from") or [{}],
            "egress": _rules(spec.get("egress", ()), "to") or [{}],
        },
    }


def _rules(rules: Iterable[Mapping[str, Any]], side: str) -> list[dict[str, Any]]:
    return [
        {**peers, **({"toPorts": [_ports(rule["ports"])]} if "ports" in rule else {})}
        for rule in rules
        for peers in _peers(rule[side], side)
    ]


def _peers(peers: Sequence[Mapping[str, Any]], side: str) -> Iterator[dict[str, Any]]:
    """Yield rules' peers: Cilium takes one kind of them in a rule."""
    endpoints = [
        _selector(
            {
                NAMESPACE: _labels(peer["namespaceSelector"])[NAMESPACE_LABEL],
                **_labels(peer.get("podSelector", {})),
            }
        )
        for peer in peers
        if "ipBlock" not in peer
    ]
    if endpoints:
        yield {f"{side}Endpoints": endpoints}
    addresses = [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer]
    entities = {
        entity for address in addresses for entity in _ENTITIES.get(address, ())
    }
    if entities:
        yield {f"{side}Entities": sorted(entities)}
    networks = [address for address in addresses if address not in _ENTITIES]
    if networks:
        yield {f"{side}CIDR": networks}


def _ports(ports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "ports": [
            {"port": str(item["port"]), "protocol": item["protocol"]} for item in ports
        ]
    }


def _labels(selector: Mapping[str, Any]) -> Mapping[str, str]:
    assert selector.keys() <= {"matchLabels"}, selector  # noqa: S101 - never drop one
    labels: Mapping[str, str] = selector.get("matchLabels", {})
    return labels


def _selector(labels: Mapping[str, str]) -> dict[str, Any]:
    # Without a source a key would match labels from anywhere.
    named = {
        key if key.startswith(_SOURCE) else f"{_SOURCE}{key}": value
        for key, value in labels.items()
    }
    return {"matchLabels": named} if named else {}


def _hidden_labels(objects: Iterable[Object]) -> Iterator[str]:
    hidden = {
        key
        for item in objects
        for selector in _selectors(item["spec"])
        for key in (name.removeprefix(_SOURCE) for name in selector)
        if f"{_SOURCE}{key}" != NAMESPACE and _HIDDEN_LABEL.match(key)
    }
    for key in sorted(hidden):
        yield (
            f"Cilium's default filter keeps label {key} out of a pod's identity, so "
            "rules with it match no pod: select by another one, or add it to Cilium's "
            "list of labels."
        )


def _selectors(spec: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    yield _labels(spec["endpointSelector"])
    for rule in (*spec["ingress"], *spec["egress"]):
        for key in ("fromEndpoints", "toEndpoints"):
            yield from (_labels(item) for item in rule.get(key, ()))
