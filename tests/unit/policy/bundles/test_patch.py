"""Delta bundles: each change against what OPA makes of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import PolicyError
from authz_server.policy.bundles.patch import Change, apply_patch, parse_patch

DATA: dict[str, Any] = {
    "a": {"b": {"c": 1}, "n": None},
    "l": [1, {"x": 2}, [3]],
    "t": "text",
    "a/b": 1,
    "m~n": 2,
    "~1": 3,
    "": {"": 4},
    "é": 5,
    "a%2Fb": 6,
    "-": 7,
}


def changes(*entries: dict[str, Any]) -> tuple[Change, ...]:
    return parse_patch(json.dumps({"data": entries}).encode())


def patched(op: str, path: str, *value: Any) -> Any:
    entry = {"op": op, "path": path}
    if value:
        entry["value"] = value[0]
    return apply_patch(DATA, changes(entry))


# What the store of OPA 1.22.2 does (v1/storage/inmem, internal/patch).
@pytest.mark.parametrize(
    ("op", "path", "at", "expected"),
    [
        ("upsert", "/a/b/c", ["a", "b"], {"c": 9}),
        ("upsert", "a/b/c", ["a", "b"], {"c": 9}),
        ("upsert", "//a/b/c//", ["a", "b"], {"c": 9}),
        ("upsert", "/new", ["new"], 9),
        ("upsert", "/new/x/y", ["new"], {"x": {"y": 9}}),
        ("upsert", "/a/new/x", ["a", "new"], {"x": 9}),
        ("upsert", "/a/b", ["a"], {"b": 9, "n": None}),
        ("upsert", "/t", ["t"], 9),
        ("upsert", "/l/0", ["l"], [9, 1, {"x": 2}, [3]]),
        ("upsert", "/l/2", ["l"], [1, {"x": 2}, 9, [3]]),
        ("upsert", "/l/3", ["l"], [1, {"x": 2}, [3], 9]),
        ("upsert", "/l/-", ["l"], [1, {"x": 2}, [3], 9]),
        ("upsert", "/l/2/-", ["l"], [1, {"x": 2}, [3, 9]]),
        ("upsert", "/l/1/y", ["l"], [1, {"x": 2, "y": 9}, [3]]),
        ("upsert", "/-", ["-"], 9),
        ("upsert", "/a/-", ["a", "-"], 9),
        ("replace", "/l/1", ["l"], [1, 9, [3]]),
        ("replace", "/l/1/x", ["l"], [1, {"x": 9}, [3]]),
        ("replace", "/a/n", ["a"], {"b": {"c": 1}, "n": 9}),
        ("remove", "/a/b", ["a"], {"n": None}),
        ("remove", "/a/n", ["a"], {"b": {"c": 1}}),
        ("remove", "/l/0", ["l"], [{"x": 2}, [3]]),
        ("remove", "/l/1/x", ["l"], [1, {}, [3]]),
        ("replace", "/a~1b", ["a/b"], 9),
        ("replace", "/a%2Fb", ["a/b"], 9),
        ("replace", "/m~0n", ["m~n"], 9),
        ("replace", "/~01", ["~1"], 9),
        ("replace", "/a%252Fb", ["a%2Fb"], 9),
        ("replace", "/%C3%A9", ["é"], 9),
        ("replace", "/é", ["é"], 9),
    ],
)
def test_a_change_is_what_opa_makes_of_it(
    op: str, path: str, at: list[str], expected: Any
) -> None:
    found = patched(op, path, 9)
    for step in at:
        found = found[step]
    assert found == expected


@pytest.mark.parametrize("op", ["remove", "replace"])
@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/a/none",
        "/none/b",
        "/a/n/x",
        "/t/0",
        "/l/3",
        "/l/-",
        "/l/-1",
        "/l/x",
        "/l/9999999999999",
        "/l/0/x",
        "/l/²",
    ],
)
def test_what_is_not_there_cannot_be_changed(op: str, path: str) -> None:
    with pytest.raises(PolicyError, match=f"cannot {op} .*there is no such place"):
        patched(op, path, 1)


@pytest.mark.parametrize(
    "path", ["/t/x", "/a/n/x", "/l/4", "/l/x", "/l/-/x", "/l/3/x", "/l/00", "/l/-1"]
)
def test_nothing_is_put_where_nothing_can_be(path: str) -> None:
    with pytest.raises(PolicyError, match="cannot upsert"):
        patched("upsert", path, 1)


def test_a_change_without_a_value_puts_null() -> None:
    assert patched("upsert", "/t")["t"] is None


def test_all_changes_are_made_in_their_order() -> None:
    made = apply_patch(
        {"l": []},
        changes(
            {"op": "upsert", "path": "l/-", "value": {"a": 1}},
            {"op": "upsert", "path": "l/0/b", "value": 2},
            {"op": "upsert", "path": "l/0", "value": 0},
            {"op": "remove", "path": "l/0"},
        ),
    )
    assert made == {"l": [{"a": 1, "b": 2}]}


def test_a_change_that_fails_leaves_nothing_changed() -> None:
    before = copy.deepcopy(DATA)
    with pytest.raises(PolicyError):
        apply_patch(
            DATA,
            changes(
                {"op": "upsert", "path": "a/b/c", "value": 2},
                {"op": "remove", "path": "none"},
            ),
        )
    assert before == DATA


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"data":{}}',
        b'{"data":null}',
        b'{"data":[],"policy":[]}',
        b'{"data":[],"data":[]}',
        b'{"data":[1]}',
        b'{"data":[null]}',
        b'{"data":[{}]}',
        b'{"data":[{"op":"add","path":"a"}]}',
        b'{"data":[{"op":"UPSERT","path":"a"}]}',
        b'{"data":[{"op":["upsert"],"path":"a"}]}',
        b'{"data":[{"op":{},"path":"a"}]}',
        b'{"data":[{"op":null,"path":"a"}]}',
        b'{"data":[{"op":"upsert","path":1}]}',
        b'{"data":[{"op":"upsert"}]}',
        b'{"data":[{"op":"upsert","path":""}]}',
        b'{"data":[{"op":"upsert","path":"/"}]}',
        b'{"data":[{"op":"remove","path":"//"}]}',
    ],
)
def test_what_is_no_list_of_changes_below_the_root_is_refused(text: bytes) -> None:
    with pytest.raises(PolicyError, match=r"patch\.json"):
        parse_patch(text)


def test_thousands_of_changes_are_all_made() -> None:
    many = tuple(Change("upsert", ("x", str(number)), number) for number in range(2000))
    assert len(apply_patch({}, many)["x"]) == 2000


KEYS = st.sampled_from(["a", "b", "0", "1", "-", "a/b", "~1", "é%"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(0, 3) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)
CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(["upsert", "remove", "replace"]),
        st.lists(KEYS, min_size=1, max_size=3).map(tuple),
        VALUES,
    ),
    max_size=5,
)


def naive(document: Any, made: list[Change]) -> Any:  # noqa: C901, PLR0912
    """Change a copy in place, as one would who shares nothing."""
    document = copy.deepcopy(document)
    for change in made:
        node = document
        for step in change.path[:-1]:
            if isinstance(node, dict) and change.operation == "upsert":
                node = node.setdefault(step, {})
            elif isinstance(node, dict):
                node = node[step]
            elif isinstance(node, list) and step.isdigit():
                node = node[int(step)]
            else:
                raise LookupError
        last, value = change.path[-1], copy.deepcopy(change.value)
        if isinstance(node, dict):
            if change.operation != "upsert":
                del node[last]
            if change.operation != "remove":
                node[last] = value
        elif isinstance(node, list):
            if change.operation == "upsert" and last in {"-", str(len(node))}:
                node.append(value)
                continue
            if not last.isdigit() or int(last) >= len(node):
                raise LookupError
            if change.operation != "upsert":
                del node[int(last)]
            if change.operation != "remove":
                node.insert(int(last), value)
        else:
            raise LookupError  # noqa: TRY004
    return document


@given(DOCUMENTS, CHANGES)
def test_changes_that_share_what_stays_are_those_of_a_copy(
    document: dict[str, Any], made: list[Change]
) -> None:
    before = copy.deepcopy(document)
    try:
        expected = naive(document, made)
    except LookupError:
        with pytest.raises(PolicyError):
            apply_patch(document, made)
    else:
        assert apply_patch(document, made) == expected
    assert document == before


@given(CHANGES, st.randoms())
def test_a_path_that_is_spelled_in_escapes_is_the_same_path(
    made: list[Change], random: Any
) -> None:
    def spelled(step: str) -> str:
        pointer = step.replace("~", "~0").replace("/", "~1")
        return "".join(
            f"%{byte:02X}"
            if byte >= 0x80 or byte == 0x25 or random.random() < 0.5
            else chr(byte)
            for byte in pointer.encode()
        )

    text = [
        {
            "op": change.operation,
            "path": "/".join(map(spelled, change.path)),
            "value": change.value,
        }
        for change in made
    ]
    assert changes(*text) == tuple(made)
