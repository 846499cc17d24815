"""Target ``kubernetes``: the server's own objects, and NetworkPolicies around it."""

from __future__ import annotations

from collections.abc import Mapping

from authz_server.emit import notes
from authz_server.emit.manifest import (
    Manifest,
    check_unique,
    kustomization,
    objects_file,
)
from authz_server.emit.network_policies import managed_namespaces, network_policies
from authz_server.emit.server_objects import server_objects, sidecar_component
from authz_server.emit.server_pod import TLS_SECRET
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Mesh, Shape, Site


def emit_kubernetes(
    policy: AccessPolicy, site: Site, parts: Mapping[str, str]
) -> tuple[Manifest, ...]:
    """Return the manifests that any Kubernetes cluster enforces.

    Args:
        parts: the policy's own files by name.

    Raises:
        PolicyError: if the policy can't be expressed: an upstream without a service
            account, no upstream in Kubernetes, two objects of one name, or a policy
            that fits no ConfigMap.
    """
    others = set(managed_namespaces(policy, site)) - {site.server.namespace}
    if site.spire is not None and site.spire.server is not None:
        others.add(site.spire.server.namespace)
    server = server_objects(policy, site, parts)
    check_unique(server)
    manifests: tuple[Manifest, ...] = (
        objects_file(
            "authz-server.yaml", (notes.GENERATED, *_server_notes(site)), server
        ),
        network_policies(
            policy,
            site,
            (
                notes.GENERATED,
                notes.NAMESPACES.format(names=", ".join(sorted(others))),
                _ports_note(site),
            ),
        ),
    )
    if site.server.shape is Shape.SIDECAR:
        manifests = (*manifests, sidecar_component(policy, site))
    return (*manifests, kustomization(manifests))


def _ports_note(site: Site) -> str:
    if site.mesh is Mesh.SIDECAR:
        return notes.PORTS_BEHIND_SIDECAR
    return notes.PORTS_BEHIND_ENVOY.format(port=site.ports.envoy)


def _server_notes(site: Site) -> tuple[str, ...]:
    if site.server.shape is Shape.DAEMONSET:
        return notes.SERVER_ON_NODES
    if site.server.shape is Shape.SIDECAR:
        return notes.SERVER_IN_PODS
    if site.mesh is Mesh.SIDECAR:
        return notes.SERVER_BEHIND_SIDECAR
    return (
        notes.SERVER_WITH_TLS.format(
            secret=TLS_SECRET, namespace=site.server.namespace
        ),
    )
