"""regex.*: Go's expressions, and no others."""

from __future__ import annotations

import time

import pytest

from authz_server.policy.builtins.regex import find_n, replace, split
from authz_server.policy.builtins.values import RefusedError, UndefinedError


@pytest.mark.parametrize(
    ("text", "pattern", "template", "expected"),
    [
        ("foo bar", "o", "0", "f00 bar"),
        ("foo", "^[a-z]", "F", "Foo"),
        ("a1b2", r"([a-z])(\d)", "$2$1", "1a2b"),
        ("a1", r"([a-z])", "${1}x", "ax1"),
        ("a1", r"([a-z])", "$1x", "1"),
        ("ab", "(?P<n>b)", "<$n>", "a<b>"),
        ("ab", "b", "$$", "a$"),
        ("ab", "b", "$", "a$"),
        ("ab", "b", "${", "a${"),
        ("ab", "b", "$7$01$é", "a"),
        ("abc", "x*", "-", "-a-b-c-"),
        ("-ab-b-", "a(b*)|x*", "($1)", "()-(b)-()b()-()"),
        ("日本", "日", "é", "é本"),
        ("ab", "(x)?b", "[$1]", "a[]"),
    ],
)
def test_replacements_are_gos(
    text: str, pattern: str, template: str, expected: str
) -> None:
    assert replace(text, pattern, template) == expected


def test_a_text_is_split_as_go_splits_it() -> None:
    assert split(",", "a,b,,c") == ["a", "b", "", "c"]
    assert split("a*", "baac") == ["b", "c"]
    assert split("x*", "abc") == ["a", "b", "c"]
    assert split("a", "") == [""]
    assert split("", "") == []
    assert split("$", "ab") == ["ab"]


def test_matches_are_found_as_go_finds_them() -> None:
    assert find_n("a.", "abacad", 2) == ["ab", "ac"]
    assert find_n("a.", "abacad", -1) == ["ab", "ac", "ad"]
    assert find_n("a", "aa", 0) == []
    assert find_n("a*", "baab", -1) == ["", "aa", ""]


@pytest.mark.parametrize(
    "pattern", ["(", "(?=a)", "\\1", "a**", "\\C", "\\\\\\C", "a{1001}", "\\Z", "*"]
)
def test_a_pattern_that_is_not_gos_leaves_it_undefined(pattern: str) -> None:
    with pytest.raises(UndefinedError):
        find_n(pattern, "a", -1)


def test_a_backslash_before_a_c_is_none_of_that() -> None:
    assert find_n("\\\\C", "\\C", -1) == ["\\C"]


def test_no_pattern_takes_long() -> None:
    started = time.monotonic()
    assert find_n("(a*)*b", "a" * 60_000, -1) == []
    assert find_n("(a|a)*$", "a" * 60_000 + "b", -1) == [""]
    with pytest.raises(RefusedError):
        find_n("a.*b|a", "a" * 60_000, -1)
    with pytest.raises(RefusedError):
        replace("a" * 60_000, "(a)(.*)b|a", "")
    for pattern in (
        "(.{1,30}x){20}",
        "(a?){300}a{300}b",
        "(\\w|.|[a-z])*\\d$" * 40,
        "(a.?){400}c",
        "(a.?){100}c|a",
    ):
        try:
            find_n(pattern, "ab" * 30_000, -1)
        except RefusedError:
            """The pattern or its matches are too much."""
    assert time.monotonic() - started < 20


def test_too_much_is_refused() -> None:
    with pytest.raises(RefusedError):
        find_n("a" * 2000, "a", -1)
    with pytest.raises(RefusedError):
        find_n("a", "a" * 100_000, -1)
    with pytest.raises(RefusedError):
        find_n("\\pL{900}", "a", -1)
    with pytest.raises(RefusedError):
        replace("a" * 60_000, "a", "x" * 1000)
