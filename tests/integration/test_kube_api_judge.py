"""The real kube-apiserver judges what is emitted, once it is shown to be awake.

CRDs of Istio, SPIRE's controller manager and Cilium come with their CEL rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from judges import Object, read
from kube_api import KubeApi, running_kube_api
from kubernetes.client import ApiClient, CoreV1Api, VersionApi
from kubernetes.client.exceptions import ApiException
from parts import eventually
from urllib3.exceptions import MaxRetryError

from authz_server.demo.pki import DevelopmentCa

pytestmark = pytest.mark.go

ROOT = Path(__file__).parents[2]

TARGETS = sorted(
    file.parent.name for file in ROOT.glob("manifests/*/kustomization.yaml")
)
NAMESPACE = "judged"


def with_spec(api_version: str, kind: str, spec: Object) -> Object:
    metadata = {"name": "judged"}
    if not kind.startswith("Cluster"):
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def network_policy(spec: Object) -> Object:
    return with_spec("networking.k8s.io/v1", "NetworkPolicy", spec)


def from_everyone_to(port: Object) -> Object:
    return network_policy({"podSelector": {}, "ingress": [{"ports": [port]}]})


GOOD_RULE = {
    "from": [{"podSelector": {"matchLabels": {"app": "camera"}}}],
    "ports": [{"protocol": "TCP", "port": 8000, "endPort": 8001}],
}
GOOD_POLICY = network_policy(
    {
        "podSelector": {"matchLabels": {"app": "triton"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [GOOD_RULE],
    }
)


@pytest.fixture(scope="module")
def api(kube_api: KubeApi) -> KubeApi:
    kube_api.apply_crds("istio", "spire", "cilium")
    kube_api.namespaces(NAMESPACE)
    return kube_api


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """An API server of its own, as the emitted objects' names are given."""
    with running_kube_api(tmp_path_factory.mktemp("plant")) as api:
        api.apply_crds("istio", "spire", "cilium")
        objects = [item for target in TARGETS for item in emitted(target)]
        made = {item["metadata"]["name"] for item in objects if is_namespace(item)}
        used = {item["metadata"].get("namespace") for item in objects}
        api.namespaces(*sorted(used - made - {None}))
        # The server's own, as every other target's objects may lie in it.
        api.apply(*filter(is_namespace, objects))
        yield api


def emitted(target: str) -> list[Object]:
    return [item for file in emitted_files(target) for item in read(file)]


def emitted_text(target: str) -> str:
    return "\n---\n".join(file.read_text("utf-8") for file in emitted_files(target))


def emitted_files(target: str) -> list[Path]:
    folder = ROOT / "manifests" / target
    (kustomization,) = read(folder / "kustomization.yaml")
    return [folder / name for name in kustomization["resources"]]


def is_namespace(item: Object) -> bool:
    return bool(item["kind"] == "Namespace")


def revisions(api: KubeApi, target: str) -> dict[str, str]:
    """Return each object's resourceVersion, which any change of it changes."""
    found = {}
    for item in api.objects(emitted_text(target)):
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
        found["/".join(key)] = metadata["resourceVersion"]
    return found


# The judge is awake


def test_a_right_network_policy_is_accepted_and_stays_as_it_was_written(
    api: KubeApi,
) -> None:
    assert api.apply(GOOD_POLICY) == []
    assert api.diff(GOOD_POLICY) == ""
    (item,) = api.objects(GOOD_POLICY)
    assert item["spec"] == GOOD_POLICY["spec"]


def test_a_change_shows_as_a_difference(api: KubeApi) -> None:
    api.apply(GOOD_POLICY)
    changed = deepcopy(GOOD_POLICY)
    changed["spec"]["podSelector"]["matchLabels"]["app"] = "other"
    assert "+      app: other" in api.diff(changed)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            from_everyone_to({"protocol": "TCP", "port": 8001, "endPort": 8000}),
            "endPort: Invalid value: 8001: must be greater than or equal to `port`",
        ),
        (
            from_everyone_to({"protocol": "HTTP", "port": 80}),
            'protocol: Unsupported value: "HTTP"',
        ),
        (
            network_policy({"podSelector": {}, "ingress": [{"form": []}]}),
            "field not declared in schema",
        ),
        (
            network_policy({"podSelector": {}, "ingress": [{"from": [{}]}]}),
            "from[0]: Required value: must specify a peer",
        ),
        (
            network_policy({"podSelector": {}, "policyTypes": ["ingress"]}),
            'policyTypes[0]: Unsupported value: "ingress"',
        ),
    ],
    ids=["endPort", "protocol", "unknown field", "empty peer", "policyTypes"],
)
def test_a_wrong_network_policy_is_refused(
    api: KubeApi, wrong: Object, why: str
) -> None:
    assert why in api.refusal(wrong)


def test_an_object_of_a_missing_namespace_is_refused(api: KubeApi) -> None:
    lost = deepcopy(GOOD_POLICY)
    lost["metadata"]["namespace"] = "nowhere"
    assert 'namespaces "nowhere" not found' in api.refusal(lost)


SELECTED = {"selector": {"matchLabels": {"app": "triton"}}}
TARGETED = {"targetRefs": [{"kind": "Service", "name": "triton"}]}
FROM_BOTH = {"principals": ["factory.example/camera"], "serviceAccounts": ["camera"]}
FEDERATED = {
    "trustDomain": "supplier.example",
    "bundleEndpointURL": "https://supplier.example:8443",
    "bundleEndpointProfile": {"type": "https_wbe"},
}
TO_PORT = {"toPorts": [{"ports": [{"port": "8000", "protocol": "HTTP"}]}]}
TO_NOTHING = {"toEntities": ["kube-api"]}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            with_spec(
                "security.istio.io/v1", "AuthorizationPolicy", {**SELECTED, **TARGETED}
            ),
            "only one of targetRefs or selector can be set",
        ),
        (
            with_spec(
                "security.istio.io/v1",
                "AuthorizationPolicy",
                {"rules": [{"from": [{"source": FROM_BOTH}]}]},
            ),
            "Cannot set serviceAccounts with namespaces or principals",
        ),
        (
            with_spec(
                "security.istio.io/v1",
                "PeerAuthentication",
                {"portLevelMtls": {"8000": {"mode": "STRICT"}}},
            ),
            "portLevelMtls requires selector",
        ),
        (
            with_spec(
                "spire.spiffe.io/v1alpha1",
                "ClusterSPIFFEID",
                {"spiffeIdTemplate": "spiffe://factory.example/camera"},
            ),
            "field not declared in schema",
        ),
        (
            with_spec(
                "spire.spiffe.io/v1alpha1",
                "ClusterStaticEntry",
                {"spiffeID": "spiffe://factory.example/camera", "selectors": ["a:b"]},
            ),
            "spec.parentID: Required value",
        ),
        (
            with_spec(
                "spire.spiffe.io/v1alpha1", "ClusterFederatedTrustDomain", FEDERATED
            ),
            'Unsupported value: "https_wbe"',
        ),
        (
            with_spec(
                "cilium.io/v2",
                "CiliumNetworkPolicy",
                {"endpointSelector": {}, "ingress": [TO_PORT]},
            ),
            'Unsupported value: "HTTP"',
        ),
        (
            with_spec(
                "cilium.io/v2",
                "CiliumNetworkPolicy",
                {"endpointSelector": {}, "egress": [TO_NOTHING]},
            ),
            'Unsupported value: "kube-api"',
        ),
    ],
    ids=[
        "Istio: selector and targetRefs",
        "Istio: principals and serviceAccounts",
        "Istio: portLevelMtls without selector",
        "SPIRE: a misspelt field",
        "SPIRE: no parent",
        "SPIRE: an unknown profile",
        "Cilium: an unknown protocol",
        "Cilium: an unknown entity",
    ],
)
def test_a_wrong_custom_resource_is_refused(
    api: KubeApi, wrong: Object, why: str
) -> None:
    assert why in api.refusal(wrong)


def test_a_client_in_python_checks_the_servers_certificate(
    api: KubeApi, tmp_path: Path
) -> None:
    with api.client() as client:
        version = VersionApi(client).get_code().git_version
    assert f"KUBERNETES_VERSION := {version[1:]}\n" in (ROOT / "Makefile").read_text(
        "utf-8"
    )
    other = tmp_path / "other.pem"
    other.write_bytes(DevelopmentCa("kubernetes.test").bundle_pem)
    with (
        replace(api, ca=other).client() as deceived,
        pytest.raises(MaxRetryError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        VersionApi(deceived).get_code()


def test_users_may_do_what_rbac_says(tmp_path: Path) -> None:
    with running_kube_api(tmp_path, {"auditor": ["auditors"]}) as api:
        auditor = api.as_user("auditor")
        with auditor.client() as client, pytest.raises(ApiException) as refused:
            CoreV1Api(client).list_namespace()
        assert refused.value.status == 403
        # Not the role `view`, which is empty, as a controller would fill it.
        granted(api, "clusterrole", "list", "--verb=list", "--resource=namespaces")
        granted(
            api, "clusterrolebinding", "a", "--clusterrole=list", "--group=auditors"
        )
        granted(api, "serviceaccount", "server")
        with auditor.client() as client:
            assert eventually(lambda: "default" in listed(client))
        assert "forbidden" in auditor.refusal(
            {**GOOD_POLICY, "metadata": {"name": "a"}}
        )
        server = api.as_service_account("default", "server")
        who = server.kubectl("auth", "whoami", "--output=yaml").stdout
        user = yaml.safe_load(who)["status"]["userInfo"]
        assert user["username"] == "system:serviceaccount:default:server"
    assert list(tmp_path.iterdir()) == []


def granted(api: KubeApi, *what: str) -> None:
    said = api.kubectl("create", *what)
    assert said.returncode == 0, said.stderr


def listed(client: ApiClient) -> set[str]:
    """Return the namespaces' names; none if it may not, as a grant takes a moment."""
    try:
        found = CoreV1Api(client).list_namespace()
    except ApiException as error:
        assert error.status == 403  # noqa: PT017 - else it would be raised
        return set()
    return {str(item.metadata.name) for item in found.items if item.metadata}


# What is emitted


@pytest.mark.parametrize("target", TARGETS)
def test_emitted_objects_are_accepted_twice_and_the_second_time_changes_nothing(
    plant: KubeApi, target: str
) -> None:
    text = emitted_text(target)
    assert plant.apply(text) == []
    first = revisions(plant, target)
    assert len(first) == len(emitted(target)) > 0
    assert plant.apply(text) == []
    assert revisions(plant, target) == first
    assert plant.diff(text) == ""


@pytest.mark.parametrize("target", TARGETS)
def test_kustomize_makes_the_same_objects(plant: KubeApi, target: str) -> None:
    plant.apply(emitted_text(target))
    first = revisions(plant, target)
    folder = ROOT / "manifests" / target
    assert plant.diff(folder) == ""
    assert plant.apply(folder) == []
    assert revisions(plant, target) == first


@pytest.mark.parametrize("target", TARGETS)
def test_apply_as_the_kustomization_says_works_and_then_changes_nothing(
    plant: KubeApi, target: str
) -> None:
    """Not by kubectl's words: it calls a PodDisruptionBudget configured each time."""
    folder = ROOT / "manifests" / target
    said = plant.kubectl("apply", "-k", folder)
    assert said.returncode == 0, said.stderr
    first = revisions(plant, target)
    said = plant.kubectl("apply", "-k", folder)
    assert (said.returncode, said.stderr) == (0, "")
    assert revisions(plant, target) == first


def test_the_servers_pod_is_admitted_to_its_restricted_namespace(
    plant: KubeApi,
) -> None:
    """The Deployment alone is no proof: PodSecurity refuses pods, not templates."""
    (deployment,) = (
        item for item in emitted("kubernetes") if item["kind"] == "Deployment"
    )
    template = deployment["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "judged",
            "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
        },
        "spec": deepcopy(template["spec"]),
    }
    assert plant.apply(pod) == []
    pod["metadata"]["name"] = "privileged"
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert 'violates PodSecurity "restricted:latest"' in plant.refusal(pod)
