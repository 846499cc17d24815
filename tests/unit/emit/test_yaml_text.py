from __future__ import annotations

import pytest
import yaml
from ruamel.yaml import YAML

from authz_server.emit.yaml_text import comment, document, documents

AMBIGUOUS = [
    "y", "N", "yes", "no", "on", "OFF", "true", "null", "~", "", "1e3", "0x10", "0o17",
    "017", "1_000", "1:30", "2026-01-01", ".inf", "-", "- a", "a: b", "a #b", "@type",
    "*", "&a", "!t", "%x", "8000", "NaN", "Inf", " lead", "trail ", "tab\there", "é",
]  # fmt: skip


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_yaml_1_1_and_1_2_read_the_same_string_back(text: str) -> None:
    written = document({"key": text, text: "value"})

    expected = {"key": text, text: "value"}
    assert yaml.safe_load(written) == expected
    assert YAML(typ="safe", pure=True).load(written) == expected


@pytest.mark.parametrize("text", ["y", "N", "1e3", "0x10", "0o17", "NaN"])
def test_a_string_that_some_reader_takes_for_another_type_is_quoted(text: str) -> None:
    assert document({"key": text}) == f'key: "{text}"\n'


def test_plain_names_stay_without_quotes() -> None:
    assert document({"app.kubernetes.io/name": "triton"}) == (
        "app.kubernetes.io/name: triton\n"
    )


def test_a_value_used_twice_is_written_twice() -> None:
    shared = {"app": "triton"}

    text = document({"a": shared, "b": shared})

    assert text == "a:\n  app: triton\nb:\n  app: triton\n"


def test_keys_keep_their_order() -> None:
    assert document({"kind": "b", "apiVersion": "a"}) == "kind: b\napiVersion: a\n"


def test_text_of_several_lines_is_a_literal_block() -> None:
    assert document({"f": "a: 1\nb: y\n"}) == "f: |\n  a: 1\n  b: y\n"


def test_long_strings_stay_on_one_line() -> None:
    assert document({"f": "word " * 50}).count("\n") == 1


def test_documents_are_separated_by_three_dashes() -> None:
    assert documents([{"a": 1}, {"b": 2}]) == "a: 1\n---\nb: 2\n"


def test_comments_wrap_and_every_line_of_them_is_one() -> None:
    text = comment(["\nfirst " + "word " * 40 + "\n", "second"])

    assert all(line.startswith("#") and len(line) <= 88 for line in text.splitlines())
    assert text.startswith("# first word")
    assert text.endswith("\n#\n# second\n")
