from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.document import load_policy
from authz_server.policy.nodes import PolicyDocumentError
from authz_server.site.document import load_site, parse_site
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Cluster,
    Federation,
    Mesh,
    Pods,
    Ports,
    Server,
    Shape,
    Site,
    Spire,
)

EXAMPLES = Path(__file__).parents[3] / "examples"
POLICY = load_policy(EXAMPLES / "plant-7.yaml")
HEAD = "apiVersion: authz.edge/v1\nkind: Site\nmetadata: {name: s}\nspec:\n"


def read(spec: str) -> Site:
    return parse_site(HEAD + f"  {spec}\n", "site.yaml", POLICY)


def test_the_example_is_read_whole() -> None:
    site = load_site(EXAMPLES / "plant-7-site.yaml", POLICY)

    assert site.mesh is Mesh.SIDECAR
    assert site.cluster.nodes == ("10.20.0.0/24",)
    assert site.cluster.api_server == ("10.20.0.10/32", "10.96.0.1/32")
    assert site.cluster.dns_addresses == ("169.254.20.10/32",)
    assert site.monitoring is not None
    assert site.monitoring.namespace == "monitoring"
    assert site.spire == Spire(
        server=Pods("spire-server", {"app.kubernetes.io/name": "server"}),
        address="spire.factory.example:8081",
        cluster_name="plant-7",
    )
    supplier = TrustDomain("supplier.example")
    assert site.federation == (
        Federation(
            supplier,
            "https://spire.supplier.example:8443",
            SpiffeId(supplier, ("spire", "server")),
        ),
    )
    camera = SpiffeId(POLICY.trust_domain, ("ns", "line1", "sa", "camera"))
    assert site.boxes == (
        Box(
            "press-3",
            Attestor.TPM_DEVID,
            ("tpm_devid:subject:cn:press-3",),
            serves=("triton",),
        ),
        Box(
            "gate-1",
            Attestor.X509POP,
            ("x509pop:subject:cn:gate-1",),
            workloads=(BoxWorkload(camera, ("unix:user:camera",)),),
        ),
    )


def test_what_is_left_out_has_its_default() -> None:
    assert read("{}") == Site()


def test_what_is_said_takes_the_place_of_the_default() -> None:
    site = read(
        "{ports: {tritonGrpc: 9001, envoy: 443},"
        " server: {shape: daemonset, namespace: guard, port: 9292},"
        " cluster: {domain: plant.local, dns: {podSelector: {dns: 'yes'}, port: 5353}}}"
    )

    assert site.ports == Ports(triton_grpc=9001, envoy=443)
    assert site.server == Server(shape=Shape.DAEMONSET, namespace="guard", port=9292)
    assert site.cluster == Cluster(
        domain="plant.local",
        dns=Pods("kube-system", MappingProxyType({"dns": "yes"})),
        dns_port=5353,
    )


def test_a_box_may_have_its_certificates_in_files() -> None:
    [box] = read("{boxes: {b: {attestor: join_token, certificates: files}}}").boxes

    assert not box.uses_spire


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{mush: none}", "unknown key 'mush' in spec; did you mean 'mesh'?"),
        ("{mesh: istio}", "unknown mesh 'istio'"),
        ("{mesh: [none]}", "mesh must be a string"),
        ("{ports: {tritonGrpc: 0}}", "tritonGrpc must be a whole number from 1 to"),
        ("{ports: {tritonGrpc: 65536}}", "tritonGrpc must be a whole number"),
        ("{ports: {tritonGrpc: '8001'}}", "tritonGrpc must be a whole number"),
        ("{ports: {tritonGrpc: [1]}}", "tritonGrpc must be a whole number"),
        ("{ports: {tritonGrpc: 0x10}}", "tritonGrpc must be a whole number"),
        ("{server: {image: 'a b'}}", "'a b' is no image"),
        ("{server: {namespace: Guard}}", "'Guard' is not a name"),
        ("{mesh: sidecar, server: {shape: sidecar}}", "no provider of Istio can name"),
        ("{cluster: {nodes: [10.0.0.1/24]}}", "'10.0.0.1/24' is no network"),
        ("{cluster: {nodes: [10.0.0.1]}}", "'10.0.0.1' is no network"),
        ("{cluster: {nodes: [all]}}", "'all' is no network"),
        ("{monitoring: {podSelector: {a: b}}}", "monitoring has no 'namespace'"),
        ("{spire: {podSelector: {a: b}}}", "spire has pods in no namespace"),
        ("{spire: {address: here}}", "'here' is no address"),
        ("{spire: {agentSocket: run/x}}", "'run/x' is no agentSocket"),
        ("{spire: {x509TTL: 99999999}}", "x509TTL must be a whole number"),
        (
            "{federation: {other.example: {endpoint: 'https://a.example'}}}",
            "does not federate with 'other.example'",
        ),
        (
            "{federation: {supplier.example: {endpoint: 'http://a.example'}}}",
            "is no endpoint",
        ),
        (
            (
                "{federation: {supplier.example: {endpoint: 'https://a.example',"
                " endpointID: 'spiffe://factory.example/x'}}}"
            ),
            "endpointID spiffe://factory.example/x is not in trust domain supplier",
        ),
        ("{boxes: {b: {}}}", "box 'b' has no 'attestor'"),
        ("{boxes: {b: {attestor: tpm}}}", "unknown attestor 'tpm'"),
        ("{boxes: {b: {attestor: x509pop}}}", "needs selectors of the node"),
        (
            "{boxes: {b: {attestor: join_token, nodeSelectors: ['a:b']}}}",
            "which has no selectors",
        ),
        (
            "{boxes: {b: {attestor: x509pop, nodeSelectors: [cn]}}}",
            "'cn' is no selector",
        ),
        (
            "{boxes: {b: {attestor: join_token, serves: [tritom]}}}",
            "upstream 'tritom' is not in the policy; did you mean 'triton'?",
        ),
        (
            "{boxes: {b: {attestor: join_token, certificates: vault}}}",
            "unknown source of certificates 'vault'",
        ),
        (
            "{boxes: {b: {attestor: join_token, workloads: [{selectors: ['a:b']}]}}}",
            "a workload of box 'b' has no 'spiffe'",
        ),
        (
            (
                "{boxes: {b: {attestor: join_token, workloads:"
                " [{spiffe: 'spiffe://supplier.example/x', selectors: ['a:b']}]}}}"
            ),
            "is not in trust domain factory.example",
        ),
        (
            (
                "{boxes: {b: {attestor: join_token, workloads:"
                " [{spiffe: 'factory.example/x', selectors: ['a:b']}]}}}"
            ),
            "spiffe: ",
        ),
    ],
)
def test_a_problem_is_named_with_its_place_and_mend(spec: str, problem: str) -> None:
    with pytest.raises(PolicyDocumentError) as raised:
        read(spec)

    [found, *_] = [item for item in raised.value.problems if problem in str(item)]
    assert found.line == HEAD.count("\n") + 1
    assert found.source == "site.yaml"
    assert found.mend


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEAD.replace("Site", "AccessPolicy") + "  {}\n", "kind is 'AccessPolicy'"),
        (HEAD.replace("v1", "v2") + "  {}\n", "apiVersion is 'authz.edge/v2'"),
        ("apiVersion: authz.edge/v1\n", "the site has no 'spec'"),
        ("[]\n", "the site must be a mapping"),
        ("{", "not YAML"),
    ],
)
def test_what_is_no_site_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PolicyDocumentError, match=problem):
        parse_site(text, "site.yaml", POLICY)


def test_all_problems_are_found_at_once() -> None:
    with pytest.raises(PolicyDocumentError) as raised:
        read("{mesh: x, ports: {envoy: 0}, boxes: {b: {attestor: y}}}")

    assert len(raised.value.problems) >= 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyDocumentError, match=r"site\.yaml:1:1: cannot read"):
        load_site(tmp_path / "site.yaml", POLICY)
