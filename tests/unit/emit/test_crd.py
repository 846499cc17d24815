"""The CRD says what the schema says, as far as Kubernetes can; it judges elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import re2
import yaml

from authz_server.emit.crd import custom_resource_definition
from authz_server.policy.schema import schema_text

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"
[VERSION] = custom_resource_definition()["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema within `node`."""
    yield node
    for inner in node.get("properties", {}).values():
        yield from nodes(inner)
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key])


def words(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from words(value)
    if isinstance(node, list):
        for value in node:
            yield from words(value)


def test_it_has_nothing_that_a_structural_schema_may_not_have() -> None:
    for node in nodes(SCHEMA):
        assert node["type"] in {"object", "array", "string", "integer", "boolean"}
        assert not {"properties", "additionalProperties"} <= node.keys()
        assert not {"$ref", "const", "uniqueItems", "if", "allOf"} & node.keys()


def test_every_regular_expression_is_one_of_go() -> None:
    patterns = [node["pattern"] for node in nodes(SCHEMA) if "pattern" in node]

    assert len(patterns) > 20
    for pattern in patterns:
        re2.compile(pattern)


def test_every_list_and_mapping_is_bounded() -> None:
    for node in nodes(SCHEMA["properties"]["spec"]):
        if node["type"] == "array":
            assert node["maxItems"] <= 1024
        if "additionalProperties" in node:
            assert node["maxProperties"] <= 256


def test_every_field_of_the_schema_is_there() -> None:
    definitions = json.loads(schema_text())["$defs"]
    published = {
        name
        for definition in definitions.values()
        for name in definition.get("properties", {})
    } - {"apiVersion", "kind", "metadata"}

    assert published - set(words(SCHEMA)) == set()


def test_every_rule_of_its_own_is_in_it() -> None:
    rules = [
        rule["rule"]
        for node in nodes(SCHEMA)
        for rule in node.get("x-kubernetes-validations", ())
    ]

    assert "self.trustDomain == oldSelf.trustDomain" in rules
    assert any("has(self.never)" in rule for rule in rules)
    assert any("self.actions.exists" in rule for rule in rules)
    assert len(set(rules)) >= 14


def test_the_example_has_only_fields_that_it_knows() -> None:
    known = set(words(SCHEMA))
    # By its text: YAML 1.1 takes a bare `on` for true.
    spec = yaml.safe_load(EXAMPLE.read_text().replace(" on: ", ' "on": '))["spec"]

    assert {"trustDomain", "upstreams", "grants"} <= spec.keys() <= known
    for grant in spec["grants"]:
        assert grant.keys() <= known
