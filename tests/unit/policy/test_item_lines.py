"""Long lists are read without the YAML parser, and nobody can tell."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_server.policy import yaml_nodes
from authz_server.policy.item_lines import ItemLines, ShortenedText, shorten
from authz_server.policy.nodes import Map, Node, Place, Problems, Scalar, Sequence

RUN = "".join(f"    - spiffe://a.example/ns/{name}\n" for name in "abcde")
LIST = "x: 1\nspiffe:\n" + RUN + "y: 2\n"


def plain(node: Node | None) -> object:
    """Return everything about `node`, whichever way it was read."""
    if isinstance(node, Sequence):
        return node.place, [plain(item) for item in node.items]
    if isinstance(node, Map):
        return node.place, [(key, plain(value)) for key, value in node.entries]
    return node


def composed(text: str) -> tuple[object, list[str]]:
    problems = Problems()
    root = yaml_nodes.compose(text, "p", problems)
    return plain(root), [str(problem) for problem in problems.found]


def composed_whole(text: str) -> tuple[object, list[str]]:
    """Return the same by the parser alone."""
    problems = Problems()
    root = yaml_nodes._compose(ShortenedText(text), "p", problems)
    return plain(root), [str(problem) for problem in problems.found]


def held(text: str) -> list[Node | ItemLines]:
    root = yaml_nodes.compose(text, "p", Problems())
    assert isinstance(root, Map)
    (_, value) = root.entries[-1]
    assert isinstance(value, Sequence)
    return value.held


def test_the_parser_sees_two_items_of_a_long_list() -> None:
    text = "spiffe:\n" + "  - spiffe://a.example/b\n" * 1000
    assert shorten(text).text.count("\n") == 3
    run, last = held(text)
    assert isinstance(run, ItemLines)
    assert len(run.texts) == 999
    assert last == Scalar(Place(1001, 5, "p"), "spiffe://a.example/b", "string")


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize("indent", ["", "  ", "      "])
def test_items_have_their_places(quote: str, indent: str) -> None:
    text = "a: 1\nb:\n" + "".join(
        f"{indent}- {quote}spiffe://a.example/{name}/*{quote}\n" for name in "wxyz"
    )
    assert isinstance(held(text)[0], ItemLines)
    assert composed(text) == composed_whole(text)
    root = yaml_nodes.compose(text, "p", Problems())
    assert isinstance(root, Map)
    assert isinstance(root.entries[1][1], Sequence)
    assert root.entries[1][1].items[2] == Scalar(
        Place(5, len(indent) + 3, "p"), "spiffe://a.example/y/*", "string"
    )


def test_what_comes_behind_a_list_keeps_its_place() -> None:
    text = f"a:\n{RUN}b:\n{RUN}c: *d\n"
    assert composed(text)[1] == ["p:13:4: alias '*d' is not allowed; write it out"]
    assert composed(text) == composed_whole(text)


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        RUN,
        "- " + RUN.lstrip(),
        RUN.replace("    -", "-"),
        LIST.replace("\n", "\r\n"),
        LIST.replace("x: 1", "x: \x85 1"),
        LIST.replace("x: 1", "x: \u2028 1"),
        LIST.replace("x: 1\n", "x: 1\r"),
        "\ufeff" + LIST,
        LIST.replace("spiffe:", "spiffe: |"),
        LIST.replace("spiffe:", "spiffe: >-"),
        LIST.replace("spiffe:", "spiffe: word"),
        LIST.replace("spiffe:", "spiffe: 'open") + "'\n",
        LIST.replace("spiffe:", 'spiffe: "open') + '"\n',
        LIST.replace("spiffe:", "spiffe: [") + "]\n",
        LIST.replace("spiffe:", "spiffe: {") + "}\n",
        LIST.replace("spiffe:", "spiffe: &anchor"),
        LIST.replace("spiffe:", "spiffe: !!set"),
        LIST.replace("spiffe:", "spiffe: # a comment"),
        LIST.replace("spiffe:", "? spiffe\n:"),
        LIST.replace("spiffe:", "?"),
        "? - " + RUN.lstrip() + ": 1\n",
        LIST.replace("y: 2", "       continued\ny: 2"),
        LIST.replace("y: 2", "      : 1\ny: 2"),
        LIST.replace("y: 2", "     - 1\ny: 2"),
        LIST.replace("y: 2", "   - 1\ny: 2"),
        LIST.replace("y: 2", "\ty: 2"),
        LIST.replace("y: 2", "y: [\x07"),
        LIST.replace("y: 2", "---\ny: 2"),
        LIST.replace("y: 2", "..."),
        LIST.replace("ns/c\n", "ns/c:\n"),
        LIST.replace("ns/c\n", "ns/c # a comment\n"),
        LIST.replace("ns/c\n", "ns/c\n\n"),
        LIST.replace("ns/e\n", "ns/e: f\n"),
        LIST.replace("ns/e\n", "ns/e"),
        f"a:\n{RUN}  {RUN.replace('    -', '      -')}",
        f"a:\n- b:\n{RUN}- c:\n{RUN}",
        f"a: |\n{RUN}b:\n{RUN}",
        f"a:\n{RUN}b: |\n{RUN}",
        "a: |\n" + RUN + "b:\n" + "- spiffe://a.example/b\n" * 9,
        "# no line break\r" + RUN + RUN.replace("    -", "   -"),
        "a: [1,\n" + RUN + "]\n",
        "%YAML 1.1\n---\n" + LIST,
        # An item that stands, by the wrong count of lines, where the long list begins.
        "a: #\x85\n- 'spiffe://a'\n- spiffe://a\n- spiffe://b\n- spiffe://c\n",
    ],
)
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_a_text_is_read_as_the_parser_reads_it(
    text: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_nodes, "_LOADER", getattr(yaml, loader))
    assert composed(text) == composed_whole(text)


_LINES = st.sampled_from(
    [
        *["    - spiffe://a.example/b\n", "    - spiffe://a.example/c/**\n"] * 4,
        *["    - 'spiffe://a.example/b'\n", '    - "spiffe://a.example/b"\n'] * 2,
        *["  - spiffe://a.example/b\n"] * 3,
        *["a:\n", "b: c\n", "  c:\n", "    d:\n"] * 2,
        *["a: |\n", "  b: >\n", "a: 'x\n", "  '\n", 'a: "x\n', '"\n', "a: [\n"],
        *["]\n", "  - |\n", "    - >-\n", "    - [\n", "    - - x\n", "    - x:\n"],
        *["    -\n", "  -\n", "    - &x\n", "    - !!str\n", "    - *x\n", "?\n"],
        *["  ? \n", ": \n", "# x\n", "\n", "    \n", "\t\n", "---\n", "...\n"],
        *["      words\n", "    words\n", "   - spiffe://a.example/b\n", "\r"],
        *["\x85", "\u2028", "x", "    - spiffe://a.example/b", "\x00", " "],
    ]
)


@settings(derandomize=True, max_examples=1500, deadline=None)
@given(st.lists(_LINES, max_size=24).map("".join))
def test_any_text_is_read_as_the_parser_reads_it(text: str) -> None:
    assert composed(text) == composed_whole(text)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.data())
def test_any_damage_to_a_list_is_found_as_the_parser_finds_it(
    data: st.DataObject,
) -> None:
    text = f"a:\n  b:\n{RUN}  c:\n{RUN}d: 1\n"
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        piece = data.draw(st.sampled_from(
            ["", " ", "\n", "[", "]", "{", "}", ":", ": ", "- ", "&a", "*a", "!!x", "7",
             '"', "~", "#", " #", "---\n", "\x00", "é", "<<: ", "? ", "|\n", "'", "\r",
             ">\n", "\x85"]
        ))  # fmt: skip
        text = text[:start] + piece + text[end:]
    assert composed(text) == composed_whole(text)
