"""What an emitter gets and gives: options, manifests, and the names of objects."""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from authz_server.emit import notes, yaml_text
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy, Upstream

SERVER: Final = "authz-server"
"""Name of the server's own objects, and of the tool in labels."""

SERVER_LABELS: Final = MappingProxyType({"app.kubernetes.io/name": SERVER})
"""Labels that select the server's pods. A Deployment's selector can't be changed
later, so nothing that varies (version, policy) belongs here."""

MAX_NAME: Final = 63
"""DNS-1123 label: what a Service or Namespace, and a label's value, may hold."""

KUSTOMIZATION: Final = "kustomization.yaml"

Object = Mapping[str, Any]


class Mesh(enum.StrEnum):
    """Who terminates mTLS in front of an upstream."""

    NONE = "none"
    """An Envoy of the operator's, on a port of its own."""
    SIDECAR = "sidecar"
    """An Istio sidecar: on the wire, calls have the application's own port."""


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """What the access policy does not say about the cluster.

    Attributes:
        policy_text: the policy file itself; the server reads it from a ConfigMap.
        mesh: see `Mesh`.
        envoy_port: where Envoy listens without a mesh.
        dataset_port: where a dataset upstream listens in a mesh.
        openai_port: the same of an OpenAI-compatible frontend.
        namespace, port, image, replicas: of the server.
        dns_namespace, dns_labels, dns_port: the cluster's resolver; its pod's port,
            which OpenShift sets to 5353.
        istio_namespace, istiod_labels: where sidecars get certificates from.
        provider: Istio's name for the server.
    """

    policy_text: str
    mesh: Mesh = Mesh.NONE
    triton_http_port: int = 8000
    triton_grpc_port: int = 8001
    triton_metrics_port: int = 8002
    dataset_port: int = 9000
    openai_port: int = 9000
    envoy_port: int = 8443
    namespace: str = "authz-system"
    port: int = 9191
    image: str = "authz-server:0.1.0"
    replicas: int = 2
    dns_namespace: str = "kube-system"
    dns_labels: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({"k8s-app": "kube-dns"})
    )
    dns_port: int = 53
    istio_namespace: str = "istio-system"
    istiod_labels: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({"app": "istiod"})
    )
    provider: str = SERVER
    cluster_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One file.

    Attributes:
        name: file name inside the target's folder.
        comment: paragraphs at the top; what the target can't enforce is said here.
        is_applied: whether `objects` are Kubernetes objects for ``kubectl apply``.
    """

    name: str
    comment: tuple[str, ...]
    objects: tuple[Object, ...]
    is_applied: bool = True

    @property
    def text(self) -> str:
        """The file's content."""
        return yaml_text.comment(self.comment) + yaml_text.documents(self.objects)


def kustomization(manifests: tuple[Manifest, ...]) -> Manifest:
    """Return the file that lists the applied ones of `manifests`."""
    return Manifest(
        name=KUSTOMIZATION,
        comment=(notes.GENERATED, "Apply with: kubectl apply -k ."),
        objects=(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [item.name for item in manifests if item.is_applied],
            },
        ),
        is_applied=False,
    )


def dns_name(*parts: str) -> str:
    """Return `parts` joined to a DNS-1123 label of at most 63 characters.

    Where that loses anything, a digest of the parts keeps two names apart.
    """
    joined = "-".join(parts)
    name = re.sub(r"[^a-z0-9-]+", "-", joined.lower()).strip("-")
    if name == joined and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{digest}".lstrip("-")


def metadata(
    policy: AccessPolicy,
    name: str,
    namespace: str = "",
    labels: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return an object's metadata, with the labels that pruning goes by."""
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "labels": {
            **labels,
            "app.kubernetes.io/managed-by": SERVER,
            "app.kubernetes.io/part-of": dns_name(policy.name),
        },
    }


def deployed(policy: AccessPolicy) -> tuple[Upstream, ...]:
    """Return the upstreams that run in Kubernetes, by name.

    Raises:
        PolicyError: if one has no service account. Its proxy could not be told from
            other pods, and only known proxies may ask the server.
    """
    upstreams = tuple(
        upstream
        for _, upstream in sorted(policy.upstreams.items())
        if upstream.namespace
    )
    for upstream in upstreams:
        if not upstream.service_account:
            raise PolicyError(
                f"spec.upstreams.{upstream.name}: serviceAccount is missing; name the "
                "one its pods run as, so that the server can tell their proxy"
            )
    return upstreams


def workload_principal(policy: AccessPolicy, namespace: str, account: str) -> str:
    """Return the path form ``TD/ns/NS/sa/SA`` of a workload of the own trust domain."""
    return f"{policy.trust_domain}/ns/{namespace}/sa/{account}"


def check_unique(objects: tuple[Object, ...]) -> None:
    """Raise `PolicyError` if two objects would overwrite each other in the cluster."""
    seen: set[tuple[str, str, str]] = set()
    for item in objects:
        meta = item["metadata"]
        key = (item["kind"], meta.get("namespace", ""), meta["name"])
        if key in seen:
            raise PolicyError(
                f"two {key[0]} objects would be called {key[1]}/{key[2]}; "
                "rename one of the upstreams or groups that the name is made of"
            )
        seen.add(key)
