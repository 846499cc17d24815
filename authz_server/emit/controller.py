"""Target ``controller``: what runs `authz-server controller`, with the least RBAC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from authz_server.emit import CLUSTER_TARGETS, notes
from authz_server.emit.crd import GROUP, PLURAL, custom_resource_definition
from authz_server.emit.kinds import TARGET_KINDS, EmittedKind, Place
from authz_server.emit.manifest import (
    MANAGED_BY,
    PART_OF,
    Manifest,
    Object,
    deployed,
    kustomization,
    objects_file,
)
from authz_server.emit.network_infrastructure import API_SERVER_PORTS
from authz_server.emit.network_rules import addresses, network_policy, outgoing
from authz_server.emit.server_pod import RESOURCES, USER_ID
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Mesh, Pods, Shape, Site

CONTROLLER: Final = f"{SERVER}-controller"
_LABELS: Final = {"app.kubernetes.io/name": CONTROLLER}
_PART_OF: Final = f"{SERVER}.controller"
"""No policy's name has a dot."""
_SITE_FILE: Final = "/etc/authz-server/site/site.yaml"

_WRITTEN: Final = ("get", "list", "create", "patch", "delete")
# A namespace may hold what others have put there, so it is never deleted.
_NAMESPACES: Final = ("get", "list", "create", "patch")


def emit_controller(
    policy: AccessPolicy, site: Site, site_text: str
) -> tuple[Manifest, ...]:
    """Return the files.

    The controller is given the cluster's targets that the site has something for.

    Args:
        site_text: the site file as it is; empty if there is none.

    Raises:
        PolicyError: if the site does not say where the API server is.
    """
    if not site.cluster.api_server:
        raise PolicyError(
            "spec.cluster.apiServer of the site is missing: the controller is behind a "
            "NetworkPolicy, and must reach the API server; add its addresses"
        )
    targets, crd = _targets(site), custom_resource_definition()
    manifests = (
        objects_file(
            "custom-resource-definition.yaml",
            (notes.GENERATED, notes.CRD),
            ({**crd, "metadata": _metadata(crd["metadata"]["name"])},),
        ),
        objects_file(
            "controller.yaml",
            (notes.GENERATED, *notes.CONTROLLER),
            (
                *_access(policy, site, targets),
                _site(site, site_text),
                _network_policy(policy, site),
                _deployment(site, targets),
            ),
        ),
    )
    return (*manifests, kustomization(manifests))


def _metadata(
    name: str, namespace: str = "", labels: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return metadata of what belongs to no policy, so that none of them prunes it."""
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "labels": {**labels, MANAGED_BY: SERVER, PART_OF: _PART_OF},
    }


def _targets(site: Site) -> tuple[str, ...]:
    has = {
        "kubernetes": True,
        "istio": site.mesh is not Mesh.NONE,
        "spire": site.spire is not None,
    }
    return tuple(name for name in CLUSTER_TARGETS if has.get(name, False))


def _access(
    policy: AccessPolicy, site: Site, targets: Iterable[str]
) -> tuple[Object, ...]:
    kinds = [kind for target in targets for kind in TARGET_KINDS[target]]
    wide = [
        *(
            _rule(kind, _NAMESPACES if kind.kind == "Namespace" else _WRITTEN)
            for kind in kinds
            if kind.place is not Place.BESIDE_SERVER
        ),
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    ]
    beside = [
        _rule(kind, _WRITTEN) for kind in kinds if kind.place is Place.BESIDE_SERVER
    ]
    own = [
        {
            "apiGroups": [GROUP],
            "resources": [PLURAL],
            "verbs": ["get", "list", "watch"],
        },
        {
            "apiGroups": [GROUP],
            "resources": [f"{PLURAL}/status"],
            "verbs": ["get", "patch"],
        },
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "create", "update"],
        },
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    namespace = site.server.namespace
    servers = {namespace}
    if site.server.shape is Shape.SIDECAR:
        servers = {upstream.namespace for upstream in deployed(policy)}
    roles: dict[str, list[dict[str, Any]]] = {namespace: own}
    for name in sorted(servers):
        roles[name] = [*roles.get(name, ()), *beside]
    return (
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _metadata(CONTROLLER, namespace),
        },
        _role(site, "ClusterRole", "", wide),
        _binding(site, "ClusterRole", ""),
        *(
            item
            for name, rules in sorted(roles.items())
            for item in (
                _role(site, "Role", name, rules),
                _binding(site, "Role", name),
            )
        ),
    )


def _rule(kind: EmittedKind, verbs: Iterable[str]) -> dict[str, Any]:
    return {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": list(verbs)}


def _role(
    site: Site,
    kind: str,
    namespace: str,
    rules: list[dict[str, Any]],
) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": _metadata(_name(site, kind), namespace),
        "rules": rules,
    }


def _binding(site: Site, kind: str, namespace: str) -> Object:
    name = _name(site, kind)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{kind}Binding",
        "metadata": _metadata(name, namespace),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": kind,
            "name": name,
        },
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": CONTROLLER,
                "namespace": site.server.namespace,
            }
        ],
    }


def _name(site: Site, kind: str) -> str:
    # Controllers in two namespaces have two ClusterRoles.
    return CONTROLLER if kind == "Role" else f"{CONTROLLER}:{site.server.namespace}"


def _site(site: Site, site_text: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(CONTROLLER, site.server.namespace),
        "data": {"site.yaml": site_text},
    }


def _network_policy(policy: AccessPolicy, site: Site) -> Object:
    name = f"{CONTROLLER}-api-server"
    item = network_policy(
        policy,
        name,
        Pods(site.server.namespace, _LABELS),
        egress=[outgoing(addresses(site.cluster.api_server), API_SERVER_PORTS)],
    )
    return {**item, "metadata": _metadata(name, site.server.namespace)}


def _deployment(site: Site, targets: tuple[str, ...]) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(CONTROLLER, site.server.namespace, _LABELS),
        "spec": {
            # The second takes over when the first is gone.
            "replicas": 2,
            "selector": {"matchLabels": dict(_LABELS)},
            "template": {
                "metadata": {
                    # It talks to the API server alone, which is not in the mesh.
                    "labels": {**_LABELS, "sidecar.istio.io/inject": "false"},
                },
                "spec": _pod(site, targets),
            },
        },
    }


def _pod(site: Site, targets: tuple[str, ...]) -> Mapping[str, Any]:
    return {
        "serviceAccountName": CONTROLLER,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTROLLER,
                "image": site.server.image,
                "command": [SERVER, "controller", *targets, "--site", _SITE_FILE],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {name: dict(value) for name, value in RESOURCES.items()},
                "volumeMounts": [
                    {
                        "name": "site",
                        "mountPath": _SITE_FILE.rpartition("/")[0],
                        "readOnly": True,
                    },
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - its own volume
                ],
            }
        ],
        "volumes": [
            {"name": "site", "configMap": {"name": CONTROLLER}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
