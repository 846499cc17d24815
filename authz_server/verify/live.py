"""Reads what is to be verified from a cluster: also what nobody here has made.

A foreign NetworkPolicy opens things too, and a foreign DENY shuts them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Protocol

from authz_server.cluster.kinds import Key, Kind
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site
from authz_server.verify.difference import Layer
from authz_server.verify.endpoints import managed_namespaces
from authz_server.verify.objects import Document, Found, sorted_out

_KINDS: Final[Mapping[Layer, tuple[Kind, ...]]] = {
    Layer.KUBERNETES: (("v1", "Namespace"), ("networking.k8s.io/v1", "NetworkPolicy")),
    Layer.CILIUM: (
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
    ),
    Layer.ISTIO: (
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1", "PeerAuthentication"),
    ),
    Layer.SPIRE: (
        ("spire.spiffe.io/v1alpha1", "ClusterSPIFFEID"),
        ("spire.spiffe.io/v1alpha1", "ClusterStaticEntry"),
    ),
    Layer.OPENZITI: (),
}
"""What each layer's objects are. OpenZiti's are in its own controller."""


class ClusterReader(Protocol):
    """What is asked of a cluster."""

    def objects(self, kind: Kind, labels: str) -> Iterator[Mapping[str, Any]]:
        """Yield all objects of a kind; nothing if the cluster has no such kind."""

    def find(self, key: Key) -> Mapping[str, Any] | None:
        """Return an object; None if it isn't there."""


def read_cluster(
    cluster: ClusterReader, policy: AccessPolicy, site: Site, layers: Collection[Layer]
) -> Found:
    """Return the objects of `layers` in the namespaces that policy and site name.

    Raises:
        SetupError: if the cluster can't be asked.
    """
    namespaces = {*managed_namespaces(policy, site), site.istio.istiod.namespace, ""}
    if site.spire is not None and site.spire.server is not None:
        namespaces.add(site.spire.server.namespace)
    found = [
        item
        for layer in Layer
        if layer in layers
        for kind in _KINDS[layer]
        for item in cluster.objects(kind, "")
        if item["metadata"].get("namespace", "") in namespaces
    ]
    if Layer.ISTIO in layers:
        mesh = cluster.find(
            Key("v1", "ConfigMap", site.istio.istiod.namespace, "istio")
        )
        if mesh is not None:
            found.append({**mesh, "apiVersion": "v1", "kind": "ConfigMap"})
    return sorted_out(Document("", item, "in the cluster") for item in found)
