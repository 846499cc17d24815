"""Which pods get an ID from SPIRE: one ClusterSPIFFEID for each set of pods.

Two of them that make the same entry for one pod are one too many: the controller
manager registers the older object's and says so in a counter alone. So equal sets are
merged, a set within another of the same account is left to that one, and sets that
merely overlap are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from authz_server.emit.manifest import SERVER_LABELS, Object, deployed, metadata
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Shape, Site, Spire

API_VERSION: Final = "spire.spiffe.io/v1alpha1"

# The account is the pod's own rather than the one expected here. So an entry for a pod
# that only borrowed a label names no ID of the policy, even before its selectors fail.
# A literal trust domain makes a manager of another one refuse instead of issuing.
_TEMPLATE: Final = (
    "spiffe://{trust_domain}/ns/{{{{ .PodMeta.Namespace }}}}"
    "/sa/{{{{ .PodSpec.ServiceAccountName }}}}"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Pods that get the ID of their service account.

    Attributes:
        labels: what they have, by key; none for all pods of the namespace.
        federates_with: names of the trust domains whose bundles they get as well.
        place: where the policy names them.
    """

    namespace: str
    labels: tuple[tuple[str, str], ...]
    service_account: str
    federates_with: frozenset[str]
    place: str

    def spiffe_id(self, trust_domain: TrustDomain) -> SpiffeId:
        """Return what they get."""
        path = ("ns", self.namespace, "sa", self.service_account)
        return SpiffeId(trust_domain, path)

    def contains(self, other: Identity) -> bool:
        """Return whether each of the other's pods is one of these, by its labels."""
        return set(self.labels) <= set(other.labels)

    def overlaps(self, other: Identity) -> bool:
        """Return whether a pod can be one of both, by its labels."""
        labels = dict(self.labels)
        return all(labels.get(key, value) == value for key, value in other.labels)


def identities(policy: AccessPolicy, site: Site) -> tuple[Identity, ...]:
    """Return all pods that are to get an ID, no two of which overlap.

    Workloads without a service account are not among them: their ID is not known.

    Raises:
        PolicyError: if one pod could belong to two of them, or an upstream has no
            service account.
    """
    accounts: dict[tuple[str, str], dict[tuple[tuple[str, str], ...], Identity]] = {}
    for item in _named(policy, site):
        of_account = accounts.setdefault((item.namespace, item.service_account), {})
        of_account[item.labels] = _joined(of_account.get(item.labels), item)
    return tuple(
        identity
        for _, of_account in sorted(accounts.items())
        for identity in _disjoint(of_account.values())
    )


def _named(policy: AccessPolicy, site: Site) -> Iterator[Identity]:
    for upstream in deployed(policy):
        yield Identity(
            upstream.namespace,
            tuple(sorted(upstream.pod_selector.items())),
            upstream.service_account,
            federated_callers(policy, site, (upstream.name,)),
            f"spec.upstreams.{upstream.name}",
        )
    if site.server.shape is not Shape.SIDECAR:  # else it has its upstream's ID
        yield Identity(
            site.server.namespace,
            tuple(sorted(SERVER_LABELS.items())),
            SERVER,
            federated_callers(policy, site, policy.upstreams),
            "spec.server of the site",
        )
    for name, group in sorted(policy.groups.items()):
        for workload in group.workloads:
            if workload.service_account:
                yield Identity(
                    workload.namespace,
                    tuple(sorted(workload.pod_selector.items())),
                    workload.service_account,
                    frozenset(),
                    f"spec.groups.{name}",
                )


def _joined(first: Identity | None, other: Identity) -> Identity:
    if first is None:
        return other
    return replace(first, federates_with=first.federates_with | other.federates_with)


def _disjoint(of_account: Iterable[Identity]) -> list[Identity]:
    """Return the same pods, all of one account, in sets that do not overlap."""
    kept: list[Identity] = []
    # Few labels first, so that what contains another comes before it.
    for item in sorted(of_account, key=lambda one: (len(one.labels), one.labels)):
        for index, other in enumerate(kept):
            if other.contains(item):
                kept[index] = _joined(other, item)
                break
            if other.overlaps(item):
                raise PolicyError(
                    f"{item.place} and {other.place}: a pod in {item.namespace} that "
                    f"runs as {item.service_account} may have both {_shown(item)} and "
                    f"{_shown(other)}, and SPIRE would register it by one of the two "
                    "without saying which; give both the same podSelector, or one "
                    "label with different values"
                )
        else:
            kept.append(item)
    return kept


def _shown(item: Identity) -> str:
    return ",".join(f"{key}={value}" for key, value in item.labels)


def federated_callers(
    policy: AccessPolicy, site: Site, upstreams: Collection[str]
) -> frozenset[str]:
    """Return the foreign trust domains that callers of `upstreams` come from.

    Only those whose bundle has somewhere to come from: SPIRE refuses an entry that
    names a bundle it does not have.
    """
    called = frozenset(upstreams)
    granted = {
        name
        for grant in policy.grants
        if not called.isdisjoint(grant.on)
        for name in grant.to
    }
    domains = {
        pattern.trust_domain.name
        for name in granted
        for pattern in policy.groups[name].spiffe
    }
    return frozenset(domains & {item.trust_domain.name for item in site.federation})


def cluster_spiffe_id(policy: AccessPolicy, spire: Spire, item: Identity) -> Object:
    """Return the object that gives `item` its ID.

    The agent finds namespace and account of a process by itself, from the kubelet. So
    whoever may label pods, but not run them as this account, gets nothing.
    """
    selector = {"podSelector": {"matchLabels": dict(item.labels)}}
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterSPIFFEID",
        "metadata": metadata(policy, _name(policy, item)),
        "spec": {
            "spiffeIDTemplate": _TEMPLATE.format(trust_domain=policy.trust_domain),
            "namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": item.namespace}
            },
            **(selector if item.labels else {}),
            "workloadSelectorTemplates": [
                f"k8s:ns:{item.namespace}",
                f"k8s:sa:{item.service_account}",
            ],
            "ttl": f"{spire.x509_ttl_s}s",
            "jwtTtl": f"{spire.jwt_ttl_s}s",
            **federates_with(item.federates_with),
            **class_name(spire),
        },
    }


def federates_with(domains: Iterable[str]) -> dict[str, Any]:
    """Return the field of that name, if there are any."""
    listed = sorted(domains)
    return {"federatesWith": listed} if listed else {}


def class_name(spire: Spire) -> dict[str, Any]:
    """Return the field that tells which controller manager is to act, if one alone."""
    return {"className": spire.class_name} if spire.class_name else {}


def _name(policy: AccessPolicy, item: Identity) -> str:
    # A subdomain (RFC 1123), so its dots keep apart what a dash might join.
    parts = [policy.name, item.namespace, item.service_account]
    if item.labels:
        text = "\0".join(part for label in item.labels for part in label)
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
    return ".".join(parts)
