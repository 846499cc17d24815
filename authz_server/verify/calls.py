"""How operations look on the wire: port, method, path. What a proxy can see of them.

One HTTP call and one gRPC call for each operation, where there is one; a test holds
them against what the server itself makes of such calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authz_server.operations.actions import Action
from authz_server.operations.operation import Operation, Scope
from authz_server.policy.model import Upstream, UpstreamKind
from authz_server.site.model import Mesh, Site


@dataclass(frozen=True, slots=True, order=True)
class WireCall:
    """A call as a proxy sees it."""

    port: int
    method: str
    path: str
    host: str


_SERVER_PATHS: Final = {
    (Action.HEALTH, Scope.SERVER): ("GET", "/v2/health/ready"),
    (Action.METADATA, Scope.SERVER): ("GET", "/v2"),
    (Action.STATISTICS, Scope.EVERY_MODEL): ("GET", "/v2/models/stats"),
    (Action.LOGGING, Scope.EVERY_MODEL): ("GET", "/v2/logging"),
    (Action.TRACE, Scope.EVERY_MODEL): ("GET", "/v2/trace/setting"),
    (Action.SHARED_MEMORY, Scope.EVERY_MODEL): (
        "GET",
        "/v2/systemsharedmemory/status",
    ),
    (Action.MODEL_LIST, Scope.EVERY_MODEL): ("POST", "/v2/repository/index"),
}
_MODEL_VERBS: Final = {
    Action.INFERENCE: ("POST", "/infer"),
    Action.METADATA: ("GET", ""),
    Action.MODEL_CONFIG: ("GET", "/config"),
    Action.STATISTICS: ("GET", "/stats"),
    Action.HEALTH: ("GET", "/ready"),
}
_SERVICE: Final = "/inference.GRPCInferenceService/"
_METHODS: Final = {
    (Action.HEALTH, Scope.SERVER): "ServerReady",
    (Action.METADATA, Scope.SERVER): "ServerMetadata",
    (Action.MODEL_LIST, Scope.EVERY_MODEL): "RepositoryIndex",
    (Action.LOGGING, Scope.EVERY_MODEL): "LogSettings",
    (Action.SHARED_MEMORY, Scope.EVERY_MODEL): "SystemSharedMemoryStatus",
    (Action.STATISTICS, Scope.EVERY_MODEL): "ModelStatistics",
    (Action.TRACE, Scope.EVERY_MODEL): "TraceSetting",
    (Action.INFERENCE_STREAM, Scope.EVERY_MODEL): "ModelStreamInfer",
    (Action.MODEL_REPOSITORY, Scope.EVERY_MODEL): "RepositoryModelUnload",
    (Action.HEALTH, Scope.MODEL): "ModelReady",
    (Action.METADATA, Scope.MODEL): "ModelMetadata",
    (Action.MODEL_CONFIG, Scope.MODEL): "ModelConfig",
    (Action.STATISTICS, Scope.MODEL): "ModelStatistics",
    (Action.INFERENCE, Scope.MODEL): "ModelInfer",
    (Action.INFERENCE_STREAM, Scope.MODEL): "ModelStreamInfer",
    (Action.MODEL_REPOSITORY, Scope.MODEL): "RepositoryModelLoad",
    (Action.MODEL_LOAD_OVERRIDE, Scope.MODEL): "RepositoryModelLoad",
    (Action.TRACE, Scope.MODEL): "TraceSetting",
}


def wire_calls(
    operation: Operation, upstream: Upstream, site: Site
) -> tuple[WireCall, ...]:
    """Return calls that are `operation`; none if no call is exactly that."""
    host = upstream.hosts[0] if upstream.hosts else ""
    return tuple(
        WireCall(_port(is_grpc, operation, upstream, site), method, path, host)
        for is_grpc, method, path in _paths(operation, upstream)
    )


def call_ports(upstream: Upstream, site: Site) -> frozenset[int]:
    """Return the ports at which calls reach `upstream`, metrics' included."""
    if site.mesh is not Mesh.SIDECAR:
        return frozenset({site.ports.envoy})
    if upstream.kind is UpstreamKind.DATASET:
        return frozenset({site.ports.dataset})
    if upstream.kind is UpstreamKind.OPENAI:
        return frozenset({site.ports.openai})
    ports = site.ports
    return frozenset({ports.triton_http, ports.triton_grpc, ports.triton_metrics})


def ports_of(action: Action, upstream: Upstream, site: Site) -> frozenset[int]:
    """Return the ports at which `action` can be done; both of Triton's for most."""
    if site.mesh is Mesh.SIDECAR and upstream.kind is UpstreamKind.TRITON:
        if action is Action.METRICS:
            return frozenset({site.ports.triton_metrics})
        return frozenset({site.ports.triton_http, site.ports.triton_grpc})
    return call_ports(upstream, site)


def _port(is_grpc: bool, operation: Operation, upstream: Upstream, site: Site) -> int:  # noqa: FBT001
    if site.mesh is not Mesh.SIDECAR:
        return site.ports.envoy
    if upstream.kind is UpstreamKind.DATASET:
        return site.ports.dataset
    if upstream.kind is UpstreamKind.OPENAI:
        return site.ports.openai
    if operation.call.action is Action.METRICS:
        return site.ports.triton_metrics
    return site.ports.triton_grpc if is_grpc else site.ports.triton_http


def _paths(operation: Operation, upstream: Upstream) -> Iterator[tuple[bool, str, str]]:
    """Yield whether it is gRPC, method and path."""
    call = operation.call
    if upstream.kind is UpstreamKind.DATASET:
        if operation.dataset in upstream.datasets:
            prefix = upstream.datasets[operation.dataset].rstrip("/")
            method = "GET" if call.action is Action.DATASET_READ else "PUT"
            yield False, method, f"{prefix}/object"
        return
    if call.action is Action.METRICS:
        if call.scope is Scope.EVERY_MODEL:
            yield False, "GET", "/metrics"
        return
    if upstream.kind is UpstreamKind.OPENAI:
        yield from _openai(operation)
        return
    yield from _triton(operation)


def _triton(operation: Operation) -> Iterator[tuple[bool, str, str]]:
    call = operation.call
    known = _SERVER_PATHS.get((call.action, call.scope))
    if known is not None:
        yield False, *known
    if call.scope is Scope.MODEL and call.action in _MODEL_VERBS:
        method, verb = _MODEL_VERBS[call.action]
        version = f"/versions/{call.version}" if call.version else ""
        yield False, method, f"/v2/models/{call.model}{version}{verb}"
    if call.scope is Scope.MODEL and not call.version:
        if call.action is Action.TRACE:
            yield False, "GET", f"/v2/models/{call.model}/trace/setting"
        if call.action is Action.MODEL_LOAD_OVERRIDE:
            yield False, "POST", f"/v2/repository/models/{call.model}/load"
    name = _METHODS.get((call.action, call.scope))
    if name is not None:
        yield True, "POST", _SERVICE + name


def _openai(operation: Operation) -> Iterator[tuple[bool, str, str]]:
    call = operation.call
    match call.action, call.scope:
        case Action.INFERENCE, Scope.MODEL:
            yield False, "POST", "/v1/chat/completions"
        case Action.METADATA, Scope.MODEL:
            yield False, "GET", f"/v1/models/{call.model}"
        case Action.MODEL_REPOSITORY, Scope.MODEL:
            if not call.adapter:
                yield False, "POST", f"/v1/models/{call.model}/load"
        case Action.MODEL_LIST, Scope.EVERY_MODEL:
            yield False, "GET", "/v1/models"
        case Action.HEALTH, Scope.SERVER:
            yield False, "GET", "/health/ready"
