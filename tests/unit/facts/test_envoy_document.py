"""The input document of opa-envoy-plugin: its form, its cuts, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import pytest
from checks import CAMERA, check_request, len_field
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.google import protobuf

from authz_server.errors import Reason, RequestError
from authz_server.facts.envoy_document import build_document, pruned
from authz_server.facts.input_paths import EVERYTHING, InputPaths


def document(
    *wanted: str,
    **changes: Any,
) -> dict[str, Any]:
    raw = bytes(check_request(**changes))
    paths = InputPaths.parse(wanted) if wanted else EVERYTHING
    made: dict[str, Any] = json.loads(build_document(raw, paths))
    return made


def refusal(*wanted: str, **changes: Any) -> Reason:
    with pytest.raises(RequestError) as caught:
        document(*wanted, **changes)
    return caught.value.reason


def json_request(body: bytes, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "headers": {"content-type": "application/json", **named},
        "raw_body": body,
    }


def test_the_whole_document_has_the_form_of_the_plugin() -> None:
    request = check_request(
        method="GET",
        path="/people/a%20b?x=1&x=2&y",
        headers={"accept": "*/*"},
        destination="spiffe://factory.example/triton",
        certificate="-----BEGIN%20CERTIFICATE-----",
    )
    attributes = request.attributes
    assert attributes is not None
    assert attributes.request is not None
    assert attributes.source is not None
    attributes.source.labels = {"app": "camera"}
    attributes.request.time = dt.datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=dt.UTC)
    attributes.tls_session = auth.AttributeContextTlsSession(sni="triton")
    attributes.metadata_context = core.Metadata(
        filter_metadata={
            "envoy.filters.http.jwt_authn": protobuf.Struct(
                fields={
                    "exp": protobuf.Value(number_value=1.5),
                    "roles": protobuf.Value(
                        list_value=protobuf.ListValue(
                            values=[protobuf.Value(bool_value=True)]
                        )
                    ),
                }
            )
        }
    )
    assert json.loads(build_document(bytes(request), EVERYTHING)) == {
        "attributes": {
            "source": {
                "address": {
                    "socketAddress": {"address": "10.1.2.3", "portValue": 40123}
                },
                "labels": {"app": "camera"},
                "principal": CAMERA,
                "certificate": "-----BEGIN%20CERTIFICATE-----",
            },
            "destination": {"principal": "spiffe://factory.example/triton"},
            "request": {
                "time": {"seconds": 1767323045, "nanos": 6000000},
                "http": {
                    "id": "req-1",
                    "method": "GET",
                    "headers": {"accept": "*/*"},
                    "path": "/people/a%20b?x=1&x=2&y",
                    "host": "triton.factory.example",
                    "scheme": "https",
                    "protocol": "HTTP/2",
                },
            },
            "contextExtensions": {"upstream": "triton"},
            "metadataContext": {
                "filterMetadata": {
                    "envoy.filters.http.jwt_authn": {"exp": 1.5, "roles": [True]}
                }
            },
            "tlsSession": {"sni": "triton"},
        },
        "parsed_path": ["people", "a b"],
        "parsed_query": {"x": ["1", "2"], "y": [""]},
        "parsed_body": None,
        "truncated_body": False,
        "source_principal": CAMERA,
        "version": {"ext_authz": "v3", "encoding": "protojson"},
    }


def test_the_document_is_sorted_compact_and_ascii() -> None:
    raw = bytes(check_request(headers={"b": "ü", "a": "1"}))
    wanted = InputPaths.parse(["attributes.request.http.headers"])
    assert build_document(raw, wanted) == (
        rb'{"attributes":{"request":{"http":{"headers":{"a":"1","b":"\u00fc"}}}}}'
    )


def test_without_a_principal_there_is_no_source_principal() -> None:
    assert "source_principal" not in document(principal="")


def test_raw_headers_and_bodies_are_in_base64() -> None:
    http = document(raw_headers=[("x-a", b"\xff")], raw_body=b"\x00")["attributes"][
        "request"
    ]["http"]
    assert http["headerMap"] == {"headers": [{"key": "x-a", "rawValue": "/w=="}]}
    assert http["rawBody"] == "AA=="


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], {}),
        (["version"], {"version": {"ext_authz": "v3", "encoding": "protojson"}}),
        (["version.encoding"], {"version": {"encoding": "protojson"}}),
        (["source_principal"], {"source_principal": CAMERA}),
        (["parsed_path"], {"parsed_path": ["v2"]}),
        (["parsed_query.q"], {"parsed_query": {"q": ["1"]}}),
        (["parsed_body.a.b"], {"parsed_body": {"a": {"b": [1, 2]}}}),
        (["truncated_body"], {"truncated_body": False}),
        (
            ["attributes.request.http.method", "attributes.source.address"],
            {
                "attributes": {
                    "request": {"http": {"method": "POST"}},
                    "source": {
                        "address": {
                            "socketAddress": {"address": "10.1.2.3", "portValue": 40123}
                        }
                    },
                }
            },
        ),
        (
            ['attributes.request.http.headers["x-role"]'],
            {"attributes": {"request": {"http": {"headers": {"x-role": "r"}}}}},
        ),
    ],
)
def test_what_is_not_wanted_is_not_there(
    wanted: list[str], expected: dict[str, Any]
) -> None:
    raw = bytes(
        check_request(
            path="/v2?q=1&r=2",
            headers={"content-type": "application/json", "x-role": "r"},
            raw_body=b'{"a":{"b":[1,2],"c":3}}',
        )
    )
    found = build_document(raw, InputPaths.parse(wanted))
    assert json.loads(found) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("parsed_body.a.x", {"parsed_body": {"a": {}}}),
        ("parsed_body.n.x", {"parsed_body": {"n": None}}),
        ("parsed_body.list.x", {"parsed_body": {"list": None}}),
        ("parsed_body.x.y", {"parsed_body": {}}),
        ("attributes.request.http.method.x", {"method": None}),
        ("attributes.request.http.headers.x", {"headers": {}}),
    ],
)
def test_what_is_on_the_way_to_something_wanted_stays_as_a_shell(
    wanted: str, expected: dict[str, Any]
) -> None:
    found = document(wanted, **json_request(b'{"a":{"b":1},"n":7,"list":[{"x":1}]}'))
    if "attributes" in found:
        found = found["attributes"]["request"]["http"]
    assert found == expected


def test_pruning_a_document_is_what_building_it_does() -> None:
    wanted = InputPaths.parse(["parsed_path", "attributes.source.principal", "no.way"])
    raw = bytes(check_request())
    whole = json.loads(build_document(raw, EVERYTHING))
    assert json.loads(build_document(raw, wanted)) == pruned(whole, wanted)


# Paths


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", [""]),
        ("", [""]),
        ("/a/b", ["a", "b"]),
        ("/a/b/", ["a", "b", ""]),
        ("/a//b", ["a", "", "b"]),
        # GHSA-9f29-v6mm-pw6w: nothing may be taken for an authority.
        ("//admin", ["admin"]),
        ("//admin/x", ["admin", "x"]),
        ("///admin", ["admin"]),
        ("http://host/admin", ["http:", "", "host", "admin"]),
        ("/%C3%BC/a+b", ["ü", "a+b"]),
        ("/a%3Fb?c", ["a?b"]),
        ("/%2561", ["%61"]),
        ("/.../.a", ["...", ".a"]),
    ],
)
def test_a_path_is_split_and_decoded_once(path: str, segments: list[str]) -> None:
    assert document("parsed_path", path=path) == {"parsed_path": segments}


@pytest.mark.parametrize(
    "path",
    [
        "/a%2Fb",
        "/a%2fb",
        "/%2Fadmin",
        "/public/../admin",
        "/public/%2e%2E/admin",
        "/public/.",
        "/a\\b",
        "/a%5Cb",
        "/a%00",
        "/a%0a",
        "/a%7F",
        "/a%",
        "/a%2",
        "/a%zz",
        "/%ff",
        "/%C3",
    ],
)
def test_a_path_that_servers_read_in_two_ways_is_refused(path: str) -> None:
    assert refusal("parsed_path", path=path) is Reason.PATH_INVALID
    assert refusal(path=path) is Reason.PATH_INVALID
    # Who does not read its segments has the path as it came.
    document("attributes.request.http.path", "parsed_query", path=path)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("a=1&a=2&b", {"a": ["1", "2"], "b": [""]}),
        ("&&a=b=c&", {"a": ["b=c"]}),
        ("a+b=c+d%26", {"a b": ["c d&"]}),
        ("=x", {"": ["x"]}),
        ("a=?", {"a": ["?"]}),
    ],
)
def test_a_query_has_every_value_of_each_parameter(
    query: str, expected: dict[str, list[str]]
) -> None:
    assert document("parsed_query", path=f"/?{query}") == {"parsed_query": expected}


@pytest.mark.parametrize("query", ["a=%", "%zz", "a;b", "a=%ff", "&" * 10_000])
def test_a_malformed_query_is_refused(query: str) -> None:
    assert refusal("parsed_query", path=f"/?{query}") is Reason.PATH_INVALID


# Bodies


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 1.5, null, true]}', {"a": [1, 1.5, None, True]}),
        (b" [1] ", [1]),
        (b'"text"', "text"),
        (b"12345678901234567890123", 12345678901234567890123),
        (b"null", None),
        (b'{"":1}', {"": 1}),
        (b"", None),
    ],
)
def test_a_json_body_may_be_any_value(body: bytes, value: object) -> None:
    found = document("parsed_body", "truncated_body", **json_request(body))
    assert found == {"parsed_body": value, "truncated_body": False}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{} {}",
        b'{"a":1,"a":2}',
        b'[{"a":1,"a":2}]',
        b"NaN",
        b"1e999",
        b"-Infinity",
        b"\xff",
        b'"\\ud800"',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        # What would fit into an object around it.
        b'1,"b":2',
        b'1,"":2',
        b'1},{"":2',
        b" ",
        b"[" * 100_000,
        b"[" + b"0," * 70_000 + b"0]",
    ],
)
def test_a_json_body_that_readers_differ_on_is_refused(body: bytes) -> None:
    assert refusal("parsed_body", **json_request(body)) is Reason.BODY_MALFORMED
    assert refusal("truncated_body", **json_request(body)) is Reason.BODY_MALFORMED
    # And costs nothing where nobody reads it.
    document("parsed_path", **json_request(body))


@pytest.mark.parametrize(
    "changes",
    [
        json_request(b"{", x_envoy_auth_partial_body="true"),
        json_request(b"{", x_envoy_auth_partial_body="TRUE"),
        json_request(b"{", content_length="2"),
        json_request(b"{") | {"size": 2},
        {"headers": {"x-envoy-auth-partial-body": "true"}},
    ],
)
def test_a_truncated_body_is_null_and_said_to_be_truncated(
    changes: dict[str, Any],
) -> None:
    found = document("parsed_body", "truncated_body", **changes)
    assert found == {"parsed_body": None, "truncated_body": True}


def test_an_unknown_size_is_no_truncation() -> None:
    found = document("parsed_body", **(json_request(b"{}") | {"size": -1}))
    assert found == {"parsed_body": {}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (json_request(b"{}", content_length="two"), Reason.REQUEST_MALFORMED),
        (json_request(b"{}", content_length="-1"), Reason.REQUEST_MALFORMED),
        (json_request(b"{}", content_encoding="gzip"), Reason.BODY_COMPRESSED),
        (
            {
                "headers": {"content-type": "application/json, multipart/form-data"},
                "raw_body": b"{}",
            },
            Reason.BODY_MALFORMED,
        ),
        (
            {
                "headers": {"content-type": "application/json"},
                "raw_headers": [("content-type", b"text/plain")],
                "raw_body": b"{}",
            },
            Reason.HEADER_DUPLICATE,
        ),
        (json_request(b"{}") | {"body": "{}"}, Reason.REQUEST_MALFORMED),
        (json_request(b" " * (4 * 1024 * 1024) + b"1"), Reason.BODY_MALFORMED),
    ],
)
def test_a_body_that_says_two_things_is_refused(
    changes: dict[str, Any], reason: Reason
) -> None:
    assert refusal("parsed_body", **changes) is reason


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "text/x; like=application/json",
    ],
)
def test_a_media_type_is_found_whatever_its_case(content_type: str) -> None:
    found = document("parsed_body", headers={"content-type": content_type}, body="[1]")
    assert found == {"parsed_body": [1]}


def test_a_media_type_among_raw_headers_counts() -> None:
    found = document(
        "parsed_body",
        raw_headers=[("content-type", b"application/json")],
        raw_body=b"[1]",
    )
    assert found == {"parsed_body": [1]}


@pytest.mark.parametrize("content_type", ["application/grpc", "text/plain", ""])
def test_other_bodies_are_null(content_type: str) -> None:
    found = document(
        "parsed_body",
        "truncated_body",
        headers={"content-type": content_type} if content_type else {},
        raw_body=b"{",
    )
    assert found == {"parsed_body": None, "truncated_body": False}


FORM = "application/x-www-form-urlencoded"


def test_a_form_has_every_value_of_each_field() -> None:
    found = document(
        "parsed_body", headers={"content-type": FORM}, raw_body=b"a=1&a=%C3%BC&b=x+y"
    )
    assert found == {"parsed_body": {"a": ["1", "ü"], "b": ["x y"]}}


@pytest.mark.parametrize("body", [b"a=%", b"a;b=1", b"\xff", b"%ff", b"&" * 10_000])
def test_a_malformed_form_is_refused(body: bytes) -> None:
    changes: Mapping[str, Any] = {"headers": {"content-type": FORM}, "raw_body": body}
    assert refusal("parsed_body", **changes) is Reason.BODY_MALFORMED


def multipart(body: bytes, boundary: str = "b") -> dict[str, Any]:
    return {
        "headers": {"content-type": f"multipart/form-data; boundary={boundary}"},
        "raw_body": body,
    }


PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
JSON_PART = (
    b'--b\r\ncontent-disposition: form-data; name="j"\r\n'
    b'Content-Type: application/json\r\n\r\n{"k":[1]}\r\n'
)
FILE_PART = (
    b'--b\r\nContent-Disposition: form-data; name=plain; filename="a;\\"b"\r\n'
    b"Content-Type: text/plain\r\n\r\n--c is no delimiter\r\n\r\n\r\n"
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (PART + b"--b--\r\n", {"a": ["1"]}),
        (PART + b"--b--", {"a": ["1"]}),
        (PART.replace(b'"a"', b'"a"; ') + b"--b--", {"a": ["1"]}),
        (PART + PART + b"--b--", {"a": ["1", "1"]}),
        (
            JSON_PART + b"--b--",
            {"j": [{"k": [1]}]},
        ),
        (
            FILE_PART + b"--b--",
            {"plain": ["--c is no delimiter\r\n\r\n"]},
        ),
        # Nameless parts, and those of another kind, are none of the form.
        (b"--b\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--b--", {}),
        (b"--b\r\n\r\n1\r\n--b--", {}),
        (b"--b--\r\n", {}),
    ],
)
def test_a_multipart_form_has_every_value_of_each_part(
    body: bytes, expected: dict[str, Any]
) -> None:
    assert document("parsed_body", **multipart(body)) == {"parsed_body": expected}


@pytest.mark.parametrize(
    "body",
    [
        PART,
        PART.replace(b"1", b"1\r\n--b and more") + b"--b--",
        b"preamble\r\n" + PART + b"--b--",
        PART + b"--b--\r\nepilogue",
        PART + b"--b--\r\n--b--",
        PART.replace(b"\r\n", b"\n") + b"--b--",
        PART.replace(b"--b", b"--b "),
        PART.replace(b"\r\n\r\n", b"\r\n") + b"--b--",
        PART.replace(b'"a"', b'"a"; name="b"') + b"--b--",
        PART.replace(b'name="a"', b"name*=utf-8''a") + b"--b--",
        PART.replace(b'"a"', b'"a') + b"--b--",
        PART.replace(b"Content-D", b"Content D") + b"--b--",
        PART.replace(b"\r\n\r\n", b"\r\nContent-Disposition: x\r\n\r\n") + b"--b--",
        PART.replace(
            b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        )
        + b"--b--",
        PART.replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n{")
        + b"--b--",
        PART.replace(b"1", b"\xff") + b"--b--",
        PART * 1_001 + b"--b--",
        b"x",
    ],
)
def test_a_multipart_form_that_readers_differ_on_is_refused(body: bytes) -> None:
    assert refusal("parsed_body", **multipart(body)) is Reason.BODY_MALFORMED


@pytest.mark.parametrize("boundary", ["", '""', "a b;", "ü", "x" * 71, "b; boundary=c"])
def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    found = refusal("parsed_body", **multipart(PART + b"--b--", boundary))
    assert found is Reason.BODY_MALFORMED


# The message itself


def attributes(*fields: bytes) -> bytes:
    return len_field(1, b"".join(fields))


HTTP = len_field(4, len_field(2, len_field(2, b"GET")))
TWO_VALUES = len_field(1, b"content-type") + len_field(2, b"a/b") + len_field(3, b"a/b")


@pytest.mark.parametrize(
    "raw",
    [
        attributes(HTTP) * 2,
        attributes(HTTP, HTTP),
        attributes(len_field(4, len_field(2, len_field(2, b"G") * 2))),
        # One key of a map twice: of headers, and of context extensions.
        attributes(len_field(4, len_field(2, len_field(3, len_field(1, b"k")) * 2))),
        attributes(HTTP, len_field(10, len_field(1, b"k")) * 2),
        attributes(HTTP, len_field(10, len_field(1, b"k") * 2)),
        # One header with two kinds of value, to learn the body's type from.
        attributes(
            len_field(4, len_field(2, len_field(13, len_field(1, TWO_VALUES)))),
        ),
        # Two addresses: a socket and a pipe.
        attributes(HTTP, len_field(1, len_field(1, len_field(1, b"") + b"\x12\x00"))),
        # Text that is none, a principal of another wire type, and what ends early.
        attributes(len_field(4, len_field(2, len_field(2, b"\xff")))),
        attributes(HTTP, len_field(1, b"\x20\x01")),
        attributes(HTTP)[:-1],
        # A port beyond 32 bits, nanoseconds beyond theirs, a boolean of two.
        attributes(
            HTTP,
            len_field(1, len_field(1, len_field(1, b"\x18\x80\x80\x80\x80\x10"))),
        ),
        attributes(len_field(4, len_field(1, b"\x10\x80\x80\x80\x80\x10"))),
        attributes(HTTP, len_field(1, len_field(1, len_field(1, b"\x30\x02")))),
    ],
)
def test_a_malformed_check_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        build_document(raw, EVERYTHING)


def test_a_check_of_the_tcp_filter_is_refused() -> None:
    for wanted in (EVERYTHING, InputPaths.parse(["source_principal"])):
        with pytest.raises(RequestError) as caught:
            build_document(attributes(b""), wanted)
        assert caught.value.reason is Reason.REQUEST_NOT_HTTP


def test_fields_that_nobody_knows_yet_are_skipped() -> None:
    newer = len_field(9, b"x")
    entry = len_field(1, b"k") + len_field(2, b"v") + newer
    raw = attributes(HTTP, newer, len_field(10, entry)) + newer
    whole = json.loads(build_document(raw, EVERYTHING))["attributes"]
    assert whole == {
        "request": {"http": {"method": "GET"}},
        "contextExtensions": {"k": "v"},
    }


def test_flags_are_booleans() -> None:
    socket = len_field(1, b"\x30\x01")
    raw = attributes(HTTP, len_field(1, len_field(1, socket)))
    source = json.loads(build_document(raw, EVERYTHING))["attributes"]["source"]
    assert source == {"address": {"socketAddress": {"ipv4Compat": True}}}


def test_what_is_computed_may_come_from_what_is_wanted_anyway() -> None:
    found = document("attributes", "parsed_path", "truncated_body", path="/a")
    assert found.keys() == {"attributes", "parsed_path", "truncated_body"}
    assert found["parsed_path"] == ["a"]


def test_negative_numbers_are_read_as_such() -> None:
    wanted = "attributes.request.http.size"
    found = document(wanted, raw_body=b"x", size=-1)
    assert found["attributes"]["request"]["http"] == {"size": -1}


# Paths of the input


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a.b_c.D9",
        'a["x-y"].b',
        'a["b.c"]["d\\"e"]',
        '["odd at the start"].b',
        'a[""]',
        'a["\\u00fc"]',
        "",
    ],
)
def test_a_path_reads_back_as_it_was_written(text: str) -> None:
    assert InputPaths.parse([text]).texts() == [text]


@pytest.mark.parametrize(
    "text",
    [
        "a.",
        ".a",
        "a..b",
        "a b",
        "a-b",
        "a[",
        "a[b]",
        "a['b']",
        'a["b',
        'a["b"',
        'a["b"]c',
        "a[0]",
        "a[*]",
        "9a",
        'a["\\x"]',
        'a["\\ud800"]',
        "ü",
    ],
)
def test_a_malformed_path_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="input path") as caught:
        InputPaths.parse(["a", text])
    assert repr(text) in str(caught.value)


def test_a_path_below_another_is_dropped() -> None:
    paths = InputPaths.parse(["b.c", "a.b", "a", "b.c.d", "b.cd", "a"])
    assert paths.texts() == ["a", "b.c", "b.cd"]
    assert str(paths) == "['a', 'b.c', 'b.cd']"
    assert paths == InputPaths.parse(["b.cd", "a", "b.c"])
    assert InputPaths.parse(["a", ""]) == InputPaths(((),))
    assert InputPaths.parse([""]).is_everything
    assert not InputPaths().is_everything


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("attributes", True),
        ("attributes.request", True),
        ("attributes.request.time", True),
        ("attributes.request.time.seconds", True),
        ("attributes.request.http", True),
        ("attributes.request.http.id", True),
        ("attributes.request.http.headers", True),
        ("attributes.request.http.headerMap", True),
        ('attributes.request.http.headers["x-request-id"]', True),
        ("attributes.request.http.headers.authorization", False),
        ("attributes.request.http.path", False),
        ("attributes.source", False),
        ("parsed_body", False),
        ("parsed_path", False),
    ],
)
def test_what_differs_in_any_two_requests_is_volatile(
    text: str, expected: bool
) -> None:
    assert InputPaths.parse([text, "parsed_path"]).is_volatile is expected
