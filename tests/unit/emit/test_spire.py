"""Who gets an ID in the cluster, whose bundles, and what the files say of the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from random_policies import make_policy

from authz_server.emit.manifest import Manifest
from authz_server.emit.spire import emit_spire
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.model import AccessPolicy, Grant, Group, Workload
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Federation,
    Server,
    Shape,
    Site,
    Spire,
)

Comment = Callable[[Sequence[Manifest], str], str]
MakeGroup = Callable[..., Group]
SUPPLIER = TrustDomain("supplier.example")
IDENTITIES = "cluster-spiffe-ids.yaml"


@pytest.fixture
def site() -> Site:
    return Site(spire=Spire(address="spire.factory.example:8081"))


@pytest.fixture
def federated(site: Site) -> Site:
    endpoint = Federation(SUPPLIER, "https://spire.supplier.example:8443")
    return replace(site, federation=(endpoint,))


def specs(manifests: Sequence[Manifest], kind: str) -> list[Mapping[str, Any]]:
    return [
        item["spec"]
        for manifest in manifests
        for item in manifest.objects
        if item["kind"] == kind
    ]


def of_account(manifests: Sequence[Manifest], account: str) -> Mapping[str, Any]:
    [spec] = [
        spec
        for spec in specs(manifests, "ClusterSPIFFEID")
        if f"k8s:sa:{account}" in spec["workloadSelectorTemplates"]
    ]
    return spec


def test_a_workload_gets_the_id_of_the_account_that_it_really_runs_as(
    policy: AccessPolicy, site: Site
) -> None:
    assert of_account(emit_spire(policy, site), "camera") == {
        "spiffeIDTemplate": "spiffe://factory.example/ns/{{ .PodMeta.Namespace }}"
        "/sa/{{ .PodSpec.ServiceAccountName }}",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "line1"}},
        "podSelector": {"matchLabels": {"app": "camera"}},
        "workloadSelectorTemplates": ["k8s:ns:line1", "k8s:sa:camera"],
        "ttl": "3600s",
        "jwtTtl": "300s",
    }


def test_workloads_upstreams_and_the_server_get_an_id(
    policy: AccessPolicy, site: Site
) -> None:
    emitted = {
        tuple(spec["workloadSelectorTemplates"])
        for spec in specs(emit_spire(policy, site), "ClusterSPIFFEID")
    }

    assert emitted == {
        (f"k8s:ns:{namespace}", f"k8s:sa:{account}")
        for namespace, account in (
            ("authz-system", "authz-server"),
            ("data", "minio"),
            ("inference", "triton"),
            ("line1", "camera"),
            ("spare", "idle"),
        )
    }


def test_a_server_in_its_upstreams_pods_has_their_id(
    policy: AccessPolicy, site: Site
) -> None:
    beside = replace(site, server=Server(Shape.SIDECAR))

    text = emit_spire(policy, beside)[0].text

    assert "authz-system" not in text


def test_lifetimes_and_class_are_the_sites(policy: AccessPolicy) -> None:
    spire = Spire(x509_ttl_s=600, jwt_ttl_s=60, class_name="edge")
    federation = (Federation(SUPPLIER, "https://s.example"),)

    emitted = emit_spire(policy, Site(spire=spire, federation=federation))

    assert {item["ttl"] for item in specs(emitted, "ClusterSPIFFEID")} == {"600s"}
    assert {item["jwtTtl"] for item in specs(emitted, "ClusterSPIFFEID")} == {"60s"}
    assert {
        item["spec"]["className"] for manifest in emitted for item in manifest.objects
    } == {"edge"}


def test_a_site_without_spire_is_refused(policy: AccessPolicy) -> None:
    with pytest.raises(PolicyError, match=r"spec\.spire of the site is missing"):
        emit_spire(policy, Site())


# Two objects for one pod.


def test_what_two_groups_name_alike_is_one_object(
    with_groups: Callable[..., AccessPolicy], group: MakeGroup, site: Site
) -> None:
    ids = ["spiffe://factory.example/ns/line1/sa/camera"]
    pods = [("line1", {"app": "camera"}, "camera")]
    policy = with_groups(group("a", ids, pods), group("b", ids, pods))

    of_account(emit_spire(policy, site), "camera")


def test_pods_within_others_of_their_account_are_left_to_these(
    with_groups: Callable[..., AccessPolicy], group: MakeGroup, site: Site
) -> None:
    ids = ["spiffe://factory.example/ns/line1/sa/camera"]
    policy = with_groups(
        group("a", ids, [("line1", {"app": "camera", "side": "left"}, "camera")]),
        group("b", ids, [("line1", {}, "camera")]),
    )

    assert "podSelector" not in of_account(emit_spire(policy, site), "camera")


def test_pods_told_apart_by_one_label_are_two_objects(
    with_groups: Callable[..., AccessPolicy], group: MakeGroup, site: Site
) -> None:
    ids = ["spiffe://factory.example/ns/line1/sa/camera"]
    policy = with_groups(
        group("a", ids, [("line1", {"app": "camera", "x": "1"}, "camera")]),
        group("b", ids, [("line1", {"app": "robot", "y": "1"}, "camera")]),
    )

    emitted = emit_spire(policy, site)

    selectors = [
        spec["podSelector"]["matchLabels"]["app"]
        for spec in specs(emitted, "ClusterSPIFFEID")
        if "k8s:sa:camera" in spec["workloadSelectorTemplates"]
    ]
    assert selectors == ["camera", "robot"]


def test_pods_that_may_be_two_workloads_are_refused_with_both_places(
    with_groups: Callable[..., AccessPolicy], group: MakeGroup, site: Site
) -> None:
    ids = ["spiffe://factory.example/ns/line1/sa/camera"]
    policy = with_groups(
        group("a", ids, [("line1", {"app": "camera"}, "camera")]),
        group("b", ids, [("line1", {"tier": "vision"}, "camera")]),
    )

    with pytest.raises(
        PolicyError,
        match=r"spec\.groups\.b and spec\.groups\.a: a pod in line1 that runs as "
        r"camera may have both tier=vision and app=camera.*; give both the same "
        r"podSelector",
    ):
        emit_spire(policy, site)


def test_an_upstream_that_also_calls_is_one_object_with_its_bundles(
    with_groups: Callable[..., AccessPolicy], group: MakeGroup, federated: Site
) -> None:
    policy = with_groups(
        group("a", ["spiffe://supplier.example/ns/robots/sa/arm"]),
        group(
            "b",
            ["spiffe://factory.example/ns/inference/sa/triton"],
            [("inference", {}, "triton")],
        ),
    )

    spec = of_account(emit_spire(policy, federated), "triton")

    assert spec["federatesWith"] == ["supplier.example"]
    assert "podSelector" not in spec


# Federation.


def test_only_who_meets_foreign_callers_gets_their_bundle(
    policy: AccessPolicy, group: MakeGroup, federated: Site
) -> None:
    robots = group("robots", ["spiffe://supplier.example/ns/robots/sa/arm"])
    granted = replace(
        policy,
        groups={**policy.groups, "robots": robots},
        grants=(*policy.grants, Grant("inspector", ("robots",), ("triton",))),
    )

    emitted = emit_spire(granted, federated)

    with_bundle = {
        account
        for account in ("authz-server", "triton", "minio", "camera", "idle")
        if "federatesWith" in of_account(emitted, account)
    }
    assert with_bundle == {"authz-server", "triton"}
    spec = of_account(emitted, "triton")
    assert spec["federatesWith"] == ["supplier.example"]


def test_a_trust_domain_that_nobody_is_granted_from_gives_no_bundle(
    policy: AccessPolicy, federated: Site
) -> None:
    assert "federatesWith" not in emit_spire(policy, federated)[0].text


def test_a_trust_domain_without_endpoint_is_left_out_and_said(
    policy: AccessPolicy,
    with_groups: Callable[..., AccessPolicy],
    group: MakeGroup,
    site: Site,
    comment: Comment,
) -> None:
    policy = with_groups(group("r", ["spiffe://supplier.example/ns/robots/sa/arm"]))

    emitted = emit_spire(policy, site)

    assert "federatesWith:" not in emitted[0].text
    said = comment(emitted, IDENTITIES)
    assert "no endpoint for the bundle of these trust domains" in said
    assert said.endswith("fail at TLS: supplier.example.")


@pytest.mark.parametrize(
    ("endpoint_id", "profile"),
    [
        (None, {"type": "https_web"}),
        (
            SpiffeId(SUPPLIER, ("spire", "server")),
            {
                "type": "https_spiffe",
                "endpointSPIFFEID": "spiffe://supplier.example/spire/server",
            },
        ),
    ],
)
def test_a_foreign_bundle_comes_from_the_sites_endpoint(
    policy: AccessPolicy, endpoint_id: SpiffeId | None, profile: dict[str, str]
) -> None:
    federation = (Federation(SUPPLIER, "https://s.example:8443", endpoint_id),)

    emitted = emit_spire(policy, Site(spire=Spire(), federation=federation))

    assert specs(emitted, "ClusterFederatedTrustDomain") == [
        {
            "trustDomain": "supplier.example",
            "bundleEndpointURL": "https://s.example:8443",
            "bundleEndpointProfile": profile,
        }
    ]


# What the comments say.


def test_a_workload_without_account_gets_no_id_and_is_named(
    policy: AccessPolicy, site: Site, comment: Comment
) -> None:
    cameras = policy.groups["cameras"]
    unknown = replace(cameras, workloads=(Workload("line1", {"app": "camera"}, ""),))
    changed = replace(policy, groups={**policy.groups, "cameras": unknown})

    emitted = emit_spire(changed, site)

    assert "line1" not in emitted[0].text.partition("apiVersion")[2]
    assert "none is issued for: spec.groups.cameras in line1." in comment(
        emitted, IDENTITIES
    )


def test_a_pattern_that_nobody_here_can_match_is_named(
    with_groups: Callable[..., AccessPolicy],
    group: MakeGroup,
    site: Site,
    comment: Comment,
) -> None:
    policy = with_groups(
        group(
            "a",
            [
                "spiffe://factory.example/camera",
                "spiffe://factory.example/ns/line9/sa/*",
                "spiffe://factory.example/ns/line1/**",
                "spiffe://factory.example/*/line1/sa/camera",
                "spiffe://factory.example/ns/line1/sa/camera",
                "spiffe://supplier.example/ns/robots/sa/arm",
            ],
            [("line1", {}, "camera")],
        )
    )

    said = comment(emit_spire(policy, site), IDENTITIES)

    assert (
        "matches these patterns, neither here nor on a box: "
        "spiffe://factory.example/camera, spiffe://factory.example/ns/line9/sa/*."
    ) in said


def test_a_workload_whose_group_does_not_know_its_id_is_named(
    with_groups: Callable[..., AccessPolicy],
    group: MakeGroup,
    site: Site,
    comment: Comment,
) -> None:
    policy = with_groups(
        group("a", ["spiffe://factory.example/camera"], [("line1", {}, "camera")])
    )

    assert ("spiffe://factory.example/ns/line1/sa/camera of spec.groups.a.") in comment(
        emit_spire(policy, site), IDENTITIES
    )


def test_namespaces_that_the_manager_ignores_are_named(
    with_groups: Callable[..., AccessPolicy],
    group: MakeGroup,
    site: Site,
    comment: Comment,
) -> None:
    ids = ["spiffe://factory.example/ns/kube-system/sa/probe"]
    policy = with_groups(group("a", ids, [("kube-system", {}, "probe")]))

    said = comment(emit_spire(policy, site), IDENTITIES)

    assert "nobody there gets an ID: kube-system." in said


def test_only_kubernetes_objects_are_to_be_applied(
    policy: AccessPolicy, federated: Site
) -> None:
    boxes = (Box("b", Attestor.JOIN_TOKEN, serves=("triton",)),)

    *files, kustomization = emit_spire(policy, replace(federated, boxes=boxes))

    assert kustomization.text.partition("resources:\n")[2] == (
        "- cluster-spiffe-ids.yaml\n- static-entries.yaml\n- federation.yaml\n"
    )
    assert {item.name for item in files if not item.objects} == {
        "entries.json",
        "agents/b.conf",
        "server.conf",
    }


# Any policy.


def make_site(rng: random.Random, trust_domain: TrustDomain) -> Site:
    def selectors(*kinds: str) -> tuple[str, ...]:
        chosen = rng.sample(kinds, rng.randint(1, 2))
        return tuple(sorted(f"{kind}:{rng.choice('abc')}" for kind in chosen))

    boxes = []
    for name in ("b1", "b2", "b3"):
        attestor = rng.choice((Attestor.JOIN_TOKEN, Attestor.X509POP))
        nodes = selectors("x509pop:subject:cn", "x509pop:serialnumber")
        workloads = tuple(
            BoxWorkload(
                SpiffeId(trust_domain, (rng.choice("ab"), rng.choice("ab"))),
                selectors("unix:user", "unix:path"),
            )
            for _ in range(rng.randint(0, 2))
        )
        boxes.append(
            Box(
                name,
                attestor,
                nodes if attestor is Attestor.X509POP else (),
                rng.choice(((), ("t1",))),
                rng.random() < 0.7,
                workloads,
            )
        )
    federation = (Federation(TrustDomain("two.example"), "https://two.example"),)
    return Site(
        server=Server(rng.choice(tuple(Shape))),
        spire=rng.choice((Spire(address="s:1", cluster_name="c"), Spire(), None)),
        federation=rng.choice((federation, ())),
        boxes=tuple(boxes),
    )


def with_workloads(rng: random.Random, policy: AccessPolicy) -> AccessPolicy:
    groups = {
        name: replace(
            group,
            workloads=tuple(
                Workload(
                    rng.choice("ab"),
                    {
                        key: rng.choice("12")
                        for key in rng.sample("xyz", rng.randint(0, 3))
                    },
                    rng.choice(("s", "t", "u", "")),
                )
                for _ in range(rng.randint(0, 2))
            ),
        )
        for name, group in policy.groups.items()
    }
    return replace(policy, groups=groups)


def may_meet(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one pod may be of both objects, and get the same entry by both."""
    if one["workloadSelectorTemplates"] != other["workloadSelectorTemplates"]:
        return False
    labels, others = (
        spec.get("podSelector", {"matchLabels": {}})["matchLabels"]
        for spec in (one, other)
    )
    return all(others.get(key, value) == value for key, value in labels.items())


def check(policy: AccessPolicy, site: Site, emitted: tuple[Manifest, ...]) -> None:
    shuffled = replace(policy, groups=dict(reversed(list(policy.groups.items()))))
    turned = replace(site, boxes=tuple(reversed(site.boxes)))
    assert emit_spire(shuffled, turned) == emitted
    pods = specs(emitted, "ClusterSPIFFEID")
    assert not [pair for pair in combinations(pods, 2) if may_meet(*pair)]
    entries = specs(emitted, "ClusterStaticEntry")
    assert not [
        (one, other)
        for one in entries
        for other in entries
        if one["parentID"] == other["parentID"]
        and one["spiffeID"] != other["spiffeID"]
        and set(one["selectors"]) <= set(other["selectors"])
    ]
    # Each workload with an account is of one object, by its own labels.
    for group in policy.groups.values():
        for workload in group.workloads:
            if workload.service_account:
                assert sum(has(spec, workload) for spec in pods) == 1


def test_any_policy_is_emitted_alike_and_disjoint_or_refused() -> None:
    emitted = with_entries = refused = 0
    for seed in range(100):
        rng = random.Random(seed)
        policy = with_workloads(rng, make_policy(rng))
        site = make_site(rng, policy.trust_domain)
        try:
            files = emit_spire(policy, site)
        except PolicyError:
            refused += 1
            continue
        check(policy, site, files)
        emitted += 1
        with_entries += bool(specs(files, "ClusterStaticEntry"))

    assert min(emitted, with_entries, refused) > 10


def has(spec: Mapping[str, Any], workload: Workload) -> bool:
    labels = spec.get("podSelector", {"matchLabels": {}})["matchLabels"]
    return (
        spec["workloadSelectorTemplates"]
        == [f"k8s:ns:{workload.namespace}", f"k8s:sa:{workload.service_account}"]
        and labels.items() <= workload.pod_selector.items()
    )
