"""The JSON Schema: what the reader accepts it accepts, and it knows the same keys."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy import nodes
from authz_server.policy.document import PolicyDocumentError, load_policy, parse_policy
from authz_server.policy.model import Section, UpstreamKind
from authz_server.policy.roles import SERVER_ACTIONS
from authz_server.policy.schema import schema_text
from authz_server.policy.time_limit import DAYS

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"
SCHEMA: dict[str, Any] = json.loads(schema_text())
DEFS: dict[str, Any] = SCHEMA["$defs"]
WHOLE = Draft202012Validator(SCHEMA)
PART = Draft202012Validator({"$id": SCHEMA["$id"], "$ref": "#part", "$defs": DEFS})

RICH = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: plant-7}
spec:
  trustDomain: a.example
  federatesWith: [b.example, c_d]
  upstreams:
    triton:
      kind: triton
      namespace: inference
      podSelector: {app: triton, "edge.example/tier": a_B.c}
      serviceAccount: triton
      hosts: [triton.a.example]
    spare: {kind: triton}
    chat: {kind: openai, hosts: [chat], loraSeparator: ":"}
    data:
      kind: dataset
      namespace: data
      hosts: [data.a.example, "*.data.a.example"]
      datasets: {images: /d/images, "logs-2": /d/logs~}
  groups:
    cameras:
      spiffe: ["spiffe://a.example/ns/l1/sa/cam", "spiffe://b.example/**"]
      workloads:
        - {namespace: l1, podSelector: {app: cam}, serviceAccount: cam}
        - {namespace: l2}
    robots: {spiffe: ["spiffe://a.example/ns/*/sa/r", "spiffe://a.example/x/**"]}
    people:
      users: [{issuer: "https://idp.a.example/t:1", claim: groups, value: "the ML"}]
    floor: {spiffe: ["spiffe://a.example/gate"], groups: [cameras, robots]}
    everyone: {groups: [floor, people]}
  roles:
    use:
      - {actions: [inference, health], models: [m, "p-*"], versions: ["1", "2"]}
      - {actions: [metadata], upstreams: [triton]}
      - {actions: [logging, shared-memory], models: ["*"]}
    talk: [{actions: [inference], models: ["*"], adapters: [sql]}]
    read: [{actions: [dataset-read, dataset-write], datasets: [images, logs-2]}]
    both: [{actions: [dataset-read, trace], datasets: [images], models: [m]}]
  grants:
    - {role: use, to: [everyone], on: [triton, spare]}
    - {role: talk, to: [floor], on: [chat]}
    - role: use
      to: [floor]
      on: [triton]
      when:
        users: [people]
        namespaces: [l1]
        upstreams: [triton]
        times:
          - {days: [mon, sun], from: "22:00", to: "06:00", zone: Europe/Berlin}
          - {from: "00:00", to: "24:00", zone: UTC}
        since: "2026-01-01T00:00:00Z"
        until: "2027-01-01T00:00+01:00"
    - {role: both, to: [people], on: [data], when: {namespaces: [l1]}}
    - {role: read, to: [people], on: [data]}
  denials:
    - {role: use, to: [robots], on: [spare], when: {until: "2030-06-01T00:00:00Z"}}
  admins:
    - {to: [people], change: [grants, trust], groups: [floor], roles: [use]}
    - {to: [people], change: [admins], upstreams: [triton]}
  invariants:
    - name: i-1
      never: {actions: [model-repository], models: ["*", m], versions: ["3"]}
      by: ["spiffe://b.example/y/**"]
    - name: i-2
      neverBoth: [{actions: [logging], on: [triton]}, {datasets: [images]}]
      outside: [everyone]
"""

BARE = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: "1"}
spec:
  trustDomain: ..
  upstreams: {t: {kind: triton}}
  groups: {}
  roles: {}
  grants: []
  denials: []
"""


class _Loader(yaml.SafeLoader):
    """Takes every key for a string, as the reader does: `on` is true to YAML 1.1."""


def _text_keys(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    return {
        key.value: loader.construct_object(value, deep=True)  # type: ignore[no-untyped-call]
        for key, value in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _text_keys)


def plain(text: str) -> Any:
    return yaml.load(text, _Loader)


def is_read(text: str) -> bool:
    try:
        parse_policy(text, "p.yaml")
    except PolicyDocumentError:
        return False
    return True


def changed(old: str, new: str) -> str:
    assert RICH.count(old) == 1, old
    return RICH.replace(old, new)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == "https://authz.edge/v1/access-policy.schema.json"


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE.read_text(encoding="utf-8"),
        RICH,
        BARE,
        RICH[: RICH.index("  grants:")] + "  grants: []\n",
        changed('"2026-01-01T00:00:00Z"', '"1000-12-31T23:59-23:59"'),
        changed("[data.a.example,", "[d--1.1.a,"),
        changed('"spiffe://b.example/**"', '"spiffe://b.example/.../*/*"'),
        changed("edge.example/tier", "edge.example/" + "x" * 63),
        changed("https://idp.a.example/t:1", "https://'x'%20@"),
        changed('["1", "2"]', '["999999999999999999"]'),
        changed("[m, ", '[_.-, "M*", "*", '),
    ],
)
def test_what_the_reader_accepts_is_accepted(text: str) -> None:
    parse_policy(text, "p.yaml")
    WHOLE.validate(plain(text))
    PART.validate(plain(text))


def test_a_part_of_a_policy_has_a_form_of_its_own(tmp_path: Path) -> None:
    head, _, spec = RICH.partition("spec:\n")
    sections = spec.index("  groups:")
    parts = {
        "a.yaml": head + "spec:\n" + spec[:sections],
        "b.yaml": head + "spec:\n" + spec[sections:],
        "c.yaml": head + "spec: {upstreams: {}}\n",
        "d.yaml": head,
    }
    for name, text in parts.items():
        tmp_path.joinpath(name).write_text(text, encoding="utf-8")
        PART.validate(plain(text))
        assert not WHOLE.is_valid(plain(text))
    assert load_policy(tmp_path) == parse_policy(RICH, "p.yaml")


FAULTS = [
    # The whole.
    ("apiVersion: authz.edge/v1", "apiVersion: authz.edge/v2"),
    ("kind: AccessPolicy", "kind: Policy"),
    ("metadata: {name: plant-7}", "metadata: {name: Plant}"),
    ("metadata: {name: plant-7}", "metadata: {name: plant-7, labels: {}}"),
    ("metadata: {name: plant-7}", "metadata: {}"),
    ("metadata: {name: plant-7}", "metadata: {name: " + "x" * 64 + "}"),
    ("metadata: {name: plant-7}", ""),
    ("  denials:", "  denial:"),
    ("  trustDomain: a.example\n", ""),
    ("trustDomain: a.example", "trustDomain: A.example"),
    ("trustDomain: a.example", "trustDomain: 1"),
    ("[b.example, c_d]", "[b.example, b.example, c_d]"),
    ("[b.example, c_d]", "[]"),
    ("[b.example, c_d]", "b.example"),
    # Upstreams.
    ("    spare: {kind: triton}", "    spare: {kind: tritn}"),
    ("    spare: {kind: triton}", "    spare: {}"),
    ("    spare: {kind: triton}", "    spare:"),
    ("    spare: {kind: triton}", "    spare: {kind: triton, port: 8000}"),
    ("    spare: {kind: triton}", "    spare: {kind: triton, serviceAccount: x}"),
    ("    spare: {kind: triton}", "    spare: {kind: triton, datasets: {a: /a}}"),
    ("    spare: {kind: triton}", '    spare: {kind: triton, loraSeparator: ":"}'),
    ("    spare: {kind: triton}", "    spare_2: {kind: triton}"),
    ("[triton.a.example]", "[triton.a.example.]"),
    ("[triton.a.example]", "[https://triton]"),
    ("[triton.a.example]", '["*.triton"]'),
    ('"*.data.a.example"', '"*"'),
    ("{app: triton, ", "{app: triton, a/b/c: x, "),
    ("{app: triton, ", "{app: -, "),
    ("{app: cam}", "{}"),
    ('loraSeparator: ":"', 'loraSeparator: "-"'),
    ("/d/logs~", "/d/../logs"),
    ("/d/logs~", "/d/logs/"),
    ("/d/logs~", "d/logs"),
    ('datasets: {images: /d/images, "logs-2": /d/logs~}', "podSelector: {a: b}"),
    # Groups.
    ("spiffe://a.example/gate", "spiffe://a.example"),
    ("spiffe://a.example/gate", "spiffe://a.example/"),
    ("spiffe://a.example/gate", "spiffe://a.example/**/gate"),
    ("spiffe://a.example/gate", "spiffe://a.example/ga*"),
    ("spiffe://a.example/gate", "spiffe://a.example/./gate"),
    ("spiffe://a.example/gate", "spiffe://*/gate"),
    ("spiffe://a.example/gate", "SPIFFE://a.example/gate"),
    ("spiffe://a.example/gate", "spiffe://a.example/" + "g" * 2048),
    ("{namespace: l2}", "{serviceAccount: l2}"),
    ('{spiffe: ["spiffe://a.example/gate"], ', "{workloads: [{namespace: l1}], "),
    ("https://idp", "http://idp"),
    ("/t:1", "/t?x"),
    (", claim: groups", ""),
    ('value: "the ML"', 'value: ""'),
    ('value: "the ML"', "value: true"),
    ("everyone: {groups: [floor, people]}", "everyone: {groups: []}"),
    ("everyone: {groups: [floor, people]}", "everyone: {}"),
    ("everyone: {groups: [floor, people]}", "everyone: {groups: [floor, floor]}"),
    # Roles.
    ("[inference, health]", "[inference, heath]"),
    ("[inference, health]", "[]"),
    ("[inference, health]", "inference"),
    ('[m, "p-*"]', '[m, "p-**"]'),
    ('[m, "p-*"]', '[m, "*-p"]'),
    ('[m, "p-*"]', "[m, m]"),
    ('["1", "2"]', "[1, 2]"),
    ('["1", "2"]', '["0"]'),
    ('["1", "2"]', '["01"]'),
    ('models: [m, "p-*"], ', ""),
    ('versions: ["1", "2"]', 'versions: ["1"], adapters: [a]'),
    ("[metadata], upstreams: [triton]", "[trace], upstreams: [triton]"),
    ("[metadata], upstreams: [triton]", "[metadata], datasets: [images]"),
    ('[logging, shared-memory], models: ["*"]', "[logging], models: [m]"),
    ('shared-memory], models: ["*"]', 'shared-memory], models: ["*"], versions: ["1"]'),
    ("datasets: [images, logs-2]", "models: [m]"),
    (", datasets: [images], models: [m]", ", models: [m]"),
    ("adapters: [sql]", 'adapters: ["s*"]'),
    # Grants.
    ("role: talk, ", "roles: [talk], "),
    ("to: [floor], on: [chat]", "to: floor, on: [chat]"),
    ("to: [floor], on: [chat]", "to: [floor]"),
    ("when: {namespaces: [l1]}", "when: {}"),
    ("when: {namespaces: [l1]}", "when: {namespace: [l1]}"),
    ("when: {namespaces: [l1]}", "when: {namespaces: [L1]}"),
    ("when: {namespaces: [l1]}", "when: {times: []}"),
    ("[mon, sun]", "[mon, sunday]"),
    ('from: "22:00"', "from: 22:00"),
    ('from: "22:00"', 'from: "24:00"'),
    ('to: "06:00"', 'to: "6:00"'),
    ("zone: Europe/Berlin", "zone: ../Berlin"),
    (", zone: Europe/Berlin", ""),
    ('"2026-01-01T00:00:00Z"', "2026-01-01T00:00:00Z"),
    ('"2026-01-01T00:00:00Z"', '"2026-01-01"'),
    ('"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:00"'),
    ('"2026-01-01T00:00:00Z"', '"2026-01-01 00:00:00Z"'),
    ('"2026-01-01T00:00:00Z"', '"soon"'),
    ('"2026-01-01T00:00:00Z"', '"20260101T000000+0100"'),
    ('"2026-01-01T00:00:00Z"', '"2026-W01-1T00Z"'),
    ('"2026-01-01T00:00:00Z"', '"9999-12-31T23:59:59-23:59"'),
    ('"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:00 Z"'),
    # Admins.
    ("[grants, trust]", "[grant, trust]"),
    ("[grants, trust]", "[grants, grants]"),
    ("groups: [floor], roles", "groups: [], roles"),
    ("change: [admins], ", ""),
]


@pytest.mark.parametrize(("old", "new"), FAULTS)
def test_both_refuse(old: str, new: str) -> None:
    text = changed(old, new)
    assert not is_read(text)
    assert not WHOLE.is_valid(plain(text))


# Changes at random, few in each, since a document with more is hardly ever read.

SPARE_KEYS = [
    *("role", "to", "on", "when", "kind", "hosts", "datasets", "loraSeparator"),
    *("namespace", "podSelector", "serviceAccount", "spiffe", "workloads", "users"),
    *(
        "hostNetwork",
        "groups",
        "actions",
        "models",
        "versions",
        "adapters",
        "upstreams",
        "times",
    ),
    *("since", "until", "days", "from", "zone", "namespaces", "x", "y/z"),
]
SPARE_VALUES = [
    *("", "*", "a*", "*.a", "1", "0", "m", "l1", "triton", "people", "images", "sql"),
    *("UTC", "Asia/Tokyo", "Etc/GMT+1", "24:00", "00:00", "mon", "inference", "health"),
    *("spiffe://a.example/**", "spiffe://a.example/*", "/d", "/x", ":", "+~", "a.b"),
    *("2026-06-01T00:00:00.5+00:30", "20260601T00Z", "https://x", "trace", "logging"),
    *(1, None, True, 1.5, [], {}, ["m"], ["*"], ["1"], ["triton"], {"app": "x"}),
    ["dataset-read"],
]
SIGNS = "a1-._*/:~ TZ+A\n\u00e9"


def holders(value: Any) -> Iterator[dict[str, Any] | list[Any]]:
    """Yield every list and mapping in `value`."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from holders(inner)


def edited(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(["", *SIGNS]) + text[at + rng.randrange(2) :]


def change(document: Any, rng: random.Random) -> None:
    """Change one thing in `document`."""
    holder = rng.choice([each for each in holders(document) if each] or [{}])
    if not holder:
        return
    donor: Any = rng.choice(list(holders(document)))
    keys: list[Any] = (
        list(holder) if isinstance(holder, dict) else [*range(len(holder))]
    )
    key = rng.choice(keys)
    value = copy.deepcopy(
        rng.choice([*SPARE_VALUES, donor, *(donor if isinstance(donor, list) else ())])
    )
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder[key], str):
        holder[key] = edited(holder[key], rng)
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice([*SPARE_KEYS, edited(key, rng)])] = value
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, value)
    else:
        holder[key] = value


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=0, max_value=2**48), st.sampled_from([RICH, BARE]))
def test_whatever_the_reader_accepts_is_accepted(seed: int, base: str) -> None:
    rng = random.Random(seed)
    document = plain(base)
    for _ in range(rng.choice((1, 1, 2, 3))):
        change(document, rng)
    if is_read(json.dumps(document)):
        WHOLE.validate(document)


FREE = {
    *("app", "edge.example/tier", "hosts", "images", "logs-2", "name", "spiffe"),
    *("issuer", "claim", "value", "models", "versions", "adapters", "loraSeparator"),
    *("from", "zone", "since", "until", "namespaces"),
}
"""Keys of texts that nothing else in the file refers to."""


def texts(value: Any, key: str = "") -> Iterator[tuple[Any, Any]]:
    """Yield where the free texts in `value` are: their holders and keys."""
    for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
        name = at if isinstance(value, dict) else key
        if isinstance(inner, dict | list):
            yield from texts(inner, name)
        elif name in FREE:
            yield value, at


def test_whatever_text_the_reader_accepts_is_accepted() -> None:
    rich = plain(RICH)
    accepted = 0
    for seed in range(250):
        rng = random.Random(seed)
        document = copy.deepcopy(rich)
        holder, key = rng.choice(list(texts(document)))
        holder[key] = edited(holder[key], rng)
        if is_read(json.dumps(document)):
            WHOLE.validate(document)
            accepted += 1
    assert accepted >= 40


# What the schema says against what the reader knows.


def objects(schema: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of `schema` that says which keys there are, and where."""
    if isinstance(schema, dict):
        if "additionalProperties" in schema:
            yield where, schema
        for key, value in schema.items():
            yield from objects(value, f"{where}/{key}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from objects(value, f"{where}/{number}")


def test_every_object_is_closed_and_every_key_described() -> None:
    found = dict(objects(SCHEMA))
    assert len(found) >= 15
    for where, schema in found.items():
        if schema["additionalProperties"] is not False:
            # Its keys are names of the author's.
            assert {"propertyNames", "title", "description"} <= schema.keys(), where
            continue
        assert {"title", "description"} <= schema.keys(), where
        for key, value in schema["properties"].items():
            assert value.get("description"), f"{where}: {key}"
    for name, schema in DEFS.items():
        assert {"title", "description"} <= schema.keys(), name


def test_it_knows_the_keys_that_the_reader_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: dict[int, tuple[nodes.Node, set[str]]] = {}
    read_fields = nodes.Problems.fields

    def fields(
        self: nodes.Problems,
        node: nodes.Node,
        what: str,
        required: Iterable[str],
        optional: Iterable[str],
    ) -> dict[str, nodes.Node]:
        required, optional = list(required), list(optional)
        known[id(node)] = (node, {*required, *optional})
        return read_fields(self, node, what, required, optional)

    monkeypatch.setattr(nodes.Problems, "fields", fields)
    parse_policy(RICH, "p.yaml")
    root, _ = next(iter(known.values()))
    compared: set[str] = set()

    def compare(node: nodes.Node, schema: dict[str, Any]) -> None:
        while "$ref" in schema:
            schema = DEFS[schema["$ref"].removeprefix("#/$defs/")]
        if isinstance(node, nodes.Sequence):
            for item in node.items:
                compare(item, schema.get("items", {}))
        if isinstance(node, nodes.Map):
            inner = schema.get("properties")
            assert (inner is not None) is (id(node) in known)
            if inner is not None:
                assert known[id(node)][1] == inner.keys(), schema["title"]
                compared.add(schema["title"])
            for key, value in node.entries:
                compare(
                    value,
                    schema["additionalProperties"]
                    if inner is None
                    else inner[key.text],
                )

    compare(root, DEFS["part"])
    # RICH has them all.
    assert compared == {
        schema["title"]
        for _, schema in objects(SCHEMA)
        if schema["additionalProperties"] is False
    }


def test_it_knows_the_same_words() -> None:
    assert DEFS["action"]["enum"] == list(Action)
    assert set(DEFS["datasetAction"]["enum"]) == DATASET_ACTIONS
    assert set(DEFS["modelAction"]["enum"]) == (
        set(Action) - DATASET_ACTIONS - SERVER_ACTIONS
    )
    assert set(DEFS["upstream"]["properties"]["kind"]["enum"]) == set(UpstreamKind)
    assert DEFS["admin"]["properties"]["change"]["items"]["enum"] == list(Section)
    assert DEFS["time"]["properties"]["days"]["items"]["enum"] == list(DAYS)
