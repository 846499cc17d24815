"""Holds registration entries against what the site says of its boxes.

An agent is known by entries below SPIRE's server, a process by entries below its agent:
each whose selectors are all true of it (SPIRE, "Registration entries").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SCHEME, SpiffeId
from authz_server.site.model import SERVER, Box, Site
from authz_server.verify.difference import Difference, Kind, Layer
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import Found
from authz_server.verify.truth import Truth

_GROUP = "spire.spiffe.io"
_PARTS = ("envoy", SERVER)
"""Users that a serving box's Envoy and server run as."""


@dataclass(frozen=True, slots=True)
class _Entry:
    spiffe_id: str
    parent_id: str
    selectors: frozenset[str]
    federates_with: frozenset[str]
    is_powerful: bool
    origin: str

    def check(self) -> None:
        """Raise `UnreadableError` if SPIRE refuses it."""
        for text in (self.spiffe_id, self.parent_id):
            try:
                SpiffeId.parse(text)
            except SpiffeIdError as error:
                raise UnreadableError(f"{text!r}: {error}") from error
        if not self.selectors:
            raise UnreadableError("SPIRE refuses an entry without selectors")


def box_differences(truth: Truth, site: Site, found: Found) -> Iterator[Difference]:
    """Yield which processes on boxes get an ID that is not theirs, or none.

    Objects and the file for SPIRE's own command say the same; each is held to it.
    """
    boxes = [
        box for box in site.boxes if box.workloads or (box.serves and box.uses_spire)
    ]
    problems: list[Difference] = []
    sources = [
        list(_objects(site, found, problems)),
        list(_file_entries(found, problems)),
    ]
    yield from problems
    given = [entries for entries in sources if entries]
    for entries in given or ([[]] if boxes else []):
        yield from _Comparison(truth, site, boxes, entries).differences()


def needed_bundles(
    truth: Truth, site: Site, upstreams: Collection[str]
) -> frozenset[str]:
    """Return the foreign trust domains whose callers proxies there must verify.

    Only those whose bundle has somewhere to come from.
    """
    domains = {
        pattern.trust_domain.name
        for name in upstreams
        for group in truth.groups_with_grants(name)
        for pattern in group.spiffe
    }
    return frozenset(domains & {item.trust_domain.name for item in site.federation})


def _unclear(origin: str, why: str) -> Difference:
    return Difference(
        Layer.SPIRE, Kind.UNCLEAR, (), origin, "identities", "", f"{origin}: {why}"
    )


def _objects(site: Site, found: Found, problems: list[Difference]) -> Iterator[_Entry]:
    wanted = site.spire.class_name if site.spire is not None else ""
    for item in found.of(_GROUP, "ClusterStaticEntry"):
        try:
            spec = Fields(item.spec, "spec")
            spec.only(
                *("spiffeID", "parentID", "selectors", "x509SVIDTTL", "jwtSVIDTTL"),
                *("federatesWith", "dnsNames", "hint", "admin", "downstream"),
                *("storeSVID", "className"),
            )
            if spec.text("className") == wanted:
                entry = _Entry(
                    spec.text("spiffeID"),
                    spec.text("parentID"),
                    frozenset(spec.texts("selectors")),
                    frozenset(spec.texts("federatesWith")),
                    spec.boolean("admin") or spec.boolean("downstream"),
                    str(item),
                )
                entry.check()
                yield entry
        except UnreadableError as error:
            problems.append(_unclear(str(item), str(error)))


def _file_entries(found: Found, problems: list[Difference]) -> Iterator[_Entry]:
    for document in found.documents:
        if "entries" not in document.body:
            continue
        try:
            for index, item in enumerate(Fields(document.body, "").children("entries")):
                # SPIRE drops what it does not know without a word.
                item.only(
                    *("entry_id", "parent_id", "spiffe_id", "selectors", "hint"),
                    *("x509_svid_ttl", "jwt_svid_ttl", "federates_with", "dns_names"),
                    *("admin", "downstream", "entryExpiry", "store_svid"),
                )
                entry = _Entry(
                    item.text("spiffe_id"),
                    item.text("parent_id"),
                    frozenset(
                        f"{one.text('type')}:{one.text('value')}"
                        for one in item.children("selectors")
                    ),
                    frozenset(
                        text.removeprefix(SCHEME)
                        for text in item.texts("federates_with")
                    ),
                    item.boolean("admin") or item.boolean("downstream"),
                    f"entry {index + 1} ({document.place})",
                )
                entry.check()
                yield entry
        except UnreadableError as error:
            problems.append(_unclear(document.place, str(error)))


class _Comparison:
    def __init__(
        self, truth: Truth, site: Site, boxes: Iterable[Box], entries: Iterable[_Entry]
    ) -> None:
        self._truth = truth
        self._site = site
        self._boxes = tuple(boxes)
        self._entries = tuple(entries)
        domain = f"{SCHEME}{truth.policy.trust_domain}"
        self._server = f"{domain}/spire/server"
        self._box_prefix = f"{domain}/box/"

    def differences(self) -> Iterator[Difference]:
        for entry in self._entries:
            if entry.is_powerful:
                yield self._difference(
                    Kind.EXTRA,
                    "its processes",
                    entry.spiffe_id,
                    "no workload administers SPIRE",
                    f"{entry.origin} sets admin or downstream",
                )
        known = {self._server}
        for box in self._boxes:
            aliases = self._aliases(box)
            known |= aliases
            yield from self._box(box, aliases)
        yield from self._nodes()
        for entry in self._entries:
            if entry.parent_id not in known and self._is_privileged(entry.spiffe_id):
                yield self._difference(
                    Kind.EXTRA,
                    f"processes with {_shown(entry.selectors)} under {entry.parent_id}",
                    entry.spiffe_id,
                    "the site has no such box",
                    f"{entry.origin} gives it to them",
                )

    def _aliases(self, box: Box) -> set[str]:
        """Return the IDs that the box's agent goes by."""
        node = set(box.node_selectors)
        if not node:
            return {self._box_prefix + box.name}  # its join token carries it
        return {
            entry.spiffe_id
            for entry in self._entries
            if entry.parent_id == self._server and entry.selectors <= node
        }

    def _box(self, box: Box, aliases: set[str]) -> Iterator[Difference]:
        below = [entry for entry in self._entries if entry.parent_id in aliases]
        processes = {frozenset(item.selectors) for item in box.workloads}
        processes |= {entry.selectors for entry in below} | {frozenset()}
        parts = _PARTS if box.serves and box.uses_spire else ()
        for part in parts:
            process = frozenset({f"unix:user:{part}"})
            processes.add(process)
            given = [entry for entry in below if entry.selectors <= process]
            if not given:
                yield self._difference(
                    Kind.MISSING,
                    f"{part} on {box.name}",
                    "any ID",
                    f"box {box.name} serves {', '.join(box.serves)} with SVIDs",
                    "no entry gives it one",
                )
            needed = needed_bundles(self._truth, self._site, box.serves)
            for name in sorted(needed.difference(*(e.federates_with for e in given))):
                yield self._difference(
                    Kind.MISSING,
                    f"{part} on {box.name}",
                    f"the trust bundle of {name}",
                    f"a group with a grant has IDs of {name}",
                    f"no entry that gives it its ID names {name}",
                )
        for process in sorted(processes, key=sorted):
            who = f"a process with {_shown(process)} on {box.name}"
            issued = {
                entry.spiffe_id: entry.origin
                for entry in below
                if entry.selectors <= process
            }
            wanted = {
                str(item.spiffe_id)
                for item in box.workloads
                if set(item.selectors) <= process
            }
            for missing in sorted(wanted - issued.keys()):
                yield self._difference(
                    Kind.MISSING,
                    who,
                    missing,
                    f"box {box.name} of the site has it",
                    "no entry gives it to them",
                )
            for extra in sorted(issued.keys() - wanted):
                if self._is_privileged(extra):
                    yield self._difference(
                        Kind.EXTRA,
                        who,
                        extra,
                        f"box {box.name} of the site has no such workload",
                        f"{issued[extra]} gives it to them",
                    )

    def _nodes(self) -> Iterator[Difference]:
        """Yield which nodes, that are no boxes of the site, pass for one."""
        for entry in self._entries:
            is_parent = any(item.parent_id == entry.spiffe_id for item in self._entries)
            if entry.parent_id != self._server or not is_parent:
                continue
            if not any(
                box.node_selectors and set(box.node_selectors) <= entry.selectors
                for box in self._boxes
            ):
                yield self._difference(
                    Kind.EXTRA,
                    f"a node with {_shown(entry.selectors)}",
                    entry.spiffe_id,
                    "no box of the site is told by these",
                    f"{entry.origin} gives it to it, and so all that is below",
                )

    def _is_privileged(self, text: str) -> bool:
        try:
            return self._truth.is_privileged(SpiffeId.parse_workload(text))
        except SpiffeIdError:
            return False

    def _difference(
        self, kind: Kind, who: str, target: str, policy: str, enforced: str
    ) -> Difference:
        return Difference(
            Layer.SPIRE, kind, (who,), target, "its SVID", policy, enforced
        )


def _shown(selectors: Iterable[str]) -> str:
    return " and ".join(sorted(selectors)) or "no selector at all"
