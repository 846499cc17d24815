from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from authz_server.cluster.difference import ABSENT, MAX_SHOWN, Difference, differences


def lines(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [line for item in differences(old, new) for line in item.lines()]


def peer(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


def test_a_field_is_named_by_its_path_with_what_it_was_and_will_be() -> None:
    old = {"spec": {"ingress": [{"from": [peer("a"), peer("camera")]}]}}
    new = {"spec": {"ingress": [{"from": [peer("a"), peer("cam")]}]}}

    assert lines(old, new) == [
        'spec.ingress[0].from[1].podSelector.matchLabels.app: "camera" → "cam"'
    ]


def test_equal_objects_do_not_differ() -> None:
    assert not differences({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"a": None}, "a: (none) → null"),
        ({"a": 1}, {}, "a: 1 → (none)"),
        ({"a": 1}, {"a": True}, "a: 1 → true"),
        ({"a": {}}, {"a": []}, "a: {} → []"),
        ({"a": "ä"}, {"a": "b"}, 'a: "ä" → "b"'),
        ({"x": {"a.b/c": 1}}, {"x": {"a.b/c": 2}}, 'x["a.b/c"]: 1 → 2'),
    ],
)
def test_nothing_null_and_types_are_told_apart(
    old: dict[str, Any], new: dict[str, Any], expected: str
) -> None:
    assert lines(old, new) == [expected]


def test_what_the_server_keeps_for_itself_is_no_difference() -> None:
    meta = {
        "resourceVersion": "1",
        "generation": 1,
        "uid": "u",
        "managedFields": [],
        "creationTimestamp": "t",
    }

    assert not differences({"metadata": meta, "status": {"a": 1}}, {"metadata": {}})


def test_fields_of_the_same_names_elsewhere_are_differences() -> None:
    old = {"spec": {"status": 1, "template": {"metadata": {"generation": 1}}}}

    assert lines(old, {"spec": {"template": {"metadata": {}}}}) == [
        "spec.status: 1 → (none)",
        "spec.template.metadata.generation: 1 → (none)",
    ]


def test_an_item_put_first_is_one_difference() -> None:
    old = {"from": [peer("b"), peer("c")]}
    new = {"from": [peer("a"), peer("b"), peer("c")]}

    assert lines(old, new) == [
        'from[0]: (none) → {"podSelector": {"matchLabels": {"app": "a"}}}'
    ]
    assert lines(new, old) == [
        'from[0]: {"podSelector": {"matchLabels": {"app": "a"}}} → (none)'
    ]


def test_items_with_names_are_known_by_them() -> None:
    old = {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}
    new = {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]}

    assert lines(old, new) == [
        'containers[name=a].image: "1" → "2"',
        'containers[name=b]: {"name": "b"} → (none)',
        'containers[name=c]: (none) → {"name": "c"}',
    ]


def test_their_order_is_a_difference_of_its_own() -> None:
    old = {"env": [{"name": "a"}, {"name": "b"}]}
    new = {"env": [{"name": "b"}, {"name": "a"}]}

    assert lines(old, new) == ['env (order): ["a", "b"] → ["b", "a"]']


def test_names_that_are_there_twice_tell_nothing() -> None:
    old = {"ports": [{"name": "a", "n": 1}, {"name": "a", "n": 2}]}
    new = {"ports": [{"name": "a", "n": 1}, {"name": "a", "n": 3}]}

    assert lines(old, new) == ["ports[1].n: 2 → 3"]


def test_text_of_several_lines_shows_the_lines_that_changed() -> None:
    old = {"data": {"policy.yaml": "a: 1\nb: 2\nc: 3\nd: 4\n"}}
    new = {"data": {"policy.yaml": "a: 1\nb: 2\nc: 5\nd: 4\n"}}

    assert lines(old, new) == [
        'data["policy.yaml"]:',
        "  @@ -2,3 +2,3 @@",
        "   b: 2",
        "  -c: 3",
        "  +c: 5",
        "   d: 4",
    ]


def test_a_long_value_is_cut() -> None:
    [line] = Difference("a", ABSENT, "x" * 1000).lines()

    assert line == f'a: (none) → "{"x" * (MAX_SHOWN - 2)}…'
