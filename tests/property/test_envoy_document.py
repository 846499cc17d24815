"""The plugin's input document: exact cuts, one spelling, and no surprises."""

from __future__ import annotations

import json
import string
from typing import Any

from checks import check_request
from envoy_data_plane.envoy.service.auth import v3 as auth
from hypothesis import assume, given
from hypothesis import strategies as st

from authz_server.errors import RequestError
from authz_server.facts.envoy_document import build_document, pruned
from authz_server.facts.input_paths import EVERYTHING, InputPaths

Path = tuple[str, ...]

NAMES = st.sampled_from(["x-role", "x-user", "accept", "content-type", "cookie"])
TEXT = st.text(string.ascii_letters + string.digits + "-ü", max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | TEXT
KEYS = st.sampled_from(["a", "b", "c-d", ""])
BODIES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def requests(draw: st.DrawFn) -> auth.CheckRequest:
    headers = draw(st.dictionaries(NAMES, TEXT, max_size=4))
    headers["content-type"] = "application/json"
    segments = draw(st.lists(TEXT, max_size=3))
    query = draw(st.dictionaries(KEYS, TEXT, max_size=2))
    return check_request(
        method=draw(st.sampled_from(["GET", "POST"])),
        path="/"
        + "/".join(segments)
        + "?"
        + "&".join(f"{key}={value}" for key, value in query.items()),
        principal=draw(st.sampled_from(["", "spiffe://factory.example/w"])),
        headers=headers,
        raw_body=json.dumps(draw(BODIES)).encode(),
        extensions=draw(st.dictionaries(KEYS, TEXT, max_size=2)),
    )


PATHS = st.sampled_from(
    [
        ("attributes",),
        ("attributes", "source", "principal"),
        ("attributes", "request", "http", "method"),
        ("attributes", "request", "http", "method", "deeper"),
        ("attributes", "request", "http", "headers"),
        ("attributes", "request", "http", "headers", "x-role"),
        ("attributes", "request", "http", "headers", "x-user"),
        ("attributes", "contextExtensions", "a"),
        ("attributes", "nothing"),
        ("parsed_path",),
        ("parsed_query", "a"),
        ("parsed_body",),
        ("parsed_body", "a"),
        ("parsed_body", "b", "c-d"),
        ("parsed_body", "a", "b", "a"),
        ("truncated_body",),
        ("source_principal",),
        ("version", "encoding"),
        ("nothing", "at", "all"),
    ]
)
WANTED = st.lists(PATHS, max_size=5).map(lambda paths: InputPaths(tuple(paths)))

MISSING = object()


def at(document: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return MISSING
        document = document[key]
    return document


def leaves(document: Any, path: Path = ()) -> dict[Path, Any]:
    """Return what lies at the ends of a document: no object, or an empty one."""
    if not isinstance(document, dict) or not document:
        return {path: document}
    found: dict[Path, Any] = {}
    for key, value in document.items():
        found |= leaves(value, (*path, key))
    return found


def is_below(path: Path, wanted: InputPaths) -> bool:
    return any(path[: len(each)] == each for each in wanted.paths)


def is_on_the_way(path: Path, wanted: InputPaths) -> bool:
    return any(each[: len(path)] == path for each in wanted.paths)


@given(requests(), WANTED)
def test_all_that_is_wanted_is_there_and_nothing_else(
    request: auth.CheckRequest, wanted: InputPaths
) -> None:
    raw = bytes(request)
    whole = json.loads(build_document(raw, EVERYTHING))
    cut = json.loads(build_document(raw, wanted))
    for path in wanted.paths:
        assert at(cut, path) == at(whole, path)
    for path, value in leaves(cut).items():
        # Wanted, or an empty shell of what is on the way to something wanted.
        assert is_below(path, wanted) or (
            value in ({}, None)
            and (is_on_the_way(path, wanted) or not path)
            and at(whole, path) is not MISSING
        )
    assert cut == pruned(whole, wanted)


@given(requests(), requests(), WANTED)
def test_documents_are_equal_where_what_is_wanted_is(
    one: auth.CheckRequest, other: auth.CheckRequest, wanted: InputPaths
) -> None:
    documents = [build_document(bytes(each), wanted) for each in (one, other)]
    whole = [
        json.loads(build_document(bytes(each), EVERYTHING)) for each in (one, other)
    ]
    if any(at(whole[0], path) != at(whole[1], path) for path in wanted.paths):
        assert documents[0] != documents[1]
    if pruned(whole[0], wanted) == pruned(whole[1], wanted):
        assert documents[0] == documents[1]


@given(requests(), st.randoms(use_true_random=False))
def test_the_order_of_maps_does_not_count(
    request: auth.CheckRequest, dice: Any
) -> None:
    raw = bytes(request)
    http = request.attributes.request.http  # type: ignore[union-attr]
    assert http is not None
    shuffled = list(http.headers.items())
    dice.shuffle(shuffled)
    http.headers = dict(shuffled)
    body = json.loads(http.raw_body)
    assert build_document(raw, EVERYTHING) == build_document(bytes(request), EVERYTHING)
    if isinstance(body, dict):
        reversed_body = dict(reversed(body.items()))
        wanted = InputPaths.parse(["parsed_body"])
        http.raw_body = json.dumps(reversed_body).encode()
        assert build_document(raw, wanted) == build_document(bytes(request), wanted)


@given(requests(), WANTED, st.data())
def test_a_damaged_request_is_refused_or_read_and_nothing_else(
    request: auth.CheckRequest, wanted: InputPaths, data: st.DataObject
) -> None:
    raw = bytearray(bytes(request))
    assume(raw)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip":
            raw[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut" and len(raw) > 1:
            del raw[place]
        else:
            raw.insert(place, data.draw(st.integers(0, 255)))
    for paths in (wanted, EVERYTHING):
        try:
            found = build_document(bytes(raw), paths)
        except RequestError:
            continue
        assert isinstance(json.loads(found), dict)


@given(st.binary(max_size=64), WANTED)
def test_any_bytes_are_refused_or_read_and_nothing_else(
    raw: bytes, wanted: InputPaths
) -> None:
    try:
        build_document(raw, wanted)
    except RequestError:
        return


@given(
    st.sampled_from(
        [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
        ]
    ),
    st.binary(max_size=80)
    | st.text(st.sampled_from('{}[]":,\\u0a%&;=+\r\n-b '), max_size=40).map(str.encode)
    | st.lists(
        st.sampled_from(
            [
                b"--b",
                b"\r\n",
                b"--",
                b'Content-Disposition: form-data; name="a"',
                b"Content-Type: application/json",
                b"1",
            ]
        ),
        max_size=12,
    ).map(b"".join),
)
def test_any_body_is_refused_or_read_and_nothing_else(
    content_type: str, body: bytes
) -> None:
    raw = bytes(check_request(headers={"content-type": content_type}, raw_body=body))
    try:
        found = build_document(raw, InputPaths.parse(["parsed_body"]))
    except RequestError:
        return
    assert json.loads(found).keys() == {"parsed_body"}


@given(
    st.lists(st.lists(st.text(max_size=4), max_size=4).map(tuple), max_size=6),
)
def test_paths_read_back_as_they_were_written(paths: list[Path]) -> None:
    try:
        json.dumps(paths, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        assume(False)  # noqa: FBT003 - hypothesis's own
    wanted = InputPaths(tuple(paths))
    assert InputPaths.parse(wanted.texts()) == wanted
    for path in paths:
        assert is_below(path, wanted)
