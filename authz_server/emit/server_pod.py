"""The pod that the server runs in, by the restricted Pod Security Standard."""

from __future__ import annotations

from typing import Any, Final

from authz_server.emit.manifest import SERVER_LABELS
from authz_server.emit.server_config import (
    CONFIG_FILE,
    METRICS_PORT,
    POLICY_DIRECTORY,
    SOCKET,
    TLS_DIRECTORY,
)
from authz_server.site.model import SERVER, Mesh, Shape, Site

POLICY_CONFIG_MAP: Final = f"{SERVER}-policy"
TLS_SECRET: Final = "authz-server-tls"  # noqa: S105 - a Secret's name
USER_ID: Final = 65532
"""Also the group that the unix socket belongs to."""

PORT_NAME: Final = "grpc-authz"
"""Istio reads the protocol from its prefix; without ``grpc`` every check fails."""

RESOURCES: Final = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"memory": "512Mi"},
}

_SOCKET_DIRECTORY: Final = str(SOCKET.parent)


def template(site: Site, digest: str) -> dict[str, Any]:
    """Return the pod template of the server's own pods.

    Args:
        digest: of what it reads when it starts: new text, new pods.
    """
    labels, annotations = dict(SERVER_LABELS), {"checksum/config": digest}
    if site.mesh is Mesh.SIDECAR:
        labels["sidecar.istio.io/inject"] = "true"
        if site.monitoring is not None:
            # Prometheus has no certificate of the mesh; who it is, its pods' rule says.
            annotations["traffic.sidecar.istio.io/excludeInboundPorts"] = str(
                METRICS_PORT
            )
    spec: dict[str, Any] = {
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
    }
    if site.server.shape is Shape.DEPLOYMENT:
        # Two on one box rather than one that waits: an edge cluster may be one box.
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(SERVER_LABELS)},
            }
        ]
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {**spec, "containers": [container(site)], "volumes": volumes(site)},
    }


def volumes(site: Site) -> list[dict[str, Any]]:
    """Return the volumes that `container` mounts."""
    found: list[dict[str, Any]] = [
        {"name": "authz-server-config", "configMap": {"name": SERVER}},
        {"name": "authz-server-policy", "configMap": {"name": POLICY_CONFIG_MAP}},
        {"name": "authz-server-tmp", "emptyDir": {"sizeLimit": "16Mi"}},
    ]
    match site.server.shape:
        case Shape.DAEMONSET:
            # Made by the node, with the group's permissions: making it here takes root.
            place = {"path": _SOCKET_DIRECTORY, "type": "Directory"}
            found.append({"name": "authz-server-socket", "hostPath": place})
        case Shape.SIDECAR:
            memory = {"medium": "Memory", "sizeLimit": "1Mi"}
            found.append({"name": "authz-server-socket", "emptyDir": memory})
        case Shape.DEPLOYMENT if site.mesh is not Mesh.SIDECAR:
            secret = {"secretName": TLS_SECRET, "defaultMode": 0o440}
            found.append({"name": "authz-server-tls", "secret": secret})
    if site.spire is not None:
        driver = {"driver": "csi.spiffe.io", "readOnly": True}
        found.append({"name": "authz-server-spire", "csi": driver})
    return found


def container(site: Site) -> dict[str, Any]:
    """Return the server's container."""
    # The kubelet's gRPC probe speaks no mTLS and can't reach a loopback listener.
    health = {"command": [SERVER, "health", "--config", str(CONFIG_FILE)]}
    return {
        "name": SERVER,
        "image": site.server.image,
        "command": [SERVER, "serve", "--config", str(CONFIG_FILE)],
        **({"ports": ports} if (ports := _ports(site)) else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {name: dict(value) for name, value in RESOURCES.items()},
        "startupProbe": {
            "exec": health,
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 30,
        },
        "readinessProbe": {"exec": health, "periodSeconds": 10, "timeoutSeconds": 5},
        "livenessProbe": {
            "exec": health,
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "volumeMounts": _mounts(site),
    }


def _ports(site: Site) -> list[dict[str, Any]]:
    found: list[tuple[str, int]] = []
    if site.server.shape is Shape.DEPLOYMENT:
        found.append((PORT_NAME, site.server.port))
    if site.monitoring is not None:
        found.append(("authz-metrics", METRICS_PORT))
    return [
        {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in found
    ]


def _mounts(site: Site) -> list[dict[str, Any]]:
    places = {
        "authz-server-config": str(CONFIG_FILE.parent),
        "authz-server-policy": POLICY_DIRECTORY,
        "authz-server-tmp": "/tmp",  # noqa: S108 - the pod's own volume
        "authz-server-socket": _SOCKET_DIRECTORY,
        "authz-server-tls": TLS_DIRECTORY,
    }
    if site.spire is not None:
        places["authz-server-spire"] = site.spire.agent_socket.rpartition("/")[0]
    written = {"authz-server-tmp", "authz-server-socket"}
    return [
        {
            "name": volume["name"],
            "mountPath": places[volume["name"]],
            **({} if volume["name"] in written else {"readOnly": True}),
        }
        for volume in volumes(site)
    ]
