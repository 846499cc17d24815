"""What was emitted last against what is emitted now, record by record.

For the targets that no server can be asked about from here. A file is read as records
that have names: Kubernetes objects, SPIRE's registration entries, the named items of
OpenZiti's import file. Any other file is one record, with its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import yaml

from authz_server.cluster.difference import Difference, differences
from authz_server.errors import SetupError

Record = Mapping[str, Any]

ENTRIES: Final = "entries"
"""SPIRE's section (``spire-server entry create -data``)."""

_ENTRY_KEY: Final = ("spiffe_id", "parent_id", "selectors")
_FILE: Final = "file"


@dataclass(frozen=True, slots=True, order=True)
class RecordKey:
    """What tells a record from all others.

    Attributes:
        section: what kind of record: of Kubernetes' or of a list; ``file`` for all of
            a file.
    """

    target: str
    section: str
    name: str

    def __str__(self) -> str:
        return f"{self.target}: {self.section} {self.name}"


@dataclass(frozen=True, slots=True)
class RecordStep:
    """One record that is not as it was; only in one of both, or different.

    Attributes:
        old: None where it is new.
        new: None where it is no longer emitted.
    """

    key: RecordKey
    old: Record | None
    new: Record | None

    def __post_init__(self) -> None:
        if self.old is None and self.new is None:
            raise ValueError("a step is about something")

    @property
    def action(self) -> str:
        """``create``, ``change`` or ``delete``."""
        if self.old is None:
            return "create"
        return "delete" if self.new is None else "change"

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What differs, where it is in both."""
        if self.old is None or self.new is None:
            return ()
        return differences(self.old, self.new)


def read_records(files: Mapping[str, str]) -> dict[RecordKey, Record]:
    """Return what `files` hold.

    Args:
        files: their texts by ``TARGET/FILE``.

    Raises:
        SetupError: if one is no JSON or YAML, as its name says, or two records of a
            target are the same one.
    """
    records: dict[RecordKey, Record] = {}
    for path, text in sorted(files.items()):
        target, _, name = path.partition("/")
        for section, title, record in _records(path, name, text):
            key = RecordKey(target, section, title)
            if key in records:
                raise SetupError(
                    f"{path}: {section} {title} is there twice; correct it"
                )
            records[key] = record
    return records


def compare(
    old: Mapping[RecordKey, Record], new: Mapping[RecordKey, Record]
) -> tuple[RecordStep, ...]:
    """Return what differs: new and changed records in order, then those to delete."""
    steps = [
        RecordStep(key, old.get(key), record)
        for key, record in sorted(new.items())
        if old.get(key) != record
    ]
    gone = [
        RecordStep(key, record, None)
        for key, record in sorted(old.items(), reverse=True)
        if key not in new
    ]
    return (*steps, *gone)


def live_entries(text: str, source: str) -> dict[str, Record]:
    """Return what ``spire-server entry show -output json`` printed, as entries.

    Each is there twice: by its ID, and by what else tells it from others.

    Args:
        source: names the text in errors.

    Raises:
        SetupError: if it is anything else.
    """
    entries: dict[str, Record] = {}
    try:
        for item in json.loads(text)["entries"]:
            entry = {
                **item,
                "spiffe_id": _spiffe_id(item["spiffe_id"]),
                "parent_id": _spiffe_id(item["parent_id"]),
                "entry_id": item["id"],
                "federates_with": [f"spiffe://{n}" for n in item["federates_with"]],
            }
            entries[_entry_title(entry)] = entries[_entry_parts(entry)] = entry
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{source}: is not what 'spire-server entry show -output json' prints"
        ) from error
    return entries


def against_live(
    steps: Sequence[RecordStep],
    new: Mapping[RecordKey, Record],
    live: Mapping[str, Record],
) -> tuple[RecordStep, ...]:
    """Return `steps` with those about entries judged by the server's own ones.

    An entry that was never emitted is nobody's business here.

    Args:
        steps: by what was emitted last.
    """
    others = [step for step in steps if step.key.section != ENTRIES]
    found: list[RecordStep] = []
    for key, record in sorted(new.items()):
        if key.section == ENTRIES:
            there = _found(record, live)
            if there is None:
                found.append(RecordStep(key, None, record))
            elif not _agrees(there, record):
                # Of the fields that the file doesn't have, the server has its defaults.
                kept = {name: there.get(name) for name in record if name in there}
                found.append(
                    RecordStep(key, {**kept, "entry_id": there["entry_id"]}, record)
                )
    for step in steps:
        if step.key.section == ENTRIES and step.new is None and step.old is not None:
            there = _found(step.old, live)
            if there is not None:
                others.append(RecordStep(step.key, there, None))
    return (*found, *others)


def _found(entry: Record, live: Mapping[str, Record]) -> Record | None:
    # SPIRE takes no second entry of the same three, whatever its ID.
    return live.get(_entry_title(entry)) or live.get(_entry_parts(entry))


def _agrees(there: Record, entry: Record) -> bool:
    return all(
        _plain(there.get(name), value) == _plain(value, value)
        for name, value in entry.items()
        if name != "entry_id"
    )


def _records(path: str, name: str, text: str) -> Iterator[tuple[str, str, Record]]:
    documents = _documents(path, text)
    if documents is None:
        yield _FILE, name, MappingProxyType({"text": text})
        return
    for document in documents:
        if {"apiVersion", "kind", "metadata"} <= document.keys():
            meta = document["metadata"]
            place = f"{meta['namespace']}/" if "namespace" in meta else ""
            yield document["kind"], f"{place}{meta['name']}", document
            continue
        sections = {key: _named(key, value) for key, value in document.items()}
        if sections and None not in sections.values():
            for section, items in sections.items():
                for title, item in items or ():
                    yield section, title, item
        else:
            yield _FILE, name, document


def _documents(path: str, text: str) -> list[Record] | None:
    """Return the documents of a file; None if it is of no such kind."""
    try:
        if path.endswith(".json"):
            documents = [json.loads(text)]
        elif path.endswith((".yaml", ".yml")):
            documents = [item for item in yaml.safe_load_all(text) if item is not None]
        else:
            return None
    except (ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise SetupError(f"{path}: can't be read: {why}; emit it again") from error
    return documents if all(isinstance(item, dict) for item in documents) else None


def _named(section: str, value: Any) -> list[tuple[str, Record]] | None:  # noqa: ANN401
    """Return the items of a list by name; None if it is no such list."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    if section == ENTRIES and all(set(_ENTRY_KEY) <= item.keys() for item in value):
        return [(_entry_title(item), item) for item in value]
    if all(isinstance(item.get("name"), str) for item in value):
        return [(item["name"], item) for item in value]
    return None


def _entry_title(entry: Record) -> str:
    # The ID stays where the selectors change, and SPIRE can't have two of one ID.
    return str(entry.get("entry_id") or _entry_parts(entry))


def _entry_parts(entry: Record) -> str:
    selectors = sorted(f"{item['type']}:{item['value']}" for item in entry["selectors"])
    return f"{entry['spiffe_id']} under {entry['parent_id']} by {' '.join(selectors)}"


def _spiffe_id(value: Mapping[str, str]) -> str:
    return f"spiffe://{value['trust_domain']}{value['path']}"


def _plain(value: Any, like: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return `value` in the form of `like`: the order of a set says nothing."""
    if isinstance(like, list):
        return sorted(value or (), key=json.dumps)
    if isinstance(like, int) and isinstance(value, str):
        return int(value)  # protobuf's JSON writes 64-bit numbers as strings
    return value
