"""Target ``istio``: who asks the server, and a second fence behind it.

In ambient mode only the fence: a waypoint puts no principal into the CheckRequest, and
ztunnel does not enforce CUSTOM. There the operator's own Envoy asks the server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from authz_server.emit import notes
from authz_server.emit.callers import Callers, callers
from authz_server.emit.envoy_filters import (
    CHECK_TIMEOUT,
    MAX_BODY_BYTES,
    STREAM_PATH,
    envoy_filter,
)
from authz_server.emit.manifest import (
    SERVER_LABELS,
    Manifest,
    Object,
    check_unique,
    deployed,
    dns_name,
    kustomization,
    metadata,
    objects_file,
    settings_file,
)
from authz_server.emit.server_config import proxy_principals
from authz_server.emit.server_pod import PORT_NAME
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy, Upstream
from authz_server.site.model import SERVER, Mesh, Shape, Site

SECURITY: Final = "security.istio.io/v1"


def emit_istio(policy: AccessPolicy, site: Site) -> tuple[Manifest, ...]:
    """Return the manifests for Istio.

    Raises:
        PolicyError: if the policy can't be expressed (see `emit_kubernetes`), or the
            site has no mesh.
    """
    if site.mesh is Mesh.NONE:
        raise PolicyError(
            "spec.mesh of the site is none, so Istio enforces nothing: write sidecar "
            "or ambient, or leave the target istio out"
        )
    manifests = (
        (
            _authz_server(policy, site),
            _peer_authentication(policy),
            _authorization(policy, site),
            _envoy_filters(policy, site),
            _mesh_config(policy, site),
        )
        if site.mesh is Mesh.SIDECAR
        else (
            *(
                (_ambient_server(policy, site),)
                if site.server.shape is Shape.DEPLOYMENT
                else ()
            ),
            _peer_authentication(policy),
            _authorization(policy, site),
            _mesh_config(policy, site),
        )
    )
    check_unique(tuple(item for manifest in manifests for item in manifest.objects))
    return (*manifests, kustomization(manifests))


def _authz_server(policy: AccessPolicy, site: Site) -> Manifest:
    proxies = _allow_rule(proxy_principals(policy), (site.server.port,))
    return objects_file(
        "authz-server.yaml",
        (notes.GENERATED, notes.ISTIO_SERVER),
        (
            {
                "apiVersion": "networking.istio.io/v1",
                "kind": "Sidecar",
                "metadata": metadata(policy, SERVER, site.server.namespace),
                "spec": {
                    "workloadSelector": {"labels": dict(SERVER_LABELS)},
                    "ingress": [
                        {
                            "port": {
                                "number": site.server.port,
                                "protocol": "GRPC",
                                "name": PORT_NAME,
                            },
                            "defaultEndpoint": f"127.0.0.1:{site.server.port}",
                        }
                    ],
                },
            },
            {
                "apiVersion": SECURITY,
                "kind": "PeerAuthentication",
                "metadata": metadata(policy, SERVER, site.server.namespace),
                "spec": {
                    "selector": {"matchLabels": dict(SERVER_LABELS)},
                    "mtls": {"mode": "STRICT"},
                },
            },
            _allow(
                policy, SERVER, site.server.namespace, dict(SERVER_LABELS), [proxies]
            ),
        ),
    )


def _ambient_server(policy: AccessPolicy, site: Site) -> Manifest:
    proxies = _allow_rule(proxy_principals(policy), (site.server.port,))
    return objects_file(
        "authz-server.yaml",
        (notes.GENERATED, notes.AMBIENT_SERVER),
        (
            _allow(
                policy, SERVER, site.server.namespace, dict(SERVER_LABELS), [proxies]
            ),
        ),
    )


def _peer_authentication(policy: AccessPolicy) -> Manifest:
    namespaces = sorted({upstream.namespace for upstream in deployed(policy)})
    return objects_file(
        "peer-authentication.yaml",
        (notes.GENERATED, notes.STRICT),
        tuple(
            {
                "apiVersion": SECURITY,
                "kind": "PeerAuthentication",
                "metadata": metadata(policy, "default", namespace),
                "spec": {"mtls": {"mode": "STRICT"}},
            }
            for namespace in namespaces
        ),
    )


def _authorization(policy: AccessPolicy, site: Site) -> Manifest:
    objects: list[Object] = []
    remarks: list[str] = []
    general = (
        notes.AUTHORIZATION
        if site.mesh is Mesh.SIDECAR
        else notes.AMBIENT_AUTHORIZATION
    )
    for upstream in deployed(policy):
        if site.mesh is Mesh.SIDECAR:
            objects.append(_custom(policy, upstream, site))
        found = callers(policy, upstream, site)
        remarks += _caller_notes(upstream, found)
        if not found.obstacles:
            objects.append(
                _allow(
                    policy,
                    dns_name(upstream.name, "callers"),
                    upstream.namespace,
                    dict(sorted(upstream.pod_selector.items())),
                    [_allow_rule(rule.principals, rule.ports) for rule in found.rules],
                )
            )
    return objects_file(
        "authorization-policies.yaml",
        (notes.GENERATED, *general, *remarks),
        tuple(objects),
    )


def _caller_notes(upstream: Upstream, found: Callers) -> Iterable[str]:
    if found.obstacles:
        yield (
            f"Upstream {upstream.name} has no ALLOW, since it would deny callers whom "
            f"the server allows: {'; '.join(found.obstacles)}."
        )
        return
    if not found.rules:
        yield f"Upstream {upstream.name}: nobody has a grant; its ALLOW lists nobody."
    yield from found.notes


def _custom(policy: AccessPolicy, upstream: Upstream, site: Site) -> Object:
    return {
        "apiVersion": SECURITY,
        "kind": "AuthorizationPolicy",
        "metadata": metadata(
            policy, dns_name(upstream.name, SERVER), upstream.namespace
        ),
        "spec": {
            **_selector(dict(sorted(upstream.pod_selector.items()))),
            "action": "CUSTOM",
            "provider": {"name": site.istio.provider},
            # One empty rule matches every call; no rule would match none.
            "rules": [{}],
        },
    }


def _allow(
    policy: AccessPolicy,
    name: str,
    namespace: str,
    labels: dict[str, str],
    rules: list[dict[str, Any]],
) -> Object:
    return {
        "apiVersion": SECURITY,
        "kind": "AuthorizationPolicy",
        "metadata": metadata(policy, name, namespace),
        "spec": {
            **_selector(labels),
            "action": "ALLOW",
            # Without any rule it lists nobody, so it denies everybody.
            **({"rules": rules} if rules else {}),
        },
    }


def _allow_rule(principals: Iterable[str], ports: Iterable[int]) -> dict[str, Any]:
    listed = list(principals)
    assert listed, "a source without principals is anyone"  # noqa: S101
    return {
        "from": [{"source": {"principals": listed}}],
        "to": [{"operation": {"ports": [str(port) for port in ports]}}],
    }


def _selector(labels: dict[str, str]) -> dict[str, Any]:
    return {"selector": {"matchLabels": labels}} if labels else {}


def _envoy_filters(policy: AccessPolicy, site: Site) -> Manifest:
    return objects_file(
        "envoy-filters.yaml",
        (
            notes.GENERATED,
            *(
                text.format(limit=MAX_BODY_BYTES, stream=STREAM_PATH)
                for text in notes.ENVOY_FILTERS
            ),
        ),
        tuple(envoy_filter(policy, upstream, site) for upstream in deployed(policy)),
    )


def _mesh_config(policy: AccessPolicy, site: Site) -> Manifest:
    aliases = _federated_callers(policy)
    remarks = [notes.GENERATED, notes.MESH_CONFIG]
    if aliases:
        remarks.append(notes.ALIASES)
    elif policy.federates_with:
        names = ", ".join(str(item) for item in policy.federates_with)
        remarks.append(notes.NO_ALIASES.format(names=names))
    return settings_file(
        "mesh-config.yaml",
        tuple(remarks),
        {
            "trustDomain": str(policy.trust_domain),
            **({"trustDomainAliases": aliases} if aliases else {}),
            **(_providers(site) if site.mesh is Mesh.SIDECAR else {}),
        },
    )


def _providers(site: Site) -> dict[str, Any]:
    host = f"{SERVER}.{site.server.namespace}.svc.{site.cluster.domain}"
    return {
        "extensionProviders": [
            {
                "name": site.istio.provider,
                "envoyExtAuthzGrpc": {
                    "service": f"{site.server.namespace}/{host}",
                    "port": site.server.port,
                    "timeout": CHECK_TIMEOUT,
                    "failOpen": False,
                    "statusOnError": "403",
                },
            }
        ]
    }


def _federated_callers(policy: AccessPolicy) -> list[str]:
    """Return the foreign trust domains that a granted group has members of."""
    granted = {name for grant in policy.grants for name in grant.to}
    return sorted(
        {
            pattern.trust_domain.name
            for name in granted
            for pattern in policy.groups[name].spiffe
        }
        - {policy.trust_domain.name}
    )
