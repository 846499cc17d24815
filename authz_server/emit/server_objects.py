"""The server's own objects: namespace, account, configuration, pods, Service."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from authz_server.emit import yaml_text
from authz_server.emit.manifest import (
    SERVER_LABELS,
    Object,
    deployed,
    metadata,
    workload_principal,
)
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SCHEME
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Mesh, Site

CONFIG_FILE: Final = "/etc/authz-server/config/config.yaml"
POLICY_DIRECTORY: Final = "/etc/authz-server/policy"
POLICY_CONFIG_MAP: Final = f"{SERVER}-policy"
TLS_DIRECTORY: Final = "/run/authz-server/tls"
TLS_SECRET: Final = "authz-server-tls"  # noqa: S105 - a Secret's name
USER_ID: Final = 65532

PORT_NAME: Final = "grpc-authz"
"""Istio reads the protocol from its prefix; without ``grpc`` every check fails."""

METRICS_PORT: Final = 9192

MAX_CONFIG_BYTES: Final = 1_000_000
"""A ConfigMap holds 1 MiB in all (Kubernetes API), names and configuration included."""


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
    return (
        _namespace(policy, site),
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(policy, SERVER, site.server.namespace),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(policy, SERVER, site.server.namespace),
            "data": {"config.yaml": config},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(policy, POLICY_CONFIG_MAP, site.server.namespace),
            "data": dict(sorted(parts.items())),
        },
        _deployment(policy, site, _digest(config, parts)),
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


def config_text(policy: AccessPolicy, site: Site) -> str:
    """Return the server's configuration file.

    Plaintext only on loopback, where the sidecar hands over what it has decrypted.
    Otherwise mTLS, and only the upstreams' own proxies may ask.
    """
    proxies = [SCHEME + name for name in proxy_principals(policy)]
    listen: dict[str, Any] = {"address": f"tcp://127.0.0.1:{site.server.port}"}
    if site.mesh is not Mesh.SIDECAR:
        listen = {
            "address": f"tcp://0.0.0.0:{site.server.port}",
            "tls": {
                "certificate": f"{TLS_DIRECTORY}/tls.crt",
                "key": f"{TLS_DIRECTORY}/tls.key",
                "client_ca": f"{TLS_DIRECTORY}/ca.crt",
                "proxies": proxies,
            },
        }
    if site.monitoring is not None:
        listen["metrics"] = f"tcp://0.0.0.0:{METRICS_PORT}"
    return yaml_text.document(
        {
            "listen": listen,
            "policy": {"file": POLICY_DIRECTORY},
            # Envoy verifies the chain; bundles of our own are not mounted here.
            "identity": {"chain": "proxy"},
            "audit": {"file": "-"},
        }
    )


def proxy_principals(policy: AccessPolicy) -> list[str]:
    """Return ``TD/ns/NS/sa/SA`` of every upstream; its proxy has the same account.

    Raises:
        PolicyError: if an upstream in Kubernetes has no service account, or none is
            in Kubernetes at all.
    """
    principals = {
        workload_principal(policy, item.namespace, item.service_account)
        for item in deployed(policy)
    }
    if not principals:
        raise PolicyError(
            "spec.upstreams: none has a namespace, so nothing runs in Kubernetes; name "
            "one, or emit for another target"
        )
    return sorted(principals)


def _namespace(policy: AccessPolicy, site: Site) -> Object:
    modes = ("enforce", "audit", "warn")
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": metadata(
            policy,
            site.server.namespace,
            labels={
                f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes
            },
        ),
    }


def _digest(config: str, parts: Mapping[str, str]) -> str:
    # A pod reads its configuration when it starts: new text, new pods.
    words = [config, *(word for part in sorted(parts.items()) for word in part)]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _deployment(policy: AccessPolicy, site: Site, digest: str) -> Object:
    labels, annotations = dict(SERVER_LABELS), {"checksum/config": digest}
    if site.mesh is Mesh.SIDECAR:
        labels["sidecar.istio.io/inject"] = "true"
        if site.monitoring is not None:
            # Prometheus has no certificate of the mesh; who it is, its pods' rule says.
            annotations["traffic.sidecar.istio.io/excludeInboundPorts"] = str(
                METRICS_PORT
            )
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
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _pod(site),
            },
        },
    }


def _pod(site: Site) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": SERVER}},
        {"name": "policy", "configMap": {"name": POLICY_CONFIG_MAP}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
    ]
    if site.mesh is not Mesh.SIDECAR:
        volumes.append(
            {"name": "tls", "secret": {"secretName": TLS_SECRET, "defaultMode": 0o440}}
        )
    return {
        "serviceAccountName": SERVER,
        "automountServiceAccountToken": False,
        # Kubernetes would set AUTHZ_SERVER_PORT and more, after the Service's name:
        # variables of the prefix that the server reads its settings from.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Two on one box rather than one that waits: an edge cluster may be one box.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(SERVER_LABELS)},
            }
        ],
        "containers": [_container(site)],
        "volumes": volumes,
    }


def _container_ports(site: Site) -> list[dict[str, Any]]:
    ports = [{"name": PORT_NAME, "containerPort": site.server.port, "protocol": "TCP"}]
    if site.monitoring is not None:
        ports.append(
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}
        )
    return ports


def _container(site: Site) -> dict[str, Any]:
    # The kubelet's gRPC probe speaks no mTLS and can't reach a loopback listener.
    health = ["authz-server", "health", "--config", CONFIG_FILE]
    mounts: list[dict[str, Any]] = [
        {
            "name": "config",
            "mountPath": str(PurePosixPath(CONFIG_FILE).parent),
            "readOnly": True,
        },
        {"name": "policy", "mountPath": POLICY_DIRECTORY, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own volume
    ]
    if site.mesh is not Mesh.SIDECAR:
        mounts.append({"name": "tls", "mountPath": TLS_DIRECTORY, "readOnly": True})
    return {
        "name": SERVER,
        "image": site.server.image,
        "command": ["authz-server", "serve", "--config", CONFIG_FILE],
        "ports": _container_ports(site),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "startupProbe": {
            "exec": {"command": health},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 30,
        },
        "readinessProbe": {
            "exec": {"command": health},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "livenessProbe": {
            "exec": {"command": health},
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "volumeMounts": mounts,
    }
