"""CiliumNetworkPolicies: the edges of the NetworkPolicies, in what Cilium takes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packet_filters import (
    End,
    cilium_edges,
    cilium_refusals,
    kubernetes_edges,
)
from packet_plants import EVERYTHING, FLOWS, RESOLVER, ends, with_pods
from random_policies import make_policy

from authz_server.emit.cilium import emit_cilium
from authz_server.emit.manifest import Manifest
from authz_server.emit.network_policies import managed_namespaces, network_objects
from authz_server.errors import PolicyError
from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy, Group, Workload
from authz_server.site.document import load_site
from authz_server.site.model import Cluster, Mesh, Site

EXAMPLES = Path(__file__).parents[3] / "examples"

Comment = Callable[[Sequence[Manifest], str], str]


def emit(policy: AccessPolicy, site: Site) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (item["metadata"]["namespace"], item["metadata"]["name"]): dict(item["spec"])
        for manifest in emit_cilium(policy, site)
        for item in manifest.objects
    }


def rules(specs: Mapping[Any, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for spec in specs.values():
        yield from (*spec["ingress"], *spec["egress"])


@pytest.mark.parametrize("mesh", Mesh)
@pytest.mark.parametrize("seed", range(3))
def test_cilium_and_kubernetes_let_the_same_connections_through(
    seed: int, mesh: Mesh
) -> None:
    rng = random.Random(f"{seed} {mesh}")
    policy = with_pods(make_policy(rng), rng)
    site = replace(EVERYTHING, mesh=mesh)
    everybody = ends(policy, site)

    meant = kubernetes_edges(network_objects(policy, site), everybody, FLOWS)
    found = cilium_edges(emit_cilium(policy, site)[0].objects, everybody, FLOWS)

    assert found == meant
    assert any(target.startswith("n") for _, target, _, _ in meant)


def test_the_example_has_the_same_edges_in_both() -> None:
    policy = load_policy(EXAMPLES / "plant-7.yaml")
    site = load_site(EXAMPLES / "plant-7-site.yaml", policy)
    site = replace(site, cluster=replace(site.cluster, dns_addresses=(RESOLVER,)))
    # The example's API server runs on one of its nodes.
    everybody = [
        replace(end, entities=end.entities | {"remote-node"}, address="10.20.0.10")
        if end.name == "API server"
        else end
        for end in ends(policy, site)
    ]

    meant = kubernetes_edges(network_objects(policy, site), everybody, FLOWS)
    found = cilium_edges(emit_cilium(policy, site)[0].objects, everybody, FLOWS)

    assert found == meant
    camera, triton = (
        "line1/{'app': 'camera'}",
        "inference/{'app': 'triton'}",
    )
    assert {
        port
        for source, target, _, port in found
        if (source, target) == (camera, triton)
    } == {8000, 8001}
    assert not [
        edge
        for edge in found
        if "rogue" in edge[0] and edge[1] == triton and edge[0].startswith("line1")
    ]


def test_the_edges_show_what_an_empty_list_and_an_empty_rule_mean() -> None:
    pod, other = End("a", "n", {"app": "a"}), End("b", "n", {"app": "b"})

    def policy(**spec: Any) -> list[Mapping[str, Any]]:
        return [
            {"metadata": {"namespace": "n"}, "spec": {"endpointSelector": {}, **spec}}
        ]

    # Unlike in a NetworkPolicy.
    ends = (pod, other)
    flows = [("TCP", 1)]
    assert len(cilium_edges(policy(ingress=[], egress=[]), ends, flows)) == 2
    assert not cilium_edges(policy(ingress=[{}]), ends, flows)
    assert not cilium_edges(policy(egress=[{}]), ends, flows)


def test_every_namespace_of_the_policy_denies_by_default_in_both_directions(
    policy: AccessPolicy, plain: Site
) -> None:
    specs = emit(policy, plain)

    for namespace in managed_namespaces(policy, plain):
        assert specs[namespace, "default-deny"] == {
            "endpointSelector": {},
            "enableDefaultDeny": {"ingress": True, "egress": True},
            "ingress": [{}],
            "egress": [{}],
        }


@pytest.mark.parametrize("mesh", Mesh)
def test_no_direction_is_left_to_a_default(policy: AccessPolicy, mesh: Mesh) -> None:
    for spec in emit(policy, replace(EVERYTHING, mesh=mesh)).values():
        assert spec["enableDefaultDeny"] == {"ingress": True, "egress": True}
        assert spec["ingress"]
        assert spec["egress"]


@pytest.mark.parametrize("mesh", Mesh)
def test_cilium_takes_every_object(policy: AccessPolicy, mesh: Mesh) -> None:
    objects = emit_cilium(policy, replace(EVERYTHING, mesh=mesh))[0].objects

    assert objects
    for item in objects:
        assert list(cilium_refusals(item)) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"fromEndpoints": [{}], "fromEntities": ["host"]},
        {"fromEntities": ["nodes"]},
        {"fromCIDRSet": [{"cidr": "10.0.0.0/24", "except": ["10.0.1.0/28"]}]},
        {"icmps": [{}], "toPorts": [{"ports": [{"port": "1", "protocol": "TCP"}]}]},
        {"toPorts": [{"ports": [{"port": 8443, "protocol": "TCP"}]}]},
        {"toPorts": [{"ports": [{"port": "1", "protocol": "HTTP"}]}]},
        {"toPorts": [{"ports": [{"port": str(n)} for n in range(1, 42)]}]},
        {"toPorts": [{"ports": [{"port": "53"}], "rules": {"dns": [{}]}}]},
        {
            "toPorts": [
                {"ports": [{"port": "1", "protocol": "UDP"}], "rules": {"http": [{}]}}
            ]
        },
    ],
    ids=json.dumps,
)
def test_the_judge_finds_what_cilium_refuses(rule: dict[str, Any]) -> None:
    assert list(cilium_refusals({"spec": {"endpointSelector": {}, "ingress": [rule]}}))


def test_the_judge_finds_services_with_ports_and_a_missing_selector() -> None:
    rule = {"toServices": [{}], "toPorts": [{"ports": [{"port": "1"}]}]}

    assert len(list(cilium_refusals({"spec": {"egress": [rule]}}))) == 2


def test_a_caller_is_chosen_by_namespace_and_label(
    policy: AccessPolicy, plain: Site
) -> None:
    specs = emit(policy, plain)

    assert specs["inference", "triton-from-cameras"] == {
        "endpointSelector": {"matchLabels": {"k8s:app": "triton"}},
        "enableDefaultDeny": {"ingress": True, "egress": True},
        "ingress": [
            {
                "fromEndpoints": [
                    {
                        "matchLabels": {
                            "k8s:io.kubernetes.pod.namespace": "line1",
                            "k8s:app": "camera",
                        }
                    }
                ],
                "toPorts": [{"ports": [{"port": "8443", "protocol": "TCP"}]}],
            }
        ],
        "egress": [{}],
    }


@pytest.mark.parametrize("mesh", Mesh)
def test_endpoints_always_name_their_namespace(
    policy: AccessPolicy, mesh: Mesh
) -> None:
    for rule in rules(emit(policy, replace(EVERYTHING, mesh=mesh))):
        for endpoint in (
            *rule.get("fromEndpoints", ()),
            *rule.get("toEndpoints", ()),
        ):
            labels = endpoint["matchLabels"]
            assert labels["k8s:io.kubernetes.pod.namespace"]
            assert all(key.startswith("k8s:") for key in labels)


def test_the_resolver_is_reached_over_udp_and_tcp(
    policy: AccessPolicy, plain: Site
) -> None:
    specs = emit(policy, replace(plain, cluster=Cluster(dns_port=5353)))

    assert specs["line1", "allow-dns"]["egress"] == [
        {
            "toEndpoints": [
                {
                    "matchLabels": {
                        "k8s:io.kubernetes.pod.namespace": "kube-system",
                        "k8s:k8s-app": "kube-dns",
                    }
                }
            ],
            "toPorts": [
                {
                    "ports": [
                        {"port": "5353", "protocol": "UDP"},
                        {"port": "5353", "protocol": "TCP"},
                    ]
                }
            ],
        }
    ]


def test_a_resolver_on_the_node_is_the_node_and_the_file_says_so(
    policy: AccessPolicy, plain: Site, comment: Comment
) -> None:
    site = replace(plain, cluster=Cluster(dns_addresses=("169.254.20.10/32",)))

    [_, on_node] = emit(policy, site)["line1", "allow-dns"]["egress"]

    assert on_node["toEntities"] == ["host"]
    said = comment(emit_cilium(policy, site), "network-policies.yaml")
    assert "allowed at port 53 of any of its addresses" in said


def test_nodes_and_the_api_server_are_entities_and_need_no_addresses(
    policy: AccessPolicy, plain: Site
) -> None:
    site = replace(plain, spire=EVERYTHING.spire)

    specs = emit(policy, site)

    [agents] = specs["spire", "spire-server-from-agents"]["ingress"]
    assert agents["fromEntities"] == ["host", "remote-node"]
    api_server = specs["spire", "spire-server-api-server"]
    assert api_server["ingress"][0]["fromEntities"] == ["kube-apiserver"]
    assert api_server["egress"][0]["toEntities"] == ["kube-apiserver"]
    assert not [rule for rule in rules(specs) if "fromCIDR" in rule or "toCIDR" in rule]


def test_pods_on_the_hosts_network_are_nodes_in_a_rule_of_their_own(
    with_groups: Callable[..., AccessPolicy], plain: Site, comment: Comment
) -> None:
    group = Group(
        "drivers",
        (),
        (
            Workload("line1", {"app": "camera"}, ""),
            Workload("line1", {"app": "driver"}, "", host_network=True),
        ),
        (),
    )
    policy = with_groups(group)
    # Other packet filters need the nodes' addresses for that.
    with pytest.raises(PolicyError, match=r"cluster\.nodes"):
        network_objects(policy, plain)

    specs = emit(policy, plain)

    peers = specs["inference", "triton-from-drivers"]["ingress"]
    assert [next(iter(rule)) for rule in peers] == ["fromEndpoints", "fromEntities"]
    assert peers[1]["fromEntities"] == ["host", "remote-node"]
    assert peers[0]["toPorts"] == peers[1]["toPorts"]
    assert "every process of those nodes" in comment(
        emit_cilium(policy, plain), "network-policies.yaml"
    )


def test_probes_of_ambient_mode_come_from_an_address(policy: AccessPolicy) -> None:
    specs = emit(policy, replace(EVERYTHING, mesh=Mesh.AMBIENT))

    [rule] = specs["line1", "allow-probes"]["ingress"]
    assert rule["fromCIDR"][0] == "169.254.7.127/32"
    assert rule.keys() == {"fromCIDR"}


def test_no_rule_looks_into_http_or_asks_for_ciliums_own_ids(
    policy: AccessPolicy, plain: Site, comment: Comment
) -> None:
    manifests = emit_cilium(policy, plain)

    for item in manifests[0].objects:
        assert "authentication" not in item["spec"]
    for rule in rules(emit(policy, plain)):
        assert all(ports.keys() == {"ports"} for ports in rule.get("toPorts", []))
        assert "authentication" not in rule
    said = comment(manifests, "network-policies.yaml")
    assert "Without rules.http: mTLS ends in the pod" in said
    assert "Without authentication.mode" in said


def test_a_label_that_cilium_does_not_see_is_named(
    with_groups: Callable[..., AccessPolicy], plain: Site, comment: Comment
) -> None:
    labels = {
        "kubernetes.io/role": "camera",
        "pod-template-hash": "1",
        "app.kubernetes.io/name": "camera",
    }
    policy = with_groups(Group("g", (), (Workload("line1", labels, ""),), ()))

    said = comment(emit_cilium(policy, plain), "network-policies.yaml")

    assert "keeps label kubernetes.io/role out" in said
    assert "keeps label pod-template-hash out" in said
    assert said.count("default filter keeps label") == 2


def test_the_kustomization_lists_the_policies(
    policy: AccessPolicy, plain: Site
) -> None:
    [policies, kustomization] = emit_cilium(policy, plain)

    assert kustomization.name == "kustomization.yaml"
    assert kustomization.text.endswith("resources:\n- network-policies.yaml\n")
    assert {item["kind"] for item in policies.objects} == {"CiliumNetworkPolicy"}
    assert {item["apiVersion"] for item in policies.objects} == {"cilium.io/v2"}


def test_the_order_in_which_things_are_written_changes_nothing(
    policy: AccessPolicy, plain: Site
) -> None:
    turned = replace(
        policy,
        groups=dict(reversed(policy.groups.items())),
        upstreams=dict(reversed(policy.upstreams.items())),
        grants=tuple(reversed(policy.grants)),
    )

    assert emit_cilium(turned, plain) == emit_cilium(policy, plain)
