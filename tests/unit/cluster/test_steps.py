from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from authz_server.cluster.difference import Difference
from authz_server.cluster.kinds import Key
from authz_server.cluster.steps import (
    Change,
    Conflict,
    Create,
    Delete,
    Keep,
    Leave,
    Plan,
    left_over,
    part_of,
    step_for,
)

OURS = {
    "app.kubernetes.io/managed-by": "authz-server",
    "app.kubernetes.io/part-of": "plant",
}
FIELDS = {"manager": "authz-server", "operation": "Apply", "fieldsV1": {"f:data": {}}}


def config_map(
    name: str = "c", labels: Mapping[str, str] = OURS, **changes: Any
) -> dict[str, Any]:
    meta = {"namespace": "n", "name": name, "labels": dict(labels)}
    meta |= {"uid": f"uid-{name}", "resourceVersion": "7", "managedFields": [FIELDS]}
    return {
        "apiVersion": "v1",
        "kind": changes.pop("kind", "ConfigMap"),
        "metadata": meta | changes.pop("metadata", {}),
        "data": {"a": "1"},
        **changes,
    }


KEY = Key.of(config_map())


def test_an_object_that_would_not_change_is_kept() -> None:
    live = config_map(metadata={"resourceVersion": "6"})

    assert step_for(config_map(), live, config_map(), ()) == Keep(KEY)


def test_one_that_would_change_is_changed_to_what_the_server_makes_of_it() -> None:
    wanted = config_map(data={"a": "2"})
    applied = config_map(data={"a": "2", "default": "d"})
    live = config_map(data={"a": "1", "default": "d"})

    assert step_for(wanted, live, applied, ()) == Change(
        KEY, wanted, (Difference("data.a", "1", "2"),)
    )


def test_fields_that_are_not_ours_yet_are_taken_though_nothing_else_changes() -> None:
    live = config_map(metadata={"managedFields": [{"manager": "kubectl"}]})

    assert step_for(config_map(), live, config_map(), ()) == Change(
        KEY, config_map(), ()
    )


def test_what_a_controller_notes_in_the_status_is_not_about_our_fields() -> None:
    status = {**FIELDS, "subresource": "status", "fieldsV1": {"f:status": {}}}
    live = config_map(metadata={"managedFields": [FIELDS, status]})

    assert isinstance(step_for(config_map(), live, config_map(), ()), Keep)


def test_conflicts_of_the_dry_run_stay_with_the_change() -> None:
    conflict = Conflict('"kubectl-edit"', (".data.a",))

    step = step_for(config_map(), config_map(), config_map(), (conflict,))

    assert isinstance(step, Change)
    assert step.conflicts == (conflict,)
    assert Plan((step, Keep(KEY))).conflicts == (step,)
    assert str(conflict) == '.data.a set by "kubectl-edit"'


@pytest.mark.parametrize(
    ("labels", "managers", "expected"),
    [
        ({}, [], "the object is not one that authz-server made"),
        ({"x": "y"}, [{"manager": "helm"}], "the object is not one that"),
        (
            {**OURS, "app.kubernetes.io/part-of": "other"},
            [FIELDS],
            "the object is part of the policy other",
        ),
    ],
)
def test_an_object_of_somebody_else_is_a_conflict(
    labels: dict[str, str], managers: list[Any], expected: str
) -> None:
    live = config_map(labels=labels, metadata={"managedFields": managers})

    step = step_for(config_map(), live, config_map(), ())

    assert isinstance(step, Change)
    assert str(step.conflicts[0]).startswith(expected)


def test_a_label_taken_off_our_object_is_a_difference_and_no_conflict() -> None:
    labels = {"app.kubernetes.io/managed-by": "authz-server"}

    step = step_for(config_map(), config_map(labels=labels), config_map(), ())

    assert isinstance(step, Change)
    assert not step.conflicts
    assert step.differences[0].path == ('metadata.labels["app.kubernetes.io/part-of"]')


def test_a_namespace_may_have_been_there_before() -> None:
    live = config_map(labels={}, kind="Namespace", metadata={"managedFields": []})
    wanted = config_map(kind="Namespace")

    step = step_for(wanted, live, wanted, ())

    assert isinstance(step, Change)
    assert not step.conflicts


def test_only_what_is_the_policys_and_no_longer_emitted_is_deleted() -> None:
    live = [
        config_map("kept"),
        config_map("gone"),
        config_map("foreign", labels={"app.kubernetes.io/part-of": "plant"}),
        config_map("other", labels={**OURS, "app.kubernetes.io/part-of": "other"}),
        config_map("ending", metadata={"deletionTimestamp": "now"}),
    ]

    assert left_over(live, {Key.of(live[0])}, "plant") == [
        Delete(Key.of(live[1]), "uid-gone", "7")
    ]


def test_deletions_come_in_the_reverse_of_the_order_of_creation() -> None:
    live = [config_map("a"), config_map("b"), config_map(kind="Service")]

    assert [str(step.key) for step in left_over(live, (), "plant")] == [
        "Service n/c",
        "ConfigMap n/b",
        "ConfigMap n/a",
    ]


def test_a_namespace_is_left() -> None:
    live = config_map(kind="Namespace")

    assert left_over([live], (), "plant") == [
        Leave(Key.of(live), "it may hold what others have put there")
    ]


def test_what_goes_with_another_object_is_left_to_it() -> None:
    owners = [{"kind": "AccessPolicy", "name": "p"}]
    live = config_map(metadata={"ownerReferences": owners})

    assert left_over([live], (), "plant") == [Leave(KEY, "it goes with AccessPolicy p")]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Create(KEY, {}), True),
        (Change(KEY, {}, ()), True),
        (Delete(KEY, "u", "1"), True),
        (Keep(KEY), False),
        (Leave(KEY, "why"), False),
    ],
)
def test_a_plan_differs_if_there_is_anything_to_do(step: Any, expected: bool) -> None:
    assert Plan((Keep(KEY), step)).differs is expected


def test_the_policy_of_an_object_is_in_its_label() -> None:
    assert part_of(config_map()) == "plant"
