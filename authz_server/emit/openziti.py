"""Target ``openziti``: who may dial which upstream, in OpenZiti's words.

SVIDs log in by their SPIFFE ID. A service is one upstream's Envoy, whatever stands
behind it, so this knows callers and upstreams and nothing finer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from authz_server.emit import notes
from authz_server.emit.manifest import Manifest, settings_file
from authz_server.emit.openziti_members import NamedIds
from authz_server.emit.openziti_notes import CERTIFICATE_AUTHORITY, OPENZITI, limits
from authz_server.emit.openziti_rest import rest_file
from authz_server.emit.reach import reaches
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy, Upstream
from authz_server.site.model import SERVER, Site

Sections = dict[str, list[dict[str, Any]]]
"""What ``ziti ops import`` takes: entities by kind, one naming another by ``@name``."""

# How an SVID names itself (SPIFFE X509-SVID §2): its one URI SAN, whole.
_EXTERNAL_ID: Final = {
    "location": "SAN_URI",
    "matcher": "SCHEME",
    "matcherCriteria": "spiffe",
    "parser": "NONE",
    "parserCriteria": "",
    "index": 0,
}


Members = Mapping[str, Sequence[SpiffeId]]
"""By group with a grant: those of its callers that a controller can know."""


def emit_openziti(policy: AccessPolicy, site: Site) -> tuple[Manifest, ...]:
    """Return the file for ``ziti ops import``, and the same as REST calls."""
    granted = {
        reach.group.name
        for upstream in policy.upstreams.values()
        for reach in reaches(policy, upstream, site)
    }
    named = NamedIds(policy, site)
    members = {name: named.members(policy.groups[name]) for name in sorted(granted)}
    sections = _sections(policy, site, members)
    has_authority = "certificateAuthorities" in sections
    return (
        settings_file(
            "import.yaml",
            (
                notes.GENERATED,
                *(item.format(name=policy.name) for item in OPENZITI),
                CERTIFICATE_AUTHORITY[has_authority].format(
                    name=policy.name, trust_domain=policy.trust_domain
                ),
                *limits(policy, site, members),
            ),
            sections,
        ),
        rest_file(sections),
    )


def _sections(policy: AccessPolicy, site: Site, members: Members) -> Sections:
    upstreams = [item for _, item in sorted(policy.upstreams.items())]
    sections = {
        "certificateAuthorities": list(_authorities(policy, site)),
        "configs": [
            config for item in upstreams for config in _configs(policy, site, item)
        ],
        "services": [
            _entity(
                policy,
                policy.name,
                item.name,
                encryptionRequired=True,
                roleAttributes=[policy.name, _attribute(policy, "upstream", item.name)],
                configs=[
                    f"@{config['name']}" for config in _configs(policy, site, item)
                ],
            )
            for item in upstreams
        ],
        "identities": list(_identities(policy, upstreams, members)),
        # An identity without a router, or a service without one, has no path.
        "edgeRouterPolicies": [
            _entity(
                policy,
                policy.name,
                semantic="AnyOf",
                identityRoles=[f"#{policy.name}"],
                edgeRouterRoles=["#all"],
            )
        ],
        "serviceEdgeRouterPolicies": [
            _entity(
                policy,
                policy.name,
                semantic="AnyOf",
                serviceRoles=[f"#{policy.name}"],
                edgeRouterRoles=["#all"],
            )
        ],
        "servicePolicies": [
            item
            for upstream in upstreams
            for item in _service_policies(policy, site, upstream)
        ],
    }
    return {kind: entities for kind, entities in sections.items() if entities}


def _entity(policy: AccessPolicy, *parts: str, **fields: object) -> dict[str, Any]:
    # A controller knows no namespaces: names begin with the policy's, and hold no other
    # dot than ours, so that no two are the same.
    return {
        "name": ".".join(parts),
        **fields,
        "tags": {"managedBy": SERVER, "partOf": policy.name},
    }


def _attribute(policy: AccessPolicy, kind: str, name: str) -> str:
    return f"{policy.name}.{kind}.{name}"


def _authorities(policy: AccessPolicy, site: Site) -> Iterator[dict[str, Any]]:
    if site.openziti.certificate_authority:
        yield _entity(
            policy,
            policy.name,
            "spiffe",
            certPem=site.openziti.certificate_authority,
            isAuthEnabled=True,
            # Otherwise whoever holds an SVID could make itself an identity.
            isAutoCaEnrollmentEnabled=False,
            isOttCaEnrollmentEnabled=False,
            identityRoles=[],
            externalIdClaim=_EXTERNAL_ID,
        )


def _configs(
    policy: AccessPolicy, site: Site, upstream: Upstream
) -> Iterator[dict[str, Any]]:
    port = site.ports.envoy
    if upstream.hosts:
        yield _entity(
            policy,
            policy.name,
            upstream.name,
            "intercept",
            configType="@intercept.v1",
            data={
                "protocols": ["tcp"],
                "addresses": sorted(upstream.hosts),
                "portRanges": [{"low": port, "high": port}],
            },
        )
    yield _entity(
        policy,
        policy.name,
        upstream.name,
        "host",
        configType="@host.v1",
        data={"protocol": "tcp", "address": "127.0.0.1", "port": port},
    )


def _identities(
    policy: AccessPolicy, upstreams: Iterable[Upstream], members: Members
) -> Iterator[dict[str, Any]]:
    # One external ID is one identity, whatever it is a member of.
    attributes: dict[str, set[str]] = {}
    for group, ids in members.items():
        for item in ids:
            attributes.setdefault(str(item), set()).add(
                _attribute(policy, "group", group)
            )
    for upstream in upstreams:
        spiffe_id = policy.workload_id(upstream)
        if spiffe_id:
            attributes.setdefault(spiffe_id, set()).add(
                _attribute(policy, "host", upstream.name)
            )
    for spiffe_id, found in sorted(attributes.items()):
        yield _entity(
            policy,
            spiffe_id,
            type="Default",
            isAdmin=False,
            externalId=spiffe_id,
            # The import panics without it.
            authPolicy="@Default",
            roleAttributes=[policy.name, *sorted(found)],
        )


def _service_policies(
    policy: AccessPolicy, site: Site, upstream: Upstream
) -> Iterator[dict[str, Any]]:
    service = [f"#{_attribute(policy, 'upstream', upstream.name)}"]
    yield _entity(
        policy,
        policy.name,
        upstream.name,
        "bind",
        type="Bind",
        semantic="AnyOf",
        identityRoles=[f"#{_attribute(policy, 'host', upstream.name)}"],
        serviceRoles=service,
    )
    # One for each group: an import adds what is new, and changes nothing that is there.
    for reach in reaches(policy, upstream, site):
        yield _entity(
            policy,
            policy.name,
            upstream.name,
            "dial",
            reach.group.name,
            type="Dial",
            semantic="AnyOf",
            identityRoles=[f"#{_attribute(policy, 'group', reach.group.name)}"],
            serviceRoles=service,
        )
