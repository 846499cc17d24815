"""What is read of a cluster: all there is in the namespaces, ours or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verification import Edit, compared

from authz_server.cluster.kinds import Key, Kind
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site
from authz_server.verify.difference import Kind as Way
from authz_server.verify.difference import Layer
from authz_server.verify.live import read_cluster
from authz_server.verify.objects import Found


class Objects:
    """Answers as an API server does: items of a list don't say what they are."""

    def __init__(self, bodies: list[dict[str, Any]]) -> None:
        self._bodies = bodies

    def objects(self, kind: Kind, labels: str) -> Iterator[Mapping[str, Any]]:
        assert labels == ""
        for body in self._bodies:
            if (body["apiVersion"], body["kind"]) == kind:
                yield body

    def find(self, key: Key) -> Mapping[str, Any] | None:
        for body in self._bodies:
            if Key.of(body) == key:
                return {"metadata": body["metadata"], "data": body["data"]}
        return None


def mesh(found: Found) -> dict[str, Any]:
    [document] = [it for it in found.documents if it.file == "mesh-config.yaml"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": repr(dict(document.body))},
    }


def test_a_cluster_that_is_as_it_should_be_agrees(
    plant: tuple[AccessPolicy, Site], found: dict[Layer, Found]
) -> None:
    layers = [Layer.KUBERNETES, Layer.CILIUM, Layer.ISTIO, Layer.SPIRE]
    bodies = [body for layer in layers for body in Edit(found[layer]).objects]
    bodies.append(mesh(found[Layer.ISTIO]))
    live = read_cluster(Objects(bodies), *plant, layers)
    assert compared(*plant, live, layers)[0] == []


def test_foreign_objects_count_where_the_policy_has_pods_and_nowhere_else(
    plant: tuple[AccessPolicy, Site], found: dict[Layer, Found]
) -> None:
    edit = Edit(found[Layer.KUBERNETES])
    for namespace in ("data", "unheard-of"):
        edit.add(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "open",
            namespace,
            {"podSelector": {}, "ingress": [{}]},
        )
    live = read_cluster(Objects(edit.objects), *plant, [Layer.KUBERNETES])
    assert {item.namespace for item in live.objects} >= {"data", "spire-server", ""}
    assert "unheard-of" not in {item.namespace for item in live.objects}
    differences, _ = compared(*plant, live, [Layer.KUBERNETES])
    assert {item.kind for item in differences} == {Way.EXTRA}
    assert any("data/open (in the cluster)" in item.enforced for item in differences)


def test_without_a_mesh_configuration_it_is_not_clear(
    plant: tuple[AccessPolicy, Site], found: dict[Layer, Found]
) -> None:
    bodies = Edit(found[Layer.ISTIO]).objects
    live = read_cluster(Objects(bodies), *plant, [Layer.ISTIO])
    [first, *_], _ = compared(*plant, live, [Layer.ISTIO])
    assert first.kind is Way.UNCLEAR
