"""The server on nodes and in upstreams' pods, as the real API server takes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api import KubeApi, running_kube_api
from parts import EXAMPLE

from authz_server.emit.targets import Source, emit
from authz_server.policy.document import load_policy
from authz_server.site.model import Pods, Server, Shape, Site, Spire

pytestmark = pytest.mark.go

POLICY = load_policy(EXAMPLE)
SITE = Site(monitoring=Pods("monitoring", {"app": "prometheus"}), spire=Spire())
PARTS = {EXAMPLE.name: EXAMPLE.read_text()}
NAMESPACES = ("inference", "data", "line1", "line2", "planning", "release")

UPSTREAMS = """
apiVersion: apps/v1
kind: {kind}
metadata: {{name: triton, namespace: inference, labels: {{app: triton}}}}
spec:
  selector: {{matchLabels: {{app: triton}}}}
  template:
    metadata: {{labels: {{app: triton}}}}
    spec:
      serviceAccountName: triton
      containers:
        - {{name: envoy, image: envoy, securityContext: {{runAsUser: 101}}}}
        - {{name: triton, image: triton}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: other, namespace: inference, labels: {{app: other}}}}
spec:
  selector: {{matchLabels: {{app: other}}}}
  template:
    metadata: {{labels: {{app: other}}}}
    spec: {{containers: [{{name: other, image: other}}]}}
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    with running_kube_api(tmp_path_factory.mktemp("shapes")) as api:
        api.namespaces(*NAMESPACES)
        yield api


def write(shape: Shape, folder: Path) -> None:
    site = replace(SITE, server=Server(shape=shape))
    for name, file in emit(Source(POLICY, site, PARTS), ["kubernetes"]).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)


def built(api: KubeApi, folder: Path) -> dict[str, Any]:
    said = api.kubectl("kustomize", folder)
    assert said.returncode == 0, said.stderr
    return {item["metadata"]["name"]: item for item in yaml.safe_load_all(said.stdout)}


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_a_component_puts_the_server_into_the_upstreams_pods_alone(
    api: KubeApi, tmp_path: Path, kind: str
) -> None:
    write(Shape.SIDECAR, tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    text = UPSTREAMS.format(kind=kind)
    (mine / "upstreams.yaml").write_text(text)
    (mine / "kustomization.yaml").write_text(
        "resources: [upstreams.yaml]\ncomponents: [../kubernetes/sidecar]\n"
    )

    found = built(api, mine)

    pod = found["triton"]["spec"]["template"]["spec"]
    assert {item["name"] for item in pod["containers"]} == {
        *("envoy", "triton", "authz-server")
    }
    assert pod["securityContext"]["supplementalGroups"] == [65532]
    assert pod["serviceAccountName"] == "triton"
    untouched = {item["metadata"]["name"]: item for item in yaml.safe_load_all(text)}
    assert found["other"] == untouched["other"]
    # The API server takes the result, beside the emitted configuration.
    api.apply(tmp_path / "kubernetes", mine)


def test_on_nodes_its_pods_are_let_into_its_namespace(
    api: KubeApi, tmp_path: Path
) -> None:
    write(Shape.DAEMONSET, tmp_path)
    api.apply(tmp_path / "kubernetes")
    [daemon_set] = [
        item
        for item in yaml.safe_load_all(
            (tmp_path / "kubernetes" / "authz-server.yaml").read_text()
        )
        if item["kind"] == "DaemonSet"
    ]
    template = daemon_set["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "p", "namespace": "authz-system"},
        "spec": template["spec"],
    }

    warnings = api.apply(pod)

    assert not [line for line in warnings if "PodSecurity" in line]
    # In a namespace of another standard the same pod has no place.
    api.kubectl("create", "namespace", "strict")
    label = "pod-security.kubernetes.io/enforce=restricted"
    api.kubectl("label", "namespace", "strict", label)
    elsewhere = {**pod, "metadata": {**pod["metadata"], "namespace": "strict"}}
    assert "hostPath" in api.refusal(elsewhere)
