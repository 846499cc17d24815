"""Registration entries for machines without Kubernetes.

A box's agent is known by an alias, ``spiffe://TD/box/NAME``, whatever attests it; its
workloads are registered below that. Envoy and the server on a box that serves upstreams
run as users of their own, and are told by these.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from authz_server.emit.manifest import Object, dns_name, metadata
from authz_server.emit.spire_identities import (
    API_VERSION,
    class_name,
    federated_callers,
    federates_with,
)
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Box, Site, Spire

Selectors: TypeAlias = tuple[str, ...]

ENVOY: Final = "envoy"

# The server is the parent of nodes (SPIRE's own convention).
_SERVER: Final = ("spire", "server")

# What a process has one of, so that two values of it exclude each other.
_SINGLE: Final = (
    *("unix:uid:", "unix:user:", "unix:gid:", "unix:group:"),
    *("unix:path:", "unix:sha256:", "systemd:id:", "docker:image_id:"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A registration entry.

    Attributes:
        name: its name in the cluster, and its ID at the server. With a dot in it, the
            controller manager's clean-up of foreign entries passes it by.
        selectors: ``type:value``, sorted; all of them must be true.
        x509_ttl_s, jwt_ttl_s: lifetimes of SVIDs; 0 for the server's default.
        federates_with: names of trust domains.
        dns_names: that the certificate has beside the ID.

    Raises:
        PolicyError: if it has no selectors, which SPIRE refuses.
    """

    name: str
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: tuple[str, ...]
    x509_ttl_s: int = 0
    jwt_ttl_s: int = 0
    federates_with: frozenset[str] = frozenset()
    dns_names: tuple[str, ...] = ()

    @property
    def is_alias(self) -> bool:
        """Whether it names a node rather than a process."""
        return self.parent_id.path == _SERVER

    def __post_init__(self) -> None:
        if not self.selectors:
            raise PolicyError(
                f"{self.spiffe_id} has no selectors, so no process could get it; add "
                "e.g. unix:user:NAME"
            )


def box_id(trust_domain: TrustDomain, name: str, *path: str) -> SpiffeId:
    """Return the ID of the box `name`, or of what `path` names on it."""
    return SpiffeId(trust_domain, ("box", name, *path))


def registered(site: Site) -> tuple[Box, ...]:
    """Return the boxes that SPIRE has to know, by name."""
    return tuple(
        box
        for box in sorted(site.boxes, key=lambda one: one.name)
        if box.workloads or (box.serves and box.uses_spire)
    )


def box_entries(policy: AccessPolicy, site: Site, spire: Spire) -> tuple[Entry, ...]:
    """Return the entries for all boxes: each one's alias, then its workloads.

    There is none for the alias of a box with a join token, as the token carries it.

    Raises:
        PolicyError: if one node could be two boxes, or one process get two IDs by the
            selectors of one of them, or a workload the ID of its box.
    """
    boxes = registered(site)
    _check_nodes(boxes)
    entries: list[Entry] = []
    for box in boxes:
        alias = box_id(policy.trust_domain, box.name)
        if box.node_selectors:
            server = SpiffeId(policy.trust_domain, _SERVER)
            name = f"{policy.name}.{box.name}"
            entries.append(Entry(name, alias, server, box.node_selectors))
        entries += _workloads(policy, site, spire, box)
    return tuple(entries)


def _workloads(policy: AccessPolicy, site: Site, spire: Spire, box: Box) -> list[Entry]:
    alias = box_id(policy.trust_domain, box.name)
    wanted = _wanted(policy, site, box)
    envoy = box_id(policy.trust_domain, box.name, ENVOY)
    _check_workloads(box, alias, list(wanted))
    return [
        Entry(
            _name(policy, box, spiffe_id, selectors),
            spiffe_id,
            alias,
            selectors,
            spire.x509_ttl_s,
            spire.jwt_ttl_s,
            foreign,
            _hosts(policy, box) if spiffe_id == envoy else (),
        )
        for (spiffe_id, selectors), foreign in sorted(wanted.items())
    ]


def _hosts(policy: AccessPolicy, box: Box) -> tuple[str, ...]:
    """Return what callers that know no SPIFFE call the box's Envoy."""
    return tuple(
        sorted(
            {
                host
                for name in box.serves
                for host in policy.upstreams[name].hosts
                if not host.startswith("*")  # SPIRE takes no wildcards
            }
        )
    )


def _wanted(
    policy: AccessPolicy, site: Site, box: Box
) -> dict[tuple[SpiffeId, Selectors], frozenset[str]]:
    """Return by IDs and selectors which foreign bundles go with them."""
    # What is said twice is one entry: SPIRE would refuse the second.
    wanted = {
        (item.spiffe_id, item.selectors): frozenset[str]() for item in box.workloads
    }
    if box.serves and box.uses_spire:
        foreign = federated_callers(policy, site, box.serves)
        for part in (ENVOY, SERVER):
            spiffe_id = box_id(policy.trust_domain, box.name, part)
            wanted[spiffe_id, (f"unix:user:{part}",)] = foreign
    return wanted


def _name(
    policy: AccessPolicy, box: Box, spiffe_id: SpiffeId, selectors: Selectors
) -> str:
    text = "\0".join((str(spiffe_id), *selectors))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    last = dns_name(spiffe_id.path[-1]) if spiffe_id.path else ""
    return f"{policy.name}.{box.name}.{last}-{digest}"


def _check_nodes(boxes: tuple[Box, ...]) -> None:
    known = [box for box in boxes if box.node_selectors]
    for inner, outer in _nested([frozenset(box.node_selectors) for box in known]):
        one, other = sorted((known[inner].name, known[outer].name))
        raise PolicyError(
            f"spec.boxes.{one} and spec.boxes.{other} of the site: a node with "
            f"{' and '.join(known[outer].node_selectors)} would be both, and get the "
            "identities of both; give each a selector that no other has"
        )


def _check_workloads(
    box: Box, alias: SpiffeId, wanted: list[tuple[SpiffeId, Selectors]]
) -> None:
    for inner, outer in _nested([frozenset(selectors) for _, selectors in wanted]):
        one, other = wanted[inner][0], wanted[outer][0]
        if one != other:
            raise PolicyError(
                f"spec.boxes.{box.name} of the site: a process with "
                f"{' and '.join(wanted[outer][1])} would get both "
                f"{' and '.join(sorted((str(one), str(other))))}; give each a "
                "selector that the other has not"
            )
    for spiffe_id, _ in wanted:
        if spiffe_id == alias:
            raise PolicyError(
                f"spec.boxes.{box.name}.workloads of the site: {alias} is the box's "
                f"own ID; give the workload another, e.g. {alias}/NAME"
            )


def both_possible(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Yield pairs of entries whose selectors might all be true of one process."""
    by_parent: dict[SpiffeId, list[Entry]] = {}
    for entry in entries:
        if entry.is_alias:
            continue
        for other in by_parent.setdefault(entry.parent_id, []):
            if other.spiffe_id != entry.spiffe_id and not _exclude(other, entry):
                yield other, entry
        by_parent[entry.parent_id].append(entry)


def _exclude(one: Entry, other: Entry) -> bool:
    return any(
        mine.startswith(prefix) and theirs.startswith(prefix) and mine != theirs
        for prefix in _SINGLE
        for mine in one.selectors
        for theirs in other.selectors
    )


def _nested(sets: list[frozenset[str]]) -> Iterator[tuple[int, int]]:
    """Yield the indices of each two sets of which the first is within the second.

    A set is looked for only where its rarest member is, so that thousands of boxes
    need no comparison of each with each.
    """
    count = Counter(member for item in sets for member in item)
    by_rarest: dict[str, list[int]] = {}
    for index, item in enumerate(sets):
        rarest = min(item, key=lambda member: (count[member], member))
        by_rarest.setdefault(rarest, []).append(index)
    for outer, item in enumerate(sets):
        for member in sorted(item):
            for inner in by_rarest.get(member, ()):
                if inner != outer and sets[inner] <= item:
                    yield inner, outer


def static_entry(policy: AccessPolicy, spire: Spire, entry: Entry) -> Object:
    """Return `entry` as an object for the controller manager."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterStaticEntry",
        "metadata": metadata(policy, entry.name),
        "spec": {
            "spiffeID": str(entry.spiffe_id),
            "parentID": str(entry.parent_id),
            "selectors": list(entry.selectors),
            **({"x509SVIDTTL": f"{entry.x509_ttl_s}s"} if entry.x509_ttl_s else {}),
            **({"jwtSVIDTTL": f"{entry.jwt_ttl_s}s"} if entry.jwt_ttl_s else {}),
            **federates_with(entry.federates_with),
            **({"dnsNames": list(entry.dns_names)} if entry.dns_names else {}),
            **class_name(spire),
        },
    }
