"""The controller with the account that is emitted for it, on a real API server."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api import KubeApi, running_kube_api
from parts import REPOSITORY, eventually

from authz_server.cli import main
from authz_server.cluster.answers import RefusedError
from authz_server.cluster.client import connect

pytestmark = pytest.mark.go

EXAMPLE = REPOSITORY / "examples" / "plant-7.yaml"
SITE = REPOSITORY / "examples" / "plant-7-site.yaml"
OWN = "authz-system"
NAMESPACES = ("inference", "data", "line1", "line2", "planning", "release")
OTHERS = ("spire-server", "monitoring")
WAIT_S = 40.0


def quoted(text: str) -> str:
    """Return a policy as kubectl must read it: YAML 1.1 takes a bare `on` for true."""
    return re.sub(r"\bon: ", '"on": ', text)


POLICY = quoted(EXAMPLE.read_text())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """An API server with all CRDs, and the controller's own objects."""
    folder = tmp_path_factory.mktemp("controller")
    emitted = folder / "emitted"
    arguments = ("--policy", EXAMPLE, "--site", SITE, "--out", emitted)
    assert main(["emit", "controller", *map(str, arguments)]) == 0
    with running_kube_api(folder) as api:
        api.apply_crds("istio", "spire")
        api.namespaces(OWN, *NAMESPACES, *OTHERS)
        api.apply(emitted / "controller")
        crd = "crd/accesspolicies.authz.edge"
        api.kubectl("wait", "--for=condition=Established", crd)
        yield api


class Running:
    """A controller process, on the account that was emitted for it."""

    def __init__(self, api: KubeApi, log: Path, resync_s: float = 300) -> None:
        account = api.as_service_account(OWN, "authz-server-controller")
        self.log = log
        self._file = log.open("w")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "authz_server", "controller"),
                *("kubernetes", "istio", "spire", "--site", str(SITE)),
                *("--namespace", OWN, "--kubeconfig", str(account.kubeconfig)),
                *("--resync", str(resync_s)),
            ],
            stderr=self._file,
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=WAIT_S)
        finally:
            self.process.kill()
            self._file.close()


@contextlib.contextmanager
def controller(api: KubeApi, folder: Path, resync_s: float = 300) -> Iterator[Running]:
    running = Running(api, folder / "log", resync_s)
    try:
        yield running
    finally:
        assert running.end() == 0, running.log.read_text()


@pytest.fixture
def policy(api: KubeApi) -> Iterator[str]:
    """The example's text; afterwards nothing of it is left."""
    yield POLICY
    labels = "app.kubernetes.io/part-of=plant-7"
    kinds = "networkpolicies,authorizationpolicies,peerauthentications,envoyfilters"
    more = "sidecars,configmaps,deployments,services,serviceaccounts,pods,pdb"
    api.kubectl("delete", "-n", OWN, "accesspolicies", "--all")
    api.kubectl("delete", f"{kinds},{more}", "-A", "-l", labels)
    api.kubectl("delete", "clusterspiffeids,clusterstaticentries", "-l", labels)
    api.kubectl("delete", "clusterfederatedtrustdomains", "-l", labels)
    api.kubectl("delete", "lease,events", "-n", OWN, "--all")


def write(api: KubeApi, text: str, namespace: str = OWN) -> None:
    said = api.kubectl("apply", "-n", namespace, "-f", "-", input=text)
    assert said.returncode == 0, said.stderr


def condition(api: KubeApi, name: str = "Ready") -> dict[str, Any]:
    said = api.kubectl("get", "accesspolicy", "plant-7", "-n", OWN, "-o", "json")
    item = json.loads(said.stdout)
    found = {
        entry["type"]: entry
        for entry in item.get("status", {}).get("conditions", ())
        if entry["observedGeneration"] == item["metadata"]["generation"]
    }
    return found.get(name, {})


def becomes(api: KubeApi, reason: str, name: str = "Ready") -> bool:
    return eventually(lambda: condition(api, name).get("reason") == reason, WAIT_S)


def events(api: KubeApi) -> set[tuple[str, str]]:
    """Type and reason of what was told about the policies, of nothing else.

    The API server tells of its own business in the same namespace: of a
    Service's address that it repairs, for instance.
    """
    about = "involvedObject.kind=AccessPolicy"
    said = api.kubectl(
        "get", "events", "-n", OWN, "--field-selector", about, "-o", "json"
    )
    items = json.loads(said.stdout)["items"]
    return {(item["type"], item["reason"]) for item in items}


def names(api: KubeApi, kind: str) -> set[str]:
    said = api.kubectl("get", kind, "-A", "-o", "json")
    return {
        f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
        for item in json.loads(said.stdout)["items"]
    }


def test_a_policy_becomes_what_emit_writes_for_it(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    with controller(api, tmp_path):
        write(api, policy)
        assert becomes(api, "Applied"), condition(api)

    out = tmp_path / "out"
    arguments = ("--policy", EXAMPLE, "--site", SITE, "--out", out)
    assert main(["emit", "kubernetes", "istio", "spire", *map(str, arguments)]) == 0
    expected = {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
        for path in out.rglob("*.yaml")
        for item in yaml.safe_load_all(path.read_text())
        if item.get("metadata") and item["kind"] != "Kustomization"
    }
    for kind, namespace, name in expected:
        place = ("-n", namespace) if namespace else ()
        assert api.kubectl("get", kind, name, *place).returncode == 0, (kind, name)
    assert events(api) == {("Normal", "Applied")}
    status = json.loads(
        api.kubectl("get", "accesspolicy", "plant-7", "-n", OWN, "-o", "json").stdout
    )["status"]
    assert status["objects"] == len(expected)


def test_what_is_gone_from_the_policy_goes_and_what_is_others_stays(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    foreign = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: theirs, namespace: inference%s}\n"
        "spec: {podSelector: {}, policyTypes: [Ingress]}\n"
    )
    part = ", labels: {app.kubernetes.io/managed-by: authz-server, %s}"
    write(api, foreign % "", "inference")
    other = part % "app.kubernetes.io/part-of: plant-8"
    write(api, (foreign % other).replace("theirs", "of-plant-8"), "inference")
    try:
        with controller(api, tmp_path):
            write(api, policy)
            assert becomes(api, "Applied"), condition(api)
            before = names(api, "networkpolicies")
            grant = '    - {role: planner, to: [planning], "on": [triton]}\n'
            assert grant in policy
            write(api, policy.replace(grant, ""))
            assert eventually(
                lambda: condition(api).get("observedGeneration") == 2, WAIT_S
            )
            assert becomes(api, "Applied"), condition(api)
            gone = before - names(api, "networkpolicies")
    finally:
        api.kubectl(
            "delete", "networkpolicy", "-n", "inference", "theirs", "of-plant-8"
        )

    assert gone == {"inference/triton-from-planning", "planning/planning-to-triton"}
    assert {"inference/theirs", "inference/of-plant-8"} <= before


def test_an_invalid_policy_changes_nothing_and_says_why(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    with controller(api, tmp_path):
        write(api, policy)
        assert becomes(api, "Applied"), condition(api)
        before = names(api, "networkpolicies")
        # What neither schema nor CEL can see.
        write(api, policy.replace("/datasets/line-images", "/datasets/../etc"))
        assert becomes(api, "Invalid"), condition(api)
        message = condition(api)["message"]

    assert "is not a dataset's path" in message
    assert names(api, "networkpolicies") == before
    assert events(api) == {("Normal", "Applied"), ("Warning", "Invalid")}


def test_deleting_a_policy_takes_no_fence_down(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    with controller(api, tmp_path) as running:
        write(api, policy)
        assert becomes(api, "Applied"), condition(api)
        before = names(api, "networkpolicies")
        api.kubectl("delete", "accesspolicy", "plant-7", "-n", OWN)
        assert eventually(
            lambda: "is gone; what it gave stays" in running.log.read_text(), WAIT_S
        )

    assert names(api, "networkpolicies") == before
    assert "inference/default-deny" in before


def test_what_somebody_changed_is_mended(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    with controller(api, tmp_path, resync_s=3):
        write(api, policy)
        assert becomes(api, "Applied"), condition(api)
        api.kubectl("delete", "networkpolicy", "-n", "inference", "default-deny")
        mended = eventually(
            lambda: "inference/default-deny" in names(api, "networkpolicies"), WAIT_S
        )

    assert mended


def test_what_was_refused_is_tried_again(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    with controller(api, tmp_path):
        write(api, policy.replace("line2", "late"))
        assert becomes(api, "Refused"), condition(api)
        assert "late" in condition(api)["message"]
        # Nothing of the policy itself changes.
        api.namespaces("late")
        assert becomes(api, "Applied"), condition(api)


def test_an_object_of_somebody_else_is_not_taken_over(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    theirs = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: allow-dns, namespace: data}\n"
        "spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}\n"
    )
    write(api, theirs, "data")
    try:
        with controller(api, tmp_path):
            write(api, policy)
            assert becomes(api, "Conflict"), condition(api)
            message = condition(api)["message"]
        assert "NetworkPolicy data/allow-dns" in message
        # Nothing was changed at all.
        assert names(api, "networkpolicies") & {"inference/default-deny"} == set()
    finally:
        api.kubectl("delete", "networkpolicy", "-n", "data", "allow-dns")


def test_pods_are_watched(api: KubeApi, policy: str, tmp_path: Path) -> None:
    def run_pod(namespace: str, name: str, labels: str, more: str = "") -> None:
        write(
            api,
            f"apiVersion: v1\nkind: Pod\n"
            f"metadata: {{name: {name}, namespace: {namespace},"
            f" labels: {{{labels}, app.kubernetes.io/part-of: plant-7}}}}\n"
            f"spec: {{serviceAccountName: {name}{more},"
            f" containers: [{{name: c, image: 'i'}}]}}\n",
            namespace,
        )

    for namespace, name, labels in (
        ("inference", "triton", "app: triton"),
        ("data", "minio", "app: minio"),
        ("line2", "vision", "tier: vision"),
        ("planning", "forecaster", "app: forecaster"),
        ("release", "deployer", "app: deployer"),
    ):
        run_pod(namespace, name, labels)
    with controller(api, tmp_path):
        write(api, policy)
        assert becomes(api, "Missing", "PodsFound"), condition(api, "PodsFound")
        assert condition(api, "PodsFound")["message"] == (
            "group factory-floor: in namespace line1 no pod matches app=camera"
        )
        run_pod("line1", "camera", "app: camera")
        assert becomes(api, "AllFound", "PodsFound"), condition(api, "PodsFound")
        api.kubectl("delete", "pod", "-n", "line1", "camera", "--force")
        run_pod("line1", "camera", "app: camera", ", hostNetwork: true")
        assert becomes(api, "Missing", "PodsFound"), condition(api, "PodsFound")
        message = condition(api, "PodsFound")["message"]

    assert "pod camera is on the host's network" in message


def test_of_two_controllers_one_acts_and_the_other_takes_over(
    api: KubeApi, policy: str, tmp_path: Path
) -> None:
    def holder() -> str:
        said = api.kubectl("get", "lease", "-n", OWN, "-o", "json").stdout
        items = json.loads(said)["items"]
        return str(items[0]["spec"]["holderIdentity"]) if items else ""

    def leads(running: Running) -> bool:
        return "leading as" in running.log.read_text()

    first = Running(api, tmp_path / "first")
    try:
        assert eventually(lambda: leads(first), WAIT_S)
        held_by = holder()
        second = Running(api, tmp_path / "second")
        try:
            write(api, policy)
            assert becomes(api, "Applied"), condition(api)
            assert not leads(second)
            assert holder() == held_by
            # It dies without giving anything back.
            first.end(signal.SIGKILL)
            assert eventually(lambda: leads(second), WAIT_S)
            assert holder() not in {"", held_by}
            write(api, policy.replace("/datasets/line-images", "/datasets/other"))
            assert eventually(
                lambda: condition(api).get("observedGeneration") == 2, WAIT_S
            )
        finally:
            assert second.end() == 0
    finally:
        first.end(signal.SIGKILL)

    # Given back, so that the next one need not wait.
    assert holder() == ""


def test_its_account_may_do_no_more_than_it_must(api: KubeApi) -> None:
    account = api.as_service_account(OWN, "authz-server-controller")

    def may(*what: str) -> bool:
        return account.kubectl("auth", "can-i", *what).stdout.strip() == "yes"

    assert may("create", "networkpolicies", "-n", "inference")
    assert may("patch", "configmaps", "-n", OWN)
    for forbidden in (
        ("get", "secrets", "-n", OWN),
        ("create", "secrets", "-n", OWN),
        ("get", "configmaps", "-n", "inference"),
        ("create", "deployments", "-n", "inference"),
        ("create", "clusterroles"),
        ("bind", "clusterroles"),
        ("delete", "namespaces"),
        ("create", "pods", "-n", OWN),
        ("update", "accesspolicies", "-n", OWN),
        ("list", "accesspolicies", "-n", "inference"),
    ):
        assert not may(*forbidden), forbidden


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("role: inspector,", "role: inspektor,", "names a role that is not in"),
        ("to: [release]", "to: [releese]", "names a group that is not in"),
        ('"on": [triton]', '"on": [tritom]', "names an upstream that is not in"),
        ("federatesWith: [supplier", "federatesWith: [factory", "trustDomain itself"),
        ("kind: triton", "kind: trident", "Unsupported value"),
        ("kind: dataset", "kind: triton", "datasets belong to an upstream of kind"),
        ("      namespace: inference\n", "", "need a namespace"),
        ("name: plant-7", "name: Plant", "metadata.name"),
        ("trustDomain: factory.example", "trustDomain: F", "spec.trustDomain"),
        ("actions: [dataset-read]", "actions: [inference]", "datasets go with"),
        ('versions: ["1", "2"]', 'versions: ["1", "1"]', "Duplicate value"),
        ("models: [demand-forecast]", "models: ['a/b']", "should match"),
        ("federatesWith:", "federatesWiht:", "unknown field"),
        ("users: [{", "wrong: [{", "unknown field"),
    ],
)
def test_the_api_server_refuses_what_its_rules_see(
    api: KubeApi, old: str, new: str, message: str
) -> None:
    assert old in POLICY
    said = api.kubectl(
        *("create", "-n", OWN, "--dry-run=server", "--validate=strict", "-f", "-"),
        input=POLICY.replace(old, new),
    )

    assert said.returncode != 0
    assert message in said.stderr


def test_the_trust_domain_of_a_policy_stays(api: KubeApi, policy: str) -> None:
    write(api, policy)

    said = api.kubectl(
        *("apply", "-n", OWN, "-f", "-"),
        input=policy.replace("trustDomain: factory", "trustDomain: plant"),
    )

    assert said.returncode != 0
    assert "trustDomain can't be changed" in said.stderr


def test_a_status_is_only_written_of_what_was_looked_at(
    api: KubeApi, policy: str
) -> None:
    def read() -> dict[str, Any]:
        said = api.kubectl("get", "accesspolicy", "plant-7", "-n", OWN, "-o", "json")
        item: dict[str, Any] = json.loads(said.stdout)
        return item

    write(api, policy)
    before = read()
    api.kubectl("delete", "-n", OWN, "accesspolicy", "plant-7")
    write(api, policy)
    status = {"observedGeneration": 1, "conditions": []}
    with connect(None, api.kubeconfig) as cluster:
        with pytest.raises(RefusedError) as caught:
            cluster.apply_status(before, status)
        assert caught.value.status == 409
        assert "status" not in read()
        cluster.apply_status(read(), status)

    assert read()["status"] == status


def test_a_bare_on_is_refused_and_not_ignored(api: KubeApi) -> None:
    said = api.kubectl(
        *("create", "-n", OWN, "--dry-run=server", "--validate=strict", "-f", "-"),
        input=EXAMPLE.read_text(),
    )

    assert said.returncode != 0
    assert 'unknown field "spec.grants[0].true"' in said.stderr
