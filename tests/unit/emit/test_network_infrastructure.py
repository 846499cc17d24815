"""What is opened beside the calls, for whom, and only where the site says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml
from emission import PARTS

from authz_server.config.loading import load_config
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.emit.network_policies import managed_namespaces
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy, Group
from authz_server.site.model import (
    Cluster,
    Mesh,
    Pods,
    Server,
    Shape,
    Site,
    Spire,
)

Comment = Callable[[Sequence[Manifest], str], str]
NODES = ("10.20.0.0/24", "fd00:20::/64")
API_SERVER = ("10.96.0.1/32",)


def emit(policy: AccessPolicy, site: Site) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["spec"]
        for manifest in emit_kubernetes(policy, site, PARTS)
        for item in manifest.objects
        if item["kind"] == "NetworkPolicy"
    }


def said(policy: AccessPolicy, site: Site, comment: Comment) -> str:
    return comment(emit_kubernetes(policy, site, PARTS), "network-policies.yaml")


def blocks(*cidrs: str) -> list[dict[str, Any]]:
    return [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]


def tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


@pytest.fixture
def site() -> Site:
    return Site(
        cluster=Cluster(nodes=NODES, api_server=API_SERVER),
        monitoring=Pods("monitoring", {"app": "prometheus"}),
        spire=Spire(server=Pods("spire-server", {"app": "spire"})),
    )


def test_nodes_that_answer_for_the_resolver_are_reached_by_address(
    policy: AccessPolicy, plain: Site
) -> None:
    cluster = Cluster(dns_addresses=("169.254.20.10/32",), dns_port=5353)

    specs = emit(policy, replace(plain, cluster=cluster))

    _, rule = specs["line1", "allow-dns"]["egress"]
    assert rule == {
        "to": blocks("169.254.20.10/32"),
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }


def test_metrics_are_read_by_the_monitoring_pods_alone(
    policy: AccessPolicy, site: Site
) -> None:
    specs = emit(policy, site)

    reader = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": "monitoring"}
        },
        "podSelector": {"matchLabels": {"app": "prometheus"}},
    }
    assert specs["inference", "triton-from-monitoring"]["ingress"] == [
        {"from": [reader], "ports": tcp(8002)}
    ]
    assert specs["authz-system", "authz-server-from-monitoring"]["ingress"] == [
        {"from": [reader], "ports": tcp(9192)}
    ]
    # A dataset has no port of its own for metrics.
    assert ("data", "images-from-monitoring") not in specs


def test_behind_a_sidecar_the_agent_hands_metrics_out(
    policy: AccessPolicy, site: Site
) -> None:
    specs = emit(policy, replace(site, mesh=Mesh.SIDECAR))

    for name in (("inference", "triton"), ("data", "images")):
        [rule] = specs[name[0], f"{name[1]}-from-monitoring"]["ingress"]
        assert rule["ports"] == tcp(15020, 15090)


def test_without_monitoring_no_metrics_port_is_open(
    policy: AccessPolicy, plain: Site
) -> None:
    for spec in emit(policy, plain).values():
        for rule in spec.get("ingress", []):
            assert not {8002, 9192, 15020, 15090} & {
                item["port"] for item in rule["ports"]
            }


@pytest.mark.parametrize("mesh", Mesh)
def test_the_server_has_the_metrics_port_that_is_opened(
    policy: AccessPolicy, site: Site, mesh: Mesh, tmp_path: Any
) -> None:
    objects = [
        item
        for manifest in emit_kubernetes(policy, replace(site, mesh=mesh), PARTS)
        for item in yaml.safe_load_all(manifest.text)
        if item["kind"] in {"ConfigMap", "Deployment"}
    ]

    path = tmp_path / "config.yaml"
    path.write_text(objects[0]["data"]["config.yaml"])
    assert load_config(path, {}, {}).listen.metrics == "tcp://0.0.0.0:9192"
    template = objects[2]["spec"]["template"]
    [container] = template["spec"]["containers"]
    assert {"name": "authz-metrics", "containerPort": 9192, "protocol": "TCP"} in (
        container["ports"]
    )
    excluded = "traffic.sidecar.istio.io/excludeInboundPorts"
    expected = "9192" if mesh is Mesh.SIDECAR else None
    assert template["metadata"]["annotations"].get(excluded) == expected


def test_spires_server_is_reached_from_nodes_and_reaches_the_api_server(
    policy: AccessPolicy, site: Site
) -> None:
    specs = emit(policy, site)

    selector = {"matchLabels": {"app": "spire"}}
    agents = specs["spire-server", "spire-server-from-agents"]
    assert agents["podSelector"] == selector
    assert agents["ingress"] == [{"from": blocks(*NODES), "ports": tcp(8081)}]
    api_server = specs["spire-server", "spire-server-api-server"]
    assert api_server["ingress"] == [{"from": blocks(*API_SERVER), "ports": tcp(9443)}]
    assert api_server["egress"] == [
        {"to": blocks(*API_SERVER), "ports": tcp(443, 6443)}
    ]
    assert specs["spire-server", "spire-server-dns"]["podSelector"] == selector
    # Others in that namespace are not ours to shut off.
    assert ("spire-server", "default-deny") not in specs


def test_what_spire_lacks_is_said(
    policy: AccessPolicy, site: Site, comment: Comment
) -> None:
    bare = replace(site, cluster=Cluster())

    assert ("spire-server", "spire-server-from-agents") not in emit(policy, bare)
    text = said(policy, bare, comment)
    assert "nothing lets them reach the server. Add cluster.nodes" in text
    assert "add cluster.apiServer" in text
    assert "add cluster" not in said(policy, site, comment).lower()


def test_a_spire_outside_of_the_cluster_needs_no_rule(
    policy: AccessPolicy, plain: Site, comment: Comment
) -> None:
    site = replace(plain, spire=Spire(address="spire.factory.example:8081"))

    assert not [name for name in emit(policy, site) if "spire" in name[1]]
    assert "SPIRE's server" not in said(policy, site, comment)


def test_in_ambient_mode_callers_alone_may_open_the_tunnel(
    policy: AccessPolicy, plain: Site
) -> None:
    ambient = replace(plain, mesh=Mesh.AMBIENT)

    specs = emit(policy, ambient)

    # Istio's tunnel carries every port, so it has the same peers as the port behind it.
    for name, direction in (
        (("inference", "triton-from-cameras"), "ingress"),
        (("line1", "cameras-to-triton"), "egress"),
    ):
        [rule] = specs[name][direction]
        assert rule["ports"] == tcp(8443, 15008)
    [rule] = specs["authz-system", "authz-server-from-proxies"]["ingress"]
    assert rule["ports"] == tcp(9191, 15008)


def test_in_ambient_mode_probes_come_from_istios_own_addresses(
    policy: AccessPolicy, plain: Site
) -> None:
    ambient = replace(plain, mesh=Mesh.AMBIENT)

    specs = emit(policy, ambient)

    for namespace in managed_namespaces(policy, ambient):
        assert specs[namespace, "allow-probes"]["ingress"] == [
            {
                "from": blocks(
                    "169.254.7.127/32", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128"
                )
            }
        ]
    # Elsewhere the kubelet is let through by every network plugin.
    for mesh in (Mesh.NONE, Mesh.SIDECAR):
        assert ("line1", "allow-probes") not in emit(policy, replace(plain, mesh=mesh))


def test_pods_on_the_hosts_network_are_told_by_their_nodes_and_that_is_said(
    with_groups: Callable[..., AccessPolicy],
    group: Callable[..., Group],
    site: Site,
    comment: Comment,
) -> None:
    spiffe = ["spiffe://factory.example/ns/line1/sa/camera"]
    workloads = [
        ("line1", {"app": "camera"}, "camera", True),
        ("line1", {"app": "lamp"}, "camera"),
    ]
    policy = with_groups(group("g", spiffe, workloads))

    specs = emit(policy, site)

    [rule] = specs["inference", "triton-from-g"]["ingress"]
    pods, *nodes = rule["from"]
    assert pods["podSelector"] == {"matchLabels": {"app": "lamp"}}
    assert nodes == blocks(*NODES)
    # No policy selects them, so none could let them out.
    leaving = [spec for name, spec in specs.items() if "g-to-triton" in name[1]]
    assert [item["podSelector"]["matchLabels"] for item in leaving] == [{"app": "lamp"}]
    assert "every process of those nodes has it" in said(policy, site, comment)


def test_pods_on_the_hosts_network_of_unknown_nodes_are_refused(
    with_groups: Callable[..., AccessPolicy], group: Callable[..., Group], plain: Site
) -> None:
    spiffe = ["spiffe://factory.example/ns/line1/sa/camera"]
    policy = with_groups(group("g", spiffe, [("line1", {"a": "b"}, "camera", True)]))

    with pytest.raises(PolicyError, match=r"spec\.groups\.g: .*cluster\.nodes"):
        emit(policy, plain)


@pytest.mark.parametrize("shape", [Shape.DAEMONSET, Shape.SIDECAR])
def test_a_server_on_a_unix_socket_needs_no_rule(
    policy: AccessPolicy, plain: Site, shape: Shape
) -> None:
    specs = emit(policy, replace(plain, server=Server(shape=shape)))

    assert not [name for name in specs if "to-authz-server" in name[1]]
    assert ("authz-system", "authz-server-from-proxies") not in specs
