"""Bundles as a whole: what their files come to."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import PolicyError
from authz_server.policy.bundles.archive import write_archive
from authz_server.policy.bundles.bundle import (
    MAX_UNPACKED,
    Bundle,
    bundle_files,
    read_bundle,
    write_bundle,
)
from authz_server.policy.bundles.manifest import Manifest
from authz_server.policy.bundles.patch import Change
from authz_server.policy.bundles.signature import Signers

LIMIT = 1 << 20


def packed(files: Mapping[str, Any]) -> bytes:
    """Return a bundle; what is no bytes is written as JSON."""
    return write_archive(
        {
            path: content
            if isinstance(content, bytes)
            else json.dumps(content).encode()
            for path, content in files.items()
        }
    )


def read(files: Mapping[str, Any]) -> Bundle:
    return read_bundle(packed(files), LIMIT, None)


def test_data_lies_where_its_folder_says() -> None:
    bundle = read(
        {
            "data.json": {"a": {"x": 1}, "t": "t"},
            "a/data.json": {"y": 2},
            "a/b/c/data.json": {"z": [3]},
            "d e/data.json": {},
        }
    )
    assert bundle.data == {
        "a": {"x": 1, "y": 2, "b": {"c": {"z": [3]}}},
        "t": "t",
        "d e": {},
    }


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ({"a": {"x": 1}}, {"x": 2}, "/a/x"),
        ({"a": {"x": 1}}, {"x": 1}, "/a/x"),
        ({"a": {"x": {}}}, {"x": 1}, "/a/x"),
        ({"a": {"x": [1]}}, {"x": [2]}, "/a/x"),
        ({"a": 1}, {"x": 2}, "/a"),
        ({"a": None}, {}, "/a"),
        ({"a": {"x": {"y": None}}}, {"x": {"y": None}}, "/a/x/y"),
    ],
)
def test_data_that_says_two_things_of_one_place_is_refused(
    one: Any, other: Any, path: str
) -> None:
    with pytest.raises(PolicyError, match=f"says twice what {path} is"):
        read({"data.json": one, "a/data.json": other})


@pytest.mark.parametrize(
    "text",
    [b"", b"[1]", b"1", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":"\\ud800"}', b"{}x"],
)
def test_data_that_is_no_strict_json_object_is_refused(text: bytes) -> None:
    for path in ("data.json", "a/data.json"):
        with pytest.raises(PolicyError, match=f"'{path}' is no JSON"):
            read({path: text})


@pytest.mark.parametrize(
    "path", ["data.yaml", "a/data.yml", ".manifest.pb", "a/.manifest.pb"]
)
def test_forms_that_are_not_read_are_refused_and_not_passed_over(path: str) -> None:
    with pytest.raises(PolicyError, match="in a form that is not read"):
        read({path: b""})


def test_rego_plans_and_all_else_are_left_alone() -> None:
    files = {"a.rego": b"!", "plan.json": b"!", "x/other.json": b"!", "README": b"!"}
    assert read(files) == Bundle()


def test_a_bundle_has_its_wasm_and_tells_when_it_has_several() -> None:
    assert read({}).wasm is None
    assert read({"policy.wasm": b"\0asm"}).wasm == b"\0asm"
    assert read({"a/b.wasm": b"\0asm"}).modules == {"a/b.wasm": b"\0asm"}
    two = read({"policy.wasm": b"1", "a/policy.wasm": b"2"})
    with pytest.raises(
        PolicyError, match=r"several Wasm modules: a/policy\.wasm, policy\.wasm"
    ):
        _ = two.wasm


def manifest(**members: Any) -> dict[str, Any]:
    return {".manifest": members}


def test_wasm_that_the_manifest_names_has_to_be_there_and_within_its_roots() -> None:
    named = [{"entrypoint": "a/b", "module": "/policy.wasm"}]
    good = {**manifest(wasm=named, roots=["a"]), "policy.wasm": b"\0asm"}
    assert read(good).manifest.modules == {"a/b": "policy.wasm"}
    with pytest.raises(PolicyError, match=r"no 'policy\.wasm'"):
        read(manifest(wasm=named))
    with pytest.raises(PolicyError, match="'a/b' is outside of its roots"):
        read({**good, **manifest(wasm=named, roots=["a/c"])})


def test_data_outside_of_the_roots_is_refused() -> None:
    with pytest.raises(PolicyError, match="data at /b, outside"):
        read({**manifest(roots=["a"]), "b/data.json": {"c": 1}})


def patch(*changes: tuple[str, str, Any]) -> dict[str, Any]:
    entries = [{"op": op, "path": path, "value": value} for op, path, value in changes]
    return {"patch.json": {"data": entries}}


def test_a_delta_is_a_change_and_nothing_else() -> None:
    delta = read(patch(("upsert", "a", 1)))
    assert delta.patch == (Change("upsert", ("a",), 1),)
    for other in ({"data.json": {"b": 1}}, {"policy.wasm": b"\0asm"}):
        with pytest.raises(PolicyError, match="which is a delta"):
            read({**patch(("upsert", "a", 1)), **other})


@pytest.mark.parametrize(
    "path", ["b", "a/c", "a", "a~1b", "a%2Fb", "a%2Fb/c", "aa", "b/a/b"]
)
def test_a_delta_changes_nothing_outside_of_its_roots(path: str) -> None:
    with pytest.raises(PolicyError, match="outside of its roots"):
        read({**manifest(roots=["a/b"]), **patch(("upsert", path, 1))})


@pytest.mark.parametrize("path", ["a/b", "a/%62/c", "/a/b/"])
def test_a_delta_changes_what_is_below_its_roots(path: str) -> None:
    read({**manifest(roots=["a/b"]), **patch(("upsert", path, 1))})


def test_a_bundle_after_a_delta_has_the_rest_of_what_it_had() -> None:
    base = Bundle(
        Manifest("r1", (("a",), ("p",)), {"p/q": "policy.wasm"}, {"m": 1}),
        {"a": {"x": 1}},
        {"policy.wasm": b"\0asm"},
    )
    delta = read({**manifest(revision="r2"), **patch(("upsert", "a/y", 2))})
    after = base.changed_by(delta)
    assert after.manifest.revision == "r2"
    assert after.manifest.roots == base.manifest.roots
    assert after.manifest.metadata == {"m": 1}
    assert after.data == {"a": {"x": 1, "y": 2}}
    assert after.wasm == b"\0asm"
    assert after.patch is None
    assert base.data == {"a": {"x": 1}}


def test_a_delta_cannot_bring_data_outside_of_what_the_base_owns() -> None:
    base = Bundle(Manifest(roots=(("a",),)), {"a": 1})
    with pytest.raises(PolicyError, match="data at /b, outside"):
        base.changed_by(read(patch(("upsert", "b", 1))))


def test_a_whole_bundle_is_no_delta() -> None:
    with pytest.raises(PolicyError, match="it is no delta"):
        Bundle().changed_by(Bundle())


def test_the_largest_bundle_is_read_and_a_larger_one_is_not() -> None:
    wasm = random.Random(1).randbytes(4096)
    raw = packed({"policy.wasm": wasm})
    assert read_bundle(raw, len(raw), None).wasm == wasm
    with pytest.raises(PolicyError, match=r"more than .* bytes"):
        read_bundle(raw, len(raw) - 1, None)


def test_a_bundle_may_not_grow_without_end_when_it_is_unpacked() -> None:
    bomb = gzip.compress(b"\0" * (MAX_UNPACKED * LIMIT + 1))
    with pytest.raises(PolicyError, match="bytes unpacked"):
        read_bundle(bomb, LIMIT, None)


def test_nothing_of_a_bundle_is_read_before_it_is_verified(tmp_path: Path) -> None:
    signers = Signers({"k": tmp_path / "none.pem"})
    with pytest.raises(PolicyError, match="is not signed"):
        read_bundle(packed({"data.json": b"no JSON"}), LIMIT, signers)


def test_data_that_is_nested_deeply_in_two_files_is_no_other_error() -> None:
    for depth in (300, 600, 900, 960):
        text = b'{"a":' * depth + b"1" + b"}" * depth
        with pytest.raises(PolicyError):
            read({"data.json": text, "a/data.json": text})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=15,
)
BUNDLES = st.builds(
    Bundle,
    st.builds(Manifest, st.from_regex(r"[a-z0-9.-]{0,9}", fullmatch=True)),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4
    ),
    st.dictionaries(
        st.sampled_from(["policy.wasm", "a/b.wasm"]), st.binary(max_size=9)
    ),
)


@given(BUNDLES)
def test_a_bundle_that_is_written_is_read(bundle: Bundle) -> None:
    assert read_bundle(write_bundle(bundle), LIMIT, None) == bundle


@given(BUNDLES)
def test_equal_bundles_give_equal_bytes(bundle: Bundle) -> None:
    again = read_bundle(write_archive(bundle_files(bundle)), LIMIT, None)
    assert write_bundle(bundle) == write_bundle(again)
