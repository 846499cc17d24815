"""Reads what is to be verified: every YAML and JSON file of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from authz_server.errors import SetupError

# libyaml is some twenty times faster; PyYAML can be built without it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, eq=False)
class ClusterObject:
    """A Kubernetes object.

    Attributes:
        namespace: empty for one of the whole cluster, or one that names none.
        place: ``FILE:LINE``, or where in which cluster.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    body: Mapping[str, Any]
    place: str

    @property
    def group(self) -> str:
        """The API group: empty for Kubernetes' own first one."""
        return self.api_version.rpartition("/")[0]

    @property
    def spec(self) -> object:
        """What it asks for; empty if it doesn't say."""
        found = self.body.get("spec")
        return {} if found is None else found

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {name} ({self.place})"


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A mapping in a file that is no Kubernetes object.

    Attributes:
        file: its name, without folders.
        place: ``FILE:LINE``.
    """

    file: str
    body: Mapping[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class Found:
    """All that was read."""

    objects: tuple[ClusterObject, ...] = ()
    documents: tuple[Document, ...] = ()

    def of(self, group: str, *kinds: str) -> tuple[ClusterObject, ...]:
        """Return the objects of these kinds of an API group, in order."""
        return tuple(
            item for item in self.objects if item.group == group and item.kind in kinds
        )


def read_folder(folder: Path) -> Found:
    """Return what the files under `folder` hold.

    Kustomizations and Helm charts are passed over: they are recipes, not objects.

    Raises:
        SetupError: if a file can't be read, is no YAML or JSON, or an object has no
            name or is there twice.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: is no folder; make it with emit --out")
    charts = [path.parent for path in folder.rglob("Chart.yaml")]
    documents: list[Document] = []
    for path in sorted(folder.rglob("*")):
        is_recipe = path.stem == "kustomization" or any(
            chart in path.parents for chart in charts
        )
        if path.suffix in _SUFFIXES and path.is_file() and not is_recipe:
            name = path.relative_to(folder).as_posix()
            documents += _read(path, name)
    return sorted_out(documents)


def sorted_out(documents: Iterable[Document]) -> Found:
    """Return `documents` by what they are.

    Raises:
        SetupError: if an object has no name, or is there twice.
    """
    objects: dict[tuple[str, str, str, str], ClusterObject] = {}
    others: list[Document] = []
    for document in documents:
        if not {"apiVersion", "kind"} <= document.body.keys():
            others.append(document)
            continue
        item = _object(document)
        key = (item.group, item.kind, item.namespace, item.name)
        if key in objects:
            raise SetupError(
                f"{item.place}: {item.kind} {item.namespace}/{item.name} is also at "
                f"{objects[key].place}; take one out"
            )
        objects[key] = item
    return Found(tuple(objects.values()), tuple(others))


def _object(document: Document) -> ClusterObject:
    body = document.body
    meta = body.get("metadata")
    name = meta.get("name") if isinstance(meta, Mapping) else None
    namespace = meta.get("namespace") if isinstance(meta, Mapping) else None
    namespace = "" if namespace is None else namespace
    texts = (body["apiVersion"], body["kind"], namespace, name)
    if not all(isinstance(item, str) for item in texts) or not name:
        raise SetupError(
            f"{document.place}: no object of Kubernetes: apiVersion, kind and "
            "metadata's name and namespace must be strings; correct them"
        )
    return ClusterObject(*texts, body, document.place)  # type: ignore[arg-type]


def _read(path: Path, name: str) -> list[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"{path}: is no text in UTF-8; emit it again") from error
    try:
        found = list(_documents(text, name, is_json=path.suffix == ".json"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise SetupError(f"{path}: can't be read: {why}; correct it") from error
    return [
        Document(path.name, body, f"{name}:{line}")
        for line, body in found
        if isinstance(body, Mapping)
    ]


def _documents(text: str, name: str, *, is_json: bool) -> Iterator[tuple[int, Any]]:
    if is_json:
        body = json.loads(text)
        yield from _unlisted(1, body)
        return
    loader = _LOADER(text)
    loader.name = name
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # noqa: S101 - the check said that there is one
            _check_keys(node)
            body = loader.construct_document(node)
            yield from _unlisted(node.start_mark.line + 1, body)
    finally:
        loader.dispose()


def _unlisted(line: int, body: Any) -> Iterator[tuple[int, Any]]:  # noqa: ANN401
    """Yield the objects of a ``List``, as kubectl prints several; else `body`."""
    if (
        isinstance(body, dict)
        and body.get("kind") == "List"
        and isinstance(body.get("items"), list)
    ):
        for item in body["items"]:
            yield line, item
    else:
        yield line, body


def _check_keys(root: yaml.Node) -> None:
    # PyYAML lets the last of two equal keys win; Kubernetes refuses them.
    waiting = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            for key in keys:
                if keys.count(key) > 1:
                    line = node.start_mark.line + 1
                    raise ValueError(f"key {key!r} is twice in the mapping at {line}")
            waiting += [value for _, value in node.value]
