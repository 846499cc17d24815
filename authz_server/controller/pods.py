"""Do the policy's selectors match any pod, and does any pod evade them?

A selector that matches nothing protects nothing, and neither Kubernetes nor Istio says
so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from authz_server.emit.manifest import Object, deployed
from authz_server.policy.model import AccessPolicy


@dataclass(frozen=True, slots=True)
class Pod:
    """What of a pod matters here."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    service_account: str
    host_network: bool

    @classmethod
    def of(cls, item: Object) -> Pod:
        """Return what of a pod object matters."""
        meta, spec = item["metadata"], item.get("spec") or {}
        return cls(
            meta["namespace"],
            meta["name"],
            meta.get("labels") or {},
            spec.get("serviceAccountName") or "default",
            bool(spec.get("hostNetwork")),
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    what: str
    namespace: str
    labels: Mapping[str, str]
    service_account: str
    host_network: bool


def findings(policy: AccessPolicy, pods: Iterable[Pod]) -> tuple[str, ...]:
    """Return what is amiss, a sentence each."""
    by_namespace: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        by_namespace[pod.namespace].append(pod)
    return tuple(
        sentence
        for wanted in _wanted(policy)
        for sentence in _about(wanted, by_namespace[wanted.namespace])
    )


def _wanted(policy: AccessPolicy) -> Iterator[_Wanted]:
    for upstream in deployed(policy):
        yield _Wanted(
            f"upstream {upstream.name}",
            upstream.namespace,
            upstream.pod_selector,
            upstream.service_account,
            host_network=False,
        )
    for _, group in sorted(policy.groups.items()):
        for item in group.workloads:
            yield _Wanted(
                f"group {group.name}",
                item.namespace,
                item.pod_selector,
                item.service_account,
                item.host_network,
            )


def _about(wanted: _Wanted, pods: Iterable[Pod]) -> Iterator[str]:
    labels = ",".join(f"{key}={value}" for key, value in sorted(wanted.labels.items()))
    where = f"{wanted.what}: in namespace {wanted.namespace}"
    chosen = [pod for pod in pods if wanted.labels.items() <= pod.labels.items()]
    if not chosen:
        yield f"{where} no pod matches {labels or 'every pod'}"
        return
    for pod in sorted(chosen, key=lambda item: item.name):
        if pod.host_network and not wanted.host_network:
            yield (
                f"{where} pod {pod.name} is on the host's network, where no packet "
                "filter of the policy holds it"
            )
        if wanted.service_account and pod.service_account != wanted.service_account:
            yield (
                f"{where} pod {pod.name} runs as {pod.service_account}, not as "
                f"{wanted.service_account}"
            )
