"""Which kinds of objects each target has, where they are, and what RBAC calls them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class Place(enum.Enum):
    """Where objects of a kind may be."""

    CLUSTER = "cluster"
    """In no namespace."""
    ANYWHERE = "anywhere"
    """In each namespace that a policy names."""
    BESIDE_SERVER = "beside the server"
    """Only where the server runs."""


@dataclass(frozen=True, slots=True)
class EmittedKind:
    """A kind of object.

    Attributes:
        plural: what RBAC calls it.
    """

    api_version: str
    kind: str
    plural: str
    place: Place

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]


_SPIRE: Final = "spire.spiffe.io/v1alpha1"
_SERVER_KINDS: Final = (
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Service", "services"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "DaemonSet", "daemonsets"),
)

TARGET_KINDS: Final[Mapping[str, tuple[EmittedKind, ...]]] = MappingProxyType(
    {
        "kubernetes": (
            EmittedKind("v1", "Namespace", "namespaces", Place.CLUSTER),
            EmittedKind(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                "networkpolicies",
                Place.ANYWHERE,
            ),
            *(EmittedKind(*names, Place.BESIDE_SERVER) for names in _SERVER_KINDS),
        ),
        "istio": (
            EmittedKind(
                "security.istio.io/v1",
                "PeerAuthentication",
                "peerauthentications",
                Place.ANYWHERE,
            ),
            EmittedKind(
                "security.istio.io/v1",
                "AuthorizationPolicy",
                "authorizationpolicies",
                Place.ANYWHERE,
            ),
            EmittedKind(
                "networking.istio.io/v1", "Sidecar", "sidecars", Place.ANYWHERE
            ),
            EmittedKind(
                "networking.istio.io/v1alpha3",
                "EnvoyFilter",
                "envoyfilters",
                Place.ANYWHERE,
            ),
        ),
        "spire": (
            EmittedKind(
                _SPIRE,
                "ClusterFederatedTrustDomain",
                "clusterfederatedtrustdomains",
                Place.CLUSTER,
            ),
            EmittedKind(
                _SPIRE, "ClusterStaticEntry", "clusterstaticentries", Place.CLUSTER
            ),
            EmittedKind(_SPIRE, "ClusterSPIFFEID", "clusterspiffeids", Place.CLUSTER),
        ),
        "cilium": (
            EmittedKind(
                "cilium.io/v2",
                "CiliumNetworkPolicy",
                "ciliumnetworkpolicies",
                Place.ANYWHERE,
            ),
        ),
    }
)
"""By the targets whose files are objects that a cluster holds."""
