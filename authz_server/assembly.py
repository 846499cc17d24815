"""Puts the rooms together: from the configuration to a pipeline that works."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from authz_server.audit import Sink
from authz_server.cache import DecisionCache
from authz_server.clock import system_clock
from authz_server.config import Config, Distribution, Identity
from authz_server.config.identity_contradictions import ENVOY
from authz_server.config.policy_contradictions import OPA_ENVOY_FORM
from authz_server.facts import Plan
from authz_server.facts.gated_call import ENCODING
from authz_server.facts.input_paths import InputPaths
from authz_server.fetch import web_context
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.certificate import Leaf
from authz_server.identity.chain import Chain, Window
from authz_server.identity.federation import Endpoint
from authz_server.identity.identify import Identifier
from authz_server.identity.issuers import Issuers
from authz_server.identity.remote_bundles import FederatedBundles, WorkloadApiBundles
from authz_server.identity.revocation import RevocationFile
from authz_server.identity.rules import Rules, UserRules, Xfcc
from authz_server.identity.sources import IdentitySources, Source
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.operations.foreign_routes import SIGNALS as FOREIGN_SIGNALS
from authz_server.operations.openai import JSON_MODELS
from authz_server.operations.s3 import SIGNALS as OBJECT_STORE_SIGNALS
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.pipeline import (
    Check,
    Observer,
    Onlooker,
    Pipeline,
    PolicySource,
    Settings,
)
from authz_server.policy.building import read_wasm, shipped_wasm
from authz_server.policy.bundles.bundle import Bundle
from authz_server.policy.bundles.content import access_policy, opa_envoy_policy
from authz_server.policy.bundles.kept import KeptBundle
from authz_server.policy.bundles.object_store import object_url, signing_headers
from authz_server.policy.bundles.reporting import Reporter
from authz_server.policy.bundles.signature import Signers
from authz_server.policy.bundles.source import (
    BundleSource,
    FileSource,
    WebSource,
    WebTerms,
    bearer_headers,
)
from authz_server.policy.bundles.status import Status
from authz_server.policy.bundles.store import BundleStore, Terms
from authz_server.policy.document import PolicyReader
from authz_server.policy.engine import Verdict
from authz_server.policy.in_force import (
    AnyPolicy,
    InForce,
    Material,
    OpaEnvoyMaterial,
)
from authz_server.policy.model import AccessPolicy, Group
from authz_server.policy.shadow import Decided, Shadow
from authz_server.policy.store import PolicyStore
from authz_server.response import prepare
from authz_server.second_lock import SecondLock


def open_policies(
    config: Config,
    on_change: Callable[[AnyPolicy], None] | None = None,
    on_status: Callable[[Status], None] | None = None,
) -> PolicyStore | BundleStore:
    """Return the store of the configured policy; nothing is loaded yet.

    Args:
        on_change: told of every policy that comes into force.
        on_status: told how the distribution of the policy goes, if it is distributed.

    Raises:
        ConfigError: if a file or library that is needed for it cannot be had.
        PolicyError: if an own bundle is configured and has no Wasm.
    """
    if config.distribution.url:
        return _open_bundles(config, on_change, on_status)
    return _open_file(config, on_change)


def _open_file(
    config: Config, on_change: Callable[[AnyPolicy], None] | None = None
) -> PolicyStore:
    return PolicyStore(
        Path(config.policy.file),
        _own_rego(config),
        timeout_s=config.limits.deadline_s,
        instances=config.policy.instances,
        on_change=on_change,
    )


def _own_rego(config: Config) -> bytes:
    bundle = config.policy.bundle
    return read_wasm(Path(bundle)) if bundle else shipped_wasm()


def load_now(policies: PolicyStore | BundleStore) -> bool:
    """Load the newest policy, for one use; return whether it is in force."""
    if isinstance(policies, BundleStore):
        return policies.ask()
    return policies.reload()


def _open_bundles(
    config: Config,
    on_change: Callable[[AnyPolicy], None] | None,
    on_status: Callable[[Status], None] | None,
) -> BundleStore:
    distribution = config.distribution
    signers = Signers(
        {key_id: Path(file) for key_id, file in distribution.keys.items()},
        distribution.scope,
    )
    return BundleStore(
        _open_source(distribution),
        InForce(
            timeout_s=config.limits.deadline_s,
            instances=config.policy.instances,
            on_change=on_change,
        ),
        Terms(
            name=distribution.name,
            open=_opener(config),
            max_bytes=distribution.max_bytes,
            signers=signers if distribution.keys else None,
            interval_s=distribution.poll_s
            if "://" in distribution.url
            else config.policy.reload_interval_s,
            max_age_s=distribution.max_age_s or math.inf,
        ),
        KeptBundle(Path(distribution.keep)) if distribution.keep else None,
        clock=system_clock,
        on_status=on_status,
    )


def _opener(config: Config) -> Callable[[Bundle], Material | OpaEnvoyMaterial]:
    """Return what takes the configured form of policy out of a bundle."""
    if config.policy.form == OPA_ENVOY_FORM:
        reads = config.policy.reads
        declared = InputPaths.parse(reads) if reads else None
        return lambda bundle: opa_envoy_policy(bundle, declared)
    wasm, reader = _own_rego(config), PolicyReader()
    return lambda bundle: access_policy(bundle, wasm, reader)


def _open_source(distribution: Distribution) -> BundleSource:
    url, region = distribution.url, distribution.s3_region
    if "://" not in url:
        return FileSource(Path(url), distribution.max_bytes)
    headers = bearer_headers(distribution.token)
    if url.startswith("s3://"):
        url = object_url(url, distribution.s3_endpoint, region)
        headers = signing_headers(url, region)
    return WebSource(
        url,
        _web_tls(url, distribution),
        WebTerms(
            max_bytes=distribution.max_bytes,
            timeout_s=distribution.timeout_s,
            wait_s=distribution.wait_s,
            wants_deltas=not distribution.keys,
        ),
        headers,
    )


def open_reporter(config: Config) -> Reporter | None:
    """Return what reports the distribution's status; None if nobody wants to know.

    Raises:
        ConfigError: if a file of CAs cannot be read.
    """
    distribution = config.distribution
    url = distribution.status_url
    if not url:
        return None
    return Reporter(
        url, _web_tls(url, distribution), bearer_headers(distribution.token)
    )


def _web_tls(url: str, distribution: Distribution) -> ssl.SSLContext | None:
    if url.startswith("http://"):
        return None
    return web_context(Path(distribution.web_ca) if distribution.web_ca else None)


@contextlib.contextmanager
def open_shadow(config: Config) -> Iterator[tuple[PolicyStore, Shadow] | None]:
    """Yield the configured candidate, not loaded yet, and who asks it; None for none.

    Raises:
        ConfigError: if the file of differences cannot be opened.
        PolicyError: if the candidate's own bundle has no Wasm.
    """
    if not config.policy.shadow:
        yield None
        return
    policy = replace(
        config.policy,
        file=config.policy.shadow,
        bundle=config.policy.shadow_bundle or config.policy.bundle,
        instances=1,
    )
    candidates = _open_file(replace(config, policy=policy))
    with contextlib.closing(
        Shadow(candidates, Path(config.policy.shadow_report))
    ) as shadow:
        yield candidates, shadow


def show(shadow: Shadow) -> Onlooker:
    """Return what shows `shadow` the decisions of a pipeline."""

    def onlooker(check: Check, verdict: Verdict) -> None:
        if check.identity and check.operation and check.facts and check.policy:
            shadow.offer(
                Decided(
                    check.identity,
                    check.operation,
                    check.facts,
                    verdict,
                    check.arrived.wall_s,
                    check.policy.revision,
                )
            )

    return onlooker


def open_identities(
    config: Config,
    on_change: Callable[[], None] = lambda: None,
    *,
    wants_svid: bool | None = None,
) -> IdentitySources:
    """Return the configured bundles, keys and revocation list, not read yet.

    Args:
        on_change: called whenever anything else of these is in force, from any thread.
        wants_svid: whether the Workload API is asked for an SVID of our own; None asks
            if the listener needs one.

    Raises:
        ConfigError: if a file of CAs cannot be read.
    """
    identity = config.identity
    store = TrustStore(
        [
            TrustDomain(name)
            for name in identity.bundles.keys() | identity.federation.endpoints
        ],
        max_age_s=identity.max_bundle_age_s or math.inf,
        clock=system_clock,
        on_change=on_change,
    )
    bundles: list[Source] = [
        BundleFiles(
            store,
            {TrustDomain(name): Path(file) for name, file in identity.bundles.items()},
            Path(identity.bundle_map) if identity.bundle_map else None,
        )
    ]
    if identity.federation.endpoints:
        bundles.append(_open_endpoints(store, identity))
    workload_api = None
    if identity.workload_api:
        workload_api = WorkloadApiBundles(
            store,
            identity.workload_api,
            wants_svid=config.listen.tls.is_set and not config.listen.tls.has_files
            if wants_svid is None
            else wants_svid,
            clock=system_clock,
        )
        bundles.append(workload_api)
    list_file = identity.revocations
    return IdentitySources(
        store,
        bundles,
        RevocationFile(Path(list_file), on_change) if list_file else None,
        _open_issuers(identity, on_change),
        workload_api,
    )


def _open_endpoints(store: TrustStore, identity: Identity) -> FederatedBundles:
    federation = identity.federation
    ids = {
        name: SpiffeId.parse_workload(text)
        for name, text in federation.spiffe_ids.items()
    }
    return FederatedBundles(
        store,
        [
            Endpoint(TrustDomain(name), url, ids.get(name))
            for name, url in federation.endpoints.items()
        ],
        web_tls=web_context(Path(federation.web_ca) if federation.web_ca else None),
        clock=system_clock,
    )


def _open_issuers(identity: Identity, on_change: Callable[[], None]) -> Issuers | None:
    users = identity.users
    locations = {name: where for name, where in users.issuers.items() if where != ENVOY}
    if not locations:
        return None
    return Issuers(
        locations,
        web_tls=web_context(Path(users.web_ca) if users.web_ca else None),
        clock=system_clock,
        max_age_s=users.max_key_age_s or math.inf,
        on_change=on_change,
    )


def proxy_verifier(
    config: Config, identities: IdentitySources
) -> Callable[[Leaf, float, Chain], Window]:
    """Return what verifies a proxy's certificate by the bundle of its trust domain.

    Only with CAs from a file, and for a trust domain whose bundle comes from nowhere,
    that is left to the TLS handshake. Whether a bundle is there at the moment does not
    matter: one that is gone must not make anybody trusted.

    Args:
        identities: what `open_identities` returned for the same configuration.
    """
    identity = config.identity
    named = identity.bundles.keys() | identity.federation.endpoints
    # These two may give the bundle of any trust domain.
    anywhere = bool(identity.bundle_map or identity.workload_api)
    has_files = config.listen.tls.has_files

    def verify(leaf: Leaf, now_s: float, intermediates: Chain) -> Window:
        name = str(leaf.spiffe_id.trust_domain)
        if has_files and not anywhere and name not in named:
            return (leaf.valid_from_s, leaf.valid_until_s)
        return identities.current.trust.verify(leaf, now_s, intermediates)

    return verify


def find_gaps(policy: AccessPolicy, config: Config) -> list[str]:
    """Return what `policy` names and `config` cannot give, one sentence each.

    Nothing is unsafe about a gap: whoever falls into it is denied. Not checked: what a
    bundle map, the Workload API, or a token will hold.
    """
    gaps = [
        gap for group in policy.groups.values() for gap in _user_gaps(group, config)
    ]
    identity = config.identity
    if identity.chain == "bundle" and not (
        identity.bundle_map or identity.workload_api
    ):
        named = identity.bundles.keys() | identity.federation.endpoints
        gaps += [
            f"trust domain {name}: has no bundle, so its workloads are all denied; add "
            "it to identity.bundles or identity.federation.endpoints"
            for name in sorted(map(str, policy.trust_domains))
            if name not in named
        ]
    return gaps


def _user_gaps(group: Group, config: Config) -> Iterator[str]:
    """Yield each issuer and claim of `group` that is not configured, once."""
    users = config.identity.users
    members = dict.fromkeys((user.issuer, user.claim) for user in group.users)
    unknown = dict.fromkeys(name for name, _ in members if name not in users.issuers)
    for issuer in unknown:
        yield (
            f"group {group.name}: no token of {issuer} is read, so it has no users of "
            "it; add it to identity.users.issuers"
        )
    unseen = dict.fromkeys(
        claim
        for issuer, claim in members
        if issuer not in unknown and claim not in users.claims
    )
    for claim in unseen:
        yield (
            f"group {group.name}: no policy sees the claim {claim!r}, so it has no "
            "users by it; add it to identity.users.claims"
        )


def open_second_lock(
    config: Config, on_change: Callable[[], None] = lambda: None
) -> SecondLock:
    """Return what allowed calls to Triton are sent along with, not read yet.

    Args:
        on_change: called whenever another secret is in force, from any thread.
    """
    triton = config.triton
    return SecondLock(
        Path(triton.access_secret) if triton.access_secret else None,
        access_header=triton.access_header,
        principal_header=triton.principal_header,
        on_change=on_change,
    )


def identity_rules(identity: Identity) -> Rules:
    """Return what counts as an identity under this configuration."""
    users = identity.users
    return Rules(
        verify_chain=identity.chain == "bundle",
        require_certificate=identity.require_certificate,
        xfcc=Xfcc(identity.xfcc),
        hops=frozenset(map(SpiffeId.parse_workload, identity.hops)),
        jwt_audience=frozenset(identity.jwt_svid.audience),
        jwt_header=identity.jwt_svid.header,
        jwt_alone=identity.jwt_svid.without_certificate,
        users=UserRules(
            audience=frozenset(users.audience),
            issuers=frozenset(
                name for name, where in users.issuers.items() if where != ENVOY
            ),
            header=users.header,
            claims=users.claims,
            proxy_verified=frozenset(
                name for name, where in users.issuers.items() if where == ENVOY
            ),
        )
        if users.issuers
        else None,
        max_token_lifetime_s=identity.max_token_lifetime_s,
    )


def extraction_plan(config: Config) -> Plan:
    """Return what of a request `config` makes a decision depend on."""
    return Plan(
        headers=config.inputs.headers,
        credentials=identity_rules(config.identity).credentials,
        signals=(ENCODING, *FOREIGN_SIGNALS, *OBJECT_STORE_SIGNALS),
        jwt_payload=config.identity.users.payload_in_metadata,
        outlines=OUTLINES,
        json_models=JSON_MODELS,
    )


def build_pipeline(
    config: Config,
    policies: PolicySource,
    audit: Sink,
    identities: IdentitySources,
    observe: Observer | None = None,
    second_lock: SecondLock | None = None,
    *,
    onlooker: Onlooker | None = None,
) -> Pipeline:
    """Return the pipeline that `config` describes, ready to answer at once.

    Args:
        identities: what `open_identities` returned for the same configuration.
        observe: told of every decision.
        second_lock: what `open_second_lock` returned for the same configuration;
            without it answers hold no secret, and Triton's lock stays shut.
        onlooker: shown every decision that the policy made.
    """
    prepare()
    return Pipeline(
        plan=extraction_plan(config),
        policies=policies,
        identifier=Identifier(identity_rules(config.identity), identities),
        cache=DecisionCache(
            max_entries=config.cache.max_entries, max_bytes=config.cache.max_bytes
        ),
        audit=audit,
        clock=system_clock,
        settings=Settings(
            trust_host=config.inputs.trust_host,
            deadline_s=config.limits.deadline_s,
            ttl_s=config.cache.ttl_s,
        ),
        observe=observe,
        second_lock=second_lock,
        onlooker=onlooker,
    )
