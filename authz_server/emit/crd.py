"""The CustomResourceDefinition of AccessPolicy, made of the published schema.

Kubernetes takes a part of JSON Schema, a *structural* one: no references, no ``if``, no
``uniqueItems``, and regular expressions without lookahead. What that can't say becomes
rules in CEL, which the API server evaluates when a policy is written (Kubernetes
documentation, "Extend the Kubernetes API with CustomResourceDefinitions"). What
neither can say, the controller says in the object's status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from authz_server.emit.manifest import MAX_NAME, Object
from authz_server.policy.schema import schema_text

GROUP: Final = "authz.edge"
VERSION: Final = "v1"
KIND: Final = "AccessPolicy"
PLURAL: Final = "accesspolicies"

MAX_LISTED: Final = 1024
MAX_NAMED: Final = 256
_MAX_LISTED: Final[Mapping[str, int]] = {"names": 64, "role": 64, "actions": 32}
"""Items of a list (of these definitions and properties), entries of a mapping. Without
bounds the API server takes every rule for too costly. Larger policies are files, or
bundles."""

_KEPT: Final = frozenset(
    {
        *("type", "description", "required", "enum", "pattern", "minLength"),
        *("maxLength", "minItems", "maxItems", "minProperties"),
    }
)

# Regular expressions without their lookaheads, which only refuse "." and "..".
_SEGMENT: Final = "[a-zA-Z0-9._-]+"
_RE2_PATTERNS: Final[Mapping[str, str]] = {
    "spiffePattern": rf"^spiffe://[a-z0-9._-]{{1,255}}(/(\*|{_SEGMENT}))*/(\*{{1,2}}|{_SEGMENT})$",
    "datasets": "^(/[A-Za-z0-9._~-]+)+$",
}

_Rule = tuple[str, str]

_DATASET_ACTIONS: Final = "['dataset-read', 'dataset-write']"
_RULES: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "spec": (
        (
            "self.trustDomain == oldSelf.trustDomain",
            (
                "trustDomain can't be changed: every ID in the policy is of it; make "
                "another AccessPolicy"
            ),
        ),
        (
            "!has(self.federatesWith) || !(self.trustDomain in self.federatesWith)",
            "federatesWith names the trustDomain itself; take it out",
        ),
        (
            "self.grants.all(g, g.role in self.roles)",
            "a grant names a role that is not in spec.roles",
        ),
        (
            "self.grants.all(g, g.to.all(name, name in self.groups))",
            "a grant names a group that is not in spec.groups",
        ),
        (
            "self.grants.all(g, g.on.all(name, name in self.upstreams))",
            "a grant names an upstream that is not in spec.upstreams",
        ),
        (
            (
                "!has(self.denials) || self.denials.all(d, d.role in self.roles && "
                "d.to.all(name, name in self.groups) && "
                "d.on.all(name, name in self.upstreams))"
            ),
            "a denial names a role, group or upstream that is not in spec",
        ),
    ),
    "upstream": (
        (
            "(self.kind == 'dataset') == has(self.datasets)",
            "datasets belong to an upstream of kind dataset, which must have some",
        ),
        (
            "self.kind == 'openai' || !has(self.loraSeparator)",
            "loraSeparator belongs to an upstream of kind openai",
        ),
        (
            (
                "has(self.__namespace__) || "
                "!(has(self.podSelector) || has(self.serviceAccount))"
            ),
            "podSelector and serviceAccount need a namespace",
        ),
    ),
    "group": (
        (
            "has(self.spiffe) || has(self.users) || has(self.groups)",
            "a group needs members: spiffe, users or groups",
        ),
        (
            "!has(self.workloads) || has(self.spiffe)",
            "workloads are pods that hold SPIFFE IDs; add spiffe",
        ),
    ),
    "permission": (
        (
            f"self.actions.exists(a, a in {_DATASET_ACTIONS}) == has(self.datasets)",
            "datasets go with dataset-read and dataset-write, which need them",
        ),
        (
            "has(self.models) || !(has(self.versions) || has(self.adapters))",
            "versions and adapters are of models; add models",
        ),
        (
            "!(has(self.versions) && has(self.adapters))",
            "a permission has versions or adapters, not both",
        ),
    ),
    "invariant": (
        (
            "has(self.never) != has(self.neverBoth)",
            "an invariant has never or neverBoth, and not both",
        ),
    ),
}
"""By the schema's definitions: what must be true, and what is said if it is not.

``namespace`` is a word of CEL's own, so as a field it is escaped."""


def custom_resource_definition() -> Object:
    """Return the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ap"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": "Ready",
                            "type": "string",
                            "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
                        },
                        {
                            "name": "Reason",
                            "type": "string",
                            "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
                        },
                        {
                            "name": "Objects",
                            "type": "integer",
                            "jsonPath": ".status.objects",
                        },
                        {
                            "name": "Age",
                            "type": "date",
                            "jsonPath": ".metadata.creationTimestamp",
                        },
                    ],
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def _schema() -> dict[str, Any]:
    definitions: dict[str, Any] = json.loads(schema_text())["$defs"]
    spec = _structural({"$ref": "#/$defs/spec"}, definitions, "spec")
    spec["required"] = ["trustDomain", "upstreams", "groups", "roles", "grants"]
    spec["properties"]["upstreams"]["minProperties"] = 1
    name = definitions["name"]["pattern"]
    return {
        "type": "object",
        "description": "Who may do what to which model where.",
        "required": ["spec"],
        "properties": {
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": name}},
            },
            "spec": spec,
            "status": _STATUS,
        },
    }


def _structural(
    node: Mapping[str, Any], definitions: Mapping[str, Any], name: str = ""
) -> dict[str, Any]:
    """Return `node` as a structural schema.

    Args:
        name: of the definition, or property, that it is.
    """
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        node = {**definitions[name], **node}
    found = _plain(node, name)
    match found.get("type"):
        case "array":
            # Of the two forms of a host the wider one: which it is depends on the kind.
            items = node.get("items", {"$ref": "#/$defs/bucketHost"})
            found["items"] = _structural(items, definitions, name)
            found.setdefault("maxItems", _MAX_LISTED.get(name, MAX_LISTED))
            if node.get("uniqueItems"):
                found["x-kubernetes-list-type"] = "set"
        case "object" if "properties" in node:
            found["properties"] = {
                key: _structural(value, definitions, key)
                for key, value in node["properties"].items()
            }
        case "object":
            found["additionalProperties"] = _structural(
                node["additionalProperties"], definitions, name
            )
            found["maxProperties"] = MAX_NAMED
    if name in _RULES:
        found["x-kubernetes-validations"] = [
            {"rule": rule, "message": message} for rule, message in _RULES[name]
        ]
    return found


def _plain(node: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what can stay as it is, or nearly."""
    found = {key: value for key, value in node.items() if key in _KEPT}
    if "const" in node:
        found["enum"] = [node["const"]]
    if "enum" in found:
        found["type"] = "string"
        found["maxLength"] = max(map(len, found["enum"]))
    if name == "name":
        found["maxLength"] = MAX_NAME
    if "(?!" in found.get("pattern", ""):
        found["pattern"] = _RE2_PATTERNS[name]
    return found


_STATUS: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "What the controller found, and did.",
    "properties": {
        "observedGeneration": {
            "type": "integer",
            "format": "int64",
            "description": "The generation of the spec that this is about.",
        },
        "objects": {
            "type": "integer",
            "description": "How many objects are emitted for it.",
        },
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": [
                    *("type", "status", "lastTransitionTime", "reason", "message"),
                ],
                "properties": {
                    "type": {"type": "string"},
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "observedGeneration": {"type": "integer", "format": "int64"},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "reason": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
