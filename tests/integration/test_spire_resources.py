"""SPIRE's own controller manager on what is emitted, with pods that fit or do not."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judges import (
    Object,
    Registered,
    spire_controller_entries,
    spire_controller_problems,
)

from authz_server.emit.spire import emit_spire
from authz_server.emit.spire_entries_json import parse_entries
from authz_server.emit.spire_identities import Identity, identities
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy, Grant, Group
from authz_server.site.document import load_site
from authz_server.site.model import Federation, Site

pytestmark = pytest.mark.go

EXAMPLES = Path(__file__).parents[2] / "examples"
FACTORY = "factory.example"


@pytest.fixture(scope="module")
def policy() -> AccessPolicy:
    """The example, in which robots of the supplier are inspectors too."""
    policy = load_policy(EXAMPLES / "plant-7.yaml")
    pattern = SpiffePattern.parse("spiffe://supplier.example/ns/robots/sa/arm")
    robots = Group("robots", (pattern,), (), ())
    return replace(
        policy,
        groups={**policy.groups, "robots": robots},
        grants=(*policy.grants, Grant("inspector", ("robots",), ("triton",))),
    )


@pytest.fixture(scope="module")
def site(policy: AccessPolicy) -> Site:
    return load_site(EXAMPLES / "plant-7-site.yaml", policy)


def emitted(policy: AccessPolicy, site: Site) -> list[Object]:
    return [
        copy.deepcopy(dict(item))
        for manifest in emit_spire(policy, site)
        for item in manifest.objects
    ]


def make_pod(
    name: str, namespace: str, account: str, labels: Iterable[tuple[str, str]]
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "serviceAccountName": account,
            "containers": [{"name": "main", "image": "any"}],
        },
    }


def pod_of(item: Identity, **changed: Any) -> Object:
    fields = {
        "name": item.service_account,
        "namespace": item.namespace,
        "account": item.service_account,
        "labels": item.labels,
    }
    return make_pod(**{**fields, **changed})


def namespaces(pods: Iterable[Object]) -> list[Object]:
    names = sorted({pod["metadata"]["namespace"] for pod in pods})
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in names
    ]


def issued(entries: Iterable[Registered], pod: Object) -> set[str]:
    """Return what a process in `pod` gets: entries of which all selectors are true."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    true = {
        f"k8s:pod-uid:{namespace}/{name}",
        f"k8s:ns:{namespace}",
        f"k8s:sa:{pod['spec']['serviceAccountName']}",
    }
    return {item.spiffe_id for item in entries if item.selectors <= true}


def test_the_manager_finds_nothing_wrong(policy: AccessPolicy, site: Site) -> None:
    kinds = {item["kind"] for item in emitted(policy, site)}

    assert kinds == {
        "ClusterSPIFFEID",
        "ClusterStaticEntry",
        "ClusterFederatedTrustDomain",
    }
    assert spire_controller_problems(emitted(policy, site), FACTORY) == {}


def test_a_bundle_from_the_web_is_valid_too(policy: AccessPolicy, site: Site) -> None:
    web = Federation(TrustDomain("supplier.example"), "https://supplier.example/b")

    objects = emitted(policy, replace(site, federation=(web,)))

    assert spire_controller_problems(objects, FACTORY) == {}


def test_each_pod_gets_exactly_the_id_that_the_policy_wants(
    policy: AccessPolicy, site: Site
) -> None:
    wanted = {
        f"spiffe://{FACTORY}/ns/{item.namespace}/sa/{item.service_account}": pod_of(
            item
        )
        for item in identities(policy, site)
    }
    pods = list(wanted.values())

    objects = [*emitted(policy, site), *namespaces(pods), *pods]

    assert len(wanted) == 7
    assert spire_controller_problems(objects, FACTORY) == {}
    entries = spire_controller_entries(objects, FACTORY)
    for spiffe_id, pod in wanted.items():
        assert issued(entries, pod) == {spiffe_id}
    assert {item.x509_svid_ttl_s for item in entries if item.pod} == {3600}
    assert {item.pod for item in entries if item.federates_with and item.pod} == {
        "authz-system/authz-server",
        "inference/triton",
    }


def test_a_pod_that_only_looks_like_one_gets_none(
    policy: AccessPolicy, site: Site
) -> None:
    pods = [
        rogue
        for item in identities(policy, site)
        for rogue in (
            pod_of(item, name="forged-label", account="rogue"),
            pod_of(item, name="borrowed-account", labels=()),
            pod_of(item, name="elsewhere", namespace=f"not-{item.namespace}"),
        )
    ]

    objects = [*emitted(policy, site), *namespaces(pods), *pods]
    entries = spire_controller_entries(objects, FACTORY)

    for pod in pods:
        assert issued(entries, pod) == set()
    # What is registered for a forged label is not even the ID that it reaches for.
    names = {item.spiffe_id.rpartition("/")[2] for item in entries if item.pod}
    assert names == {"rogue"}


def test_static_entries_are_those_of_the_json(policy: AccessPolicy, site: Site) -> None:
    [text] = [
        item.text for item in emit_spire(policy, site) if item.name == "entries.json"
    ]

    assert spire_controller_entries(emitted(policy, site), FACTORY) == {
        Registered(
            str(entry.spiffe_id),
            str(entry.parent_id),
            frozenset(entry.selectors),
            entry.x509_ttl_s,
            entry.federates_with,
        )
        for entry in parse_entries(text, "entries.json")
    }


def test_a_manager_of_another_trust_domain_issues_none(
    policy: AccessPolicy, site: Site
) -> None:
    pods = [pod_of(item) for item in identities(policy, site)]
    objects = [*emitted(policy, site), *namespaces(pods), *pods]

    entries = spire_controller_entries(objects, "other.example")

    assert not [item for item in entries if item.pod]


def test_what_would_be_refused_here_is_masked_by_the_manager(
    policy: AccessPolicy, site: Site
) -> None:
    objects = emitted(policy, site)
    [camera] = [
        item for item in objects if item["metadata"]["name"].startswith("plant-7.line1")
    ]
    twin = copy.deepcopy(camera)
    twin["metadata"]["name"] = "twin"
    twin["spec"]["podSelector"] = {"matchLabels": {"tier": "vision"}}
    pod = make_pod("both", "line1", "camera", (("app", "camera"), ("tier", "vision")))

    problems = spire_controller_problems(
        [*objects, twin, *namespaces([pod]), pod], FACTORY
    )

    assert list(problems.values()) == [["1 masked"]]
