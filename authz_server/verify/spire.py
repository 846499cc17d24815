"""Holds who gets which ID from SPIRE against who is to have it.

In the cluster by ClusterSPIFFEID, as the controller manager documents it; on boxes by
registration entries (`spire_boxes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.site.model import Site
from authz_server.verify.difference import Difference, Kind, Layer
from authz_server.verify.endpoints import (
    METADATA_NAME,
    STRANGER_ACCOUNT,
    Place,
    deployed,
    endpoints,
    upstream_pods,
)
from authz_server.verify.fields import UnreadableError
from authz_server.verify.objects import ClusterObject, Found
from authz_server.verify.spire_boxes import box_differences, needed_bundles
from authz_server.verify.spire_registrations import (
    GROUP,
    Pod,
    Registration,
    read_registration,
)
from authz_server.verify.truth import Truth


def spire_differences(truth: Truth, site: Site, found: Found) -> Iterator[Difference]:
    """Yield who gets an ID that is not theirs, and who does not get theirs."""
    registrations: list[Registration] = []
    for item in found.of(GROUP, "ClusterSPIFFEID"):
        try:
            read = read_registration(item, site)
        except UnreadableError as error:
            yield _unclear(item, str(error))
            continue
        if read is not None:
            registrations.append(read)
            if read.is_powerful:
                yield Difference(
                    Layer.SPIRE,
                    Kind.EXTRA,
                    ("the pods that it selects",),
                    "SPIRE's server",
                    "its administration",
                    "no workload administers SPIRE",
                    f"{item} sets admin or downstream",
                )
    yield from _pod_differences(truth, site, registrations)
    yield from box_differences(truth, site, found)


def _unclear(item: ClusterObject, why: str) -> Difference:
    return Difference(
        Layer.SPIRE, Kind.UNCLEAR, (), item.name, "identities", "", f"{item}: {why}"
    )


def _pods(
    truth: Truth, site: Site, registrations: Iterable[Registration]
) -> Iterator[Pod]:
    """Yield pods of every kind that policy or registrations tell apart.

    Whoever has the labels may run as any account of the namespace.
    """
    policy = truth.policy
    named = {
        (item.namespace, item.service_account)
        for group in policy.groups.values()
        for item in group.workloads
    }
    named |= {(item.namespace, item.service_account) for item in deployed(policy)}
    wanted = [
        (item.namespaces.witness().get(METADATA_NAME, namespace), item.pods.witness())
        for item in registrations
        for namespace in sorted({"", *(namespace for namespace, _ in named)})
    ]
    for endpoint in endpoints(policy, site, wanted):
        if endpoint.place is not Place.POD:
            continue
        others = {account for there, account in named if there == endpoint.namespace}
        for account in sorted({*endpoint.accounts, *others, STRANGER_ACCOUNT} - {""}):
            is_own = account in endpoint.accounts and account != STRANGER_ACCOUNT
            yield Pod(
                f"{endpoint.name} as {account}",
                endpoint.namespace,
                endpoint.labels,
                account,
                is_own,
            )
    for group in policy.groups.values():
        for item in group.workloads:
            if item.host_network and item.service_account:
                yield Pod(
                    f"{item.namespace}/{item.service_account} on the host's network",
                    item.namespace,
                    item.pod_selector,
                    item.service_account,
                    is_named=True,
                )


def _pod_differences(
    truth: Truth, site: Site, registrations: list[Registration]
) -> Iterator[Difference]:
    broken: set[Registration] = set()
    # Most name their one namespace.
    by_namespace: dict[str, list[Registration]] = {}
    for item in registrations:
        by_namespace.setdefault(item.only_namespace, []).append(item)
    for pod in _pods(truth, site, registrations):
        issued: list[tuple[str, frozenset[str], Registration]] = []
        for item in (
            *by_namespace.get(pod.namespace, ()),
            *by_namespace.get("", ()),
        ):
            if item in broken:
                continue
            try:
                entry = item.entry(pod, str(truth.policy.trust_domain))
                if entry is not None and all(map(pod.selectors, entry[1])):
                    issued.append((*entry, item))
            except UnreadableError as error:
                broken.add(item)
                yield _unclear(item.origin, str(error))
        yield from _of_pod(truth, pod, issued)
        yield from _bundles(truth, site, pod, issued)


def _of_pod(
    truth: Truth,
    pod: Pod,
    issued: list[tuple[str, frozenset[str], Registration]],
) -> Iterator[Difference]:
    own = SpiffeId(truth.policy.trust_domain, ("ns", pod.namespace, "sa", pod.account))
    by = ", ".join(str(item.origin) for _, _, item in issued)
    ids = {text for text, _, _ in issued}
    if pod.is_named and str(own) not in ids:
        yield Difference(
            Layer.SPIRE,
            Kind.MISSING,
            (pod.name,),
            str(own),
            "its SVID",
            f"knows these pods as {own}",
            f"gives them {', '.join(sorted(ids))} by {by}"
            if ids
            else "no ClusterSPIFFEID gives them an ID",
        )
    for text, _, item in issued:
        if text == str(own):
            continue
        try:
            is_privileged = truth.is_privileged(SpiffeId.parse_workload(text))
        except SpiffeIdError as error:
            yield _unclear(item.origin, f"gives {pod.name} {text}: {error}")
            continue
        if is_privileged:
            yield Difference(
                Layer.SPIRE,
                Kind.EXTRA,
                (pod.name,),
                text,
                "its SVID",
                f"knows these pods as {own}, and grants {text} something",
                f"gives it to them by {item.origin}",
            )
    if pod.is_named and len(issued) > 1:
        # The same ID by the same selectors is one entry, and one object is masked; of
        # two IDs the process takes whichever comes first.
        yield Difference(
            Layer.SPIRE,
            Kind.UNCLEAR,
            (pod.name,),
            str(own),
            "its SVID",
            f"knows these pods as {own}",
            f"{len(issued)} objects give them one, of which one counts: {by}",
        )


def _bundles(
    truth: Truth,
    site: Site,
    pod: Pod,
    issued: list[tuple[str, frozenset[str], Registration]],
) -> Iterator[Difference]:
    """Yield the trust domains whose callers an upstream's proxy can't verify."""
    if not pod.is_named:
        return
    have = {name for _, _, item in issued for name in item.federates_with}
    for upstream in deployed(truth.policy):
        chosen = upstream_pods(upstream)
        if (
            pod.namespace != chosen.namespace
            or pod.account != upstream.service_account
            or any(pod.labels.get(k) != v for k, v in chosen.labels.items())
        ):
            continue
        needed = needed_bundles(truth, site, (upstream.name,))
        for name in sorted(needed - have):
            yield Difference(
                Layer.SPIRE,
                Kind.MISSING,
                (f"callers of {name}",),
                f"upstream {upstream.name}",
                "their trust bundle",
                f"a group with a grant has IDs of {name}",
                f"no object that gives {pod.name} its ID names {name} in federatesWith",
            )
