"""Turns an access policy into the data that the Rego library looks things up in.

Every list of the policy that can grow long becomes an object, so that a decision costs
the same however many subjects, models and grants there are. Pure: no files, no clock;
equal policies give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy.model import (
    ALWAYS,
    AccessPolicy,
    Condition,
    Grant,
    Group,
    Permission,
    Upstream,
    UpstreamKind,
)
from authz_server.policy.roles import ANY_MODEL, GATED_ACTIONS, SERVER_ACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = "access"
"""The key under which the compiled policy is in Rego's `data`."""

REVISION_CHARS: Final = 16

_Json = dict[str, Any]  # A JSON object; its shape is in docs/policy.md.


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """An access policy as Rego data.

    Attributes:
        data: the data document, canonical JSON.
        revision: names everything that a decision depends on beside the request; two
            policies with equal revisions decide alike.
    """

    data: bytes
    revision: str


def compile_policy(policy: AccessPolicy, rego_digest: bytes = b"") -> CompiledPolicy:
    """Return `policy` as indexed data, with the revision of policy and Rego together.

    Args:
        rego_digest: digest of the Wasm that will evaluate the data; empty while none
            is meant.
    """
    access: _Json = {
        "policy": {
            "name": policy.name,
            "trust_domain": policy.trust_domain.name,
            "federates_with": sorted(td.name for td in policy.federates_with),
        },
        # No lookup needs them. They are here because they tell which upstream, dataset
        # and model a request means, so the revision must change with them.
        "upstreams": {
            upstream.name: {
                "kind": upstream.kind.value,
                "namespace": upstream.namespace,
                "service_account": upstream.service_account,
                "hosts": sorted(upstream.hosts),
                "datasets": dict(upstream.datasets),
                "lora_separator": upstream.lora_separator,
            }
            for upstream in policy.upstreams.values()
        },
        "exact": _exact(policy.groups.values()),
        "patterns": _patterns(policy.groups.values()),
        "users": _users(policy.groups.values()),
        "grants": _grants(policy),
        "conditional": _conditional(
            policy, [grant for grant in policy.grants if grant.when != ALWAYS]
        ),
        "denials": _conditional(policy, policy.denials),
    }
    data = _canonical({ROOT: access}).encode()
    digest = hashlib.sha256(hashlib.sha256(data).digest() + rego_digest).hexdigest()
    return CompiledPolicy(data=data, revision=digest[:REVISION_CHARS])


def _exact(groups: Iterable[Group]) -> _Json:
    """SPIFFE ID -> names of groups."""
    exact: _Json = {}
    for group in groups:
        alone = [group.name]  # One list for all that are in no other group.
        for pattern in group.spiffe:
            if pattern.is_exact and exact.setdefault(pattern.text, alone) is not alone:
                exact[pattern.text] = sorted({*exact[pattern.text], group.name})
    return exact


def _patterns(groups: Iterable[Group]) -> _Json:
    """Trust domain -> wildcard patterns by shape.

    The shape of a pattern is its number of segments, whether more may follow, and
    which positions are literal. All patterns of one shape are one lookup, whose key
    is the caller's segments at the literal positions. A `/` cannot occur in a segment,
    so joined by it different segments give different keys.
    """
    shapes: dict[tuple[str, bool, int, tuple[int, ...]], _Json] = {}
    for group in groups:
        for pattern in group.spiffe:
            if not pattern.is_exact:
                literals = _literal_positions(pattern)
                shape = shapes.setdefault(
                    (
                        pattern.trust_domain.name,
                        pattern.has_rest,
                        len(pattern.segments),
                        literals,
                    ),
                    {},
                )
                key = "/".join(pattern.segments[position] for position in literals)
                _add_group(shape, key, group.name)
    patterns: _Json = {}
    for (trust_domain, has_rest, count, literals), by_key in sorted(
        shapes.items(), key=lambda item: item[0]
    ):
        domain = patterns.setdefault(trust_domain, {"fixed": [], "rest": []})
        entry: _Json = {"literals": list(literals), "groups": by_key}
        if has_rest:
            domain["rest"].append({**entry, "segments": count})
            continue
        fixed = domain["fixed"]
        fixed.extend([] for _ in range(count + 1 - len(fixed)))
        fixed[count].append(entry)
    return patterns


def _literal_positions(pattern: SpiffePattern) -> tuple[int, ...]:
    return tuple(
        position
        for position, segment in enumerate(pattern.segments)
        if segment != ANY_SEGMENT
    )


def _users(groups: Iterable[Group]) -> _Json:
    """Issuer -> claim -> value -> names of groups."""
    users: _Json = {}
    for group in groups:
        for user in group.users:
            claims = users.setdefault(user.issuer, {})
            _add_group(claims.setdefault(user.claim, {}), user.value, group.name)
    return users


def _add_group(index: _Json, key: str, group: str) -> None:
    names = index.setdefault(key, [])
    if group not in names:
        names.append(group)
        names.sort()


def _grants(policy: AccessPolicy) -> _Json:
    """Group -> upstream -> action -> what is permitted, each leaf a role's name."""
    grants: _Json = {}
    for grant in policy.grants:
        if grant.when == ALWAYS:
            _add_grant(grants, policy, grant)
    _add_prefix_lengths(grants)
    return grants


def _conditional(policy: AccessPolicy, grants: Iterable[Grant]) -> _Json:
    """Group -> upstream -> action -> [{if, permitted}], an item a condition."""
    by_condition: dict[Condition, _Json] = {}
    for grant in grants:
        _add_grant(by_condition.setdefault(grant.when, {}), policy, grant)
    conditional: _Json = {}
    for condition, trees in sorted(
        by_condition.items(), key=lambda item: _canonical(_if(policy, item[0]))
    ):
        _add_prefix_lengths(trees)
        for group, by_upstream in trees.items():
            for upstream, by_action in by_upstream.items():
                for action, permitted in by_action.items():
                    conditional.setdefault(group, {}).setdefault(
                        upstream, {}
                    ).setdefault(action, []).append(
                        {"if": _if(policy, condition), "permitted": permitted}
                    )
    return conditional


def _if(policy: AccessPolicy, condition: Condition) -> _Json:
    """Return `condition`, each part of which must be true; absent parts are."""
    found: _Json = {}
    if condition.users:
        found["users"] = dict.fromkeys(condition.users, True)
    if condition.namespaces:
        found["namespaces"] = dict.fromkeys(condition.namespaces, True)
    if condition.upstreams:
        found["workloads"] = dict.fromkeys(
            (
                policy.workload_id(policy.upstreams[name])
                for name in condition.upstreams
            ),
            True,
        )
    if condition.time is not None:
        found["time"] = str(condition.time)
    return found


def _add_grant(into: _Json, policy: AccessPolicy, grant: Grant) -> None:
    for permission in policy.roles[grant.role].permissions:
        for group in grant.to:
            for on in grant.on:
                if permission.holds_on(on):
                    _add_permission(
                        into.setdefault(group, {}).setdefault(on, {}),
                        permission,
                        grant.role,
                        policy.upstreams[on],
                    )


def _add_prefix_lengths(grants: _Json) -> None:
    for by_upstream in grants.values():
        for by_action in by_upstream.values():
            for permitted in by_action.values():
                if "prefix" in permitted:
                    permitted["prefix_lengths"] = sorted(
                        {len(prefix) for prefix in permitted["prefix"]}
                    )


def _canonical(value: _Json) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _add_permission(
    by_action: _Json, permission: Permission, role: str, upstream: Upstream
) -> None:
    for action in permission.actions:
        is_dataset_action = action in DATASET_ACTIONS
        if is_dataset_action is not (upstream.kind is UpstreamKind.DATASET):
            continue
        permitted: _Json = {}
        if is_dataset_action:
            _add_datasets(permitted, permission, role, upstream)
        else:
            _add_models(permitted, permission, role, action)
        if permitted:
            _merge(by_action.setdefault(action.value, {}), permitted)


def _add_datasets(
    permitted: _Json, permission: Permission, role: str, upstream: Upstream
) -> None:
    datasets = {name: role for name in permission.datasets if name in upstream.datasets}
    if datasets:
        permitted["datasets"] = datasets


def _add_models(
    permitted: _Json, permission: Permission, role: str, action: Action
) -> None:
    if action in SERVER_ACTIONS | GATED_ACTIONS:
        permitted["server"] = role
        if not permission.models:
            permitted["bare"] = role
    limits: _Json = {"any": role}
    if permission.versions:
        limits = {"only": dict.fromkeys(permission.versions, role)}
    elif permission.adapters:
        limits = {"adapters": dict.fromkeys(permission.adapters, role)}
    for model in permission.models:
        if model == ANY_MODEL:
            permitted["all"] = limits
        elif model.endswith("*"):
            permitted.setdefault("prefix", {})[model.removesuffix("*")] = limits
        else:
            permitted.setdefault("exact", {})[model] = limits


def _merge(into: _Json, other: _Json) -> None:
    """Unite two trees; where both have a leaf, the role that sorts first stays."""
    for key, value in other.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = min(into.get(key, value), value)
