"""One test for each way in which a NetworkPolicy means more than it seems to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from emission import PARTS

from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.emit.network_policies import managed_namespaces
from authz_server.errors import PolicyError
from authz_server.operations.actions import Action
from authz_server.policy.model import AccessPolicy, Grant, Group, Permission, Role
from authz_server.site.model import Cluster, Istio, Mesh, Pods, Site

Policies = dict[tuple[str, str], Mapping[str, Any]]
Comment = Callable[[Sequence[Manifest], str], str]


def emit(policy: AccessPolicy, options: Site) -> Policies:
    return {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["spec"]
        for manifest in emit_kubernetes(policy, options, PARTS)
        for item in manifest.objects
        if item["kind"] == "NetworkPolicy"
    }


def peer(namespace: str, **labels: str) -> dict[str, Any]:
    return {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": namespace}
        },
        "podSelector": {"matchLabels": labels},
    }


def rules(specs: Policies) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for spec in specs.values():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                yield peers, rule


def ports(rule: Mapping[str, Any]) -> list[int]:
    return [item["port"] for item in rule["ports"]]


def test_every_namespace_of_the_policy_denies_by_default(
    policy: AccessPolicy, plain: Site
) -> None:
    specs = emit(policy, plain)

    for namespace in ("authz-system", "data", "inference", "line1", "spare"):
        assert specs[namespace, "default-deny"] == {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
        }


def test_managed_namespaces_include_those_of_groups_without_a_grant(
    policy: AccessPolicy, plain: Site
) -> None:
    assert "spare" in managed_namespaces(policy, plain)


def test_every_namespace_reaches_the_resolver_over_udp_and_tcp(
    policy: AccessPolicy, plain: Site
) -> None:
    specs = emit(policy, replace(plain, cluster=Cluster(dns_port=5353)))

    for namespace in managed_namespaces(policy, plain):
        [rule] = specs[namespace, "allow-dns"]["egress"]
        assert rule == {
            "to": [peer("kube-system", **{"k8s-app": "kube-dns"})],
            "ports": [
                {"protocol": "UDP", "port": 5353},
                {"protocol": "TCP", "port": 5353},
            ],
        }


def test_a_caller_is_namespace_and_pod_label_in_one_entry(
    policy: AccessPolicy, plain: Site
) -> None:
    spec = emit(policy, plain)["inference", "triton-from-cameras"]

    assert spec["podSelector"] == {"matchLabels": {"app": "triton"}}
    assert spec["ingress"] == [
        {
            "from": [peer("line1", app="camera")],
            "ports": [{"protocol": "TCP", "port": 8443}],
        }
    ]


def test_a_caller_may_leave_for_its_upstream(policy: AccessPolicy, plain: Site) -> None:
    spec = emit(policy, plain)["line1", "cameras-to-triton"]

    assert spec["podSelector"] == {"matchLabels": {"app": "camera"}}
    assert spec["egress"] == [
        {
            "to": [peer("inference", app="triton")],
            "ports": [{"protocol": "TCP", "port": 8443}],
        }
    ]


def test_in_a_mesh_the_ports_are_the_applications_own(
    policy: AccessPolicy, mesh: Site
) -> None:
    specs = emit(policy, mesh)

    [ingress] = specs["inference", "triton-from-cameras"]["ingress"]
    [egress] = specs["line1", "cameras-to-triton"]["egress"]
    assert ports(ingress) == ports(egress) == [8000, 8001]


@pytest.mark.parametrize(
    ("actions", "plain_ports", "mesh_ports"),
    [
        ([Action.METRICS], [8443], [8002]),
        ([Action.METRICS, Action.HEALTH], [8443], [8000, 8001, 8002]),
        ([Action.HEALTH], [8443], [8000, 8001]),
    ],
)
def test_the_metrics_port_opens_only_with_the_metrics_action(
    policy: AccessPolicy,
    plain: Site,
    role: Callable[..., Role],
    actions: list[Action],
    plain_ports: list[int],
    mesh_ports: list[int],
) -> None:
    mesh = replace(plain, mesh=Mesh.SIDECAR)
    changed = replace(
        policy,
        roles={"r": role("r", *actions)},
        grants=(Grant("r", ("cameras",), ("triton",)),),
    )

    for options, expected in ((plain, plain_ports), (mesh, mesh_ports)):
        [rule] = emit(changed, options)["inference", "triton-from-cameras"]["ingress"]
        assert ports(rule) == expected


def test_a_dataset_upstream_is_treated_alike(
    policy: AccessPolicy, plain: Site, mesh: Site
) -> None:
    changed = replace(policy, grants=(Grant("reader", ("cameras",), ("images",)),))

    for options, expected in ((plain, [8443]), (mesh, [9000])):
        specs = emit(changed, options)
        [rule] = specs["data", "images-from-cameras"]["ingress"]
        assert rule["from"] == [peer("line1", app="camera")]
        assert ports(rule) == expected


def test_no_rule_is_open_to_anyone(policy: AccessPolicy, mesh: Site) -> None:
    found = list(rules(emit(policy, mesh)))

    assert found
    for peers, rule in found:
        assert rule[peers]
        assert rule["ports"]
        for item in rule[peers]:
            assert item["namespaceSelector"]["matchLabels"]
            assert item["podSelector"]["matchLabels"]


def test_ports_are_numbers(policy: AccessPolicy, mesh: Site) -> None:
    found = [port for _, rule in rules(emit(policy, mesh)) for port in ports(rule)]

    assert found
    assert {type(port) for port in found} == {int}


def test_policy_types_are_always_written_in_one_order(
    policy: AccessPolicy, mesh: Site
) -> None:
    specs = emit(policy, mesh).values()

    assert specs
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in specs)


@pytest.mark.parametrize("name", ["users", "boxes"])
def test_a_group_without_pods_gets_no_rule_and_a_comment(
    policy: AccessPolicy, plain: Site, comment: Comment, name: str
) -> None:
    changed = replace(policy, grants=(Grant("inspector", (name,), ("triton",)),))

    manifests = emit_kubernetes(changed, plain, PARTS)

    assert ("inference", f"triton-from-{name}") not in emit(changed, plain)
    text = comment(manifests, "network-policies.yaml")
    assert f"Group {name} has" in text
    assert "nothing in the packet filter represents it" in text


def test_a_group_without_a_grant_gets_no_rule(
    policy: AccessPolicy, plain: Site
) -> None:
    assert not [name for _, name in emit(policy, plain) if "idle" in name]


def test_workloads_of_one_namespace_get_egress_policies_of_their_own(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    plain: Site,
) -> None:
    changed = with_groups(
        group(
            "cameras",
            ["spiffe://factory.example/ns/line1/sa/*"],
            [("line1", {"app": "a"}, "a"), ("line1", {"app": "b"}, "b")],
        )
    )

    specs = emit(changed, plain)

    selected = [
        spec["podSelector"]["matchLabels"]["app"]
        for (_, name), spec in specs.items()
        if name.startswith("cameras-to-triton-")
    ]
    assert sorted(selected) == ["a", "b"]


def test_a_workload_without_labels_is_its_whole_namespace(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    plain: Site,
) -> None:
    spiffe = ["spiffe://factory.example/ns/line1/sa/camera"]
    changed = with_groups(group("cameras", spiffe, [("line1", {}, "camera")]))

    specs = emit(changed, plain)

    [rule] = specs["inference", "triton-from-cameras"]["ingress"]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "line1"}}}
    ]
    assert specs["line1", "cameras-to-triton"]["podSelector"] == {}


def test_a_workload_listed_twice_is_one_peer(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    plain: Site,
) -> None:
    pods = {"app": "camera"}
    changed = with_groups(
        group(
            "cameras",
            ["spiffe://factory.example/ns/line1/sa/*"],
            [("line1", pods, "a"), ("line1", pods, "b")],
        )
    )

    [rule] = emit(changed, plain)["inference", "triton-from-cameras"]["ingress"]

    assert rule["from"] == [peer("line1", app="camera")]


def test_proxies_reach_the_server_and_nobody_else_does(
    policy: AccessPolicy, plain: Site
) -> None:
    specs = emit(policy, plain)

    [ingress] = specs["authz-system", "authz-server-from-proxies"]["ingress"]
    assert ingress["from"] == [
        peer("data", app="minio"),
        peer("inference", app="triton"),
    ]
    assert ports(ingress) == [9191]
    for namespace, name in (("data", "images"), ("inference", "triton")):
        [egress] = specs[namespace, f"{name}-to-authz-server"]["egress"]
        server = peer("authz-system", **{"app.kubernetes.io/name": "authz-server"})
        assert egress["to"] == [server]
        assert ports(egress) == [9191]


def test_only_in_a_mesh_pods_reach_istiod(
    policy: AccessPolicy, plain: Site, mesh: Site
) -> None:
    [rule] = emit(policy, mesh)["line1", "allow-istiod"]["egress"]

    assert rule["to"] == [peer("istio-system", app="istiod")]
    assert ports(rule) == [15012]
    assert ("line1", "allow-istiod") not in emit(policy, plain)


def test_an_upstream_outside_kubernetes_is_named_in_the_comment(
    policy: AccessPolicy, plain: Site, comment: Comment
) -> None:
    images = replace(policy.upstreams["images"], namespace="")
    changed = replace(policy, upstreams={**policy.upstreams, "images": images})

    text = comment(emit_kubernetes(changed, plain, PARTS), "network-policies.yaml")

    assert "Upstream images runs outside Kubernetes" in text
    assert not [name for _, name in emit(changed, plain) if "images" in name]


@pytest.mark.parametrize(
    ("spiffe", "expected"),
    [
        ("spiffe://factory.example/ns/line1/sa/*", "under workloads have a rule."),
        ("spiffe://factory.example/box/7", "none of them has such an ID"),
    ],
)
def test_ids_that_no_pod_stands_for_are_named_in_the_comment(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    plain: Site,
    comment: Comment,
    spiffe: str,
    expected: str,
) -> None:
    changed = with_groups(group("g", [spiffe], [("line1", {"app": "a"}, "a")]))

    text = comment(emit_kubernetes(changed, plain, PARTS), "network-policies.yaml")

    assert f"Group g: of {spiffe}" in text
    assert expected in text


def test_ids_that_pods_stand_for_are_not_in_the_comment(
    policy: AccessPolicy, plain: Site, comment: Comment
) -> None:
    text = comment(emit_kubernetes(policy, plain, PARTS), "network-policies.yaml")

    assert "Group cameras" not in text


def test_users_beside_workloads_are_named_in_the_comment(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    plain: Site,
    comment: Comment,
) -> None:
    workloads = [("line1", {"app": "a"}, "a")]
    changed = with_groups(group("g", [], workloads, has_users=True))

    text = comment(emit_kubernetes(changed, plain, PARTS), "network-policies.yaml")

    assert "Group g: its users have no rule of their own" in text


def test_groups_whose_object_names_meet_are_refused(
    policy: AccessPolicy, plain: Site, group: Callable[..., Group]
) -> None:
    workloads = [("line1", {"app": "a"}, "a")]
    upstream = policy.upstreams["triton"]
    changed = replace(
        policy,
        upstreams={name: replace(upstream, name=name) for name in ("t", "t-from-x")},
        groups={
            name: group(name, ["spiffe://factory.example/ns/line1/sa/a"], workloads)
            for name in ("x-from-y", "y")
        },
        grants=(Grant("inspector", ("x-from-y", "y"), ("t", "t-from-x")),),
    )

    with pytest.raises(PolicyError, match="inference/t-from-x-from-y"):
        emit_kubernetes(changed, plain, PARTS)


@pytest.mark.parametrize(
    ("upstream", "expected"), [("triton", [8002]), ("images", [9000])]
)
def test_of_a_role_for_models_and_datasets_an_upstream_opens_what_it_has(
    policy: AccessPolicy, mesh: Site, upstream: str, expected: list[int]
) -> None:
    both = Role(
        "both",
        (
            Permission((Action.METRICS,), ("*",), (), (), ()),
            Permission((Action.DATASET_READ,), (), (), (), ("line",)),
        ),
    )
    changed = replace(
        policy,
        roles={"both": both},
        grants=(Grant("both", ("cameras",), (upstream,)),),
    )
    namespace = policy.upstreams[upstream].namespace

    [rule] = emit(changed, mesh)[namespace, f"{upstream}-from-cameras"]["ingress"]

    assert ports(rule) == expected


def test_a_dataset_that_is_elsewhere_opens_nothing(
    policy: AccessPolicy, plain: Site
) -> None:
    role = Role("r", (Permission((Action.DATASET_READ,), (), (), (), ("other",)),))
    changed = replace(
        policy, roles={"r": role}, grants=(Grant("r", ("cameras",), ("images",)),)
    )

    assert ("data", "images-from-cameras") not in emit(changed, plain)


def test_monitoring_in_a_namespace_of_the_policy_may_leave_for_metrics(
    policy: AccessPolicy, mesh: Site
) -> None:
    inside = replace(mesh, monitoring=Pods("line1", {"app": "prometheus"}))

    spec = emit(policy, inside)["line1", "allow-monitoring"]

    assert spec["podSelector"] == {"matchLabels": {"app": "prometheus"}}
    assert [(rule["to"], ports(rule)) for rule in spec["egress"]] == [
        ([peer("data", app="minio")], [15020, 15090]),
        ([peer("inference", app="triton")], [15020, 15090]),
        (
            [peer("authz-system", **{"app.kubernetes.io/name": "authz-server"})],
            [9192],
        ),
    ]


def test_monitoring_elsewhere_is_not_shut_in(policy: AccessPolicy, mesh: Site) -> None:
    outside = replace(mesh, monitoring=Pods("monitoring", {"app": "prometheus"}))

    specs = emit(policy, outside)

    assert not [namespace for namespace, _ in specs if namespace == "monitoring"]
    assert ("inference", "triton-from-monitoring") in specs


@pytest.mark.parametrize(("namespace", "name"), [("dns", "resolver"), ("i", "istiod")])
def test_a_service_that_default_deny_cuts_off_is_named_in_the_comment(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    mesh: Site,
    comment: Comment,
    namespace: str,
    name: str,
) -> None:
    site = replace(
        mesh, cluster=Cluster(dns=Pods("dns")), istio=Istio(istiod=Pods("i"))
    )
    spiffe = ["spiffe://factory.example/ns/line1/sa/camera"]
    workloads = [(namespace, {"app": "camera"}, "camera")]

    text = comment(
        emit_kubernetes(with_groups(group("g", spiffe, workloads)), site, PARTS),
        "network-policies.yaml",
    )

    assert [line for line in ("resolver", "istiod") if f"cluster's {line}" in text] == [
        name
    ]
    assert f"default-deny of {namespace} cuts off the cluster's {name}" in text
