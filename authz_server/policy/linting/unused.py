"""Rules for names that nothing uses."""

from __future__ import annotations

from collections.abc import Iterator

from authz_server.policy.linting.case import Case
from authz_server.policy.linting.findings import Finding, finding
from authz_server.policy.linting.reading import entries_of, value_of


def unused_groups(case: Case) -> Iterator[Finding]:
    """Find groups that nothing refers to."""
    used = set(case.elsewhere)
    for entry in (*case.grants, *case.denials):
        used.update(entry.grant.to, entry.grant.when.users)
    for group in case.policy.groups.values():
        used.update(group.groups)
    for key, _ in case.groups:
        if key.text not in used:
            yield finding(
                "unused-group",
                key,
                f"nothing refers to group {key.text!r}",
                "grant it something, or take it out",
            )


def unused_roles(case: Case) -> Iterator[Finding]:
    """Find roles that nothing gives or takes."""
    used = set(case.elsewhere)
    used.update(entry.grant.role for entry in (*case.grants, *case.denials))
    for key, _ in case.roles:
        if key.text not in used:
            yield finding(
                "unused-role",
                key,
                f"no grant and no denial uses role {key.text!r}",
                "grant it, or take it out",
            )


def unused_upstreams(case: Case) -> Iterator[Finding]:
    """Find upstreams on which nothing is granted."""
    used = set(case.elsewhere)
    for entry in case.grants:
        used.update(entry.grant.on, entry.grant.when.upstreams)
    for key, _ in case.upstreams:
        if key.text not in used:
            yield finding(
                "unused-upstream",
                key,
                f"no grant names upstream {key.text!r}, so nobody may call it",
                "grant something on it, or take it out",
            )


def unused_datasets(case: Case) -> Iterator[Finding]:
    """Find datasets that no permission names."""
    permissions = [
        permission
        for role in case.policy.roles.values()
        for permission in role.permissions
        if permission.datasets
    ]
    for upstream, node in case.upstreams:
        used = {
            name
            for permission in permissions
            if permission.holds_on(upstream.text)
            for name in permission.datasets
        }
        for key, _ in entries_of(value_of(node, "datasets")):
            if key.text not in used and key.text not in case.elsewhere:
                yield finding(
                    "unused-dataset",
                    key,
                    f"no permission names dataset {key.text!r}",
                    "name it in a role, or take it out",
                )
