"""Makes a plan: lists what there is, and lets the API server say what would become."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from authz_server.cluster.answers import RefusedError
from authz_server.cluster.client import CONNECTIONS, Cluster
from authz_server.cluster.kinds import ORDER, Key, Kind, kind_of, prunable
from authz_server.cluster.steps import (
    Conflict,
    Create,
    Plan,
    Step,
    in_order,
    left_over,
    part_of,
    step_for,
)
from authz_server.emit.manifest import MANAGED_BY, Object
from authz_server.errors import SetupError
from authz_server.site.model import SERVER

Progress = Callable[[int, int], None]
"""Is told how many of how many objects are done."""

Scope = Mapping[Kind, Collection[str]]
"""Namespaces by kinds."""

EVERYWHERE: Final = ("",)
"""Every namespace, and objects of the whole cluster."""

MAX_PROBLEMS: Final = 20

_MAKERS: Final = {
    "istio.io": "Istio",
    "cilium.io": "Cilium",
    "spiffe.io": "the SPIRE controller manager",
}


@dataclass(frozen=True, slots=True)
class _Problem:
    key: Key
    error: RefusedError


def make_plan(
    cluster: Cluster,
    objects: Sequence[Object],
    emitted: Collection[Key],
    *,
    progress: Progress,
    scope: Scope | None = None,
) -> Plan:
    """Return what makes the cluster hold `objects`, and no others of their policy.

    Nothing is changed. Every object was accepted by the API server in a dry run, save
    those whose namespace is yet to be created.

    Args:
        objects: of one policy; at least one.
        emitted: keys of all that the policy gives, also for targets that are not
            among `objects`: these are not left over.
        scope: where to look for what is left over; everywhere, if it is not given.

    Raises:
        SetupError: if the server can't be reached or refuses an object; every object
            that it refuses is named.
    """
    wanted = in_order(objects)
    kinds = {kind_of(Key.of(item)) for item in wanted}
    _check_kinds(cluster, kinds)
    if scope is None:
        scope = dict.fromkeys(prunable(kinds), EVERYWHERE)
    live = {
        Key.of(item): item
        for kind in ORDER
        for namespace in scope.get(kind, ())
        for item in cluster.objects(kind, f"{MANAGED_BY}={SERVER}", namespace)
    }
    created = {item["metadata"]["name"] for item in wanted if _is_namespace(item)}
    steps: list[Step] = []
    problems: list[_Problem] = []

    def judge(item: Object) -> Step | _Problem:
        try:
            return _judge(cluster, item, live, created)
        except RefusedError as error:
            return _Problem(Key.of(item), error)

    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        for done, judged in enumerate(pool.map(judge, wanted), start=1):
            if isinstance(judged, _Problem):
                problems.append(judged)
            else:
                steps.append(judged)
            progress(done, len(wanted))
    finally:
        pool.shutdown(cancel_futures=True)
    if problems:
        raise SetupError(_described(problems))
    steps += left_over(live.values(), emitted, part_of(wanted[0]))
    return Plan(tuple(steps))


def _check_kinds(cluster: Cluster, kinds: Collection[Kind]) -> None:
    missing = [kind for kind in ORDER if kind in kinds and not cluster.resource(kind)]
    if not missing:
        return
    names = ", ".join(f"{name} ({api_version})" for api_version, name in missing)
    group = missing[0][0].partition("/")[0]
    makers = {_MAKERS.get(".".join(group.split(".")[-2:]), group)}
    raise SetupError(
        f"the cluster has no {names}: install the CRDs of {', '.join(makers)} (API "
        f"group {group}) first, or leave their target out"
    )


def _judge(
    cluster: Cluster, item: Object, live: Mapping[Key, Object], created: set[str]
) -> Step:
    key = Key.of(item)
    try:
        applied, is_new = cluster.apply(item, force=False, dry_run=True)
        conflicts: tuple[Conflict, ...] = ()
    except RefusedError as error:
        if error.is_missing_namespace and key.namespace in created:
            return Create(key, item)
        if not error.conflicts:
            raise
        conflicts = error.conflicts
        applied, is_new = cluster.apply(item, force=True, dry_run=True)
    if is_new:
        return Create(key, item)
    # One without our label was not listed. If it is gone by now, it is to be created.
    found = live.get(key) or cluster.find(key)
    if found is None:
        return Create(key, item)
    return step_for(item, found, applied, conflicts)


def _is_namespace(item: Object) -> bool:
    return kind_of(Key.of(item)) == ("v1", "Namespace")


def _described(problems: Sequence[_Problem]) -> str:
    """Return all problems as lines, what is the same about many objects once."""
    lines: dict[str, int] = {}
    for problem in problems:
        if problem.error.is_missing_namespace:
            name = problem.key.namespace
            line = (
                f"the namespace {name} isn't there, and is not ours to make: kubectl "
                f"create namespace {name}"
            )
        elif problem.error.status in {401, 403}:
            line = str(problem.error)
        else:
            line = f"{problem.key}: {problem.error}"
        lines[line] = lines.get(line, 0) + 1
    shown = list(lines)[:MAX_PROBLEMS]
    more = len(lines) - len(shown)
    return "the plan can't be made:\n" + "\n".join(
        [f"  {line}" for line in shown] + ([f"  and {more} more"] if more else [])
    )
