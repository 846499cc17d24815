from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from emission import PARTS

from authz_server.config import load_config
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Server, Shape, Site, Spire

Applied = Callable[[Sequence[Manifest]], list[Mapping[str, Any]]]
Comment = Callable[[Sequence[Manifest], str], str]


@pytest.fixture
def emit(policy: AccessPolicy, applied: Applied) -> Callable[..., Mapping[str, Any]]:
    names = {"authz-server", "authz-system"}

    def one(options: Site, kind: str) -> Mapping[str, Any]:
        item, *_ = [
            item
            for item in applied(emit_kubernetes(policy, options, PARTS))
            if item["kind"] == kind and item["metadata"]["name"] in names
        ]
        return item

    return one


@pytest.mark.parametrize("mode", ["plain", "mesh"])
def test_every_built_in_object_fits_the_api_servers_schema(
    policy: AccessPolicy, applied: Applied, mode: str, request: pytest.FixtureRequest
) -> None:
    options: Site = request.getfixturevalue(mode)

    objects = applied(emit_kubernetes(policy, options, PARTS))

    assert len(objects) > 10
    for item in objects:
        kubernetes_validate.validate(item, "1.37", strict=True)


def test_outside_a_mesh_the_server_listens_with_mtls_for_the_upstreams_proxies(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    config = yaml.safe_load(emit(plain, "ConfigMap")["data"]["config.yaml"])

    assert config == {
        "listen": {
            "address": "tcp://0.0.0.0:9191",
            "tls": {
                "certificate": "/run/authz-server/tls/tls.crt",
                "key": "/run/authz-server/tls/tls.key",
                "client_ca": "/run/authz-server/tls/ca.crt",
                "proxies": [
                    "spiffe://factory.example/ns/data/sa/minio",
                    "spiffe://factory.example/ns/inference/sa/triton",
                ],
            },
        },
        "policy": {"file": "/etc/authz-server/policy"},
        "identity": {"chain": "proxy"},
        "audit": {"file": "-"},
    }


def test_in_a_mesh_the_server_listens_on_loopback_behind_its_sidecar(
    emit: Callable[..., Mapping[str, Any]], mesh: Site
) -> None:
    config = yaml.safe_load(emit(mesh, "ConfigMap")["data"]["config.yaml"])
    template = emit(mesh, "Deployment")["spec"]["template"]

    assert config["listen"] == {"address": "tcp://127.0.0.1:9191"}
    assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert "authz-server-tls" not in [
        item["name"] for item in template["spec"]["volumes"]
    ]


def test_the_certificate_comes_from_a_secret_that_only_the_server_reads(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    pod = emit(plain, "Deployment")["spec"]["template"]["spec"]

    [volume] = [item for item in pod["volumes"] if item["name"] == "authz-server-tls"]
    assert volume["secret"] == {"secretName": "authz-server-tls", "defaultMode": 0o440}
    mounts = {item["name"]: item for item in pod["containers"][0]["volumeMounts"]}
    assert mounts["authz-server-tls"]["mountPath"] == "/run/authz-server/tls"
    assert mounts["authz-server-tls"]["readOnly"] is True


def test_the_config_map_carries_the_policy_file_as_it_is(
    policy: AccessPolicy, plain: Site
) -> None:
    text = '# why\nkind: AccessPolicy\nversions: ["1"]\n'

    manifest, *_ = emit_kubernetes(policy, plain, {"policy.yaml": text})

    objects = list(yaml.safe_load_all(manifest.text))
    [config_map] = [
        item for item in objects if item["metadata"]["name"] == "authz-server-policy"
    ]
    assert config_map["data"]["policy.yaml"] == text


def test_a_changed_policy_file_starts_new_pods(
    policy: AccessPolicy, plain: Site, applied: Applied
) -> None:
    def annotations(text: str) -> Any:
        [deployment] = [
            item
            for item in applied(emit_kubernetes(policy, plain, {"policy.yaml": text}))
            if item["kind"] == "Deployment"
        ]
        return deployment["spec"]["template"]["metadata"]["annotations"]

    assert annotations("one: 1\n") != annotations("other: 1\n")


def test_pods_meet_the_restricted_standard(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    labels = emit(plain, "Namespace")["metadata"]["labels"]
    pod = emit(plain, "Deployment")["spec"]["template"]["spec"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        # Again, for a container that is put into pods of others.
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_probes_run_the_health_command_inside_the_pod(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    [container] = emit(plain, "Deployment")["spec"]["template"]["spec"]["containers"]

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == [
            "authz-server",
            "health",
            "--config",
            "/etc/authz-server/config/config.yaml",
        ]


def test_the_service_sets_no_variable_that_the_server_takes_for_a_setting(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    pod = emit(plain, "Deployment")["spec"]["template"]["spec"]

    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("mode", ["plain", "mesh"])
def test_the_server_accepts_the_emitted_configuration(
    emit: Callable[..., Mapping[str, Any]],
    mode: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    options: Site = request.getfixturevalue(mode)
    path = tmp_path / "config.yaml"
    path.write_text(emit(options, "ConfigMap")["data"]["config.yaml"])

    config = load_config(path, {}, {})

    assert config.policy.file == "/etc/authz-server/policy"
    assert config.listen.tls.is_set is (mode == "plain")


def test_the_service_port_tells_istio_its_protocol(
    emit: Callable[..., Mapping[str, Any]], mesh: Site
) -> None:
    [port] = emit(mesh, "Service")["spec"]["ports"]

    assert port["name"].startswith("grpc-")
    assert (port["port"], port["targetPort"]) == (9191, 9191)


def test_selectors_hold_nothing_that_a_release_changes(
    emit: Callable[..., Mapping[str, Any]], mesh: Site
) -> None:
    labels = {"app.kubernetes.io/name": "authz-server"}

    assert emit(mesh, "Deployment")["spec"]["selector"] == {"matchLabels": labels}
    assert emit(mesh, "Service")["spec"]["selector"] == labels
    assert emit(mesh, "PodDisruptionBudget")["spec"]["selector"] == {
        "matchLabels": labels
    }


def test_every_object_is_labelled_for_pruning(
    policy: AccessPolicy, plain: Site, applied: Applied
) -> None:
    for item in applied(emit_kubernetes(policy, plain, PARTS)):
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "authz-server"
        assert labels["app.kubernetes.io/part-of"] == "plant"


def test_the_image_is_the_one_asked_for(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    options = replace(plain, server=Server(image="registry.factory.example/authz:2"))

    [container] = emit(options, "Deployment")["spec"]["template"]["spec"]["containers"]

    assert container["image"] == "registry.factory.example/authz:2"


def test_a_policy_file_that_fits_no_config_map_is_refused(
    policy: AccessPolicy, plain: Site
) -> None:
    with pytest.raises(PolicyError, match="too large for a ConfigMap"):
        emit_kubernetes(policy, plain, {"policy.yaml": "#" * 1_000_001})


@pytest.mark.parametrize("mode", ["plain", "mesh"])
def test_a_policy_with_nothing_in_kubernetes_is_refused(
    policy: AccessPolicy, mode: str, request: pytest.FixtureRequest
) -> None:
    options: Site = request.getfixturevalue(mode)
    upstreams = {
        name: replace(item, namespace="") for name, item in policy.upstreams.items()
    }

    with pytest.raises(PolicyError, match="none has a namespace"):
        emit_kubernetes(replace(policy, upstreams=upstreams), options, PARTS)


def test_the_comment_says_what_must_be_there_before(
    policy: AccessPolicy, plain: Site, mesh: Site, comment: Comment
) -> None:
    manifests = emit_kubernetes(policy, plain, PARTS)
    assert "Secret authz-server-tls in authz-system" in comment(
        manifests, "authz-server.yaml"
    )
    assert "must exist already: data, inference, line1, spare." in comment(
        manifests, "network-policies.yaml"
    )
    assert "without its Sidecar object" in comment(
        emit_kubernetes(policy, mesh, PARTS), "authz-server.yaml"
    )


def test_on_nodes_the_server_has_a_socket_of_the_nodes_and_no_service(
    emit: Callable[..., Mapping[str, Any]],
    policy: AccessPolicy,
    plain: Site,
    applied: Applied,
    comment: Comment,
) -> None:
    site = replace(plain, server=Server(shape=Shape.DAEMONSET))

    kinds = {item["kind"] for item in applied(emit_kubernetes(policy, site, PARTS))}
    pod = emit(site, "DaemonSet")["spec"]["template"]["spec"]
    config = yaml.safe_load(emit(site, "ConfigMap")["data"]["config.yaml"])

    assert not {"Deployment", "Service", "PodDisruptionBudget"} & kinds
    assert config["listen"]["address"] == "unix:///run/authz-server/check.sock"
    assert {
        "name": "authz-server-socket",
        "hostPath": {"path": "/run/authz-server", "type": "Directory"},
    } in pod["volumes"]
    # The one standard that lets a hostPath in; the pod itself asks for no more.
    labels = emit(site, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    assert "hostPath" in comment(
        emit_kubernetes(policy, site, PARTS), "authz-server.yaml"
    )


def test_in_the_upstreams_pods_the_server_comes_by_a_component(
    policy: AccessPolicy, plain: Site, applied: Applied
) -> None:
    site = replace(plain, server=Server(shape=Shape.SIDECAR))

    manifests = emit_kubernetes(policy, site, PARTS)

    own = [item for item in applied(manifests) if item["kind"] != "NetworkPolicy"]
    assert {(item["kind"], item["metadata"]["namespace"]) for item in own} == {
        ("ConfigMap", "data"),
        ("ConfigMap", "inference"),
    }
    [component] = [item for item in manifests if item.name.startswith("sidecar/")]
    content = yaml.safe_load(component.text)
    assert content["kind"] == "Component"
    assert [item["target"] for item in content["patches"]] == [
        {
            "kind": "Deployment|StatefulSet|DaemonSet",
            "namespace": namespace,
            "labelSelector": f"app={app}",
        }
        for namespace, app in (("data", "minio"), ("inference", "triton"))
    ]
    for item in content["patches"]:
        pod = yaml.safe_load(item["patch"])["spec"]["template"]["spec"]
        [container] = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        # Envoy may be any user, and opens the socket by its group.
        assert pod["securityContext"]["supplementalGroups"] == [65532]
        assert container["securityContext"]["runAsGroup"] == 65532


@pytest.mark.parametrize("shape", Shape)
def test_the_server_accepts_the_configuration_of_each_shape(
    emit: Callable[..., Mapping[str, Any]], plain: Site, shape: Shape, tmp_path: Path
) -> None:
    site = replace(plain, server=Server(shape=shape), spire=Spire())
    path = tmp_path / "config.yaml"
    path.write_text(emit(site, "ConfigMap")["data"]["config.yaml"])

    config = load_config(path, {}, {})

    assert config.identity.workload_api == f"unix://{Spire().agent_socket}"
    assert config.listen.address.startswith(
        "tcp://" if shape is Shape.DEPLOYMENT else "unix://"
    )


def test_bundles_come_from_spire_where_it_is(
    emit: Callable[..., Mapping[str, Any]], plain: Site
) -> None:
    site = replace(plain, spire=Spire(agent_socket="/spiffe/agent.sock"))

    pod = emit(site, "Deployment")["spec"]["template"]["spec"]

    assert {
        "name": "authz-server-spire",
        "csi": {"driver": "csi.spiffe.io", "readOnly": True},
    } in pod["volumes"]
    assert {
        "name": "authz-server-spire",
        "mountPath": "/spiffe",
        "readOnly": True,
    } in pod["containers"][0]["volumeMounts"]
