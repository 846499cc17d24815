"""The real Helm judges the emitted chart."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helm import helm
from judges import Object, read
from kube_api import KubeApi

pytestmark = pytest.mark.go

MANIFESTS = Path(__file__).parents[2] / "manifests"
CHART = MANIFESTS / "helm" / "authz-server"


def by_name(objects: list[Object]) -> dict[str, Object]:
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in objects}


def templated(namespace: str, *options: str) -> dict[str, Object]:
    where = f"--namespace={namespace}"
    said = helm("template", "plant", CHART, where, *options)
    assert said.returncode == 0, said.stderr
    return by_name(list(filter(None, yaml.safe_load_all(said.stdout))))


def checksum(objects: dict[str, Object]) -> str:
    pod = objects["Deployment/authz-server"]["spec"]["template"]
    return str(pod["metadata"]["annotations"]["checksum/config"])


def test_the_chart_has_nothing_to_lint() -> None:
    said = helm("lint", "--strict", CHART)
    assert said.returncode == 0, said.stdout


def test_the_chart_makes_the_objects_of_the_target_kubernetes() -> None:
    made = templated("authz-system")
    emitted = by_name(read(MANIFESTS / "kubernetes" / "authz-server.yaml"))
    # Whoever installs a chart names its namespace, which Helm can make.
    del emitted["Namespace/authz-system"]
    # Each digests what it has, so only that there is one can be the same.
    assert len(checksum(made)) == len(checksum(emitted)) == 64
    for objects, manager in ((made, "Helm"), (emitted, "authz-server")):
        pod = objects["Deployment/authz-server"]["spec"]["template"]
        del pod["metadata"]["annotations"]["checksum/config"]
        for item in objects.values():
            labels = item["metadata"]["labels"]
            assert labels.pop("app.kubernetes.io/managed-by") == manager
    assert made == emitted


def test_another_policy_restarts_the_servers() -> None:
    first = checksum(templated("authz-system"))
    assert checksum(templated("authz-system")) == first
    other = templated("authz-system", "--set=policy.other\\.yaml=kind: AccessPolicy")
    assert checksum(other) != first


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("replicas=0", "at '/replicas'"),
        ("image=", "at '/image'"),
    ],
)
def test_a_wrong_value_is_refused(value: str, why: str) -> None:
    for command in (("template", "plant"), ("lint",)):
        said = helm(*command, CHART, f"--set={value}")
        assert said.returncode == 1
        assert why in said.stdout + said.stderr


def test_the_chart_is_installed_and_upgraded_at_a_real_api_server(
    kube_api: KubeApi,
) -> None:
    name = "helm-judge"
    kube_api.namespaces(name)
    # No kubelet runs, so nothing becomes ready.
    how = (f"--namespace={name}", "--wait=hookOnly")
    for command, replicas in (("install", 2), ("upgrade", 3)):
        said = helm(
            command,
            "plant",
            CHART,
            f"--set=replicas={replicas}",
            *how,
            kubeconfig=kube_api.kubeconfig,
        )
        assert said.returncode == 0, said.stderr
        made = templated(name)["Deployment/authz-server"]
        (found,) = kube_api.objects(made)
        assert found["spec"]["replicas"] == replicas
