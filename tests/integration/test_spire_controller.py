"""What SPIRE's controller manager itself makes of its objects."""

from __future__ import annotations

from typing import Any

import pytest
from judges import (
    Object,
    Registered,
    spire_controller_entries,
    spire_controller_problems,
)
from kube_objects import cluster

pytestmark = pytest.mark.go

DOMAIN = "factory.example"
CAMERA, VISITOR, DNS = "line1/camera-0", "line1/visitor-0", "kube-system/dns-0"
PODS = cluster(
    {
        CAMERA: {"app": "camera"},
        VISITOR: {"app": "visitor"},
        DNS: {"app": "camera"},
    },
    accounts={CAMERA: "camera"},
)
TEMPLATE = (
    "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}"
    "/sa/{{ .PodSpec.ServiceAccountName }}"
)


def resource(kind: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def cameras(name: str = "cameras", **more: Any) -> Object:
    spec = {
        "spiffeIDTemplate": TEMPLATE,
        "podSelector": {"matchLabels": {"app": "camera"}},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "line1"}},
        "workloadSelectorTemplates": ["k8s:ns:line1", "k8s:sa:camera"],
        "ttl": "1h",
        **more,
    }
    return resource("ClusterSPIFFEID", name, **spec)


def federated(**more: Any) -> Object:
    spec = {
        "trustDomain": "supplier.example",
        "bundleEndpointURL": "https://bundle.supplier.example",
        "bundleEndpointProfile": {
            "type": "https_spiffe",
            "endpointSPIFFEID": "spiffe://supplier.example/spire/server",
        },
        **more,
    }
    return resource("ClusterFederatedTrustDomain", "supplier", **spec)


def box(**more: Any) -> Object:
    spec = {
        "spiffeID": f"spiffe://{DOMAIN}/edge/box-1",
        "parentID": f"spiffe://{DOMAIN}/node/box-1",
        "selectors": ["unix:uid:1000"],
        **more,
    }
    return resource("ClusterStaticEntry", "box-1", **spec)


def test_the_pods_that_are_selected_get_the_id_of_the_template() -> None:
    objects = [*PODS, cameras(federatesWith=["supplier.example"]), federated()]

    (entry,) = spire_controller_entries(objects, DOMAIN)

    assert entry == Registered(
        spiffe_id=f"spiffe://{DOMAIN}/ns/line1/sa/camera",
        parent_id=f"spiffe://{DOMAIN}/spire/agent/k8s_psat/cluster/node",
        selectors=frozenset({f"k8s:pod-uid:{CAMERA}", "k8s:ns:line1", "k8s:sa:camera"}),
        x509_svid_ttl_s=3600,
        federates_with=frozenset({"supplier.example"}),
    )
    assert entry.pod == CAMERA
    assert spire_controller_problems(objects, DOMAIN) == {}


def test_without_selectors_every_pod_gets_one_but_not_of_ignored_namespaces() -> None:
    everyone = resource("ClusterSPIFFEID", "everyone", spiffeIDTemplate=TEMPLATE)

    entries = spire_controller_entries([*PODS, everyone], DOMAIN)

    assert {entry.pod for entry in entries} == {CAMERA, VISITOR}


def test_a_static_entry_is_registered_as_it_is() -> None:
    (entry,) = spire_controller_entries([box()], DOMAIN)

    assert entry.spiffe_id == f"spiffe://{DOMAIN}/edge/box-1"
    assert entry.selectors == {"unix:uid:1000"}
    assert entry.pod == ""


def test_two_with_the_same_selectors_are_told_as_masked() -> None:
    first = cameras("a", workloadSelectorTemplates=[])
    second = cameras("b", workloadSelectorTemplates=[], hint="second")

    problems = spire_controller_problems([*PODS, first, second], DOMAIN)

    assert list(problems.values()) == [["1 masked"]]
    assert len(spire_controller_entries([*PODS, first, second], DOMAIN)) == 1


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (cameras(spiffeIDTemplate="spiffe://{{ .TrustDomain }/x"), "unexpected"),
        (cameras(spiffeIDTemplate=""), "empty SPIFFEID template"),
        (cameras(spiffeIDTemplate="spiffe://other.example/x"), "trust domain"),
        (cameras(spiffeIDTemplate=TEMPLATE + "{{ .Nope }}"), "can't evaluate field"),
        (cameras(spiffeIDTemplate=TEMPLATE + "/"), "trailing slash"),
        (cameras(federatesWith=["Supplier.example"]), "federatesWith"),
        (cameras(workloadSelectorTemplates=["k8s"]), "workload selector"),
        (
            cameras(podSelector={"matchLabels": {"app": "a b"}}),
            "Invalid value",
        ),
        (box(spiffeID="spiffe//factory.example/x"), "SPIFFEID"),
        (box(parentID=""), "ParentID"),
        (box(selectors=["unix"]), "Selectors"),
        (federated(trustDomain="Supplier.example"), "trustDomain"),
        (federated(bundleEndpointURL="http://b.example"), "bundleEndpointURL"),
        (federated(bundleEndpointProfile={"type": "https_spiffe"}), "endpointSPIFFEID"),
        (federated(bundleEndpointProfile={"type": "web"}), "profile type"),
    ],
)
def test_what_is_wrong_is_told_by_its_name(item: Object, words: str) -> None:
    problems = spire_controller_problems([*PODS, item], DOMAIN)

    name = f"{item['kind']}/{item['metadata']['name']}"
    assert list(problems) == [name]
    assert words in problems[name][0]


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(AssertionError, match=r'unknown field "spec.podSelectr"'):
        spire_controller_problems([cameras(podSelectr={})], DOMAIN)
