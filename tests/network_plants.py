"""Plants for packet filters: policy and site as documents, and everybody's pods."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from emission import PARTS
from judges import Object
from kube_objects import cluster

from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.policy.document import parse_policy
from authz_server.policy.model import AccessPolicy
from authz_server.site.document import parse_site
from authz_server.site.model import Site

Spec = Mapping[str, Any]
Selector = tuple[str, Mapping[str, str]]
"""A namespace, and labels."""

EXAMPLES = Path(__file__).parents[1] / "examples"
FOREIGN = "elsewhere"
ROGUES: tuple[Mapping[str, str], ...] = ({}, {"app": "rogue"})
OWN_LABELS = {"app.kubernetes.io/name": "authz-server"}


@dataclass(frozen=True)
class Plant:
    """What is emitted for, and on whom it is tried.

    Attributes:
        policy, site: the ``spec`` of each document, as written.
        pods: labels by namespace/name.
    """

    policy: Spec
    site: Spec
    pods: Mapping[str, Mapping[str, str]]

    @property
    def cluster(self) -> list[Object]:
        return cluster(self.pods)

    def parsed(self) -> tuple[AccessPolicy, Site]:
        policy = parse_policy(json.dumps(_document("AccessPolicy", self.policy)), "p")
        site = json.dumps(_document("Site", self.site))
        return policy, parse_site(site, "s", policy)

    def emit(self) -> list[Object]:
        """Return the NetworkPolicies as they stand in the emitted file."""
        [text] = (
            manifest.text
            for manifest in emit_kubernetes(*self.parsed(), PARTS)
            if manifest.name == "network-policies.yaml"
        )
        return list(yaml.load_all(text, yaml.CSafeLoader))


def _document(kind: str, spec: Spec) -> Spec:
    return {
        "apiVersion": "authz.edge/v1",
        "kind": kind,
        "metadata": {"name": "p"},
        "spec": spec,
    }


def example(**changes: Any) -> Plant:
    """The example's plant, with `changes` to its site."""
    policy, site = (
        # Not YAML 1.1, to which the key of grants is the word for true.
        yaml.load((EXAMPLES / name).read_text("utf-8"), yaml.BaseLoader)["spec"]
        for name in ("plant-7.yaml", "plant-7-site.yaml")
    )
    site = {**site, "server": {}, **changes}
    return Plant(policy, site, make_pods(policy, site))


def gives(role: Iterable[Spec], name: str, upstream: Spec) -> set[str]:
    """The actions that `role` gives on an upstream, whatever on."""
    given: set[str] = set()
    for permission in role:
        if name not in permission.get("upstreams", [name]):
            continue
        of_datasets = {a for a in permission["actions"] if a.startswith("dataset-")}
        if upstream["kind"] != "dataset":
            given |= set(permission["actions"]) - of_datasets
        elif set(permission.get("datasets", ())) & set(upstream["datasets"]):
            given |= of_datasets
    return given


def resolver(site: Spec) -> tuple[Selector, int]:
    dns = site.get("cluster", {}).get("dns", {})
    labels = dns.get("podSelector", {"k8s-app": "kube-dns"})
    return (dns.get("namespace", "kube-system"), labels), int(dns.get("port", 53))


def selected(item: Spec) -> Selector:
    """The pods that something with ``namespace`` and ``podSelector`` names."""
    return item["namespace"], item.get("podSelector", {})


# Pods


def make_pods(policy: Spec, site: Spec) -> dict[str, Mapping[str, str]]:
    """Return every kind of pod that is named, in place and elsewhere; and rogues."""
    named: list[Selector] = [
        *(
            selected(item)
            for item in policy["upstreams"].values()
            if "namespace" in item
        ),
        *(
            selected(item)
            for group in policy["groups"].values()
            for item in group.get("workloads", ())
        ),
        (site.get("server", {}).get("namespace", "authz-system"), OWN_LABELS),
        ("istio-system", {"app": "istiod"}),
        resolver(site)[0],
        *(selected(site[key]) for key in ("monitoring", "spire") if key in site),
    ]
    every = sorted({namespace for namespace, _ in named} | {FOREIGN, "clients"})
    found: list[Selector] = [
        *named,
        *(
            (namespace, {**labels, "pod-template-hash": "7f"})
            for namespace, labels in named
        ),
        # The labels of others do not help elsewhere.
        *((FOREIGN, labels) for _, labels in named),
        *((namespace, labels) for namespace in every for labels in ROGUES),
    ]
    unique = {(ns, tuple(sorted(labels.items()))): None for ns, labels in found}
    return {
        f"{namespace}/pod-{number}": dict(labels)
        for number, (namespace, labels) in enumerate(unique)
    }
