"""The objects for Istio of ``manifests/``, and the cluster that they are meant for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from judges import Object, read
from kube_objects import cluster, service

MANIFESTS = Path(__file__).parents[1] / "manifests"
MESH = MANIFESTS / "istio" / "mesh-config.yaml"
TRITON, AUTHZ = "inference/triton-0", "authz-system/authz-server-0"
PROVIDER = "outbound|9191||authz-server.authz-system.svc.cluster.local"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PORTS = {"http-triton": 8000, "grpc-triton": 8001, "http-metrics": 8002}


def applied() -> list[Path]:
    """The emitted files for Istio that kustomize applies."""
    folder = MANIFESTS / "istio"
    (kustomization,) = read(folder / "kustomization.yaml")
    return [folder / name for name in kustomization["resources"]]


def around(ports: dict[str, int] = PORTS) -> list[Object]:
    """The cluster around them: pods, Triton's Service, and the emitted one."""
    in_mesh = {"security.istio.io/tlsMode": "istio"}
    (own,) = (
        item
        for item in read(MANIFESTS / "kubernetes" / "authz-server.yaml")
        if item["kind"] == "Service" and item["metadata"]["name"] == "authz-server"
    )
    own["spec"]["clusterIP"] = "10.96.0.2"
    return [
        *cluster(
            {
                TRITON: {"app": "triton", **in_mesh},
                AUTHZ: {"app.kubernetes.io/name": "authz-server", **in_mesh},
            },
            accounts={TRITON: "triton", AUTHZ: "authz-server"},
        ),
        service("inference/triton", {"app": "triton"}, ports, "10.96.0.1"),
        own,
    ]


def emitted() -> list[Object]:
    return [item for file in applied() for item in read(file)]


def one(objects: Iterable[Object], kind: str, name: str) -> Object:
    (found,) = (
        item
        for item in objects
        if item["kind"] == kind and item["metadata"]["name"] == name
    )
    return found
