from __future__ import annotations

from pathlib import Path

import pytest

from authz_server.cluster.kinds import ORDER, Key, family, kind_of, place, prunable
from authz_server.cluster.steps import in_order
from authz_server.emit import TARGET_NAMES
from authz_server.emit.targets import Source, emit
from authz_server.errors import SetupError
from authz_server.policy.document import load_policy
from authz_server.site.document import load_site

EXAMPLES = Path(__file__).parents[3] / "examples"


def key(kind: str, name: str = "x", namespace: str = "n") -> Key:
    [api_version] = [version for version, known in ORDER if known == kind]
    return Key(api_version, kind, namespace, name)


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_every_kind_that_a_target_emits_has_its_place(target: str) -> None:
    policy = load_policy(EXAMPLES / "plant-7.yaml")
    site = load_site(EXAMPLES / "plant-7-site.yaml", policy)
    files = emit(Source(policy, site, {"policy.yaml": "x"}), [target])

    objects = [item for file in files.values() for item in file.objects]
    assert len(in_order(objects)) == len(objects)


def test_fences_come_before_pods_and_a_namespace_before_all() -> None:
    kinds = ("Deployment", "NetworkPolicy", "ServiceAccount", "Namespace")

    assert [item.kind for item in sorted(map(key, kinds), key=place)] == [
        *("Namespace", "NetworkPolicy", "ServiceAccount", "Deployment")
    ]


def test_objects_of_one_kind_come_by_namespace_and_name() -> None:
    keys = [key("Role", "a", "m"), key("Role", "b", "m"), key("Role", "a", "n")]

    assert sorted([keys[2], keys[0], keys[1]], key=place) == keys


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SetupError, match=r"Pod n/x: nothing is known .* kubectl"):
        place(Key("v1", "Pod", "n", "x"))


def test_a_key_reads_as_people_name_objects() -> None:
    assert str(key("Role")) == "Role n/x"
    assert str(Key("v1", "Namespace", "", "n")) == "Namespace n"
    item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    assert Key.of(item) == Key("v1", "Namespace", "", "n")


@pytest.mark.parametrize(
    ("api_version", "expected"),
    [
        ("v1", ""),
        ("apps/v1", ""),
        ("networking.k8s.io/v1", ""),
        ("networking.istio.io/v1alpha3", "istio.io"),
        ("cilium.io/v2", "cilium.io"),
    ],
)
def test_an_api_is_known_by_its_makers(api_version: str, expected: str) -> None:
    assert family(api_version) == expected


def test_left_over_objects_are_looked_for_among_all_kinds_of_the_same_makers() -> None:
    found = {kind for _, kind in prunable([kind_of(key("PeerAuthentication"))])}

    assert found == {
        *("PeerAuthentication", "AuthorizationPolicy", "EnvoyFilter", "Sidecar")
    }
    assert "Deployment" in {kind for _, kind in prunable([("v1", "ConfigMap")])}
