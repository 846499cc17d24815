"""Strings, encodings and hashes."""

# ruff: noqa: E501 -- tables, a case to a line

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.builtins.values import (
    RefusedError,
    RegoSet,
    UndefinedError,
    parse_value,
)

UNDEFINED = object()


def call(name: str, *arguments: Any) -> Any:
    function = HOST_FUNCTIONS[name]
    assert isinstance(function, Callable)  # type: ignore[arg-type]
    return function(*arguments)  # type: ignore[operator]


def check(name: str, arguments: list[Any], expected: Any) -> None:
    if expected is UNDEFINED:
        with pytest.raises(UndefinedError):
            call(name, *arguments)
    else:
        assert call(name, *arguments) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("indexof_n", ["banana", "an"], [1, 3]),
        ("indexof_n", ["aaa", "aa"], [0, 1]),
        ("indexof_n", ["éaé", "é"], [0, 2]),
        ("indexof_n", ["a", ""], UNDEFINED),
        ("indexof_n", ["a", 1], UNDEFINED),
        ("strings.any_prefix_match", ["a/b", ["x", "a/"]], True),
        ("strings.any_prefix_match", [RegoSet(("b", "ab")), "a"], True),
        ("strings.any_prefix_match", ["a", []], False),
        ("strings.any_prefix_match", ["a", ["", 1]], UNDEFINED),
        ("strings.any_prefix_match", [{}, "a"], UNDEFINED),
        ("strings.any_suffix_match", ["a.b", [".c", ".b"]], True),
        ("strings.any_suffix_match", [["a", "b"], ["ab"]], False),
        ("strings.count", ["aaa", "aa"], 1),
        ("strings.count", ["éa", ""], 3),
        ("strings.split_n", ["a.b.c", ".", 2], ["a", "b"]),
        ("strings.split_n", ["a.b.c", ".", -1], ["c"]),
        ("strings.split_n", ["abc", "", 2], ["a", "b"]),
        ("strings.split_n", ["a", ".", 0], []),
        ("strings.split_n", ["a", ".", parse_value("1.0")], ["a"]),
        ("strings.split_n", ["a", ".", parse_value("1e0")], UNDEFINED),
        ("strings.split_n", ["a", ".", 2**63], UNDEFINED),
        ("glob.quote_meta", ["*.a{b,c}[?]\\"], "\\*.a\\{b,c\\}\\[\\?\\]\\\\"),
        ("base64url.encode_no_pad", ["a?>"], "YT8-"),
        ("hex.encode", ["é"], "c3a9"),
        ("hex.decode", ["C3a9"], "é"),
        ("hex.decode", ["c3 a9"], UNDEFINED),
        ("hex.decode", ["c"], UNDEFINED),
        ("urlquery.encode", ["a b&é"], "a+b%26%C3%A9"),
        ("urlquery.decode", ["a+b%26"], "a b&"),
        ("urlquery.decode", ["%2"], UNDEFINED),
        ("urlquery.decode_object", ["a=1&b=&a=2&&c"], {"a": ["1", "2"], "b": [""], "c": [""]}),
        ("urlquery.decode_object", ["a=1;b=2"], UNDEFINED),
        ("urlquery.encode_object", [{"b": "x", "a": ["2", "1"], "c": RegoSet(("z", "y"))}],
         "a=2&a=1&b=x&c=y&c=z"),
        ("urlquery.encode_object", [{}], ""),
        ("urlquery.encode_object", [{"a": 1}], UNDEFINED),
        ("urlquery.encode_object", ["a"], UNDEFINED),
        ("json.marshal_with_options", [{"b": [1], "a": "<é>"}, {}],
         '{"a":"\\u003cé\\u003e","b":[1]}'),
        ("json.marshal_with_options", [{"a": [1, {}], "b": []}, {"indent": " ", "prefix": "#"}],
         '#{\n# "a": [\n#  1,\n#  {}\n# ],\n# "b": []\n#}'),
        ("json.marshal_with_options", [[1], {"pretty": False, "indent": " "}], "[1]"),
        ("json.marshal_with_options", [parse_value("{2,1}"), {"pretty": True}], "[\n\t1,\n\t2\n]"),
        ("json.marshal_with_options", [1, {"x": 1}], UNDEFINED),
        ("json.marshal_with_options", [1, {"pretty": "yes"}], UNDEFINED),
        ("crypto.md5", ["abc"], "900150983cd24fb0d6963f7d28e17f72"),
        ("crypto.sha1", ["abc"], "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("crypto.sha256", [1], UNDEFINED),
        # RFC 4231, test case 2.
        ("crypto.hmac.sha256", ["what do ya want for nothing?", "Jefe"],
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        # RFC 2202, test case 2.
        ("crypto.hmac.md5", ["what do ya want for nothing?", "Jefe"],
         "750c783e6ab0b503eaa86e310a5db738"),
        ("crypto.hmac.equal", ["a", "a"], True),
        ("crypto.hmac.equal", ["a", "b"], False),
        ("crypto.hmac.equal", ["a", None], UNDEFINED),
    ],
)  # fmt: skip
def test_a_text_becomes_what_opa_makes_of_it(
    name: str, arguments: list[Any], expected: Any
) -> None:
    check(name, arguments, expected)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("indexof_n", ["a" * 200_000, "a"]),
        ("indexof_n", ["a" * 1_000_000, "a" * 500_000]),
        ("hex.decode", ["ff"]),
        ("urlquery.decode", ["%ff"]),
        ("urlquery.decode_object", ["&" * 20_000]),
        ("json.marshal_with_options", [["x"] * 2000, {"indent": " " * 1000}]),
        ("json.marshal_with_options", [[[1]], {"indent": " " * 2_000_000}]),
    ],
)
def test_what_is_too_much_or_no_text_is_refused(
    name: str, arguments: list[Any]
) -> None:
    with pytest.raises(RefusedError):
        call(name, *arguments)
