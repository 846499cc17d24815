"""Settings of the policy and its distribution that cannot be meant so."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Iterator
from typing import Final

from authz_server.config.sections import Config, Distribution
from authz_server.facts.input_paths import InputPaths
from authz_server.policy.bundles.object_store import object_url

ACCESS_FORM: Final = "access"
OPA_ENVOY_FORM: Final = "opa-envoy"


def find_policy_contradictions(config: Config) -> Iterator[str]:
    """Yield every problem, one sentence each."""
    yield from _form_problems(config)
    distribution = config.distribution
    if not distribution.url:
        if not config.policy.file and config.policy.form == ACCESS_FORM:
            yield (
                "policy.file: missing; name the AccessPolicy file, or set "
                "distribution.url"
            )
        if distribution != Distribution():
            yield "distribution: is for distribution.url, which is not set"
        return
    url = distribution.url
    if config.policy.file:
        yield "policy.file: the policy comes from distribution.url already"
    if distribution.keys and distribution.unsigned:
        yield "distribution.unsigned: excludes distribution.keys"
    elif not distribution.keys and not distribution.unsigned and "://" in url:
        yield (
            "distribution.keys: name the keys whose bundles are taken; or set "
            "distribution.unsigned, if whoever answers at the URL may say who does what"
        )
    if distribution.scope and not distribution.keys:
        yield "distribution.scope: is for distribution.keys"
    if 0 < distribution.max_age_s <= distribution.poll_s + distribution.wait_s:
        yield (
            "distribution.max_age_s: a policy would be too old between two polls; make "
            "it more than poll_s and wait_s together"
        )
    yield from _transport_problems(distribution)


def _form_problems(config: Config) -> Iterator[str]:
    if config.policy.form == OPA_ENVOY_FORM:
        yield from _opa_envoy_problems(config)
    elif config.policy.form != ACCESS_FORM:
        yield f"policy.form: expected {ACCESS_FORM} or {OPA_ENVOY_FORM}"
    elif config.policy.reads:
        yield f"policy.reads: is for policy.form {OPA_ENVOY_FORM}"


def _opa_envoy_problems(config: Config) -> Iterator[str]:
    """Yield what only an access policy has a use for."""
    identity, policy = config.identity, config.policy
    if not config.distribution.url:
        yield f"distribution.url: missing; policy.form {OPA_ENVOY_FORM} needs a bundle"
    for name, is_set in (
        ("policy.file", policy.file),
        ("policy.bundle", policy.bundle),
        ("policy.shadow", policy.shadow),
        ("identity.users", identity.users.issuers),
        ("identity.jwt_svid", identity.jwt_svid.audience),
        ("identity.xfcc", identity.xfcc != "none"),
        ("inputs.headers", config.inputs.headers),
        ("triton.access_secret", config.triton.access_secret),
        ("triton.principal_header", config.triton.principal_header),
    ):
        if is_set:
            yield f"{name}: is for policy.form {ACCESS_FORM}"
    try:
        InputPaths.parse(policy.reads)
    except ValueError as error:
        yield f"policy.reads: {error}"


def _transport_problems(distribution: Distribution) -> Iterator[str]:
    """Yield what an attacker on the network would make use of."""
    url, endpoint = distribution.url, distribution.s3_endpoint
    if url.startswith("s3://"):
        try:
            url = object_url(url, endpoint, distribution.s3_region)
        except ValueError as error:
            yield f"distribution.url: {error}"
    elif endpoint:
        yield "distribution.s3_endpoint: is for s3://"
    elif "://" in url and not url.startswith(("http://", "https://")):
        yield (
            "distribution.url: expected https://, http://, s3:// or the path of a file"
        )
    yield from _address_problems(url, distribution)
    if _is_open(url) and not distribution.keys:
        yield (
            "distribution.url: over plain http:// anybody on the way can be the "
            "server; use https://, or set distribution.keys"
        )
    if distribution.token:
        for name, place in (("url", url), ("status_url", distribution.status_url)):
            if _is_open(place):
                yield f"distribution.{name}: the token would go over plain http://"


def _address_problems(url: str, distribution: Distribution) -> Iterator[str]:
    for name, place in (("url", url), ("status_url", distribution.status_url)):
        if "@" in urllib.parse.urlsplit(place).netloc:
            yield f"distribution.{name}: holds user info; use distribution.token"
    if distribution.status_url and not distribution.status_url.startswith(
        ("http://", "https://")
    ):
        yield "distribution.status_url: expected https:// or http://"
    endpoint = distribution.s3_endpoint
    if endpoint and not endpoint.startswith(("http://", "https://")):
        yield "distribution.s3_endpoint: expected https:// or http://"


def _is_open(url: str) -> bool:
    """Return whether what goes to `url` can be read and changed on the way."""
    if not url.startswith("http://"):
        return False
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host != "localhost" and not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
