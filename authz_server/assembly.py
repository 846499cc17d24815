"""Puts the rooms together: from the configuration to a pipeline that works."""

from __future__ import annotations

import math
from pathlib import Path

from authz_server.audit import Sink
from authz_server.cache import DecisionCache
from authz_server.clock import system_clock
from authz_server.config import Config
from authz_server.facts import Plan
from authz_server.identity.revocation import RevocationFile
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustFiles
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.pipeline import Pipeline, PolicySource, Settings
from authz_server.policy.building import read_wasm, shipped_wasm
from authz_server.policy.store import PolicyStore
from authz_server.response import prepare


def open_policies(config: Config) -> PolicyStore:
    """Return the store of the configured policy; nothing is loaded yet.

    Raises:
        PolicyError: if an own bundle is configured and has no Wasm.
    """
    bundle = config.policy.bundle
    module = read_wasm(Path(bundle)) if bundle else shipped_wasm()
    return PolicyStore(
        Path(config.policy.file),
        module,
        timeout_s=config.limits.deadline_s,
        instances=config.policy.instances,
    )


def open_identities(config: Config) -> IdentitySources:
    """Return the configured bundles and revocation list, not read yet."""
    identity = config.identity
    trust = None
    if identity.chain != "proxy":
        trust = TrustFiles(
            {TrustDomain(name): Path(file) for name, file in identity.bundles.items()},
            max_age_s=identity.max_bundle_age_s or math.inf,
            clock=system_clock,
        )
    list_file = identity.revocations
    return IdentitySources(
        trust, RevocationFile(Path(list_file)) if list_file else None
    )


def build_pipeline(
    config: Config,
    policies: PolicySource,
    audit: Sink,
    identities: IdentitySources,
) -> Pipeline:
    """Return the pipeline that `config` describes, ready to answer at once.

    Args:
        identities: what `open_identities` returned for the same configuration.
    """
    if (identities.trust is None) is not (config.identity.chain == "proxy"):
        raise ValueError("trust bundles and identity.chain contradict each other")
    prepare()
    return Pipeline(
        plan=Plan(headers=config.inputs.headers, outlines=OUTLINES),
        policies=policies,
        identities=identities,
        cache=DecisionCache(
            max_entries=config.cache.max_entries, max_bytes=config.cache.max_bytes
        ),
        audit=audit,
        clock=system_clock,
        settings=Settings(
            require_certificate=config.identity.require_certificate,
            trust_host=config.inputs.trust_host,
            deadline_s=config.limits.deadline_s,
            ttl_s=config.cache.ttl_s,
        ),
    )
