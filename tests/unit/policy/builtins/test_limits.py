"""No call takes long or much, whatever a request says: nothing cuts it off."""

# ruff: noqa: E501 -- a table, a case to a line

from __future__ import annotations

import time
from typing import Any

import pytest

from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.builtins.tokens import decode_verify
from authz_server.policy.builtins.values import RefusedError, UndefinedError

MOST_S = 30.0
"""On a machine that others use as well; most take a few milliseconds."""
LONG = "a" * 1_000_000
TREE: Any = []
for _ in range(190):
    TREE = [TREE]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("indexof_n", [LONG, LONG[:500_000]]),
        ("strings.count", [LONG, "ab"]),
        ("strings.split_n", [LONG, "", -1]),
        ("strings.any_prefix_match", [["a" * 1000] * 1000, ["a" * 999 + "b"] * 1000]),
        ("strings.any_suffix_match", [["a" * 1000] * 1000, ["b" + "a" * 999] * 1000]),
        ("sprintf", ["%d" * 300_000, [1] * 300_000]),
        ("sprintf", ["%[1]q" * 1000, [LONG]]),
        ("sprintf", ["%v", [[["\x00" * 1000] * 1000]]]),
        ("sprintf", ["%[1]999999d" * 1000, [1]]),
        ("sprintf", ["%d", [10**3999]]),
        ("sprintf", ["[" * 500_000 + "%[", []]),
        ("sprintf", ["%[" * 5000, [1]]),
        ("urlquery.decode", ["%41" * 300_000]),
        ("urlquery.decode_object", ["a=b&" * 250_000]),
        ("urlquery.encode_object", [{str(n): ["x"] * 10 for n in range(30_000)}]),
        ("json.marshal_with_options", [TREE, {"indent": " " * 10_000}]),
        ("json.marshal_with_options", [[[1] * 100] * 3000, {"indent": "  "}]),
        ("json.patch", [[1] * 9000, [{"op": "add", "path": "/-", "value": 1}] * 1000]),
        ("json.patch", [TREE, [{"op": "copy", "from": "", "path": "/0/0"}] * 500]),
        ("net.cidr_merge", [[f"10.{n // 256}.{n % 256}.0/24" for n in range(60_000)]]),
        ("net.cidr_expand", ["10.0.0.0/16"]),
        ("net.cidr_expand", ["::/0"]),
        ("net.cidr_is_valid", ["1" * 1_000_000 + "/" + "1" * 1_000_000]),
        ("object.subset", [{str(n): n for n in range(60_000)}] * 2),
        ("object.subset", [[0] * 100_000, [0] * 50_000]),
        ("graph.reachable_paths", [{str(n): [str(n + 1)] for n in range(150)}, ["0"] * 3000]),
        ("time.parse_ns", ["2006" * 50_000] * 2),
        ("time.format", [[0, "UTC", "Jan" * 300_000]]),
        ("time.clock", [[0, "a/" * 100_000]]),
        ("time.parse_duration_ns", ["1h" * 500_000]),
        ("time.parse_rfc3339_ns", ["2024-02-29T12:30:00." + "0" * 1_000_000 + "Z"]),
        ("units.parse", ["1" * 1_000_000]),
        ("units.parse", ["1e" * 500_000]),
        ("units.parse_bytes", ["+" * 1_000_000]),
        ("units.parse_bytes", ["1e999999"]),
        ("semver.compare", ["1.0.0-" + "1." * 100_000 + "1"] * 2),
        ("semver.is_valid", ["1." * 500_000]),
        ("uri.parse", ["http://" + "[" * 500_000]),
        ("uri.parse", ["//" + "@" * 500_000]),
        ("uuid.parse", [LONG]),
        ("io.jwt.decode", [("a" * 80_000 + ".") * 2 + "a"]),
        ("io.jwt.decode", [LONG]),
        ("io.jwt.verify_rs256", ["a.b.c", "-----BEGIN CERTIFICATE-----\n" * 9000]),
        ("io.jwt.verify_rs256", ["a.b.c", "\n-----BEGIN A-----\n" * 12_000]),
        ("io.jwt.verify_hs256", ["a.b.YQ", LONG]),
        ("regex.split", ["x*", LONG[:60_000]]),
        ("regex.find_n", ["(a.?){400}c|a", LONG[:60_000], -1]),
        ("regex.replace", [LONG[:60_000], "(a*)*$", "$1$1"]),
        ("numbers.range_step", [0, 10**18, 1]),
        ("numbers.range_step", [10**3999, 0, 1]),
    ],
    ids=range(50),
)  # fmt: skip
def test_the_worst_calls_end_soon(name: str, arguments: list[Any]) -> None:
    function = HOST_FUNCTIONS[name]
    started = time.monotonic()
    try:
        function(*arguments)  # type: ignore[operator]
    except (RefusedError, UndefinedError):
        """That is an end, too."""
    assert time.monotonic() - started < MOST_S


def test_a_token_of_many_tokens_ends_soon() -> None:
    started = time.monotonic()
    with pytest.raises((RefusedError, UndefinedError)):
        decode_verify(time.time_ns, "." * 1_000_000, {"secret": "s"})
    assert time.monotonic() - started < MOST_S
