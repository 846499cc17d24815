"""Which kinds of objects there are, in which order they are created, and their keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from authz_server.emit.manifest import Object
from authz_server.errors import SetupError

ORDER: Final = (
    ("v1", "Namespace"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    # Fences before pods: a pod must never run before what keeps others away from it.
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("cilium.io/v2", "CiliumNetworkPolicy"),
    ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
    ("security.istio.io/v1", "PeerAuthentication"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("networking.istio.io/v1", "Sidecar"),
    ("networking.istio.io/v1alpha3", "EnvoyFilter"),
    # Before the IDs that federate with it (SPIRE wants the bundle to be there).
    ("spire.spiffe.io/v1alpha1", "ClusterFederatedTrustDomain"),
    ("spire.spiffe.io/v1alpha1", "ClusterStaticEntry"),
    ("spire.spiffe.io/v1alpha1", "ClusterSPIFFEID"),
    ("v1", "ServiceAccount"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"),
)
"""Every kind that is ever emitted, as ``(apiVersion, kind)``: created in this order,
deleted in the reverse one. Nothing of another kind is looked at."""

NEVER_DELETED: Final = frozenset({"Namespace", "CustomResourceDefinition"})
"""Deleting one deletes all that is in it, also what others have put there."""

Kind = tuple[str, str]

_POSITIONS: Final = {kind: position for position, kind in enumerate(ORDER)}


@dataclass(frozen=True, slots=True)
class Key:
    """What tells an object from all others.

    Attributes:
        namespace: empty for an object of the whole cluster.
    """

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, item: Object) -> Key:
        """Return the key of an object."""
        meta = item["metadata"]
        return cls(
            item["apiVersion"], item["kind"], meta.get("namespace", ""), meta["name"]
        )

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name}"


def kind_of(key: Key) -> Kind:
    """Return the kind of the object that `key` names."""
    return key.api_version, key.kind


def place(key: Key) -> tuple[int, str, str]:
    """Return what keys are sorted by.

    Raises:
        SetupError: if objects of this kind are not known.
    """
    position = _POSITIONS.get(kind_of(key))
    if position is None:
        raise SetupError(
            f"{key}: nothing is known about objects of {key.api_version}; apply it "
            "with kubectl"
        )
    return position, key.namespace, key.name


def family(api_version: str) -> str:
    """Return who defines an API: ``istio.io``; empty for Kubernetes itself."""
    group, slash, _ = api_version.rpartition("/")
    if not slash or "." not in group or group.endswith(".k8s.io"):
        return ""
    return ".".join(group.split(".")[-2:])


def prunable(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Return the kinds to look for left-over objects in, where `kinds` are emitted.

    All those of the same makers: a policy that no longer needs any EnvoyFilter still
    has AuthorizationPolicies.
    """
    families = {family(api_version) for api_version, _ in kinds}
    return tuple(kind for kind in ORDER if family(kind[0]) in families)
