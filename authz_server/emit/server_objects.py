"""The server's own objects, in the shape that the site wants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from authz_server.emit import notes
from authz_server.emit.manifest import (
    SERVER_LABELS,
    Manifest,
    Object,
    deployed,
    metadata,
    settings_file,
)
from authz_server.emit.server_config import config_text
from authz_server.emit.server_pod import (
    POLICY_CONFIG_MAP,
    PORT_NAME,
    USER_ID,
    container,
    template,
    volumes,
)
from authz_server.emit.yaml_text import document
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Shape, Site

MAX_CONFIG_BYTES: Final = 1_000_000
"""A ConfigMap holds 1 MiB in all (Kubernetes API), names and configuration included."""

SIDECAR_COMPONENT: Final = "sidecar/kustomization.yaml"


def server_objects(
    policy: AccessPolicy, site: Site, parts: Mapping[str, str]
) -> tuple[Object, ...]:
    """Return what runs the server, in the order in which it must be created.

    Args:
        parts: the policy's own files by name; the server reads them from a ConfigMap.

    Raises:
        PolicyError: if the policy is too large for a ConfigMap.
    """
    if sum(len(text.encode()) for text in parts.values()) > MAX_CONFIG_BYTES:
        raise PolicyError(
            "the policy is too large for a ConfigMap (1 MiB); let the server fetch it "
            "as a bundle, or mount it from a volume"
        )
    config = config_text(policy, site)
    if site.server.shape is Shape.SIDECAR:
        namespaces = sorted({upstream.namespace for upstream in deployed(policy)})
        return tuple(
            item
            for namespace in namespaces
            for item in _config_maps(policy, namespace, config, parts)
        )
    own = site.server.namespace
    head = (
        _namespace(policy, site),
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(policy, SERVER, own),
            "automountServiceAccountToken": False,
        },
        *_config_maps(policy, own, config, parts),
    )
    pods = template(site, _digest(config, parts))
    if site.server.shape is Shape.DAEMONSET:
        return (*head, _daemon_set(policy, site, pods))
    return (*head, _deployment(policy, site, pods), *_for_service(policy, site))


def sidecar_component(policy: AccessPolicy, site: Site) -> Manifest:
    """Return the Kustomize component that puts the server into upstreams' pods."""
    patch = {
        "spec": {
            "template": {
                "spec": {
                    # The group that the socket belongs to: Envoy may be any user.
                    "securityContext": {"supplementalGroups": [USER_ID]},
                    "containers": [container(site)],
                    "volumes": volumes(site),
                }
            }
        }
    }
    patches = [
        {
            "target": {
                "kind": "Deployment|StatefulSet|DaemonSet",
                "namespace": upstream.namespace,
                **(
                    {
                        "labelSelector": ",".join(
                            f"{key}={value}"
                            for key, value in sorted(upstream.pod_selector.items())
                        )
                    }
                    if upstream.pod_selector
                    else {}
                ),
            },
            "patch": document(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": "any"},
                    **patch,
                }
            ),
        }
        for upstream in deployed(policy)
    ]
    return settings_file(
        SIDECAR_COMPONENT,
        (notes.GENERATED, *notes.SIDECAR_COMPONENT),
        {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            "patches": patches,
        },
    )


def _config_maps(
    policy: AccessPolicy, namespace: str, config: str, parts: Mapping[str, str]
) -> tuple[Object, ...]:
    contents = {SERVER: {"config.yaml": config}, POLICY_CONFIG_MAP: parts}
    return tuple(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(policy, name, namespace),
            "data": dict(sorted(data.items())),
        }
        for name, data in contents.items()
    )


def _namespace(policy: AccessPolicy, site: Site) -> Object:
    # A socket on the node is a hostPath volume, which both other standards refuse.
    standards = {
        f"pod-security.kubernetes.io/{mode}": "restricted"
        for mode in ("enforce", "audit", "warn")
    }
    if site.server.shape is Shape.DAEMONSET:
        standards = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": metadata(policy, site.server.namespace, labels=standards),
    }


def _digest(config: str, parts: Mapping[str, str]) -> str:
    words = [config, *(word for part in sorted(parts.items()) for word in part)]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _deployment(policy: AccessPolicy, site: Site, pods: dict[str, Any]) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(policy, SERVER, site.server.namespace, SERVER_LABELS),
        "spec": {
            "replicas": site.server.replicas,
            "selector": {"matchLabels": dict(SERVER_LABELS)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": pods,
        },
    }


def _daemon_set(policy: AccessPolicy, site: Site, pods: dict[str, Any]) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(policy, SERVER, site.server.namespace, SERVER_LABELS),
        "spec": {
            "selector": {"matchLabels": dict(SERVER_LABELS)},
            # Two can't listen on one socket. Until the new one does, calls are denied.
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1},
            },
            "template": pods,
        },
    }


def _for_service(policy: AccessPolicy, site: Site) -> tuple[Object, ...]:
    return (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(policy, SERVER, site.server.namespace, SERVER_LABELS),
            "spec": {
                "selector": dict(SERVER_LABELS),
                "ports": [
                    {
                        "name": PORT_NAME,
                        "protocol": "TCP",
                        "port": site.server.port,
                        "targetPort": site.server.port,
                    }
                ],
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(policy, SERVER, site.server.namespace),
            "spec": {
                "minAvailable": 1,
                "selector": {"matchLabels": dict(SERVER_LABELS)},
            },
        },
    )
