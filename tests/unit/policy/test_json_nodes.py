"""JSON out of a bundle as nodes: what the YAML reader makes of it once printed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from authz_server.policy.json_nodes import nodes_of
from authz_server.policy.nodes import MAX_NESTING, Map, Node, Problems, Sequence
from authz_server.policy.yaml_nodes import compose

# No line ends of YAML 1.1, which jq prints as they are; and nothing that YAML takes for
# another kind than JSON does.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029\ufeff")
)
NAMES = st.lists(st.from_regex(r"spiffe://[a-z]{1,4}/[a-z]{1,4}", fullmatch=True))
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | TEXT
DOCUMENTS = st.dictionaries(
    TEXT,
    st.recursive(
        SCALARS | NAMES,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
        ),
        max_leaves=20,
    ),
    max_size=4,
)


def shown(node: Node) -> Any:
    """Return everything that a node says, places included."""
    if isinstance(node, Map):
        return node.place, [(key, shown(value)) for key, value in node.entries]
    if isinstance(node, Sequence):
        return node.place, [shown(item) for item in node.items]
    return node


@given(DOCUMENTS)
@example({"a": {"b": ["x", "y", "z"], "c": [], "d": {}, "e": ["", "x"]}, "é": [["x"]]})
def test_it_is_what_the_yaml_reader_makes_of_the_printed_text(
    document: dict[str, Any],
) -> None:
    problems = Problems()
    expected = compose(
        json.dumps(document, indent=2, ensure_ascii=False), "p", problems
    )
    found = nodes_of(document, "p", Problems())
    if problems.found:
        # YAML refuses some characters that JSON may hold.
        assert {problem.message for problem in problems.found} <= {
            "not YAML: a control character"
        }
        return
    assert found is not None
    assert expected is not None
    assert shown(found) == shown(expected)


def test_a_long_list_of_names_stays_together() -> None:
    root = nodes_of({"names": ["a", "b", "c"]}, "p", Problems())
    assert isinstance(root, Map)
    names = root.entries[0][1]
    assert isinstance(names, Sequence)
    assert len(names.held) == 1
    assert [item.place.line for item in names.items] == [3, 4, 5]


def test_a_list_with_an_empty_name_is_no_list_of_names() -> None:
    root = nodes_of({"names": ["", "b"]}, "p", Problems())
    assert isinstance(root, Map)
    names = root.entries[0][1]
    assert isinstance(names, Sequence)
    assert names.texts() is None


def test_what_is_nested_too_deep_is_refused_where_it_is() -> None:
    value: Any = "x"
    for _ in range(MAX_NESTING):
        value = {"a": value}
    assert nodes_of(value, "p", Problems()) is not None
    problems = Problems()
    assert nodes_of({"a": value}, "p", problems) is None
    (problem,) = problems.found
    assert (problem.source, problem.line) == ("p", MAX_NESTING + 1)
    assert "nested deeper" in problem.message
