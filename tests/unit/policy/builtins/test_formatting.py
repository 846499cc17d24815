"""`sprintf`, by what Go's documentation says and OPA's interpreter prints."""

# ruff: noqa: E501 -- tables, a case to a line

from __future__ import annotations

from typing import Any

import pytest

from authz_server.policy.builtins.formatting import sprintf
from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    parse_value,
)

BIG = 123456789012345678901234


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        ("%d|%5d|%-5d|%05d|%+d|% d", "[1,2,3,4,5,6]", "1|    2|3    |00004|+5| 6"),
        ("%x %X %#x %o %#o %O %b %#b", "[255,255,255,8,8,8,5,5]",
         "ff FF 0xff 10 010 0o10 101 0b101"),
        ("%c %q %U %#U", "[65,65,65,65]", "A 'A' U+0041 U+0041 'A'"),
        ("%c%q%U", "[-1,-1,-1]", "\ufffd'\ufffd'U+FFFFFFFFFFFFFFFF"),
        ("%.3d|%.0d|%6.3d|%-06d|", "[5,0,5,7]", "005||   005|7     |"),
        ("%s %v %q %x", '["a","b","c\\n","hi"]', 'a b "c\\n" 6869'),
        ("%5s|%-5s|%05s|%.1s|% x|%#x|%# X", '["é","é","é","éa","ab","ab","ab"]',
         "    é|é    |0000é|é|61 62|0x6162|0X61 0X62"),
        ("%#q %#q %+q %x|", '["a","`","é",""]', '`a` "`" "\\u00e9" |'),
        ("%v %v %v %s", '[true,null,[1,"a",{"b":{2,1},"a":set()}],{1}]',
         'true null [1, "a", {"a": set(), "b": {1, 2}}] {1}'),
        ("%v %v %v", '[1.0,{"x":1.0},{1:2}]', '1 {"x": 1.0} {1: 2}'),
        ("%v %v %v %g %v", "[1000000.0,0.0001,0.00001,1e20,123456.5]",
         "1e+06 0.0001 1e-05 1e+20 123456.5"),
        ("%f %.1f %e %.2E %G %6.1f %06.1f %+.0f % .0f", "[1.5,0.25,1e6,1e6,1e-7,2.5,-2.5,2.5,2.5]",
         "1.500000 0.2 1.000000e+06 1.00E+06 1E-07    2.5 -002.5 +2  2"),
        ("%v %d %s", "[1e400,1.5,2]", "1e400 %!d(float64=1.5) %!s(int64=2)"),
        ("%v %d %x %+d %#x %030d %s", f"[{', '.join([str(BIG)] * 7)}]",
         f"{BIG} {BIG} {BIG:x} +{BIG} {BIG:#x} {BIG:030} {BIG}"),
        ("%e %30d|%-30d|%O", f"[{BIG},{BIG},{BIG},{BIG}]",
         f"%!e(big.Int={BIG}) {BIG:>30}|{BIG:<30}|0o{BIG:o}"),
        ("%T %T %T %T %T", f'[1,1.5,"",{BIG},[]]', "int64 float64 string *big.Int string"),
        ("%t %z %w %p", '[true,1,"a",1]', "%!t(string=true) %!z(int64=1) %!w(string=a) %!p(int64=1)"),
        ("%d %d", "[1]", "1 %!d(MISSING)"),
        ("%d", '[1,2,"x",1.5]', "1%!(EXTRA int64=2, string=x, float64=1.5)"),
        ("%", "[]", "%!(NOVERB)"),
        ("100%% %5%", "[]", "100% %"),
        ("%[2]d %[1]d %d", "[1,2]", "2 1 2"),
        ("%*d|%-*d|%.*f", "[3,1,4,2,2,1.239]", "  1|2   |1.24"),
        ("%*d|%.*d", '["x",1,-1,2]', "%!(BADWIDTH)1|%!(BADPREC)2"),
        ("%[3]*.[2]*[1]f", "[1.5,2,6]", "  1.50"),
        ("%[5]d %[x]d %[d %[1]5d", "[1]", "%!d(BADINDEX) %!d(BADINDEX) %!d(BADINDEX)"),
        ("%#q %#q", '["\\u2028\\t","\\n"]', '`\u2028\t` "\\n"'),
        ("%#v %#v", '["a",1]', '"a" 1'),
        ("%v", '["a\\u0000\\u2028"]', "a\x00\u2028"),
        ("%v", '[["\\u0007\\u001b\\u2028\\ud83d\\ude00\\ue000"]]',
         '["\\a\\x1b\\u2028😀\\ue000"]'),
    ],
    ids=range(30),
)  # fmt: skip
def test_a_verb_prints_what_go_prints(form: str, values: str, expected: str) -> None:
    assert sprintf(form, parse_value(values)) == expected


@pytest.mark.parametrize(
    ("form", "values"), [(1, []), ("", {}), (None, None), ("%d", "x")]
)
def test_arguments_of_other_types_leave_it_undefined(form: Any, values: Any) -> None:
    with pytest.raises(UndefinedError):
        sprintf(form, values)


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("%1000000d%1000000d", [1, 1]),
        ("%1000001d", [1]),
        ("%d" + "%999999d" * 10, [1] * 11),
        ("%.999999f", [parse_value("1.5")]),
        ("%x", [parse_value("1.5")]),
        ("%#v", [parse_value("1.5")]),
        ("%#g", [parse_value("1.5")]),
        ("%p", [BIG]),
        ("%d" * 20_000, [1]),
        ("%v", [["\x00" * 500_000]]),
    ],
    ids=range(10),
)
def test_what_is_too_much_or_too_odd_is_refused(form: str, values: list[Any]) -> None:
    with pytest.raises(RefusedError):
        sprintf(form, values)


def test_a_number_too_long_for_go_ends_the_text() -> None:
    assert sprintf("%99999999999d", [1]) == "%!(NOVERB)%!(EXTRA int64=1)"
