"""A plant of any size, as the text of a policy and of a site: see `emit_scale`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

API: Final = "authz.edge/v1"
DOMAIN: Final = "factory.example"
WORKLOADS: Final = 10
"""Of each namespace."""
MODELS: Final = 2
"""Of each namespace's role."""
NAMESPACES_OF_TRITON: Final = 25
NAMESPACES_OF_BOX: Final = 10
BOX_WORKLOADS: Final = 3


def tritons(namespaces: int) -> int:
    """Return how many of them the plant has."""
    return -(-namespaces // NAMESPACES_OF_TRITON)


def boxes(namespaces: int) -> int:
    """Return how many boxes the plant has."""
    return -(-namespaces // NAMESPACES_OF_BOX)


def workload_id(line: int, number: int) -> str:
    """Return the SPIFFE ID of a workload."""
    return f"spiffe://{DOMAIN}/ns/line-{line}/sa/cell-{number}"


def workload(line: int, number: int) -> dict[str, Any]:
    """Return a workload as the policy names it."""
    return {
        "namespace": f"line-{line}",
        "podSelector": {"app": f"cell-{number}", "line": f"n{line}"},
        "serviceAccount": f"cell-{number}",
    }


def upstream(kind: str, name: str, line: int, **more: object) -> dict[str, Any]:
    """Return an upstream as the policy names it."""
    return {
        "kind": kind,
        "namespace": f"line-{line}",
        "podSelector": {"app": name},
        "serviceAccount": name,
        "hosts": [f"{name}.{DOMAIN}"],
        **more,
    }


def plant_policy(namespaces: int) -> str:
    """Return the text of the policy."""
    lines = range(namespaces)
    inspect = ["inference", "metadata", "health"]
    groups: dict[str, Any] = {
        # Some are told by IDs, and some by a pattern.
        f"line-{line}": {
            "spiffe": [f"spiffe://{DOMAIN}/ns/line-{line}/sa/*"]
            if line % 2
            else [workload_id(line, number) for number in range(WORKLOADS)],
            "workloads": [workload(line, number) for number in range(WORKLOADS)],
        }
        for line in lines
    }
    groups["gateways"] = {
        "spiffe": [workload_id(line, 0) for line in lines],
        "workloads": [workload(line, 0) for line in lines],
    }
    groups["engineers"] = {
        "users": [{"issuer": f"https://idp.{DOMAIN}", "claim": "groups", "value": "ml"}]
    }
    groups["supplier"] = {"spiffe": ["spiffe://supplier.example/ns/press/sa/*"]}
    grants = [
        grant
        for line in lines
        for grant in (
            {
                "role": f"line-{line}",
                "to": [f"line-{line}"],
                "on": [f"triton-{line // NAMESPACES_OF_TRITON}"],
            },
            {"role": "reader", "to": [f"line-{line}"], "on": ["archive"]},
        )
    ]
    grants += [
        {"role": "watcher", "to": ["gateways"], "on": ["triton-0"]},
        {"role": "writer", "to": ["engineers"], "on": ["chat"]},
        {"role": "reader", "to": ["supplier"], "on": ["archive"]},
    ]
    return _document(
        "AccessPolicy",
        {
            "trustDomain": DOMAIN,
            "federatesWith": ["supplier.example"],
            "upstreams": {
                **{
                    f"triton-{number}": upstream(
                        "triton", f"triton-{number}", number * NAMESPACES_OF_TRITON
                    )
                    for number in range(tritons(namespaces))
                },
                "archive": upstream(
                    "dataset", "archive", 0, datasets={"images": "/datasets/images"}
                ),
                "chat": upstream("openai", "chat", 0),
            },
            "groups": groups,
            "roles": {
                **{
                    f"line-{line}": [
                        {
                            "actions": inspect,
                            "models": [
                                f"model-{line * MODELS + number}"
                                for number in range(MODELS)
                            ],
                        }
                    ]
                    for line in lines
                },
                "reader": [{"actions": ["dataset-read"], "datasets": ["images"]}],
                "watcher": [{"actions": ["metrics"], "models": ["*"]}],
                "writer": [{"actions": ["inference"], "models": ["model-0"]}],
            },
            "grants": grants,
        },
    )


def plant_site(namespaces: int) -> str:
    """Return the text of the site."""
    return _document(
        "Site",
        {
            "mesh": "sidecar",
            "cluster": {"nodes": ["10.20.0.0/16"], "apiServer": ["10.96.0.1/32"]},
            "monitoring": {"namespace": "monitoring"},
            "spire": {
                "namespace": "spire-server",
                "podSelector": {"app": "spire-server"},
                "address": f"spire.{DOMAIN}:8081",
                "clusterName": "plant",
            },
            "federation": {
                "supplier.example": {
                    "endpoint": "https://spire.supplier.example:8443",
                    "endpointID": "spiffe://supplier.example/spire/server",
                }
            },
            "boxes": {
                f"box-{number}": {
                    "attestor": "x509pop",
                    "nodeSelectors": [f"x509pop:subject:cn:box-{number}"],
                    "serves": [f"triton-{number % tritons(namespaces)}"],
                    "workloads": [
                        {
                            "spiffe": workload_id(number * NAMESPACES_OF_BOX, index),
                            "selectors": [f"unix:user:cell-{index}"],
                        }
                        for index in range(BOX_WORKLOADS)
                    ],
                }
                for number in range(boxes(namespaces))
            },
        },
    )


def _document(kind: str, spec: Mapping[str, Any]) -> str:
    return json.dumps(
        {"apiVersion": API, "kind": kind, "metadata": {"name": "plant"}, "spec": spec}
    )
