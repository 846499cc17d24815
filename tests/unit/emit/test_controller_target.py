"""What the controller may do, and that no policy takes it for its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from emission import PARTS

from authz_server.emit import CLUSTER_TARGETS
from authz_server.emit.controller import emit_controller
from authz_server.emit.kinds import TARGET_KINDS, Place
from authz_server.emit.manifest import Object
from authz_server.emit.targets import TARGETS, Source
from authz_server.errors import PolicyError
from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy
from authz_server.site.document import load_site
from authz_server.site.model import Mesh, Server, Shape, Site

EXAMPLES = Path(__file__).parents[3] / "examples"
POLICY = load_policy(EXAMPLES / "plant-7.yaml")
SITE = load_site(EXAMPLES / "plant-7-site.yaml", POLICY)


def objects(site: Site = SITE, policy: AccessPolicy = POLICY) -> list[Object]:
    return [
        item
        for file in emit_controller(policy, site, "site: text\n")
        for item in file.objects
    ]


def rules(kind: str, site: Site = SITE) -> dict[tuple[str, str], Any]:
    return {
        (item["metadata"].get("namespace", ""), rule["resources"][0]): rule["verbs"]
        for item in objects(site)
        if item["kind"] == kind
        for rule in item["rules"]
    }


@pytest.mark.parametrize(
    ("target", "mesh", "shape"),
    [
        (target, mesh, shape)
        for target in TARGET_KINDS
        for mesh in Mesh
        for shape in Shape
        # What there is nothing to emit for, and what no site can say.
        if not (target == "istio" and mesh is Mesh.NONE)
        and (mesh is not Mesh.SIDECAR or shape is Shape.DEPLOYMENT)
    ],
)
def test_every_kind_that_a_target_emits_is_known(
    target: str, mesh: Mesh, shape: Shape
) -> None:
    site = replace(SITE, mesh=mesh, server=Server(shape=shape))
    known = {(kind.api_version, kind.kind) for kind in TARGET_KINDS[target]}

    emitted = {
        (item["apiVersion"], item["kind"])
        for file in TARGETS[target](Source(POLICY, site, PARTS))
        for item in file.objects
    }

    assert emitted
    assert emitted <= known


def test_the_targets_of_a_cluster_are_those_whose_kinds_are_known() -> None:
    assert set(CLUSTER_TARGETS) == set(TARGET_KINDS)


def test_it_may_write_what_it_emits_and_no_more() -> None:
    allowed = {name for _, name in rules("ClusterRole")} | {
        name for _, name in rules("Role")
    }

    emitted = {
        kind.plural
        for target in ("kubernetes", "istio", "spire")
        for kind in TARGET_KINDS[target]
    }
    own = {"pods", "accesspolicies", "accesspolicies/status", "leases", "events"}
    assert allowed == emitted | own


def test_it_never_deletes_a_namespace() -> None:
    assert "delete" not in rules("ClusterRole")["", "namespaces"]


def test_the_servers_own_kinds_are_its_only_where_the_server_runs() -> None:
    beside = {
        kind.plural
        for kind in TARGET_KINDS["kubernetes"]
        if kind.place is Place.BESIDE_SERVER
    }

    assert not beside & {name for _, name in rules("ClusterRole")}
    assert {place for place, name in rules("Role") if name in beside} == {
        "authz-system"
    }
    sidecar = replace(SITE, mesh=Mesh.NONE, server=Server(shape=Shape.SIDECAR))
    assert {place for place, name in rules("Role", sidecar) if name in beside} == {
        "data",
        "inference",
    }


def test_each_role_is_bound_to_its_account() -> None:
    bound = [item for item in objects() if item["kind"].endswith("Binding")]

    assert [item["roleRef"]["kind"] for item in bound] == ["ClusterRole", "Role"]
    for item in bound:
        assert item["subjects"] == [
            {
                "kind": "ServiceAccount",
                "name": "authz-server-controller",
                "namespace": "authz-system",
            }
        ]


def test_no_policy_takes_the_controller_for_its_own() -> None:
    for item in objects():
        labels: Mapping[str, str] = item["metadata"]["labels"]
        # A policy's name has no dot, so none has this label.
        assert labels["app.kubernetes.io/part-of"] == "authz-server.controller"
        assert labels["app.kubernetes.io/managed-by"] == "authz-server"


def test_it_runs_what_the_site_has_something_for() -> None:
    def command(site: Site) -> list[str]:
        [deployment] = [one for one in objects(site) if one["kind"] == "Deployment"]
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        words: list[str] = container["command"]
        return words[2 : words.index("--site")]

    assert command(SITE) == ["kubernetes", "istio", "spire"]
    bare = replace(SITE, mesh=Mesh.NONE, spire=None)
    assert command(bare) == ["kubernetes"]


def test_it_reads_the_site_file_as_it_is() -> None:
    [config_map] = [item for item in objects() if item["kind"] == "ConfigMap"]

    assert config_map["data"] == {"site.yaml": "site: text\n"}


def test_it_reaches_the_api_server_and_nothing_else() -> None:
    [policy] = [item for item in objects() if item["kind"] == "NetworkPolicy"]

    assert "ingress" not in policy["spec"]
    [rule] = policy["spec"]["egress"]
    assert rule["to"] == [
        {"ipBlock": {"cidr": cidr}} for cidr in SITE.cluster.api_server
    ]


def test_without_addresses_of_the_api_server_it_could_not_work() -> None:
    blind = replace(SITE, cluster=replace(SITE.cluster, api_server=()))

    with pytest.raises(PolicyError, match=r"spec\.cluster\.apiServer of the site"):
        objects(blind)
