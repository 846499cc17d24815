"""`plan` and `apply` against the real kube-apiserver, beside kubectl and its users."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from judges import Object
from kube_api import KubeApi, running_kube_api

from authz_server.cli import apply, emit, plan
from authz_server.cli.plan import Wanted, planned
from authz_server.cli.source import load_source
from authz_server.cluster.applying import apply_plan
from authz_server.cluster.client import connect
from authz_server.cluster.kinds import NEVER_DELETED, ORDER
from authz_server.cluster.steps import Step
from authz_server.errors import SetupError

pytestmark = pytest.mark.go

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "examples" / "plant-7.yaml").read_text("utf-8")
NAMESPACES = ("inference", "data", "line1", "line2", "planning", "release")
PLANNERS_GRANT = "    - {role: planner, to: [planning], on: [triton]}\n"
USERS = {"nobody": ("nobodies",), "deployer": ("deployers",)}
TARGETS = ("kubernetes", "istio")


class World:
    """A policy, with names and namespaces of its own, so that tests don't meet.

    Attributes:
        api: the server, as its administrator.
    """

    def __init__(self, api: KubeApi, folder: Path, name: str) -> None:
        self.api = api
        self.name = name
        self.folder = folder
        text = re.sub(
            rf"(namespace: |/ns/)({'|'.join(NAMESPACES)})\b", rf"\1{name}-\2", EXAMPLE
        )
        self.policy = folder / "policy.yaml"
        self.policy.write_text(text.replace("name: plant-7", f"name: {name}"))
        self.site = folder / "site.yaml"
        self.site.write_text(
            "{apiVersion: authz.edge/v1, kind: Site, metadata: {name: s}, spec: "
            f"{{mesh: sidecar, server: {{namespace: {name}-authz}}}}}}"
        )
        api.namespaces(*(f"{name}-{namespace}" for namespace in NAMESPACES))

    def run(
        self, command: Any, *argv: str | Path, targets: tuple[str, ...] = TARGETS
    ) -> int:
        args = self.arguments(command, *argv, targets=targets)
        return int(args.run(args))

    def arguments(
        self, command: Any, *argv: str | Path, targets: tuple[str, ...] = TARGETS
    ) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        command.add_parser(parser.add_subparsers())
        name = command.__name__.rpartition(".")[2]
        given: list[str | Path] = ["--policy", self.policy, "--site", self.site]
        if command is not emit:
            given += ["--kubeconfig", self.api.kubeconfig]
        return parser.parse_args([name, *targets, *map(str, [*argv, *given])])

    def as_user(self, user: str) -> World:
        """The same world, and what is there stays: only who asks is another."""
        other = object.__new__(World)
        other.__dict__ |= {**self.__dict__, "api": self.api.as_user(user)}
        return other

    def without_planners(self) -> None:
        text = self.policy.read_text()
        assert PLANNERS_GRANT in text
        self.policy.write_text(text.replace(PLANNERS_GRANT, ""))

    def emitted(self) -> list[Path]:
        out = self.folder / "out"
        self.run(emit, "--out", out)
        return [out / target for target in TARGETS]

    def objects(self) -> dict[str, Object]:
        """All objects of the policy, by kind and name; with their owners."""
        kinds = ",".join(self.kinds())
        how = ("--all-namespaces", "--output=json", "--show-managed-fields")
        said = self.kubectl("get", kinds, self.selector, *how)
        found: dict[str, Object] = {}
        for item in json.loads(said)["items"]:
            meta = item["metadata"]
            for entry in meta["managedFields"]:
                del entry["time"]
            found[f"{item['kind']} {meta.get('namespace', '')}/{meta['name']}"] = item
        return found

    @property
    def selector(self) -> str:
        return f"--selector=app.kubernetes.io/part-of={self.name}"

    def kinds(self, *without: str) -> list[str]:
        return [
            f"{kind}.{api_version.partition('/')[0]}" if "/" in api_version else kind
            for api_version, kind in ORDER
            if "cilium" not in api_version and "spiffe" not in api_version
            if kind not in without
        ]

    def versions(self) -> dict[str, str]:
        return {
            key: item["metadata"]["resourceVersion"]
            for key, item in self.objects().items()
        }

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        said = self.api.kubectl(*arguments, input=text)
        assert said.returncode == 0, said.stderr
        return said.stdout

    def delete_all(self) -> None:
        # A namespace would stay Terminating: nothing here empties it.
        kinds = ",".join(self.kinds(*NEVER_DELETED))
        self.kubectl("delete", kinds, "--all-namespaces", self.selector)


Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    with running_kube_api(tmp_path_factory.mktemp("kube"), USERS) as found:
        found.apply_crds("istio")
        yield found


@pytest.fixture
def world(api: KubeApi, tmp_path: Path) -> Worlds:
    return lambda name: World(api, tmp_path, name)


def of_server(item: Object) -> Object:
    """What is the object's own, and who owns which of its fields."""
    gone = ("uid", "resourceVersion", "creationTimestamp", "generation")
    meta = {key: value for key, value in item["metadata"].items() if key not in gone}
    found = {**item, "metadata": meta, "status": None}
    if item["kind"] == "Service":  # whose addresses the server chooses
        found["spec"] = {**item["spec"], "clusterIP": "", "clusterIPs": []}
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_applied_twice_nothing_changes_and_kubectl_sees_no_difference(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("twice")
    assert plant.run(plan) == 1
    planned_first = lines(capsys)
    assert plant.run(apply) == 0
    assert planned_first[:-1] == lines(capsys)
    first = plant.versions()
    assert len(first) == len(planned_first) - 1

    assert plant.run(apply) == 0
    assert not lines(capsys)
    assert plant.versions() == first
    assert plant.run(plan) == 0
    assert lines(capsys) == [
        f"0 to create, 0 to change, 0 to delete, {len(first)} as they should be"
    ]
    for folder in plant.emitted():
        assert plant.api.diff(folder, manager="authz-server") == ""


def test_kubectl_makes_the_same_objects_of_the_emitted_folders(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("same")
    plant.run(apply)
    ours = {key: of_server(item) for key, item in plant.objects().items()}
    plant.delete_all()

    plant.api.apply(*plant.emitted(), manager="authz-server")

    assert {key: of_server(item) for key, item in plant.objects().items()} == ours
    capsys.readouterr()
    assert plant.run(plan) == 0, lines(capsys)


def test_after_a_grant_is_taken_away_exactly_its_objects_are_pruned(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("pruned")
    plant.run(apply)
    before = plant.objects()
    foreign = foreign_objects(plant, before)
    for item in foreign:
        plant.api.apply(item)
    plant.without_planners()
    capsys.readouterr()

    assert plant.run(plan) == 1
    printed = lines(capsys)
    deleted = [line.split()[1:] for line in printed if line.startswith("delete")]
    gone = {" ".join(words) for words in deleted}
    assert gone == {
        "NetworkPolicy pruned-inference/triton-from-planning",
        "NetworkPolicy pruned-planning/planning-to-triton",
    }
    # The policy's own text is in a ConfigMap: the line that is gone is shown.
    assert f"  -{PLANNERS_GRANT}".strip() in [line.strip() for line in printed]

    assert plant.run(apply) == 0
    assert before.keys() <= plant.objects().keys()
    assert plant.run(apply, "--prune") == 0
    assert before.keys() - plant.objects().keys() == gone
    assert all(plant.api.objects(item) for item in foreign)
    assert plant.run(plan) == 0


def foreign_objects(plant: World, ours: dict[str, Object]) -> list[Object]:
    """Objects that look like ours, and are somebody else's."""
    [like] = [item for key, item in ours.items() if "triton-from-planning" in key]
    assert like["metadata"]["labels"]["app.kubernetes.io/part-of"] == plant.name

    def named(name: str, namespace: str, labels: dict[str, str]) -> Object:
        meta = {"name": name, "namespace": f"{plant.name}-{namespace}"}
        meta |= {"labels": labels}  # type: ignore[dict-item]
        head = {key: like[key] for key in ("apiVersion", "kind", "spec")}
        return {**head, "metadata": meta}

    name = like["metadata"]["name"]
    by_us = {"app.kubernetes.io/managed-by": "authz-server"}
    return [
        named(name, "data", {}),
        named(name, "line1", {"app.kubernetes.io/part-of": plant.name}),
        named(name, "line2", {**by_us, "app.kubernetes.io/part-of": "other"}),
    ]


def test_what_another_manager_has_set_is_named_and_taken_by_force(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("conflict")
    plant.run(apply)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "authz-server", "namespace": "conflict-authz"},
        "data": {"config.yaml": "theirs"},
    }
    how = ("--server-side", "--force-conflicts", "--field-manager=their-operator")
    plant.kubectl("apply", *how, "--filename=-", text=json.dumps(config_map))
    before = plant.versions()
    capsys.readouterr()

    assert plant.run(plan) == 1
    printed = lines(capsys)
    assert "change  ConfigMap conflict-authz/authz-server" in printed
    said = 'conflict: .data.config.yaml set by "their-operator"'
    assert said in [line.strip() for line in printed]
    with pytest.raises(SetupError, match="nothing was applied") as caught:
        plant.run(apply)
    assert 'authz-server: .data.config.yaml set by "their-operator"' in str(
        caught.value
    )
    assert plant.versions() == before

    assert plant.run(apply, "--force-conflicts") == 0
    assert plant.run(plan) == 0


def test_what_somebody_edits_is_shown_and_mended(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("drift")
    plant.run(apply)
    name = ("networkpolicy", "triton-from-factory-floor", "--namespace=drift-inference")
    selector = "/spec/ingress/0/from/0/podSelector/matchLabels/app"
    change = [{"op": "replace", "path": selector, "value": "intruder"}]
    plant.kubectl("patch", "--type=json", f"--patch={json.dumps(change)}", *name)
    capsys.readouterr()

    assert plant.run(plan) == 1
    printed = [line.strip() for line in lines(capsys)]
    assert "change  NetworkPolicy drift-inference/triton-from-factory-floor" in printed
    place = "spec.ingress[0].from[0].podSelector.matchLabels.app"
    assert f'{place}: "intruder" → "camera"' in printed
    assert 'conflict: .spec.ingress set by "kubectl-patch"' in printed
    assert plant.run(apply, "--force-conflicts") == 0
    assert plant.run(plan) == 0


def test_what_somebody_takes_away_comes_back_without_force(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("taken")
    plant.run(apply)
    label = "app.kubernetes.io/part-of"
    where = ("networkpolicy", "default-deny", "--namespace=taken-line1")
    plant.kubectl("label", *where, f"{label}-")
    plant.kubectl("delete", "deployment", "authz-server", "--namespace=taken-authz")
    capsys.readouterr()

    assert plant.run(plan) == 1
    printed = [line.strip() for line in lines(capsys)]
    assert f'metadata.labels["{label}"]: (none) → "taken"' in printed
    assert "create  Deployment taken-authz/authz-server" in printed
    assert plant.run(apply) == 0
    assert plant.run(plan) == 0


def test_an_object_that_is_somebody_elses_is_not_taken_over_unasked(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("foreign")
    plant.api.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "default-deny", "namespace": "foreign-line1"},
            "spec": {"podSelector": {}},
        }
    )

    with pytest.raises(SetupError, match="default-deny: the object is not one that"):
        plant.run(apply)
    assert not plant.objects()
    assert plant.run(apply, "--force-conflicts") == 0
    capsys.readouterr()


def test_two_policies_do_not_take_objects_from_each_other(world: Worlds) -> None:
    first = world("first")
    first.run(apply)
    text = first.policy.read_text().replace("name: first", "name: second")
    first.policy.write_text(text)

    with pytest.raises(SetupError, match="the object is part of the policy first"):
        first.run(apply, "--prune")


def test_a_dry_run_changes_nothing(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("dry")

    assert plant.run(apply, "--dry-run") == 0
    assert not plant.objects()
    plant.run(apply)
    before = plant.versions()
    plant.without_planners()
    assert plant.run(apply, "--dry-run", "--prune") == 0
    assert plant.versions() == before
    assert "nothing was changed: this was a dry run" in capsys.readouterr().err


def test_a_namespace_that_is_not_there_is_named(world: Worlds) -> None:
    plant = world("missing")
    plant.policy.write_text(
        plant.policy.read_text().replace("missing-line1", "nowhere")
    )

    with pytest.raises(SetupError, match="kubectl create namespace nowhere"):
        plant.run(plan)
    assert not plant.objects()


def test_what_the_server_would_refuse_is_named_before_anything_is_applied(
    world: Worlds,
) -> None:
    plant = world("refused")
    plant.run(apply)
    # A Deployment's selector can't be changed; one made by hand has another.
    plant.kubectl("delete", "deployment", "authz-server", "--namespace=refused-authz")
    [made] = [
        item
        for item in yaml.safe_load_all(
            (plant.emitted()[0] / "authz-server.yaml").read_text()
        )
        if item["kind"] == "Deployment"
    ]
    made["spec"]["selector"]["matchLabels"] = {"other": "label"}
    made["spec"]["template"]["metadata"]["labels"] = {"other": "label"}
    plant.api.apply(made)
    plant.without_planners()
    before = plant.versions()

    with pytest.raises(SetupError) as caught:
        plant.run(apply, "--force-conflicts")
    assert "Deployment refused-authz/authz-server: " in str(caught.value)
    assert "field is immutable" in str(caught.value)
    assert plant.versions() == before


def test_only_what_was_looked_at_is_deleted(world: Worlds) -> None:
    plant = world("raced")
    plant.run(apply)
    plant.without_planners()
    args = plant.arguments(apply)
    done: list[Step] = []
    with connect(None, plant.api.kubeconfig) as cluster:
        found = planned(cluster, Wanted.of(load_source(args, TARGETS), TARGETS))
        where = ("--namespace=raced-planning", "--all", "touched=yes")
        plant.kubectl("annotate", "networkpolicy", *where)
        with pytest.raises(SetupError, match="was changed since the plan was made"):
            apply_plan(
                cluster, found, prune=True, force=False, dry_run=False, done=done.append
            )
    assert done
    assert plant.run(apply, "--prune") == 0
    assert plant.run(plan) == 0


def test_rights_that_are_missing_are_named_and_those_of_the_guide_suffice(
    world: Worlds,
) -> None:
    plant = world("rights")
    with pytest.raises(SetupError) as caught:
        plant.as_user("nobody").run(plan)
    said = str(caught.value)
    assert "nobody may not list namespaces" in said
    assert '{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]}' in said

    guide = (ROOT / "docs" / "apply.md").read_text("utf-8")
    [role] = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", guide, re.DOTALL)
    plant.api.apply(role)
    name = yaml.safe_load(role)["metadata"]["name"]
    how = (f"--clusterrole={name}", "--user=deployer")
    plant.kubectl("create", "clusterrolebinding", "deployers", *how)
    deployer = plant.as_user("deployer")

    assert deployer.run(apply) == 0
    plant.without_planners()
    assert deployer.run(apply, "--prune") == 0
    assert deployer.run(plan) == 0


def test_a_failure_in_the_midst_says_what_was_done_and_is_gone_on_from(
    world: Worlds, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = world("midst")
    rule = ("--verb=*", "--resource=networkpolicies.networking.k8s.io,namespaces")
    plant.kubectl("create", "clusterrole", "fences", *rule)
    plant.kubectl(
        *("create", "clusterrolebinding", "fences"),
        "--clusterrole=fences",
        "--user=nobody",
    )
    args = plant.arguments(apply)
    done: list[Step] = []
    with (
        connect(None, plant.api.kubeconfig) as administrator,
        connect(None, plant.as_user("nobody").api.kubeconfig) as nobody,
    ):
        wanted = Wanted.of(load_source(args, TARGETS), TARGETS)
        found = planned(administrator, wanted)
        with pytest.raises(SetupError) as caught:
            apply_plan(
                nobody, found, prune=False, force=False, dry_run=False, done=done.append
            )
    assert {step.key.kind for step in done} == {"Namespace", "NetworkPolicy"}
    assert "nobody may not get" in str(caught.value) or "patch" in str(caught.value)
    assert f"{len(done)} of {len(found.steps)} steps were done" in str(caught.value)
    assert len(plant.objects()) == len(done)

    capsys.readouterr()
    assert plant.run(apply) == 0
    assert len(lines(capsys)) == len(found.steps) - len(done)
    assert plant.run(plan) == 0


def test_without_istio_the_mend_is_named_and_the_rest_can_be_applied(
    tmp_path: Path,
) -> None:
    with running_kube_api(tmp_path) as bare:
        plant = World(bare, tmp_path, "bare")
        with pytest.raises(SetupError) as caught:
            plant.run(apply)
        said = str(caught.value)
        assert "the cluster has no PeerAuthentication (security.istio.io/v1)" in said
        assert "install the CRDs of Istio (API group security.istio.io) first" in said
        plant.site.write_text(plant.site.read_text().replace("mesh: sidecar, ", ""))

        assert plant.run(apply, "--prune", targets=("kubernetes",)) == 0
        assert plant.run(plan, targets=("kubernetes",)) == 0
