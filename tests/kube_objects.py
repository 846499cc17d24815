"""Kubernetes objects of small clusters, for judges."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from judges import Object

FIRST_ADDRESS = ipaddress.ip_address("10.64.0.1")


def namespaces(names: Sequence[str]) -> list[Object]:
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in names
    ]


def cluster(
    pods: Mapping[str, Mapping[str, str]],
    *,
    accounts: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | None = None,
) -> list[Object]:
    """Return Namespaces and Pods with an address each.

    Args:
        pods: the labels of each namespace/name.
        accounts: service accounts, by namespace/name; "default" for the others.
        ports: of each pod's one container, by name.
    """
    objects = namespaces(sorted({key.partition("/")[0] for key in pods}))
    for number, (key, labels) in enumerate(pods.items()):
        namespace, _, name = key.partition("/")
        container = {
            "name": "main",
            "image": "registry.invalid/main",
            "ports": [
                {"name": port, "containerPort": number}
                for port, number in (ports or {}).items()
            ],
        }
        objects.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": dict(labels),
                },
                "spec": {
                    "serviceAccountName": (accounts or {}).get(key, "default"),
                    "containers": [container],
                },
                "status": {"podIP": str(FIRST_ADDRESS + number), "phase": "Running"},
            }
        )
    return objects


def service(
    key: str, selector: Mapping[str, str], ports: Mapping[str, int], address: str
) -> Object:
    """Return the Service namespace/name, whose ports are the pods' own."""
    namespace, _, name = key.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterIP": address,
            "selector": dict(selector),
            "ports": [{"name": port, "port": number} for port, number in ports.items()],
        },
    }


def network_policy(namespace: str, name: str, spec: Mapping[str, object]) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }
