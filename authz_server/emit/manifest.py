"""What an emitter gets and gives: site, manifests, and the names of objects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from authz_server.emit import notes, yaml_text
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy, Upstream
from authz_server.site.model import SERVER

SERVER_LABELS: Final = MappingProxyType({"app.kubernetes.io/name": SERVER})
"""Labels that select the server's pods. A Deployment's selector can't be changed
later, so nothing that varies (version, policy) belongs here."""

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
PART_OF: Final = "app.kubernetes.io/part-of"
"""Labels of every object, which pruning goes by: who made it, of which policy."""

MAX_NAME: Final = 63
"""DNS-1123 label: what a Service or Namespace, and a label's value, may hold."""

KUSTOMIZATION: Final = "kustomization.yaml"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One file.

    Attributes:
        name: its path inside the target's folder.
        objects: the Kubernetes objects in it, for ``kubectl apply``; none if it is
            something else.
    """

    name: str
    text: str
    objects: tuple[Object, ...] = ()


def objects_file(
    name: str, comment: tuple[str, ...], objects: tuple[Object, ...]
) -> Manifest:
    """Return a file of Kubernetes objects.

    Args:
        comment: paragraphs at the top; what the target can't enforce is said there.
    """
    return Manifest(name, _text(comment, objects), objects)


def settings_file(name: str, comment: tuple[str, ...], settings: Object) -> Manifest:
    """Return a file of YAML that is no Kubernetes object."""
    return Manifest(name, _text(comment, (settings,)))


def _text(comment: tuple[str, ...], documents: tuple[Object, ...]) -> str:
    return yaml_text.comment(comment) + yaml_text.documents(documents)


def kustomization(manifests: tuple[Manifest, ...]) -> Manifest:
    """Return the file that lists those of `manifests` that are to be applied."""
    return settings_file(
        KUSTOMIZATION,
        (notes.GENERATED, "Apply with: kubectl apply --server-side -k ."),
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [item.name for item in manifests if item.objects],
        },
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
            MANAGED_BY: SERVER,
            PART_OF: dns_name(policy.name),
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
