"""Objects, graphs, patches, networks, numbers, versions, identifiers."""

# ruff: noqa: E501 -- tables, a case to a line

from __future__ import annotations

from typing import Any

import pytest

from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    are_equal,
    parse_value,
)

UNDEFINED = "(undefined)"
REFUSED = "(refused)"


def call(name: str, arguments: str) -> Any:
    function = HOST_FUNCTIONS[name]
    return function(*parse_value(arguments))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("object.subset", '[{"a":{"b":1,"c":2},"d":[1,2,3]},{"a":{"b":1},"d":[2,3]}]', "true"),
        ("object.subset", '[{"a":{1,2}},{"a":{1}}]', "true"),
        ("object.subset", '[{"a":1},{"a":true}]', "false"),
        ("object.subset", '[{"a":1},{"b":1}]', "false"),
        ("object.subset", '[{"a":1},{"a":[1]}]', "false"),
        ("object.subset", "[{1,2},{2}]", "true"),
        ("object.subset", "[{1,2},{3}]", "false"),
        ("object.subset", "[[1,2,1],{1,2}]", "true"),
        ("object.subset", "[[],set()]", "false"),
        ("object.subset", "[[1,2,3],[1,3]]", "false"),
        ("object.subset", "[[1],[]]", "true"),
        ("object.subset", '[[1],{"a":1}]', UNDEFINED),
        ("graph.reachable_paths", '[{"a":["b"],"b":["c"],"c":["a"]},{"a"}]', '{["a","b","c"]}'),
        ("graph.reachable_paths", '[{"a":{"b","c"},"b":[]},["a","x"]]', '{["a","b"],["a"]}'),
        ("graph.reachable_paths", '[{"a":[]},["a"]]', '{["a"]}'),
        ("graph.reachable_paths", '[{"a":["a"]},["a"]]', '{["a","a"]}'),
        ("graph.reachable_paths", '[{"a":1},["a"]]', '{["a"]}'),
        ("graph.reachable_paths", '[[],["a"]]', UNDEFINED),
        ("graph.reachable_paths", '[{},"a"]', UNDEFINED),
        ("json.patch", '[{"a":1},[{"op":"add","path":"/b","value":2}]]', '{"a":1,"b":2}'),
        ("json.patch", '[[1,2],[{"op":"add","path":"/1","value":9},{"op":"add","path":"/-","value":8}]]',
         "[1,9,2,8]"),
        ("json.patch", '[{"a":{"b":1}},[{"op":"move","from":"/a/b","path":"/c"}]]', '{"a":{},"c":1}'),
        ("json.patch", '[{"a~/":[1]},[{"op":"copy","from":"/a~0~1","path":["x"]}]]',
         '{"a~/":[1],"x":[1]}'),
        ("json.patch", '[{"a":1},[{"op":"test","path":"/a","value":1},{"op":"remove","path":"/a"}]]', "{}"),
        ("json.patch", '[{"a":1},[{"op":"replace","path":"/a","value":{1}}]]', '{"a":{1}}'),
        ("json.patch", '[{"x"},[{"op":"add","path":["y"],"value":"y"}]]', '{"x","y"}'),
        ("json.patch", '[{[1]},[{"op":"add","path":[[1],"-"],"value":2}]]', "{[1,2]}"),
        ("json.patch", '[{1:"a"},[{"op":"replace","path":[1],"value":"b"}]]', '{1:"b"}'),
        ("json.patch", '[{1:["a"]},[{"op":"remove","path":[1,0]}]]', "{1:[]}"),
        ("json.patch", '[{"x"},[{"op":"remove","path":["x"]}]]', "set()"),
        ("json.patch", '[{},[{"op":"add","path":[1],"value":2}]]', "{1:2}"),
        ("json.patch", '[{},[{"op":"add","path":"","value":2}]]', "2"),
        *(("json.patch", f"[{document},[{change}]]", UNDEFINED) for document, change in (
            ('{"x"}', '{"op":"add","path":["y"],"value":"z"}'),
            ('{"x"}', '{"op":"remove","path":["y"]}'),
            ("{}", '{"op":"remove","path":"/a"}'),
            ("[1]", '{"op":"remove","path":"/1"}'),
            ("[1]", '{"op":"add","path":"/3","value":1}'),
            ("[1]", '{"op":"remove","path":"/-"}'),
            ("[1]", '{"op":"remove","path":"/00"}'),
            ("[1]", '{"op":"remove","path":[null]}'),
            ("1", '{"op":"remove","path":"/a"}'),
            ("{}", '{"op":"add","path":"/a"}'),
            ("{}", '{"op":"add","value":1}'),
            ("{}", '{"path":"/a"}'),
            ("{}", '{"op":"x","path":"/a"}'),
            ("{}", '{"op":"test","path":"","value":1}'),
            ("{}", '{"op":"test","path":{},"value":1}'),
            ("{1:2}", '{"op":"remove","path":[2]}'),
        )),
        ("json.patch", "[{},[1]]", UNDEFINED),
        ("json.patch", '[{},[{"op":"remove","path":""}]]', REFUSED),
        ("json.patch", '[[1,2],[{"op":"remove","path":"/0"},{"op":"copy","from":"/0","path":"/-"}]]', REFUSED),
        ("json.patch", '[[1,[2]],[{"op":"add","path":"/0","value":0},{"op":"add","path":"/2/0","value":1}]]', REFUSED),
        ("json.patch", '[[1],[{"op":"add","path":"/-","value":2},{"op":"copy","from":"/1","path":"/0"}]]', "[2,1,2]"),
        ("json.patch", '[{},[{"op":"remove","path":""},{"op":"test","path":"","value":1}]]', UNDEFINED),
        ("json.patch", f'[{{}},[{",".join(["{}"] * 1001)}]]', REFUSED),
        ("net.cidr_is_valid", '["10.0.0.0/8"]', "true"),
        ("net.cidr_is_valid", '["2001:db8::/32"]', "true"),
        ("net.cidr_is_valid", '["10.0.0.0/33"]', "false"),
        ("net.cidr_is_valid", '["10.0.0/8"]', "false"),
        ("net.cidr_is_valid", '["010.0.0.0/8"]', "false"),
        ("net.cidr_is_valid", '["fe80::%1/64"]', "false"),
        ("net.cidr_is_valid", "[1]", "false"),
        ("net.cidr_is_valid", '["::ffff:1.2.3.4/104"]', REFUSED),
        ("net.cidr_expand", '["10.0.0.9/30"]', '{"10.0.0.8","10.0.0.9","10.0.0.10","10.0.0.11"}'),
        ("net.cidr_expand", '["fe80::/127"]', '{"fe80::","fe80::1"}'),
        ("net.cidr_expand", '["10.0.0.0/8"]', REFUSED),
        ("net.cidr_expand", '["::/0"]', REFUSED),
        ("net.cidr_contains_matches", '["10.0.0.0/8",["10.1.2.3","11.0.0.0/8"]]', '{["10.0.0.0/8",0]}'),
        ("net.cidr_contains_matches", '[{"a":["10.0.0.0/8","x"]},{"10.0.0.0/9"}]', '{["a","10.0.0.0/9"]}'),
        ("net.cidr_contains_matches", '["10.0.0.0/8","::ffff:10.1.1.1"]',
         '{["10.0.0.0/8","::ffff:10.1.1.1"]}'),
        ("net.cidr_contains_matches", '["10.0.0.0/8",[1]]', UNDEFINED),
        ("net.cidr_contains_matches", '["10.0.0.0/8",[[]]]', UNDEFINED),
        ("net.cidr_contains_matches", "[[],[1]]", "set()"),
        ("net.cidr_contains_matches", "[1,[1]]", "set()"),
        ("net.cidr_merge", '[["192.0.2.0/25","192.0.2.128/25","10.0.0.0/8"]]',
         '{"192.0.2.0/24","10.0.0.0/8"}'),
        ("net.cidr_merge", '[{"10.0.0.1","192.168.1.9"}]', '{"10.0.0.1/8","192.168.1.9/24"}'),
        ("net.cidr_merge", '[["10.0.0.0/30","10.0.0.4/31"]]', '{"10.0.0.0/30","10.0.0.4/31"}'),
        ("net.cidr_merge", '[["fe80::/65","fe80:0:0:0:8000::/65","172.16.0.1"]]',
         '{"fe80::/64","172.16.0.1/16"}'),
        ("net.cidr_merge", '[["fe80::1"]]', UNDEFINED),
        ("net.cidr_merge", '["10.0.0.0/8"]', UNDEFINED),
        ("net.cidr_merge", '[["0.0.0.0/0","::1:0:0:0/80"]]', REFUSED),
        ("numbers.range_step", "[1,10,4]", "[1,5,9]"),
        ("numbers.range_step", "[3,1,1]", "[3,2,1]"),
        ("numbers.range_step", "[1,2,0]", UNDEFINED),
        ("numbers.range_step", "[1,1.5,1]", UNDEFINED),
        ("numbers.range_step", "[0,1e30,1]", REFUSED),
        ("units.parse", '["1.5Ki"]', "1536"),
        ("units.parse", '["100m"]', "0.1000000000"),
        ("units.parse", '["-1.5"]', "-1.5000000000"),
        ("units.parse", '["2M"]', "2000000"),
        ("units.parse", '["1e2"]', "100"),
        ("units.parse", '["1 k"]', UNDEFINED),
        ("units.parse", '["k"]', UNDEFINED),
        ("units.parse", '["1x"]', UNDEFINED),
        ("units.parse", '["1.2.3"]', UNDEFINED),
        ("units.parse", '["1e1234567"]', UNDEFINED),
        ("units.parse", '["1e999999"]', REFUSED),
        ("units.parse", f'["{"1" * 300}"]', REFUSED),
        ("units.parse_bytes", '["1.5KiB"]', "1536"),
        ("units.parse_bytes", '["10GB"]', "10000000000"),
        ("units.parse_bytes", '["0.3k"]', "300"),
        ("units.parse_bytes", '["1.9"]', "1"),
        ("units.parse_bytes", '["0"]', "0"),
        ("units.parse_bytes", '["1QB"]', UNDEFINED),
        ("semver.compare", '["1.0.0-alpha.9","1.0.0-alpha.10"]', "-1"),
        ("semver.compare", '["1.0.0","1.0.0-rc.1"]', "1"),
        ("semver.compare", '["1.0.0-1","1.0.0-a"]', "-1"),
        ("semver.compare", '["v1.2.3+a","1.2.3+b"]', "0"),
        ("semver.compare", '["1.2","1.2.0"]', UNDEFINED),
        ("semver.is_valid", '["1.0.0-01"]', "false"),
        ("semver.is_valid", '["1.0.0-0a.b+01"]', "true"),
        ("semver.is_valid", '["99999999999999999999.0.0"]', "false"),
        ("semver.is_valid", '["9999999999999999999.0.0"]', "false"),
        ("semver.is_valid", "[1]", "false"),
        ("uuid.parse", '["{6ba7b810-9dad-41d1-80b4-00c04fd430c8}"]', '{"version":4,"variant":"RFC4122"}'),
        ("uuid.parse", '["000003e848b921eeb200325096b39f47"]',
         '{"version":2,"variant":"RFC4122","id":1000,"domain":"Person","clocksequence":12800,"macvariables":"local:unicast","nodeid":"32-50-96-b3-9f-47","time":1693566990121469600}'),
        ("uuid.parse", '["x"]', UNDEFINED),
        ("uri.parse", '["HTTPS://u@h.example:8443/a%2Fb?x=1#f%20g"]',
         '{"scheme":"https","hostname":"h.example","port":"8443","path":"/a/b","raw_path":"/a%2Fb","raw_query":"x=1","fragment":"f g"}'),
        ("uri.parse", '["http://[fe80::1%25e]:80/"]',
         '{"scheme":"http","hostname":"fe80::1%e","port":"80","path":"/","raw_path":"/"}'),
        ("uri.parse", '["mailto:a@b"]', '{"scheme":"mailto"}'),
        ("uri.parse", '["*"]', '{"path":"*","raw_path":"*"}'),
        ("uri.parse", '["//h/p"]', '{"hostname":"h","path":"/p","raw_path":"/p"}'),
        ("uri.parse", '["db://a:1,b:2/x"]',
         '{"scheme":"db","hostname":"a:1,b","port":"2","path":"/x","raw_path":"/x"}'),
        ("uri.parse", '["/%ff"]', REFUSED),
        *(("uri.is_valid", f'["{uri}"]', "false") for uri in (
            "", "1:b", ":x", "http://a b/", "http://a:x/", "http://a:1:2/",
            "http://[::1", "http://[1.2.3.4]/", "http://u<@h/", "http://%41/", "/%1",
            "http://x[::1]/", "/a\\u0001",
        )),
        ("uri.is_valid", '["http://a/b"]', "true"),
        ("uri.is_valid", "[1]", "false"),
    ],
)  # fmt: skip
def test_a_function_gives_what_opa_gives(
    name: str, arguments: str, expected: str
) -> None:
    if expected == UNDEFINED:
        with pytest.raises(UndefinedError):
            call(name, arguments)
    elif expected == REFUSED:
        with pytest.raises(RefusedError):
            call(name, arguments)
    else:
        found = call(name, arguments)
        assert are_equal(found, parse_value(expected)), found


def test_a_graph_with_too_many_paths_is_refused() -> None:
    nodes = ",".join(f'"{n}":[{",".join(f"{chr(34)}{m}{chr(34)}" for m in range(12))}]'
                     for n in range(12))  # fmt: skip
    with pytest.raises(RefusedError):
        call("graph.reachable_paths", f'[{{{nodes}}},["0"]]')


def test_what_is_compared_too_often_is_refused() -> None:
    many = "[" + ",".join(["0"] * 2000) + "]"
    with pytest.raises(RefusedError):
        call("object.subset", f"[{many},{many[:-1]},1]]")
    networks = "[" + ",".join(['"10.0.0.0/8"'] * 400) + "]"
    with pytest.raises(RefusedError):
        call("net.cidr_contains_matches", f"[{networks},{networks}]")


def test_a_patch_that_copies_too_much_is_refused() -> None:
    document = "[" + ",".join(["0"] * 50_000) + "]"
    changes = ",".join(['{"op":"add","path":"/-","value":1}'] * 1000)
    with pytest.raises(RefusedError):
        call("json.patch", f"[{document},[{changes}]]")
    path = ",".join(["0"] * 250)
    nested = "[" * 150 + "]" * 150
    with pytest.raises((RefusedError, UndefinedError)):
        call("json.patch", f'[{nested},[{{"op":"remove","path":[{path}]}}]]')
