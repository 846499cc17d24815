"""What a bundle says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authz_server.errors import PolicyError
from authz_server.policy.bundles.manifest import Manifest


def parse(**members: Any) -> Manifest:
    return Manifest.parse(json.dumps(members).encode())


def test_a_manifest_that_says_nothing_owns_everything() -> None:
    manifest = parse()
    assert manifest == Manifest()
    assert manifest.owns(())
    assert manifest.owns(("a", "b"))
    manifest.check_data({"a": 1, "b": {"c": []}})


def test_what_it_says_is_read_and_what_opa_adds_is_left_alone() -> None:
    manifest = parse(
        revision="r-1",
        roots=["/a/b/", "c"],
        wasm=[{"entrypoint": "c/d", "module": "/policy.wasm", "annotations": []}],
        metadata={"m": [1]},
        rego_version=1,
        file_rego_versions={"/x.rego": 0},
    )
    assert manifest.revision == "r-1"
    assert manifest.roots == (("a", "b"), ("c",))
    assert manifest.modules == {"c/d": "policy.wasm"}
    assert manifest.metadata == {"m": [1]}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{} {}",
        b'{"revision":"a","revision":"b"}',
        b'{"roots":["a"],"roots":[""]}',
        b"\xff",
        b'{"revision":"\\ud800"}',
        b'{"metadata":' + b"[" * 5000,
    ],
)
def test_what_is_no_json_object_is_no_manifest(text: bytes) -> None:
    with pytest.raises(PolicyError, match=r"\.manifest is no JSON"):
        Manifest.parse(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("revision", None),
        ("revision", 7),
        ("revision", "x" * 257),
        ("revision", "a\nb"),
        ("revision", "a\u202eb"),
        ("roots", None),
        ("roots", "a"),
        ("roots", {"a": 1}),
        ("roots", ["a", 1]),
        ("roots", [["a"]]),
        ("wasm", None),
        ("wasm", {}),
        ("wasm", [1]),
        ("wasm", [{}]),
        ("wasm", [{"entrypoint": "a"}]),
        ("wasm", [{"entrypoint": "a", "module": None}]),
        ("wasm", [{"entrypoint": [], "module": "a"}]),
        ("metadata", None),
        ("metadata", []),
        ("metadata", "a"),
    ],
)
def test_odd_types_are_refused(name: str, value: object) -> None:
    with pytest.raises(PolicyError, match=rf"\.manifest: {name} is not"):
        parse(**{name: value})


@pytest.mark.parametrize(
    "roots",
    [
        ["a", "a"],
        ["a", "/a/"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["", "a"],
        ["/", "a"],
        ["a/b", "a-b", "a", "c"],
        ["a", "a!", "a/b/c"],
    ],
)
def test_roots_that_overlap_are_refused(roots: list[str]) -> None:
    with pytest.raises(PolicyError, match="overlap"):
        parse(roots=roots)


@pytest.mark.parametrize("roots", [["a", "ab"], ["a/b", "a/c"], ["a/b", "a-b"], []])
def test_roots_that_only_look_alike_do_not_overlap(roots: list[str]) -> None:
    assert len(parse(roots=roots).roots) == len(roots)


@pytest.mark.parametrize(
    ("roots", "data"),
    [
        (["a"], {"a": {"b": 1}}),
        (["a"], {"a": 1}),
        (["a/b"], {"a": {"b": {"c": 1}}}),
        (["a/b"], {"a": {}}),
        (["a/b", "c"], {"a": {"b": 1}, "c": 2}),
        (["a"], {}),
        ([], {}),
    ],
)
def test_data_below_the_roots_is_its_own(
    roots: list[str], data: dict[str, Any]
) -> None:
    parse(roots=roots).check_data(data)


@pytest.mark.parametrize(
    ("roots", "data", "path"),
    [
        (["a"], {"b": 1}, "/b"),
        (["a"], {"b": {}}, "/b"),
        (["a"], {"A": 1}, "/A"),
        (["a/b"], {"a": 1}, "/a"),
        (["a/b"], {"a": [{"b": 1}]}, "/a"),
        (["a/b"], {"a": {"b": 1, "c": 1}}, "/a/c"),
        (["a/b"], {"a/b": 1}, "/a/b"),
        (["a/b"], {"a": {"c": {"b": 1}}}, "/a/c"),
        (["ab"], {"a": {"b": 1}}, "/a"),
        ([], {"a": {}}, "/a"),
    ],
)
def test_data_outside_of_the_roots_is_refused_by_its_path(
    roots: list[str], data: dict[str, Any], path: str
) -> None:
    with pytest.raises(PolicyError, match=f"has data at {path}, outside"):
        parse(roots=roots).check_data(data)


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest(),
        Manifest("r", (("a", "b"), ("c",)), {"c/d": "policy.wasm"}, {"m": 1}),
        Manifest(roots=()),
    ],
    ids=["empty", "full", "owns nothing"],
)
def test_a_manifest_that_is_written_is_read(manifest: Manifest) -> None:
    assert Manifest.parse(json.dumps(manifest.as_json()).encode()) == manifest
