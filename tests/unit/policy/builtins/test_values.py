"""Rego's values and the text in which they cross into Wasm."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from authz_server.policy.builtins.values import (
    Number,
    RefusedError,
    RegoObject,
    RegoSet,
    UndefinedError,
    are_equal,
    dump_value,
    make_object,
    order_key,
    parse_json,
    parse_value,
    to_integer,
    unique,
)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "null",
            "true",
            "-12",
            "1.50",
            "1e400",
            '"a\\u0000\\"é"',
            "[]",
            "{}",
            "set()",
        ),
        *(
            '[1,[2,{"a":null}]]',
            '{"a":{1,2},"b":set()}',
            "{1,[2],{3}}",
            '{1:"a",[2]:{}}',
        ),
        *("123456789012345678901234567890", '{"a":[{"b"}]}', "{set()}", "{null}"),
    ],
)
def test_a_value_comes_back_as_it_was_written(text: str) -> None:
    written = dump_value(parse_value(text))
    assert are_equal(parse_value(written), parse_value(text))
    assert dump_value(parse_value(written)) == written


def test_a_number_stays_as_it_was_written() -> None:
    assert dump_value(parse_value("[1.50,1e5,0.1]")) == "[1.50,1e5,0.1]"


def test_sets_and_odd_keys_are_told_from_arrays_and_objects() -> None:
    assert parse_value("{1}") == RegoSet((1,))
    assert parse_value(" { 1 : 2 , 3 : 4 } ") == RegoObject(((1, 2), (3, 4)))
    assert parse_value('{"a": {1}}') == {"a": RegoSet((1,))}
    assert parse_value(".5") == Decimal("0.5")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{1", "{1,", "{1:2", "{1:2,3}", "[1", "nul", "{1}}", "NaN", "[NaN]"),
        *('"a', "-", "{,}", "set(", "1 2", "{1:2 3:4}"),
    ],
)  # fmt: skip
def test_what_is_no_value_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        parse_value(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[" * 300 + "{1}" + "]" * 300, "9" * 5000, "{" + "9" * 5000 + "}"],
    ids=["json", "rego", "digits", "digits-in-a-set"],
)
def test_what_is_too_deep_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_value(text)


def test_what_is_too_deep_is_not_written_either() -> None:
    value: Any = []
    for _ in range(300):
        value = [value]
    with pytest.raises(RefusedError):
        dump_value(value)
    with pytest.raises(RefusedError):
        order_key(value)


def test_values_are_ordered_by_kind_first() -> None:
    ordered = [None, False, True, -1, Number("1.5"), 2, "", "a", [], [1], {}, RegoSet()]
    assert sorted([*ordered[6:], *ordered[:6]], key=order_key) == ordered
    assert not are_equal(1, True)  # noqa: FBT003 - that is the point
    assert are_equal(1, Number("1.0"))
    assert are_equal({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert are_equal(RegoSet((1, 2)), RegoSet((2, 1)))
    assert unique([1, Number("1.0"), "1"]) == RegoSet((Number("1.0"), "1"))
    assert make_object([("a", 1), ("a", 2)]) == {"a": 2}
    assert make_object([(1, 2)]) == RegoObject(((1, 2),))


def test_what_is_no_value_of_regos_is_a_mistake() -> None:
    for function in (order_key, dump_value):
        with pytest.raises(TypeError):
            function(object())


def test_json_of_others_is_read_as_go_reads_it() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json('["\\ud800x", {"\\udc00": "\\ud83d\\ude00"}]') == [
        *("\ufffdx", {"\ufffd": "😀"}),
    ]
    for text in ("{1}", "Infinity", "\ufeff1", ""):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_json(text)
    with pytest.raises(RefusedError):
        parse_json("[" * 100_000)
    with pytest.raises(RefusedError):
        parse_json('["\\ud800",' + "[" * 300 + "]" * 301)


def test_a_number_is_an_integer_only_if_it_is_one() -> None:
    assert to_integer(7) == 7
    assert to_integer(Number("1e3")) == 1000
    for text in ("1.5", "1e-1000000"):
        with pytest.raises(UndefinedError):
            to_integer(Number(text))
    with pytest.raises(RefusedError):
        to_integer(Number("1e1000000"))
    with pytest.raises(RefusedError):
        Number("1e99999999999999999999")
