"""Holds what may dial which service in OpenZiti against the policy.

A service policy of type Dial lets identities reach services, one of type Bind lets them
host services.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import Upstream
from authz_server.site.model import Site
from authz_server.verify.difference import Difference, Kind, Layer
from authz_server.verify.fields import UnreadableError
from authz_server.verify.limits import Limit
from authz_server.verify.objects import Document, Found
from authz_server.verify.openziti_network import Entity, Network
from authz_server.verify.truth import Truth

_CLAIM: Final = {
    "location": "SAN_URI",
    "matcher": "SCHEME",
    "matcherCriteria": "spiffe",
    "parser": "NONE",
    "parserCriteria": "",
    "index": 0,
}
"""How a certificate names an identity: by its SPIFFE ID, whole."""


def openziti_differences(
    truth: Truth, site: Site, found: Found
) -> Iterator[Difference]:
    """Yield how the files for ``ziti ops import`` differ from the policy."""
    documents = [item for item in found.documents if "servicePolicies" in item.body]
    if not documents:
        yield _unclear("import", "there is no file for ziti ops import")
    for document in documents:
        try:
            network = Network(document)
        except UnreadableError as error:
            yield _unclear(document.place, f"{document.place}: {error}")
            continue
        yield from _authorities(document)
        for upstream in truth.policy.upstreams.values():
            yield from _of_upstream(truth, site, network, upstream)


def _unclear(target: str, why: str) -> Difference:
    return Difference(Layer.OPENZITI, Kind.UNCLEAR, (), target, "services", "", why)


def _authorities(document: Document) -> Iterator[Difference]:
    listed: Any = document.body.get("certificateAuthorities") or ()
    for item in listed:
        name = item.get("name", "") if isinstance(item, Mapping) else ""
        is_plain = isinstance(item, Mapping)
        enrolls = is_plain and (
            item.get("isAutoCaEnrollmentEnabled")
            or item.get("isOttCaEnrollmentEnabled")
        )
        if enrolls:
            yield Difference(
                Layer.OPENZITI,
                Kind.EXTRA,
                ("whoever holds an SVID",),
                f"authority {name}",
                "becoming an identity",
                "lists who is known",
                f"{document.place}: the authority enrols by itself",
            )
        if not is_plain or item.get("externalIdClaim") != _CLAIM:
            yield _unclear(
                f"authority {name}",
                f"{document.place}: its externalIdClaim is not the whole SPIFFE ID",
            )


def _of_upstream(
    truth: Truth, site: Site, network: Network, upstream: Upstream
) -> Iterator[Difference]:
    target = f"upstream {upstream.name}"
    name = f"{truth.policy.name}.{upstream.name}"
    services = [item for item in network.services if item.name == name]
    if not services:
        yield _unclear(target, f"{network.place}: no service is called {name}")
        return
    [service] = services[:1]
    dialing = dict(network.may("Dial", service))
    for identity, by in dialing.items():
        yield from _extra(truth, network, upstream, identity, by)
    own = truth.policy.workload_id(upstream)
    for identity, by in network.may("Bind", service):
        if identity.external_id != own:
            yield Difference(
                Layer.OPENZITI,
                Kind.EXTRA,
                (identity.external_id or identity.name,),
                target,
                "hosting it",
                f"runs as {own}" if own else "has no ID",
                f"{network.place}: binds it by {', '.join(by)}",
            )
    dialers = {item.external_id for item in dialing}
    yield from _missing(truth, site, network, upstream, dialers)


def _extra(
    truth: Truth,
    network: Network,
    upstream: Upstream,
    identity: Entity,
    by: Sequence[str],
) -> Iterator[Difference]:
    enforced = f"{network.place}: dials it by {', '.join(by)}"
    target = f"upstream {upstream.name}"
    operations = truth.operations(upstream.name)
    try:
        caller = SpiffeId.parse_workload(identity.external_id)
    except SpiffeIdError as error:
        yield Difference(
            Layer.OPENZITI,
            Kind.EXTRA,
            (identity.name,),
            target,
            "a connection",
            f"knows it by no SPIFFE ID: {error}",
            enforced,
        )
        return
    if identity.name in network.admins:
        yield Difference(
            Layer.OPENZITI,
            Kind.EXTRA,
            (str(caller),),
            "the controller",
            "its administration",
            "no caller administers it",
            f"{network.place}: isAdmin",
        )
    allowed = truth.allowed(caller, upstream.name)
    denied = [item for item in operations if item not in allowed]
    if not truth.held(caller, upstream.name):
        # Users whom it might call for are none of its own grants.
        yield Difference(
            Layer.OPENZITI,
            Kind.EXTRA,
            (str(caller),),
            target,
            "a connection",
            f"has no grant for it; {truth.why(caller, (denied or operations)[0])}",
            enforced,
        )
    elif denied:
        yield Difference(
            Layer.OPENZITI,
            Kind.EXTRA,
            (str(caller),),
            target,
            "operations of its one service",
            truth.why(caller, denied[0]),
            enforced,
            Limit.COARSE if allowed else Limit.CONDITION,
        )


def _missing(
    truth: Truth,
    site: Site,
    network: Network,
    upstream: Upstream,
    dialing: set[str],
) -> Iterator[Difference]:
    named = _named(truth, site)
    # Callers that are named in full need not be the witnesses of their kind.
    callers = {*truth.callers, *map(SpiffeId.parse, named)}
    for caller in sorted(callers, key=str):
        allowed = truth.allowed(caller, upstream.name)
        if not allowed or str(caller) in dialing:
            continue
        limit = None
        if not truth.held(caller, upstream.name):
            limit = Limit.USERS
        elif str(caller) not in named:
            limit = Limit.NO_IDENTITY
        operation = next(
            item for item in truth.operations(upstream.name) if item in allowed
        )
        yield Difference(
            Layer.OPENZITI,
            Kind.MISSING,
            (str(caller),),
            f"upstream {upstream.name}",
            "a connection",
            truth.why(caller, operation),
            f"{network.place}: no Dial policy has it",
            limit,
        )


def _named(truth: Truth, site: Site) -> set[str]:
    """Return the IDs of the own trust domain that policy or site name in full."""
    policy = truth.policy
    named = {
        str(pattern)
        for group in policy.groups.values()
        for pattern in group.spiffe
        if pattern.is_exact and pattern.trust_domain == policy.trust_domain
    }
    named |= {
        str(
            SpiffeId(
                policy.trust_domain, ("ns", item.namespace, "sa", item.service_account)
            )
        )
        for group in policy.groups.values()
        for item in group.workloads
        if item.service_account
    }
    named |= {policy.workload_id(item) for item in policy.upstreams.values()} - {""}
    named |= {
        str(item.spiffe_id)
        for box in site.boxes
        for item in box.workloads
        if item.spiffe_id.trust_domain == policy.trust_domain
    }
    return named
