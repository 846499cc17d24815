"""Settings of identity that cannot be meant so, or would believe too much."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from authz_server.address import parse_workload_endpoint
from authz_server.config.sections import Federation, Identity, Users
from authz_server.errors import SpiffeIdError
from authz_server.facts import Plan
from authz_server.identity.rules import XFCC, Xfcc
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain

ENVOY: Final = "envoy"
"""In `users.issuers`: Envoy's jwt_authn filter verifies this issuer's tokens."""

_CHAINS: Final = ("bundle", "proxy")


def find_identity_contradictions(
    identity: Identity, headers: Sequence[str]
) -> Iterator[str]:
    """Yield every problem, one sentence each.

    Args:
        headers: those that a policy reads.
    """
    if identity.chain not in _CHAINS:
        yield f"identity.chain: expected one of {', '.join(_CHAINS)}"
    elif identity.chain == "bundle":
        yield from _chain(identity)
    yield from _sources(identity)
    yield from _forwarding(identity)
    yield from _headers(identity, headers)
    if identity.jwt_svid.without_certificate and not identity.jwt_svid.audience:
        yield "identity.jwt_svid.audience: missing; name who tokens are meant for"
    for name, audience in (
        ("jwt_svid", identity.jwt_svid.audience),
        ("users", identity.users.audience),
    ):
        if "" in audience:
            yield f"identity.{name}.audience: an empty name would match what names none"
    yield from _users(identity.users)


def _has_bundles(identity: Identity) -> bool:
    return bool(
        identity.bundles
        or identity.bundle_map
        or identity.workload_api
        or identity.federation.endpoints
    )


def _chain(identity: Identity) -> Iterator[str]:
    if not _has_bundles(identity):
        yield (
            "identity.bundles: missing; name a bundle file for each trust domain, set "
            "workload_api, bundle_map or federation.endpoints, or set identity.chain: "
            "proxy to rely on Envoy's verification alone"
        )
    if not identity.require_certificate:
        yield (
            "identity.require_certificate: without a certificate there is no chain to "
            "verify; this needs identity.chain: proxy"
        )


def _sources(identity: Identity) -> Iterator[str]:
    yield from _trust_domains("identity.bundles", identity.bundles)
    yield from _federation(identity.federation)
    if identity.bundle_map and identity.workload_api:
        yield (
            "identity.bundle_map: excludes workload_api; both would give the bundles "
            "of the same trust domains"
        )
    if identity.workload_api:
        try:
            parse_workload_endpoint(identity.workload_api)
        except ValueError as error:
            yield f"identity.workload_api: {error}"
    if identity.jwt_svid.audience and not _has_bundles(identity):
        yield (
            "identity.jwt_svid: a JWT-SVID is verified by its trust domain's bundle; "
            "set identity.bundles, bundle_map, workload_api or federation.endpoints"
        )


def _federation(federation: Federation) -> Iterator[str]:
    yield from _trust_domains("identity.federation.endpoints", federation.endpoints)
    for name, url in federation.endpoints.items():
        problem = _url_problem(url)
        if problem:
            yield f"identity.federation.endpoints: {name}: {problem}"
    for name, text in federation.spiffe_ids.items():
        if name not in federation.endpoints:
            yield f"identity.federation.spiffe_ids: {name} has no endpoint"
        try:
            SpiffeId.parse_workload(text)
        except SpiffeIdError as error:
            yield f"identity.federation.spiffe_ids: {name}: {error}"


def _forwarding(identity: Identity) -> Iterator[str]:
    known = [kind.value for kind in Xfcc]
    if identity.xfcc not in known:
        yield f"identity.xfcc: expected one of {', '.join(known)}"
    for hop in identity.hops:
        try:
            SpiffeId.parse_workload(hop)
        except SpiffeIdError as error:
            yield f"identity.hops: {hop!r}: {error}"
    if identity.xfcc == Xfcc.HOP and not identity.hops:
        yield "identity.hops: missing; list the proxies whose XFCC is believed"
    if identity.hops and identity.xfcc != Xfcc.HOP and not identity.jwt_svid.audience:
        yield (
            "identity.hops: nothing tells for whom a hop calls; set xfcc: hop or "
            "jwt_svid.audience"
        )
    if identity.xfcc == Xfcc.WAYPOINT and identity.require_certificate:
        yield (
            "identity.xfcc: a waypoint sends no certificates; this needs "
            "require_certificate: false and chain: proxy"
        )


def _headers(identity: Identity, headers: Sequence[str]) -> Iterator[str]:
    try:
        Plan(headers=tuple(headers))
    except ValueError as error:
        yield f"inputs.headers: {error}"
    for name, header in (
        ("jwt_svid", identity.jwt_svid.header),
        ("users", identity.users.header),
    ):
        try:
            Plan(credentials=(header,))
        except ValueError as error:
            yield f"identity.{name}.header: {error}"
        if header in headers:
            yield (
                f"inputs.headers: {header} carries tokens (identity.{name}.header); a "
                "policy must not see it"
            )
        if header == XFCC:
            yield f"identity.{name}.header: {XFCC} carries no tokens"


def _users(users: Users) -> Iterator[str]:
    for issuer, location in users.issuers.items():
        if location == ENVOY:
            if not users.payload_in_metadata:
                yield (
                    "identity.users.payload_in_metadata: missing; Envoy verifies "
                    f"{issuer}, and this names where it leaves the claims"
                )
        elif not location.startswith("/"):
            problem = _url_problem(location)
            if problem:
                yield (
                    f"identity.users.issuers: {issuer}: expected an absolute path, an "
                    f"https:// URL or 'envoy' ({problem})"
                )
    if users.issuers and not users.audience:
        yield "identity.users.audience: missing; name who tokens are meant for"
    if users.payload_in_metadata and ENVOY not in users.issuers.values():
        yield "identity.users.payload_in_metadata: no issuer is set to 'envoy'"


def _trust_domains(setting: str, names: Mapping[str, str]) -> Iterator[str]:
    for name in names:
        try:
            TrustDomain(name)
        except SpiffeIdError as error:
            yield f"{setting}: {error}"


def _url_problem(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme != "https" or not parts.hostname or port == 0:
        return f"{url!r} is no https:// URL"
    return "a URL must not hold a password" if "@" in parts.netloc else ""
