"""Does what a plan says, step by step, and stops where one fails."""

from __future__ import annotations

from collections.abc import Callable

from authz_server.cluster.answers import RefusedError
from authz_server.cluster.client import Cluster
from authz_server.cluster.steps import Change, Create, Delete, Plan, Step
from authz_server.errors import SetupError


def apply_plan(
    cluster: Cluster,
    plan: Plan,
    *,
    prune: bool,
    force: bool,
    dry_run: bool,
    done: Callable[[Step], None],
) -> None:
    """Create, change and, with `prune`, delete.

    Args:
        force: take over what others have set otherwise.
        dry_run: let the API server check and answer each request, and change nothing.
        done: is told each step as soon as it is done.

    Raises:
        SetupError: if the plan has conflicts and `force` is not given; nothing was
            done then. If a step fails: those before it, which `done` was told, are
            done, and none after it was tried. Applying again goes on from there.
    """
    if plan.conflicts and not force:
        raise SetupError(conflict_text(plan))
    steps = [
        step
        for step in plan.steps
        if isinstance(step, Create | Change) or (prune and isinstance(step, Delete))
    ]
    for count, step in enumerate(steps):
        try:
            _do(cluster, step, force=force, dry_run=dry_run)
        except SetupError as error:
            if _waits_for_namespace(error, dry_run=dry_run):
                continue
            raise SetupError(
                f"{step.key}: {error}\n{count} of {len(steps)} steps were done, none "
                "after this one was tried; run again to go on"
            ) from error
        done(step)


def conflict_text(plan: Plan) -> str:
    """Return what is in the way of `plan`, and the mend."""
    lines = [
        f"  {step.key}: {conflict}"
        for step in plan.conflicts
        for conflict in step.conflicts
    ]
    return (
        "nothing was applied, since others have set what would change:\n"
        + "\n".join(lines)
        + "\n--force-conflicts takes it over; or let them give it up"
    )


def _do(
    cluster: Cluster, step: Create | Change | Delete, *, force: bool, dry_run: bool
) -> None:
    if isinstance(step, Delete):
        cluster.delete(step.key, step.uid, step.resource_version, dry_run=dry_run)
    else:
        cluster.apply(step.body, force=force, dry_run=dry_run)


def _waits_for_namespace(error: SetupError, *, dry_run: bool) -> bool:
    # A dry run made no namespace, so nothing in it can be checked.
    return dry_run and isinstance(error, RefusedError) and error.is_missing_namespace
