"""What is read of a folder, and how what is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz_server.errors import SetupError
from authz_server.verify.objects import read_folder

POLICY = """\
# A comment.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: n}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_objects_know_their_place(tmp_path: Path) -> None:
    text = f"{POLICY}---\n{POLICY.replace('name: a', 'name: b')}---\n"
    found = read_folder(write(tmp_path, kubernetes__x_yaml=text))
    assert [str(item) for item in found.objects] == [
        "NetworkPolicy n/a (kubernetes/x.yaml:2)",
        "NetworkPolicy n/b (kubernetes/x.yaml:7)",
    ]
    [first, _] = found.of("networking.k8s.io", "NetworkPolicy", "Other")
    assert first.spec == {}
    assert found.of("", "NetworkPolicy") == ()


def test_a_list_is_its_items_and_json_is_read_too(tmp_path: Path) -> None:
    text = (
        '{"kind": "List", "apiVersion": "v1", "items": [{"apiVersion": "v1", '
        '"kind": "Namespace", "metadata": {"name": "n"}, "spec": {"x": 1}}]}'
    )
    [item] = read_folder(write(tmp_path, a_json=text)).objects
    assert str(item) == "Namespace n (a.json:1)"
    assert item.group == ""
    assert item.spec == {"x": 1}


def test_what_is_no_object_is_a_document(tmp_path: Path) -> None:
    found = read_folder(
        write(tmp_path, mesh_yaml="trustDomain: x\n", list_yaml="- 1\n", a_txt="{")
    )
    assert [(item.file, item.place) for item in found.documents] == [
        ("mesh.yaml", "mesh.yaml:1")
    ]


def test_recipes_are_passed_over(tmp_path: Path) -> None:
    found = read_folder(
        write(
            tmp_path,
            kustomization_yaml=POLICY,
            helm__Chart_yaml="name: x\n",
            helm__templates__x_yaml="{{ if }}",
        )
    )
    assert found.objects == found.documents == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{POLICY}---\n{POLICY}", "x.yaml:7: NetworkPolicy n/a is also at x.yaml:2"),
        ("a: [", "can't be read"),
        ("a: {b: 1, b: 2}", "key 'b' is twice in the mapping at 1"),
        ("x:\n- a: 1\n  a: 2\n", "key 'a' is twice in the mapping at 2"),
        ("apiVersion: v1\nkind: X\n", "must be strings"),
        ("apiVersion: v1\nkind: X\nmetadata: {name: 1}\n", "must be strings"),
        ("apiVersion: v1\nkind: X\nmetadata: {name: a, namespace: 0}\n", "strings"),
        ("apiVersion: 1\nkind: X\nmetadata: {name: a}\n", "must be strings"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(SetupError) as caught:
        read_folder(write(tmp_path, x_yaml=text))
    assert words in str(caught.value)


def test_an_alias_is_read_once(tmp_path: Path) -> None:
    text = "a: &x {b: 1}\nc: [*x, *x]\n"
    [item] = read_folder(write(tmp_path, x_yaml=text)).documents
    assert item.body == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


def test_what_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is no folder"):
        read_folder(tmp_path / "none")
    (tmp_path / "x.yaml").write_bytes(b"\xff")
    with pytest.raises(SetupError, match="no text in UTF-8"):
        read_folder(tmp_path)
    (tmp_path / "x.yaml").unlink()
    (tmp_path / "y.json").write_text("{", encoding="utf-8")
    with pytest.raises(SetupError, match=r"y\.json: can't be read"):
        read_folder(tmp_path)
