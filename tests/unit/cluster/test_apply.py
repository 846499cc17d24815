"""The commands against the stand-in; `tests/integration/test_apply.py` has the real."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_stand_in import Answer, Asked, StandIn

from authz_server.cli import apply, plan
from authz_server.errors import PolicyError, SetupError

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"
NETWORK_POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies/{}"
SERVER = "/api/v1/namespaces/authz-system"

Run = Callable[..., int]


@pytest.fixture
def run(stand_in: StandIn, kubeconfig: Path) -> Run:
    stand_in.namespaces("inference", "data", "line1", "line2", "planning", "release")

    def run_command(command: Any, *argv: str | Path) -> int:
        parser = argparse.ArgumentParser()
        command.add_parser(parser.add_subparsers())
        name = command.__name__.rpartition(".")[2]
        given = ["--policy", EXAMPLE, "--kubeconfig", kubeconfig]
        args = parser.parse_args([name, "kubernetes", *map(str, [*argv, *given])])
        return int(command.run(args))

    return run_command


def test_a_plan_changes_nothing_and_says_all(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(plan) == 1

    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "create  Namespace authz-system"
    assert "create  Deployment authz-system/authz-server" in printed
    assert printed[-1].endswith("0 to change, 0 to delete, 0 as they should be")
    assert not stand_in.changes()


def test_applied_twice_it_changes_nothing(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(apply) == 0
    assert "create  Deployment authz-system/authz-server\n" in capsys.readouterr().out
    first, changes = dict(stand_in.objects), len(stand_in.changes())

    assert run(apply) == 0
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == "nothing to do: the cluster is as it should be\n"
    assert stand_in.objects == first
    assert len(stand_in.changes()) == changes
    assert run(plan) == 0


def test_fences_are_there_before_the_pods(run: Run, stand_in: StandIn) -> None:
    run(apply)

    paths = [path.split("/")[-2] for path in stand_in.objects]
    last_fence = len(paths) - paths[::-1].index("networkpolicies")
    assert last_fence <= paths.index("deployments")


def test_what_is_left_over_is_said_and_deleted_on_demand(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run(apply)
    path = NETWORK_POLICIES.format("line1", "{}")
    gone = json.loads(json.dumps(stand_in.objects[path.format("default-deny")]))
    gone["metadata"] |= {"name": "gone", "uid": "g"}
    stand_in.objects[path.format("gone")] = gone
    space = stand_in.objects[SERVER]
    old = {**space, "metadata": {**space["metadata"], "name": "old"}}
    stand_in.objects["/api/v1/namespaces/old"] = old
    capsys.readouterr()

    assert run(plan) == 1
    assert "delete  NetworkPolicy line1/gone\n" in capsys.readouterr().out
    assert run(apply) == 0
    assert capsys.readouterr().err == (
        "left over: NetworkPolicy line1/gone; --prune deletes it\n"
        "left over: Namespace old: it may hold what others have put there\n"
    )
    assert run(apply, "--prune", "--dry-run") == 0
    assert path.format("gone") in stand_in.objects
    assert "nothing was changed: this was a dry run\n" in capsys.readouterr().err
    assert run(apply, "--prune") == 0
    assert capsys.readouterr().out == "delete  NetworkPolicy line1/gone\n"
    assert path.format("gone") not in stand_in.objects
    assert run(plan) == 0
    assert "leave   Namespace old: it may hold" in capsys.readouterr().out


def test_a_dry_run_passes_by_what_waits_for_its_namespace(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(stand_in.objects)

    assert run(apply, "--dry-run") == 0
    assert stand_in.objects == before
    printed = capsys.readouterr().out
    assert "create  Namespace authz-system\n" in printed
    assert "Deployment" not in printed


def test_a_namespace_that_is_nobodys_to_make_is_named_once(
    run: Run, stand_in: StandIn
) -> None:
    del stand_in.objects["/api/v1/namespaces/line1"]

    with pytest.raises(SetupError) as caught:
        run(apply)

    [_, line] = str(caught.value).splitlines()
    assert line.startswith("  the namespace line1 isn't there, and is not ours to make")
    assert line.endswith(": kubectl create namespace line1")
    assert not stand_in.changes()


def test_every_object_that_is_refused_is_named_before_anything_changes(
    run: Run, stand_in: StandIn
) -> None:
    def odd(asked: Asked) -> Answer | None:
        if asked.method == "PATCH" and "networkpolicies" in asked.path:
            return 422, {"message": "spec: Invalid"}
        return None

    stand_in.odd = odd

    with pytest.raises(SetupError) as caught:
        run(apply)

    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  NetworkPolicy authz-system/")
    assert lines[1].endswith(": spec: Invalid")
    assert lines[-1].endswith(" more") == (len(lines) == 22)
    assert not stand_in.changes()


def test_rights_that_are_missing_are_said_once(run: Run, stand_in: StandIn) -> None:
    said = 'User "eve" cannot patch resource "networkpolicies" in API group "g"'

    def odd(asked: Asked) -> Answer | None:
        is_it = asked.method == "PATCH" and "networkpolicies" in asked.path
        return (403, {"message": said}) if is_it else None

    stand_in.odd = odd

    with pytest.raises(SetupError, match="eve may not patch networkpolicies") as caught:
        run(plan)
    assert len(str(caught.value).splitlines()) == 2


def test_many_problems_are_cut(run: Run, stand_in: StandIn) -> None:
    stand_in.odd = lambda asked: (
        (422, {"message": "no"}) if asked.method == "PATCH" else None
    )

    with pytest.raises(SetupError) as caught:
        run(plan)
    assert len(str(caught.value).splitlines()) == 22


def test_a_failure_in_the_midst_says_what_was_done_and_is_gone_on_from(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{SERVER}/configmaps/authz-server"

    def odd(asked: Asked) -> Answer | None:
        is_it = asked.method == "PATCH" and asked.path == path
        is_it = is_it and "dryRun" not in asked.query
        return (500, {"message": "boom"}) if is_it else None

    stand_in.odd = odd

    with pytest.raises(SetupError) as caught:
        run(apply)
    done = capsys.readouterr().out.splitlines()
    first, second = str(caught.value).splitlines()
    assert first == "ConfigMap authz-system/authz-server: boom"
    assert second.startswith(f"{len(done)} of ")
    assert second.endswith(
        "steps were done, none after this one was tried; run again to go on"
    )
    assert len(stand_in.changes()) == len(done) + 1

    stand_in.odd = lambda _: None
    assert run(apply) == 0
    assert not set(done) & set(capsys.readouterr().out.splitlines())
    assert run(plan) == 0


def test_what_others_have_set_is_taken_only_by_force(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run(apply)
    path = f"{SERVER}/configmaps/authz-server"
    stand_in.objects[path]["data"] = {"config.yaml": "theirs"}
    conflict = {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "kubectl-edit" using v1',
        "field": ".data.config.yaml",
    }

    def odd(asked: Asked) -> Answer | None:
        is_it = asked.method == "PATCH" and asked.path == path
        if is_it and asked.query["force"] == "false":
            return 409, {"message": "x", "details": {"causes": [conflict]}}
        return None

    stand_in.odd = odd
    capsys.readouterr()
    changes = len(stand_in.changes())

    assert run(plan) == 1
    assert (
        '          conflict: .data.config.yaml set by "kubectl-edit"\n'
        in capsys.readouterr().out
    )
    with pytest.raises(SetupError) as caught:
        run(apply)
    said = '.data.config.yaml set by "kubectl-edit"'
    assert str(caught.value).splitlines() == [
        "nothing was applied, since others have set what would change:",
        f"  ConfigMap authz-system/authz-server: {said}",
        "--force-conflicts takes it over; or let them give it up",
    ]
    assert len(stand_in.changes()) == changes
    assert run(apply, "--force-conflicts") == 0
    assert stand_in.objects[path]["data"] != {"config.yaml": "theirs"}


def test_an_object_without_our_labels_is_not_ours(run: Run, stand_in: StandIn) -> None:
    path = NETWORK_POLICIES.format("line1", "default-deny")
    stand_in.objects[path] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "default-deny", "namespace": "line1"},
    }

    with pytest.raises(SetupError, match="the object is not one that authz-server"):
        run(apply)


def test_an_object_that_is_gone_meanwhile_is_created(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    path = NETWORK_POLICIES.format("line1", "default-deny")
    stand_in.odd = lambda asked: (
        (200, asked.body) if asked.path == path and asked.method == "PATCH" else None
    )

    assert run(plan) == 1
    assert "create  NetworkPolicy line1/default-deny\n" in capsys.readouterr().out


def test_only_ownership_may_change(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run(apply)
    path = NETWORK_POLICIES.format("line1", "default-deny")
    stand_in.objects[path]["metadata"]["managedFields"] = []
    capsys.readouterr()

    assert run(plan) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "change  NetworkPolicy line1/default-deny",
        "          as it should be; its fields become those of authz-server",
    ]


def test_a_cluster_without_the_crds_is_told_whose_are_missing(
    run: Run, stand_in: StandIn
) -> None:
    stand_in.without |= {"security.istio.io", "networking.istio.io"}

    with pytest.raises(SetupError) as caught:
        run(plan, "istio")
    assert "the cluster has no PeerAuthentication (security.istio.io/v1)" in str(
        caught.value
    )
    assert "install the CRDs of Istio (API group security.istio.io) first" in str(
        caught.value
    )
    assert not stand_in.changes()


def test_plans_are_for_programs_too(
    run: Run, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run(apply, "--output", "json")
    done = json.loads(capsys.readouterr().out)["done"]
    assert done[0] == {
        "action": "create",
        "apiVersion": "v1",
        "kind": "Namespace",
        "namespace": "",
        "name": "authz-system",
    }
    space = stand_in.objects[SERVER]
    old = {**space, "metadata": {**space["metadata"], "name": "old"}}
    stand_in.objects["/api/v1/namespaces/old"] = old
    path = NETWORK_POLICIES.format("line1", "default-deny")
    stand_in.objects[path]["spec"] = {"podSelector": {}}

    run(plan, "--output", "json")
    steps = json.loads(capsys.readouterr().out)["steps"]
    [change] = [step for step in steps if step["action"] == "change"]
    assert change["name"] == "default-deny"
    assert change["differences"][0]["path"].startswith("spec.")
    assert "old" not in change["differences"][0]
    assert change["conflicts"] == []
    assert steps[-1]["why"] == "it may hold what others have put there"
    assert {step["action"] for step in steps} == {"keep", "change", "leave"}


def test_two_targets_may_not_want_different_things_of_one_object(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from authz_server.emit import targets
    from authz_server.emit.manifest import objects_file

    def other(*_: Any) -> Any:
        item = {"apiVersion": "v1", "kind": "Namespace"}
        item |= {"metadata": {"name": "authz-system"}}  # type: ignore[dict-item]
        return (objects_file("x.yaml", (), (item,)),)

    monkeypatch.setattr(
        targets, "TARGETS", {**targets.TARGETS, "istio": lambda _: other()}
    )

    with pytest.raises(PolicyError, match="another target emits a different Namespace"):
        run(plan, "istio")


def test_a_target_without_objects_is_for_plan_against(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from authz_server.emit import targets

    monkeypatch.setattr(
        targets, "TARGETS", {**targets.TARGETS, "kubernetes": lambda _: ()}
    )

    with pytest.raises(SetupError, match="kubernetes: emits no Kubernetes objects"):
        run(plan)


def test_a_target_that_can_not_express_the_policy_has_no_objects_to_keep(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from authz_server.emit import targets

    def refuse(_: object) -> Any:
        raise PolicyError("no")

    monkeypatch.setattr(targets, "TARGETS", {**targets.TARGETS, "istio": refuse})

    assert run(plan) == 1
    with pytest.raises(PolicyError, match="no"):
        run(plan, "istio")


def test_files_that_no_api_takes_are_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(plan, "istio")

    assert (
        "not for the cluster's API: istio/mesh-config.yaml" in capsys.readouterr().err
    )
