"""Looks for what an access policy may say and hardly means.

What is wrong, the reader refuses. What is found here is valid: names that nothing
uses, grants that give nothing, conditions that never hold, rights that are wider than
anyone should have. Each rule is one function and has a code that stays the same.

Pure: it takes the policy and the nodes that it was read from, which know the places.
A policy can have 100,000 SPIFFE IDs, so no rule compares patterns pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from authz_server.policy.linting.case import Case
from authz_server.policy.linting.conditions import (
    dead_callers,
    dead_namespaces,
    expired,
)
from authz_server.policy.linting.findings import Finding
from authz_server.policy.linting.misleading import (
    dangerous_groups,
    dangerous_wildcards,
    foreign_callers,
    load_overrides,
    ungated_streams,
)
from authz_server.policy.linting.redundant import (
    denied_grants,
    idle_nested_groups,
    redundant_grants,
    redundant_patterns,
)
from authz_server.policy.linting.unused import (
    unused_datasets,
    unused_groups,
    unused_roles,
    unused_upstreams,
)
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import Node

__all__ = ["Finding", "lint"]

_RULES: Final[tuple[Callable[[Case], Iterator[Finding]], ...]] = (
    unused_groups,
    unused_roles,
    unused_upstreams,
    unused_datasets,
    redundant_patterns,
    idle_nested_groups,
    redundant_grants,
    denied_grants,
    dead_namespaces,
    dead_callers,
    expired,
    dangerous_wildcards,
    load_overrides,
    dangerous_groups,
    foreign_callers,
    ungated_streams,
)


def lint(
    policy: AccessPolicy, root: Node, now_s: float | None = None
) -> tuple[Finding, ...]:
    """Return what is found in `policy`, in the order of the file.

    Args:
        root: what `policy` was read from.
        now_s: seconds since the epoch, to tell what is over; None to leave that out.
    """
    case = Case(policy, root, now_s)
    found = [finding for rule in _RULES for finding in rule(case)]
    return tuple(sorted(found, key=lambda finding: (finding.problem, finding.code)))
