"""``verify --live`` against a real kube-apiserver: as it should be, and drifted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import yaml
from verification import emitted

from authz_server.cli.verify import add_parser
from authz_server.policy.document import load_policy
from authz_server.site.document import load_site
from authz_server.verify.difference import Layer

if TYPE_CHECKING:
    from kube_api import KubeApi

pytestmark = pytest.mark.go

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICY, SITE = EXAMPLES / "plant-7.yaml", EXAMPLES / "plant-7-site.yaml"

Answer: TypeAlias = tuple[int, list[dict[str, Any]]]
Verify: TypeAlias = Callable[[], Answer]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """A cluster that holds what is emitted, and istiod's configuration."""
    from kube_api import running_kube_api

    policy = load_policy(POLICY)
    files = emitted(policy, load_site(SITE, policy))
    objects: list[Any] = []
    for layer in (Layer.KUBERNETES, Layer.ISTIO, Layer.SPIRE):
        objects += [item for manifest in files[layer] for item in manifest.objects]
    [mesh] = [item for item in files[Layer.ISTIO] if item.name == "mesh-config.yaml"]
    objects.append(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": mesh.text},
        }
    )
    namespaces = {item["metadata"].get("namespace") for item in objects} - {None}
    with running_kube_api(tmp_path_factory.mktemp("cluster")) as api:
        api.apply_crds("istio", "spire")
        api.namespaces(*sorted(namespaces))
        api.apply(yaml.safe_dump_all(objects))
        yield api


@pytest.fixture
def verify(cluster: KubeApi, capsys: pytest.CaptureFixture[str]) -> Verify:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())

    def run() -> Answer:
        args = parser.parse_args(
            [
                "verify",
                *("--policy", str(POLICY), "--site", str(SITE), "--live"),
                *("--kubeconfig", str(cluster.kubeconfig), "--output", "json"),
            ]
        )
        code = args.run(args)
        found = json.loads(capsys.readouterr().out)["differences"]
        return code, [item for item in found if item["limit"] is None]

    return run


def test_what_was_applied_agrees(verify: Verify) -> None:
    assert verify() == (0, [])


def test_drift_is_found(cluster: KubeApi, verify: Verify) -> None:
    foreign = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "debug", "namespace": "data"},
        "spec": {"podSelector": {}, "ingress": [{}]},
    }
    cluster.apply(foreign)
    policy = ("authorizationpolicy", "triton-callers", "--namespace=inference")
    added = {"from": [{"source": {"namespaces": ["release"]}}]}
    patch = [{"op": "add", "path": "/spec/rules/-", "value": added}]
    said = cluster.kubectl(
        "patch", *policy, "--type=json", f"--patch={json.dumps(patch)}"
    )
    assert said.returncode == 0, said.stderr
    said = cluster.kubectl("delete", "clusterspiffeid", "--all")
    assert said.returncode == 0, said.stderr

    code, found = verify()
    assert code == 1
    assert {(item["layer"], item["kind"]) for item in found} == {
        ("kubernetes", "extra"),
        ("istio", "extra"),
        ("spire", "missing"),
    }
    passing = [item for item in found if item["layer"] == "istio"]
    stranger = "spiffe://factory.example/ns/release/sa/stranger"
    assert stranger in {who for item in passing for who in item["who"]}
    policy_name = "AuthorizationPolicy inference/triton-callers (in the cluster)"
    assert all(policy_name in item["enforced"] for item in passing)
    assert any("NetworkPolicy data/debug" in item["enforced"] for item in found)
