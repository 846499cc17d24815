"""ClusterSPIFFEID as SPIRE's controller manager documents it: an entry for each pod."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from authz_server.site.model import Site
from authz_server.verify.endpoints import METADATA_NAME
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import ClusterObject
from authz_server.verify.selectors import Labels, Selector, read_selector

GROUP: Final = "spire.spiffe.io"
IGNORED_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "spire-system"})
"""Which the controller manager leaves alone, unless it is told otherwise."""

_WORDS: Final = re.compile(r"\{\{\s*\.([A-Za-z.]+)\s*\}\}")


@dataclass(frozen=True, slots=True, eq=False)
class Pod:
    """Pods of one namespace, labels and service account.

    Attributes:
        is_named: whether policy or site name them, so that they need their ID.
    """

    name: str
    namespace: str
    labels: Labels
    account: str
    is_named: bool

    def selectors(self, selector: str) -> bool:
        """Return whether an attested process of it has a workload selector.

        Raises:
            UnreadableError: if that can't be told.
        """
        match selector.split(":", 3):
            case ["k8s", "ns", namespace]:
                return namespace == self.namespace
            case ["k8s", "sa", account]:
                return account == self.account
            case ["k8s", "pod-label", key, value]:
                return self.labels.get(key) == value
        raise UnreadableError(f"the selector {selector!r} is not known")


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A ClusterSPIFFEID."""

    origin: ClusterObject
    template: str
    namespaces: Selector
    pods: Selector
    selectors: tuple[str, ...]
    federates_with: tuple[str, ...]
    is_powerful: bool

    @property
    def only_namespace(self) -> str:
        """The one namespace whose pods it selects; empty if there may be others."""
        return dict(self.namespaces.labels).get(METADATA_NAME, "")

    def entry(self, pod: Pod, trust_domain: str) -> tuple[str, frozenset[str]] | None:
        """Return ID and selectors of the entry that it makes for `pod`, if any.

        Raises:
            UnreadableError: if a template holds what nothing is known about.
        """
        there = {METADATA_NAME: pod.namespace}
        if (
            pod.namespace in IGNORED_NAMESPACES
            or not self.namespaces.matches(there)
            or not self.pods.matches(pod.labels)
        ):
            return None
        words = {
            "TrustDomain": trust_domain,
            "PodMeta.Namespace": pod.namespace,
            "PodSpec.ServiceAccountName": pod.account,
        }
        return _rendered(self.template, words), frozenset(
            _rendered(item, words) for item in self.selectors
        )


def read_registration(item: ClusterObject, site: Site) -> Registration | None:
    """Return what `item` says; None if the site's controller manager passes it by.

    Raises:
        UnreadableError: if it holds what nothing is known about.
    """
    spec = Fields(item.spec, "spec")
    spec.only(
        *("spiffeIDTemplate", "namespaceSelector", "podSelector", "ttl", "jwtTtl"),
        *("workloadSelectorTemplates", "dnsNameTemplates", "federatesWith", "hint"),
        *("fallback", "admin", "downstream", "autoPopulateDNSNames", "className"),
    )
    if spec.boolean("fallback"):
        raise UnreadableError("spec.fallback depends on all other objects")
    wanted = site.spire.class_name if site.spire is not None else ""
    if spec.text("className") != wanted:
        return None
    return Registration(
        item,
        spec.text("spiffeIDTemplate"),
        read_selector(spec.child("namespaceSelector")),
        read_selector(spec.child("podSelector")),
        spec.texts("workloadSelectorTemplates"),
        spec.texts("federatesWith"),
        spec.boolean("admin") or spec.boolean("downstream"),
    )


def _rendered(template: str, words: dict[str, str]) -> str:
    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            raise UnreadableError(f"the template's {match[0]} is not known")
        return words[match[1]]

    text = _WORDS.sub(word, template)
    if "{{" in text:
        raise UnreadableError(f"the template {template!r} is not known")
    return text
