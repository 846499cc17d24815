"""Rules for what gives more than it may seem, or less."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy.linting.case import Case
from authz_server.policy.linting.findings import Finding, finding
from authz_server.policy.linting.istio_form import holds_all
from authz_server.policy.linting.reading import named
from authz_server.policy.linting.rights import DANGEROUS, is_limited
from authz_server.policy.roles import ANY_MODEL, EVERY_MODEL_ACTIONS


def dangerous_wildcards(case: Case) -> Iterator[Finding]:
    """Find permissions of dangerous actions on every model."""
    # Loading with an override has a rule of its own.
    watched = DANGEROUS - {Action.MODEL_LOAD_OVERRIDE} - DATASET_ACTIONS
    for role, node, permission in case.permissions(*watched):
        found = sorted(watched.intersection(permission.actions))
        for scalar in named(node, "models", ANY_MODEL):
            yield finding(
                "dangerous-wildcard",
                scalar,
                f"role {role!r} gives {', '.join(found)} on every model",
                "there is no less of it: grant it to few"
                if EVERY_MODEL_ACTIONS.issuperset(found)
                else "name the models",
            )


def load_overrides(case: Case) -> Iterator[Finding]:
    """Find permissions to load more models than are named with code of one's own."""
    action = Action.MODEL_LOAD_OVERRIDE
    for role, node, permission in case.permissions(action):
        if any(model.endswith("*") for model in permission.models):
            for scalar in named(node, "actions", action):
                yield finding(
                    "load-override",
                    scalar,
                    f"whoever has role {role!r} runs code of their own in Triton, "
                    "as more models than are named",
                    "name each model, or give model-repository instead",
                )


def dangerous_groups(case: Case) -> Iterator[Finding]:
    """Find grants of dangerous actions to every workload of a trust domain."""

    @cache
    def domains(group: str) -> list[str]:
        patterns = case.policy.groups[group].spiffe
        return sorted({each.trust_domain.name for each in patterns if holds_all(each)})

    for entry in case.grants:
        when = entry.grant.when
        found = case.dangerous(entry.grant)
        # Each of these leaves less than the whole.
        if not found or when.users or when.namespaces or when.upstreams:
            continue
        for scalar in entry.to:
            if domains(scalar.text):
                yield finding(
                    "dangerous-group",
                    scalar,
                    f"group {scalar.text!r} is every workload of "
                    f"{', '.join(domains(scalar.text))}, and gets {', '.join(found)}",
                    "name the workloads that need it",
                )


def foreign_callers(case: Case) -> Iterator[Finding]:
    """Find grants of dangerous actions to workloads of other trust domains."""

    @cache
    def domains(group: str) -> list[str]:
        patterns = case.policy.groups[group].spiffe
        own = case.policy.trust_domain.name
        return sorted({each.trust_domain.name for each in patterns} - {own})

    for entry in case.grants:
        found = case.dangerous(entry.grant)
        for scalar in entry.to if found else ():
            if domains(scalar.text):
                yield finding(
                    "dangerous-federation",
                    scalar,
                    f"group {scalar.text!r} has callers of "
                    f"{', '.join(domains(scalar.text))}, and gets {', '.join(found)}",
                    "keep it to your own trust domain",
                )


def ungated_streams(case: Case) -> Iterator[Finding]:
    """Find permissions of streams on some models, which only the gate can judge."""
    action = Action.INFERENCE_STREAM
    for role, node, permission in case.permissions(action):
        if is_limited(permission):
            for scalar in named(node, "actions", action):
                yield finding(
                    "stream-needs-gate",
                    scalar,
                    f"inference-stream of role {role!r} on some models means "
                    "nothing on a route without the gate: no stream begins there",
                    'set up the gate (docs/gate.md), or give it on models: ["*"]',
                )
