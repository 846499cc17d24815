import json

import pytest
from checks import check_request

from authz_server.facts import Body, BodyState, Facts, Plan, extract
from authz_server.facts.json_body import MAX_JSON_BYTES, MAX_JSON_MARKS, outline_json

PATH = "/v1/completions"
PLAN = Plan(json_models={PATH.encode(): "model"})
MALFORMED = Body(BodyState.MALFORMED)


def model(name: bytes) -> Body:
    return Body(BodyState.COMPLETE, ((1, name),))


def body_of(raw_body: bytes, path: str = PATH, **changes: object) -> Body:
    """Return what the extraction makes of a request with this body."""
    request = check_request(path=path, raw_body=raw_body, **changes)  # type: ignore[arg-type]
    return Facts.decode(extract(bytes(request), PLAN)[0]).body


GOOD = [
    (b'{"model":"m"}', b"m"),
    (b' {"prompt": "x", "model" : "m"}\r\n', b"m"),
    (b'{"model":"a\\u002db"}', b"a-b"),
    (b'{"\\u006dodel":"m"}', b"m"),
    (b'{"model":"m","x":{"model":"other"}}', b"m"),
    (b'{"x":[{"model":"other"}],"model":"m"}', b"m"),
    (b'{"Model":"other","model":"m"}', b"m"),
    ('{"model":"\u00e9"}'.encode(), "\u00e9".encode()),
    (b'{"model":""}', b""),
    (b'{"model":"' + b"m" * 1024 + b'"}', b"m" * 1024),
]


@pytest.mark.parametrize(("raw", "name"), GOOD)
def test_the_value_at_the_top_is_kept_as_its_reader_will_see_it(
    raw: bytes, name: bytes
) -> None:
    assert outline_json(raw, "model") == model(name)
    assert json.loads(raw)["model"].encode() == name


BAD = {
    "a key twice": b'{"model":"m","model":"other"}',
    "an escaped key twice": b'{"model":"m","mode\\u006c":"other"}',
    "another key twice": b'{"model":"m","x":1,"x":2}',
    "a key twice further down": b'{"model":"m","x":{"y":1,"y":2}}',
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"model":"m"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"m"}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "Latin-1": b'{"model":"\xe9"}',
    "half a character": b'{"model":"\\ud800"}',
    "no such key": b"{}",
    "no string": b'{"model":1}',
    "null": b'{"model":null}',
    "a list": b'{"model":["m"]}',
    "an object": b'{"model":{"model":"m"}}',
    "no object": b'["model"]',
    "a string alone": b'"model"',
    "NaN": b'{"model":"m","x":NaN}',
    "too large a number": b'{"model":"m","x":1e999}',
    "something behind it": b'{"model":"m"}{"model":"other"}',
    "a comment": b'{"model":"m"/**/}',
    "cut off": b'{"model":"m"',
    "a raw line break": b'{"model":"m\n"}',
    "white space": b" ",
    "gzip": b"\x1f\x8b\x08\x00",
    "too deep": b'{"model":"m","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "too long a name": b'{"model":"' + b"m" * 1025 + b'"}',
    "too many marks": b'{"model":"m","x":[' + b"[]," * MAX_JSON_MARKS + b"1]}",
    "too long": b'{"model":"m","x":"' + b"x" * MAX_JSON_BYTES + b'"}',
    "a form": b"model=m",
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_what_two_readers_could_read_differently_is_malformed(raw: bytes) -> None:
    assert outline_json(raw, "model") == MALFORMED


def test_no_body_holds_up_everybody_else() -> None:
    # Measured: 10 ms at the limit; without it, 400 ms for what a body may hold.
    def costly(pairs: int) -> bytes:
        return b'{"model":"m","x":[' + b"{}," * pairs + b"1]}"

    assert outline_json(costly(MAX_JSON_MARKS // 2 - 2), "model") == model(b"m")
    assert outline_json(costly(MAX_JSON_MARKS), "model") == MALFORMED


def test_the_extraction_reads_the_body_of_a_planned_path() -> None:
    assert body_of(b'{"model":"m"}') == model(b"m")
    assert body_of(b"") == Body(BodyState.ABSENT)


def test_a_query_does_not_hide_a_planned_path() -> None:
    assert body_of(b'{"model":"m"}', PATH + "?api-version=1") == model(b"m")


@pytest.mark.parametrize("path", ["/v1/completions/", "/v1/Completions", "/v1/models"])
def test_the_body_of_another_path_is_left_unread(path: str) -> None:
    assert body_of(b'{"model":"m"}', path) == Body(BodyState.UNREAD)


@pytest.mark.parametrize(
    "changes", [{"size": 99}, {"headers": {"x-envoy-auth-partial-body": "true"}}]
)
def test_a_body_that_was_cut_is_partial(changes: dict[str, object]) -> None:
    assert body_of(b'{"model":"m"}', **changes) == Body(BodyState.PARTIAL)


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "", "x"])
def test_a_coded_body_is_not_read(coding: str) -> None:
    found = body_of(b'{"model":"m"}', headers={"content-encoding": coding})
    assert found == Body(BodyState.COMPRESSED)


@pytest.mark.parametrize("coding", ["identity", "Identity"])
def test_identity_is_no_coding(coding: str) -> None:
    found = body_of(b'{"model":"m"}', headers={"content-encoding": coding})
    assert found == model(b"m")


def test_a_second_content_encoding_is_seen_too() -> None:
    raw_headers = [("content-encoding", b"identity"), ("content-encoding", b"gzip")]
    found = body_of(b'{"model":"m"}', raw_headers=raw_headers)
    assert found == Body(BodyState.COMPRESSED)
