"""Cilium's own parser, policy engine and CRD on the emitted CiliumNetworkPolicies."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from judges import program
from packet_filters import Edge, End, kubernetes_edges
from packet_plants import EVERYTHING, FLOWS, RESOLVER, ends, with_pods
from random_policies import make_policy

from authz_server.emit.cilium import emit_cilium
from authz_server.emit.network_policies import network_objects
from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy, Group, Workload
from authz_server.site.document import load_site
from authz_server.site.model import Mesh, Site

pytestmark = pytest.mark.go

EXAMPLES = Path(__file__).parents[2] / "examples"

Policies = list[dict[str, Any]]


def example() -> tuple[AccessPolicy, Site]:
    policy = load_policy(EXAMPLES / "plant-7.yaml")
    site = load_site(EXAMPLES / "plant-7-site.yaml", policy)
    cluster = replace(
        site.cluster, dns_addresses=(RESOLVER,), api_server=("10.96.0.1/32",)
    )
    return policy, replace(site, cluster=cluster)


def emitted(policy: AccessPolicy, site: Site) -> Policies:
    return [deepcopy(dict(item)) for item in emit_cilium(policy, site)[0].objects]


def ask_cilium(
    policies: Sequence[Mapping[str, Any]], everybody: Sequence[End]
) -> tuple[list[str], set[Edge]]:
    """Return what Cilium refuses, and the connections that it lets through."""
    question = {
        "policies": policies,
        "ends": [
            {
                "name": end.name,
                "namespace": end.namespace,
                "labels": dict(end.labels),
                "entities": sorted(end.entities),
                "address": end.address,
            }
            for end in everybody
        ],
        "flows": [{"protocol": name, "port": port} for name, port in FLOWS],
    }
    said = subprocess.run(
        [program("CILIUM")],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    answer = json.loads(said.stdout)
    edges = {
        (edge["source"], edge["target"], edge["protocol"], edge["port"])
        for edge in answer["edges"]
    }
    return answer["refused"], edges


def test_cilium_lets_the_example_connect_exactly_as_networkpolicies_do() -> None:
    policy, site = example()
    everybody = ends(policy, site)

    refused, found = ask_cilium(emitted(policy, site), everybody)

    assert refused == []
    assert found == kubernetes_edges(network_objects(policy, site), everybody, FLOWS)
    assert ("line1/{'app': 'camera'}", "inference/{'app': 'triton'}", "TCP", 8001) in (
        found
    )


@pytest.mark.parametrize("mesh", Mesh)
@pytest.mark.parametrize("seed", range(10))
def test_cilium_lets_random_policies_connect_exactly_as_networkpolicies_do(
    seed: int, mesh: Mesh
) -> None:
    rng = random.Random(f"cilium {seed} {mesh}")
    policy = with_pods(make_policy(rng), rng)
    site = replace(EVERYTHING, mesh=mesh)
    everybody = ends(policy, site)

    refused, found = ask_cilium(emitted(policy, site), everybody)

    assert refused == []
    assert found == kubernetes_edges(network_objects(policy, site), everybody, FLOWS)


def test_enable_default_deny_without_an_empty_rule_denies_nothing() -> None:
    # Why each object has both: a direction without rules is none of Cilium's business.
    policy, site = example()
    everybody = ends(policy, site)
    policies = emitted(policy, site)
    _, meant = ask_cilium(policies, everybody)
    for item in policies:
        for direction in ("ingress", "egress"):
            if item["spec"][direction] == [{}]:
                item["spec"][direction] = []
    nameless = [item for item in policies if item["metadata"]["name"] == "default-deny"]

    refused, found = ask_cilium(policies, everybody)

    assert len(refused) == len(nameless), "an object without rules is refused"
    assert found > meant


def without_namespaces(spec: dict[str, Any]) -> None:
    for rule in spec["ingress"]:
        for endpoint in rule.get("fromEndpoints", []):
            del endpoint["matchLabels"]["k8s:io.kubernetes.pod.namespace"]


def without_ports(spec: dict[str, Any]) -> None:
    for rule in (*spec["ingress"], *spec["egress"]):
        rule.pop("toPorts", None)


def without_egress(spec: dict[str, Any]) -> None:
    spec["egress"] = [{}]


def without_ingress(spec: dict[str, Any]) -> None:
    spec["ingress"] = [{}]


@pytest.mark.parametrize(
    ("change", "is_wider"),
    [
        # Left out, it is the policy's own namespace, where the callers are not.
        (without_namespaces, False),
        (without_ports, True),
        (without_egress, False),
        (without_ingress, False),
    ],
)
def test_each_part_of_a_rule_counts(
    change: Callable[[dict[str, Any]], None], *, is_wider: bool
) -> None:
    policy, site = example()
    everybody = ends(policy, site)
    policies = emitted(policy, site)
    _, meant = ask_cilium(policies, everybody)
    for item in policies:
        change(item["spec"])

    _, found = ask_cilium(policies, everybody)

    assert found > meant if is_wider else found < meant


def test_cilium_refuses_what_our_own_judge_refuses() -> None:
    port = {"port": "1", "protocol": "TCP"}
    rules: list[dict[str, Any]] = [
        {"fromEndpoints": [{}], "fromEntities": ["host"]},
        {"fromEntities": ["nodes"]},
        {"fromCIDRSet": [{"cidr": "10.0.0.0/24", "except": ["10.0.1.0/28"]}]},
        {"icmps": [{"fields": [{"type": 8}]}], "toPorts": [{"ports": [port]}]},
        {"toPorts": [{"ports": [{"port": 8443, "protocol": "TCP"}]}]},
        {"toPorts": [{"ports": [{"port": "1", "protocol": "HTTP"}]}]},
        {"toPorts": [{"ports": [{"port": str(n)} for n in range(1, 42)]}]},
        {"toPorts": [{"ports": [{"port": "53"}], "rules": {"dns": [{}]}}]},
    ]
    policies = [
        {
            "metadata": {"name": f"p{n}", "namespace": "n"},
            "spec": {"endpointSelector": {}, "ingress": [rule]},
        }
        for n, rule in enumerate(rules)
    ]

    refused, _ = ask_cilium(policies, [])

    assert len(refused) == len(rules)


def test_a_label_that_ciliums_filter_hides_opens_nothing() -> None:
    policy, site = example()
    labels = {"kubernetes.io/role": "camera"}
    group = Group("g", (), (Workload("line1", labels, ""),), ())
    policy = replace(
        policy,
        groups={"g": group},
        grants=tuple(replace(grant, to=("g",)) for grant in policy.grants),
    )
    everybody = ends(policy, site)

    _, found = ask_cilium(emitted(policy, site), everybody)

    meant = kubernetes_edges(network_objects(policy, site), everybody, FLOWS)
    lost = {(source, target) for source, target, _, _ in meant - found}
    # As the file's comment says.
    assert (f"line1/{labels}", "inference/{'app': 'triton'}") in lost
    assert found < meant


@pytest.mark.parametrize("mesh", Mesh)
def test_the_crds_schema_takes_every_object(mesh: Mesh) -> None:
    crd = yaml.safe_load(
        (program("CRDS").parent / "cilium" / "ciliumnetworkpolicies.yaml").read_text()
    )
    [version] = [item for item in crd["spec"]["versions"] if item["name"] == "v2"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    policy, site = example()

    for item in emitted(policy, replace(site, mesh=mesh)):
        problems = list(Draft202012Validator(schema).iter_errors(item))
        assert problems == []
        item["spec"]["ingres"] = item["spec"].pop("ingress")
        assert list(Draft202012Validator(schema).iter_errors(item))


def closed(schema: Any) -> Any:
    """Return `schema` so that unknown fields are wrong, as an API server has it."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema
