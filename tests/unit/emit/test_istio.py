from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml
from emission import PARTS

from authz_server.emit.istio import emit_istio
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.operations.actions import Action
from authz_server.policy.model import AccessPolicy, Grant, Group, Role
from authz_server.site.model import Istio, Mesh, Server, Site

Comment = Callable[[Sequence[Manifest], str], str]
Objects = dict[tuple[str, str, str], Mapping[str, Any]]


def emit(policy: AccessPolicy, options: Site) -> Objects:
    return {
        (
            item["kind"],
            item["metadata"]["namespace"],
            item["metadata"]["name"],
        ): item["spec"]
        for manifest in emit_istio(policy, options)
        if manifest.objects
        for item in manifest.objects
    }


def mesh_config(policy: AccessPolicy, options: Site) -> dict[str, Any]:
    [manifest] = [
        item for item in emit_istio(policy, options) if item.name == "mesh-config.yaml"
    ]
    content: dict[str, Any] = yaml.safe_load(manifest.text)
    return content


def mirror(policy: AccessPolicy, options: Site) -> Mapping[str, Any] | None:
    key = ("AuthorizationPolicy", "inference", "triton-callers")
    return emit(policy, options).get(key)


def principals(spec: Mapping[str, Any] | None) -> list[str]:
    assert spec is not None
    return [
        name
        for rule in spec["rules"]
        for source in rule["from"]
        for name in source["source"]["principals"]
    ]


def test_without_a_mesh_there_is_nothing_to_emit(
    policy: AccessPolicy, plain: Site
) -> None:
    with pytest.raises(PolicyError, match=r"spec\.mesh of the site is none"):
        emit_istio(policy, plain)


def test_in_ambient_mode_only_what_ztunnel_enforces_is_emitted(
    policy: AccessPolicy, plain: Site, comment: Comment
) -> None:
    ambient = replace(plain, mesh=Mesh.AMBIENT)

    objects = emit(policy, ambient)

    assert {kind for kind, _, _ in objects} == {
        "AuthorizationPolicy",
        "PeerAuthentication",
    }
    for (kind, _, _), spec in objects.items():
        if kind == "AuthorizationPolicy":
            # ztunnel ignores CUSTOM, and denies what has a field of layer 7.
            assert spec["action"] == "ALLOW"
            for rule in spec.get("rules", []):
                assert set(rule) == {"from", "to"}
                for target in rule["to"]:
                    assert set(target["operation"]) == {"ports"}
    [rule] = objects["AuthorizationPolicy", "inference", "triton-callers"]["rules"]
    assert rule["to"] == [{"operation": {"ports": ["8443"]}}]
    assert "extensionProviders" not in mesh_config(policy, ambient)
    said = comment(emit_istio(policy, ambient), "authorization-policies.yaml")
    assert "asked by an Envoy of yours" in said


def test_every_upstream_namespace_takes_mtls_only(
    policy: AccessPolicy, mesh: Site
) -> None:
    objects = emit(policy, mesh)

    for namespace in ("data", "inference"):
        spec = objects["PeerAuthentication", namespace, "default"]
        assert spec == {"mtls": {"mode": "STRICT"}}


def test_every_call_to_an_upstream_asks_the_server(
    policy: AccessPolicy, mesh: Site
) -> None:
    spec = emit(policy, mesh)["AuthorizationPolicy", "inference", "triton-authz-server"]

    assert spec == {
        "selector": {"matchLabels": {"app": "triton"}},
        "action": "CUSTOM",
        "provider": {"name": "authz-server"},
        "rules": [{}],
    }


def test_the_provider_has_one_name_and_is_the_emitted_service(
    policy: AccessPolicy, mesh: Site
) -> None:
    options = replace(
        mesh,
        istio=Istio(provider="gatekeeper"),
        server=Server(namespace="guard", port=9292),
    )

    [provider] = mesh_config(policy, options)["extensionProviders"]
    used = {
        spec["provider"]["name"]
        for (kind, _, _), spec in emit(policy, options).items()
        if kind == "AuthorizationPolicy" and spec["action"] == "CUSTOM"
    }
    [service] = [
        item
        for manifest in emit_kubernetes(policy, options, PARTS)
        for item in manifest.objects
        if item["kind"] == "Service"
    ]

    assert used == {provider["name"]} == {"gatekeeper"}
    meta = service["metadata"]
    assert provider["envoyExtAuthzGrpc"] == {
        "service": f"guard/{meta['name']}.{meta['namespace']}.svc.cluster.local",
        "port": service["spec"]["ports"][0]["port"],
        "timeout": "0.5s",
        "failOpen": False,
        "statusOnError": "403",
    }


def test_the_mesh_configuration_is_no_kubernetes_object(
    policy: AccessPolicy, mesh: Site
) -> None:
    *_, kustomization = emit_istio(policy, mesh)

    resources = yaml.safe_load(kustomization.text)["resources"]
    assert "mesh-config.yaml" not in resources
    assert "authorization-policies.yaml" in resources


def test_the_mirror_lists_callers_by_principal_and_port(
    policy: AccessPolicy, mesh: Site
) -> None:
    assert mirror(policy, mesh) == {
        "selector": {"matchLabels": {"app": "triton"}},
        "action": "ALLOW",
        "rules": [
            {
                "from": [
                    {"source": {"principals": ["factory.example/ns/line1/sa/camera"]}}
                ],
                "to": [{"operation": {"ports": ["8000", "8001"]}}],
            }
        ],
    }


def test_a_metrics_grant_opens_its_port_in_the_mirror(
    policy: AccessPolicy, mesh: Site, role: Callable[..., Role]
) -> None:
    changed = replace(
        policy,
        roles={"r": role("r", Action.METRICS)},
        grants=(Grant("r", ("cameras",), ("triton",)),),
    )

    spec = mirror(changed, mesh)

    assert spec is not None
    assert spec["rules"][0]["to"] == [{"operation": {"ports": ["8002"]}}]


def test_any_account_of_a_namespace_is_a_prefix_in_the_mirror(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    mesh: Site,
    comment: Comment,
) -> None:
    spiffe = [
        "spiffe://factory.example/ns/line1/sa/*",
        "spiffe://factory.example/ns/line1/sa/camera",
        "spiffe://factory.example/ns/line10/sa/camera",
    ]
    changed = with_groups(group("cameras", spiffe))

    assert principals(mirror(changed, mesh)) == [
        "factory.example/ns/line1/sa/*",
        "factory.example/ns/line10/sa/camera",
    ]
    assert "ns/line1/sa/* is matched by its beginning" in comment(
        emit_istio(changed, mesh), "authorization-policies.yaml"
    )


def test_a_federated_caller_keeps_its_trust_domain(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    mesh: Site,
    comment: Comment,
) -> None:
    changed = with_groups(group("g", ["spiffe://supplier.example/ns/a/sa/b"]))

    assert principals(mirror(changed, mesh)) == ["supplier.example/ns/a/sa/b"]
    config = mesh_config(changed, mesh)
    assert config["trustDomain"] == "factory.example"
    assert config["trustDomainAliases"] == ["supplier.example"]
    assert "widens every ALLOW" in comment(
        emit_istio(changed, mesh), "mesh-config.yaml"
    )


def test_a_federated_domain_without_granted_callers_stays_out_of_the_mesh(
    policy: AccessPolicy, mesh: Site, comment: Comment
) -> None:
    assert "trustDomainAliases" not in mesh_config(policy, mesh)
    assert "No grant reaches a caller of supplier.example" in comment(
        emit_istio(policy, mesh), "mesh-config.yaml"
    )


def test_without_federation_the_mesh_configuration_says_nothing_of_it(
    policy: AccessPolicy, mesh: Site, comment: Comment
) -> None:
    alone = replace(policy, federates_with=())

    text = comment(emit_istio(alone, mesh), "mesh-config.yaml")

    assert "trustDomainAliases" not in text


@pytest.mark.parametrize(
    "spiffe",
    [
        "spiffe://factory.example/box/7",
        "spiffe://factory.example/ns/*/sa/camera",
        "spiffe://factory.example/**",
        "spiffe://factory.example/ns/line1/sa/**",
        "spiffe://factory.example/ns/line1/pod/camera",
        "spiffe://factory.example/ns/line1/*/camera",
    ],
)
def test_one_caller_that_istio_cannot_tell_leaves_the_upstream_without_mirror(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    mesh: Site,
    comment: Comment,
    spiffe: str,
) -> None:
    cameras = group("cameras", ["spiffe://factory.example/ns/line1/sa/camera"])
    changed = with_groups(cameras, group("odd", [spiffe]))

    assert mirror(changed, mesh) is None
    text = comment(emit_istio(changed, mesh), "authorization-policies.yaml")
    assert "Upstream triton has no ALLOW" in text
    assert f"group odd: {spiffe} is not of the form" in text


def test_users_leave_the_upstream_without_mirror(
    policy: AccessPolicy, mesh: Site, comment: Comment
) -> None:
    assert ("AuthorizationPolicy", "data", "images-callers") not in emit(policy, mesh)
    text = comment(emit_istio(policy, mesh), "authorization-policies.yaml")
    assert "Upstream images has no ALLOW" in text
    assert "group users: users are told by their token" in text


def test_a_foreign_trust_domain_of_istios_own_name_leaves_no_mirror(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    mesh: Site,
) -> None:
    changed = with_groups(group("g", ["spiffe://cluster.local/ns/a/sa/b"]))

    assert mirror(changed, mesh) is None
    own = replace(changed, trust_domain=TrustDomain("cluster.local"))
    assert principals(mirror(own, mesh)) == ["cluster.local/ns/a/sa/b"]


def test_an_upstream_that_nobody_may_reach_allows_nobody(
    policy: AccessPolicy, mesh: Site, comment: Comment
) -> None:
    changed = replace(policy, grants=())

    assert mirror(changed, mesh) == {
        "selector": {"matchLabels": {"app": "triton"}},
        "action": "ALLOW",
    }
    text = comment(emit_istio(changed, mesh), "authorization-policies.yaml")
    assert "Upstream triton: nobody has a grant" in text


def test_no_principal_carries_the_scheme(policy: AccessPolicy, mesh: Site) -> None:
    found = [
        name
        for (kind, _, _), spec in emit(policy, mesh).items()
        if kind == "AuthorizationPolicy" and spec["action"] == "ALLOW"
        for name in principals(spec)
    ]

    assert found
    assert not [name for name in found if "://" in name]
    assert all(len(name.split("/")) == 5 for name in found)


def test_only_the_upstreams_proxies_may_ask_the_server(
    policy: AccessPolicy, mesh: Site
) -> None:
    objects = emit(policy, mesh)

    spec = objects["AuthorizationPolicy", "authz-system", "authz-server"]
    assert spec["action"] == "ALLOW"
    assert principals(spec) == [
        "factory.example/ns/data/sa/minio",
        "factory.example/ns/inference/sa/triton",
    ]
    assert spec["rules"][0]["to"] == [{"operation": {"ports": ["9191"]}}]
    strict = objects["PeerAuthentication", "authz-system", "authz-server"]
    assert strict["mtls"] == {"mode": "STRICT"}


def test_the_servers_sidecar_hands_over_on_loopback(
    policy: AccessPolicy, mesh: Site
) -> None:
    spec = emit(policy, mesh)["Sidecar", "authz-system", "authz-server"]

    assert spec["ingress"] == [
        {
            "port": {"number": 9191, "protocol": "GRPC", "name": "grpc-authz"},
            "defaultEndpoint": "127.0.0.1:9191",
        }
    ]


def test_an_upstream_without_pod_labels_is_its_whole_namespace(
    policy: AccessPolicy, mesh: Site
) -> None:
    triton = replace(policy.upstreams["triton"], pod_selector={})
    changed = replace(policy, upstreams={"triton": triton}, grants=())

    objects = emit(changed, mesh)

    custom = objects["AuthorizationPolicy", "inference", "triton-authz-server"]
    assert "selector" not in custom
    envoy_filter = objects["EnvoyFilter", "inference", "triton-ext-authz"]
    assert "workloadSelector" not in envoy_filter


def test_the_comment_says_what_stays_with_the_server(
    policy: AccessPolicy, mesh: Site, comment: Comment
) -> None:
    text = comment(emit_istio(policy, mesh), "authorization-policies.yaml")

    stays = "action, model, version, dataset, user, conditions and denials stay with"
    assert stays in text
