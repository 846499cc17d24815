"""Rules for members and grants that change nothing."""

from __future__ import annotations

from collections.abc import Iterator

from authz_server.policy.linting.case import Case
from authz_server.policy.linting.covers import Cover
from authz_server.policy.linting.findings import Finding, finding, in_words
from authz_server.policy.linting.supply import Supply


def redundant_patterns(case: Case) -> Iterator[Finding]:
    """Find patterns whose IDs a group has anyway."""
    for name in case.policy.groups:
        own = case.own_patterns(name)
        cover = Cover()
        for scalar, pattern in own:
            if not pattern.is_exact:  # It covers itself alone.
                cover.add(pattern, scalar.text)
        for nested in _others(case, name):
            for pattern in case.policy.groups[nested].spiffe:
                cover.add(pattern, f"group {nested}")
        for scalar, pattern in own:
            for owner in cover.owners(pattern):
                if owner != scalar.text:
                    yield finding(
                        "redundant-pattern",
                        scalar,
                        f"{scalar.text} is in {owner} already",
                        "take it out",
                    )
                    break


def _others(case: Case, group: str) -> list[str]:
    """Return the groups in `group` whose patterns it need not have itself."""
    # Workloads need a pattern beside them, so it stays with them.
    if case.own_workloads(group):
        return []
    return [
        name
        for name in case.policy.groups[group].groups
        if name not in case.idle[group]
    ]


def idle_nested_groups(case: Case) -> Iterator[Finding]:
    """Find groups in a group that add nothing to it."""
    for name, idle in case.idle.items():
        for scalar in case.nested(name):
            if scalar.text in idle:
                yield finding(
                    "idle-nested-group",
                    scalar,
                    f"group {scalar.text!r} adds nothing to group {name!r}",
                    "take it out",
                )


def redundant_grants(case: Case) -> Iterator[Finding]:
    """Find grants of what other grants give too."""
    supply = Supply(case, case.grants, takes=False)
    # From behind: of two that say the same the first one stays.
    for number, entry in reversed(list(enumerate(case.grants))):
        places = supply.of_all(entry.grant, but=number)
        if places:
            supply.take_out(number)
            yield finding(
                "redundant-grant",
                entry.node,
                f"all that this grant of {entry.grant.role!r} gives is given already, "
                f"at {in_words(places, entry.node.place)}",
                "take it out",
            )


def denied_grants(case: Case) -> Iterator[Finding]:
    """Find grants of what denials take away."""
    supply = Supply(case, case.denials, takes=True)
    for entry in case.grants:
        places = supply.of_all(entry.grant)
        if places:
            yield finding(
                "denied-grant",
                entry.node,
                f"all that this grant of {entry.grant.role!r} gives is taken away, "
                f"at {in_words(places, entry.node.place)}",
                "take out the grant, or the denial",
            )
