"""Target ``kubernetes``: the server's own objects, and NetworkPolicies around it."""

from __future__ import annotations

from authz_server.emit import notes
from authz_server.emit.manifest import (
    EmitOptions,
    Manifest,
    Mesh,
    check_unique,
    kustomization,
)
from authz_server.emit.network_policies import managed_namespaces, network_policies
from authz_server.emit.server_objects import TLS_SECRET, server_objects
from authz_server.policy.model import AccessPolicy


def emit_kubernetes(policy: AccessPolicy, options: EmitOptions) -> tuple[Manifest, ...]:
    """Return the manifests that any Kubernetes cluster enforces.

    Raises:
        PolicyError: if the policy can't be expressed: an upstream without a service
            account, no upstream in Kubernetes, two objects of one name, or a policy
            file that fits no ConfigMap.
    """
    others = [
        name
        for name in managed_namespaces(policy, options)
        if name != options.namespace
    ]
    server = server_objects(policy, options)
    check_unique(server)
    manifests = (
        Manifest(
            "authz-server.yaml", (notes.GENERATED, *_server_notes(options)), server
        ),
        network_policies(
            policy,
            options,
            (
                notes.GENERATED,
                notes.NAMESPACES.format(names=", ".join(others)),
                _ports_note(options),
            ),
        ),
    )
    return (*manifests, kustomization(manifests))


def _ports_note(options: EmitOptions) -> str:
    if options.mesh is Mesh.SIDECAR:
        return notes.PORTS_BEHIND_SIDECAR
    return notes.PORTS_BEHIND_ENVOY.format(port=options.envoy_port)


def _server_notes(options: EmitOptions) -> tuple[str, ...]:
    if options.mesh is Mesh.SIDECAR:
        return notes.SERVER_BEHIND_SIDECAR
    return (
        notes.SERVER_WITH_TLS.format(secret=TLS_SECRET, namespace=options.namespace),
    )
