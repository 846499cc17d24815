"""A policy whose parts are files of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from parts import eventually

from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import PolicyDocumentError, load_policy
from authz_server.policy.store import PolicyStore

HEAD = "apiVersion: authz.edge/v1\nkind: AccessPolicy\nmetadata: {name: plant}\nspec:\n"

PARTS = {
    "10-platform.yaml": """\
  trustDomain: a.example
  upstreams:
    triton: {kind: triton}
  roles:
    use: [{actions: [inference], models: [m]}]
""",
    "20-line-1.yaml": """\
  groups:
    line-1: {spiffe: ["spiffe://a.example/ns/l1/sa/cam"]}
  grants:
    - {role: use, to: [line-1], on: [triton]}
""",
    "30-line-2.yml": """\
  groups:
    line-2: {groups: [line-1], spiffe: ["spiffe://a.example/ns/l2/sa/cam"]}
  grants:
    - {role: use, to: [line-2], on: [triton]}
""",
}


def write(folder: Path, parts: Mapping[str, str]) -> Path:
    for name, text in parts.items():
        (folder / name).write_text(HEAD + text)
    return folder


def test_the_parts_are_one_policy(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("no part")
    (tmp_path / ".hidden.yaml").write_text("no part")
    policy = load_policy(write(tmp_path, PARTS))
    assert list(policy.groups) == ["line-1", "line-2"]
    assert [grant.to for grant in policy.grants] == [("line-1",), ("line-2",)]
    whole = tmp_path / "whole.txt"
    whole.write_text(
        HEAD
        + """\
  trustDomain: a.example
  upstreams:
    triton: {kind: triton}
  roles:
    use: [{actions: [inference], models: [m]}]
  groups:
    line-1: {spiffe: ["spiffe://a.example/ns/l1/sa/cam"]}
    line-2: {groups: [line-1], spiffe: ["spiffe://a.example/ns/l2/sa/cam"]}
  grants:
    - {role: use, to: [line-1], on: [triton]}
    - {role: use, to: [line-2], on: [triton]}
"""
    )
    assert load_policy(whole) == policy


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (
            "30-line-2.yml",
            "    line-2: {groups: [line-1], ",
            "    line-1: {",
            (
                "30-line-2.yml:6:5: key 'line-1' is twice in groups, also at "
                "FOLDER/20-line-1.yaml:6:5; take one out"
            ),
        ),
        (
            "30-line-2.yml",
            "  groups:\n",
            "  trustDomain: b.example\n  groups:\n",
            (
                "30-line-2.yml:5:16: trustDomain is not what it is at "
                "FOLDER/10-platform.yaml:5:16; parts of one policy must agree"
            ),
        ),
        (
            "30-line-2.yml",
            "name: plant",
            "name: other",
            (
                "30-line-2.yml:3:11: metadata is not what it is at "
                "FOLDER/10-platform.yaml:3:11; parts of one policy must agree"
            ),
        ),
        (
            "30-line-2.yml",
            "kind: AccessPolicy\n",
            "",
            "30-line-2.yml:1:1: the policy has no 'kind'; add 'kind:'",
        ),
        (
            "20-line-1.yaml",
            "  groups:\n",
            "  groups: {}\n  groups:\n",
            "20-line-1.yaml:6:3: key 'groups' is twice in spec; take one out",
        ),
        (
            "30-line-2.yml",
            "role: use",
            "role: uze",
            "30-line-2.yml:8:14: role 'uze' is not defined; did you mean 'use'?",
        ),
        (
            "30-line-2.yml",
            "  grants:\n    - {role: use, to: [line-2], on: [triton]}\n",
            "  grants: {}\n",
            (
                "30-line-2.yml:7:11: grants must be a list, not a mapping; "
                "write a list here"
            ),
        ),
        (
            "30-line-2.yml",
            HEAD,
            "- nothing\n" + HEAD,
            "30-line-2.yml:2:1: not YAML",
        ),
    ],
)
def test_a_conflict_names_both_places(
    tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    file = write(tmp_path, PARTS) / name
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    with pytest.raises(PolicyDocumentError) as caught:
        load_policy(tmp_path)
    assert f"{tmp_path}/{said}".replace("FOLDER", str(tmp_path)) in str(caught.value)


def test_a_folder_without_parts_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyDocumentError, match="has no part of a policy"):
        load_policy(tmp_path)


def test_a_change_of_a_part_comes_into_force(tmp_path: Path) -> None:
    store = PolicyStore(write(tmp_path, PARTS), timeout_s=10.0, instances=1)
    try:
        assert store.reload()
        store.start_watching(0.02)
        (tmp_path / "30-line-2.yml").unlink()
        assert eventually(lambda: _groups(store) == ["line-1"])
        write(tmp_path, {"40.yaml": PARTS["30-line-2.yml"]})
        assert eventually(lambda: _groups(store) == ["line-1", "line-2"])
        (tmp_path / "40.yaml").write_text(HEAD + "  groups: []\n")
        assert eventually(lambda: store.error is not None)
        assert _groups(store) == ["line-1", "line-2"]
    finally:
        store.close()


def _groups(store: PolicyStore) -> list[str]:
    assert store.current is not None
    policy = store.current.policy
    assert json.loads(compile_policy(policy).data)["access"]["grants"].keys() == set(
        policy.groups
    )
    return sorted(policy.groups)
