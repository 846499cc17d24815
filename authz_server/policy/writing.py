"""Parts of an access policy as they stand in a policy file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import (
    ALWAYS,
    AccessPolicy,
    Condition,
    Grant,
    Group,
    Role,
    Upstream,
    Workload,
)
from authz_server.policy.time_limit import (
    DAYS,
    TimeWindow,
    clock_text,
    date_text,
)


def upstream_document(upstream: Upstream) -> dict[str, Any]:
    """Return an upstream."""
    return _present(
        kind=upstream.kind.value,
        namespace=upstream.namespace,
        podSelector=dict(upstream.pod_selector),
        serviceAccount=upstream.service_account,
        hosts=list(upstream.hosts),
        datasets=dict(upstream.datasets),
        loraSeparator=upstream.lora_separator,
    )


def group_document(group: Group) -> dict[str, Any]:
    """Return a group, with the members of nested ones as its own."""
    return _present(
        spiffe=[str(pattern) for pattern in group.spiffe],
        workloads=[_workload(workload) for workload in group.workloads],
        users=[
            {"issuer": user.issuer, "claim": user.claim, "value": user.value}
            for user in group.users
        ],
    )


def role_document(role: Role) -> list[dict[str, Any]]:
    """Return a role."""
    return [
        _present(
            actions=[action.value for action in permission.actions],
            models=list(permission.models),
            versions=list(permission.versions),
            adapters=list(permission.adapters),
            datasets=list(permission.datasets),
            upstreams=list(permission.upstreams),
        )
        for permission in role.permissions
    ]


def grant_document(grant: Grant) -> dict[str, Any]:
    """Return a grant or denial."""
    written: dict[str, Any] = {
        "role": grant.role,
        "to": list(grant.to),
        "on": list(grant.on),
    }
    if grant.when != ALWAYS:
        written["when"] = condition_document(grant.when)
    return written


def callers_document(
    policy: AccessPolicy, members: Collection[SpiffeId]
) -> dict[str, Any]:
    """Return a group of just these callers, with the pods known to be theirs."""
    ids = set(map(str, members))
    workloads: list[dict[str, Any]] = []
    for group in policy.groups.values():
        for workload in group.workloads:
            written = _workload(workload)
            path = ("ns", workload.namespace, "sa", workload.service_account)
            if (
                workload.service_account
                and str(SpiffeId(policy.trust_domain, path)) in ids
                and written not in workloads
            ):
                workloads.append(written)
    return _present(spiffe=sorted(ids), workloads=workloads)


def condition_document(when: Condition) -> dict[str, Any]:
    """Return a condition."""
    time = when.time
    return _present(
        users=list(when.users),
        namespaces=list(when.namespaces),
        upstreams=list(when.upstreams),
        times=[_window(window) for window in time.windows] if time else [],
        since=date_text(time.since_s) if time and time.since_s is not None else "",
        until=date_text(time.until_s) if time and time.until_s is not None else "",
    )


def _workload(workload: Workload) -> dict[str, Any]:
    return _present(
        namespace=workload.namespace,
        podSelector=dict(workload.pod_selector),
        serviceAccount=workload.service_account,
        hostNetwork=workload.host_network,
    )


def _window(window: TimeWindow) -> dict[str, Any]:
    return {
        "days": [DAYS[day] for day in sorted(window.days)],
        "from": clock_text(window.start_min),
        "to": clock_text(window.end_min),
        "zone": window.zone,
    }


def _present(**parts: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a document
    return {key: value for key, value in parts.items() if value}
