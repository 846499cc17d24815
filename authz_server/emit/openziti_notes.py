"""What stands at the top of the file for OpenZiti: how it is loaded, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy, Group
from authz_server.site.model import Mesh, Site

OPENZITI: Final = (
    """
Load it with: ziti ops import import.yaml --input-format yaml. That adds what is missing
and changes or deletes nothing: an identity that is there keeps its role attributes, and
a grant that was taken away stays until its Dial policy is deleted. Everything here is
tagged partOf {name}.
""",
    """
A service is a whole upstream: Dial says who reaches its Envoy at all. Models share that
one port, so action, model, version, dataset and user stay with the server, with
conditions and denials.
""",
    """
The tunneler beside an upstream logs in with the upstream's SVID and hands connections
to the Envoy on its own loopback. The caller's mTLS goes through unbroken, so the server
sees the caller's own ID, not the tunneler's.
""",
)

CERTIFICATE_AUTHORITY: Final = {
    False: """
Without a certificate authority: no SVID logs in until the controller knows the root of
{trust_domain}. Name it in the site (openziti.certificateAuthority), and choose one that
stays: without an upstream authority, SPIRE makes a new one every day.
""",
    True: """
The certificate authority counts only when it is verified: list its token (ziti edge
list cas), have a certificate made with that as its name (spire-server x509 mint
-spiffeID spiffe://{trust_domain}/openziti -dns TOKEN), and show it (ziti edge verify ca
{name}.spiffe --cert FILE).
""",
}


def limits(
    policy: AccessPolicy, site: Site, members: Mapping[str, Sequence[SpiffeId]]
) -> Iterator[str]:
    """Yield what the controller can't be told, or is not told, in words.

    Args:
        members: by group with a grant, those of its callers that have an identity.
    """
    if site.mesh is Mesh.SIDECAR:
        yield (
            f"Port {site.ports.envoy} is that of an Envoy of yours, as on a box. "
            "Behind an Istio sidecar nothing listens there, and nothing may: what "
            "comes over loopback passes by the sidecar's checks."
        )
    for name, upstream in sorted(policy.upstreams.items()):
        if not upstream.hosts:
            yield (
                f"Upstream {name} has no hosts, so no tunneler takes up connections to "
                "it: callers dial the service by an SDK."
            )
        if not policy.workload_id(upstream):
            yield (
                f"Upstream {name} has no ID in the policy, so no identity hosts it: "
                f"give its tunneler's attribute {policy.name}.host.{name}."
            )
    for name, found in sorted(members.items()):
        yield from _group_limits(policy, policy.groups[name], found)


def _group_limits(
    policy: AccessPolicy, group: Group, ids: Sequence[SpiffeId]
) -> Iterator[str]:
    for pattern in sorted(group.spiffe):
        if pattern.trust_domain != policy.trust_domain:
            yield (
                f"Group {group.name}: {pattern} is of another trust domain and has no "
                "identity. A controller does not tie identities to authorities, so one "
                f"of theirs could pass for any caller of {policy.trust_domain}."
            )
        elif not pattern.is_exact:
            named = ", ".join(str(item) for item in ids if pattern.matches(item))
            yield (
                f"Group {group.name}: an identity has one ID, so of {pattern} only "
                f"what policy or site name in full: {named or 'nothing'}."
            )
    if group.users:
        yield (
            f"Group {group.name}: its users have no identity; they reach an upstream "
            "only from a workload that has one."
        )
