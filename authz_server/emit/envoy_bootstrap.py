"""A complete Envoy bootstrap for a box, built of typed messages.

``envoy/edge-unix-socket.yaml`` says the same by hand for one Triton, with a comment at
each line that matters; a test holds the two together.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import (
    v3 as downstream_connections,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap import (
    v3 as fixed_heap,
)
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream_http
from envoy_data_plane.google.protobuf import Any

from authz_server.emit.box import CHECK_SOCKET, Serving
from authz_server.emit.envoy_checks import AUTHZ_CLUSTER
from authz_server.emit.envoy_listener import listener
from authz_server.emit.envoy_routes import grpc_cluster, http_cluster, metrics_cluster
from authz_server.emit.envoy_tls import (
    AGENT_CLUSTER,
    from_files,
    from_spire,
    transport_socket,
)
from authz_server.emit.spire_entries import ENVOY, box_id
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.site.model import Ports

MAX_HEAP_BYTES: Final = 512 << 20
MAX_CONNECTIONS: Final = 1000

MAX_QUESTIONS: Final = 4096
"""Open to the server at a time. Over this a check is an error, so a 403: as many as
streams may ask at once."""

_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HEAP: Final = "envoy.resource_monitors.fixed_heap"


def build_bootstrap(
    policy: AccessPolicy, serving: Serving, ports: Ports
) -> bootstrap.Bootstrap:
    """Return what Envoy on the box is started with.

    No ``admin``: whoever reaches it can dump this configuration and stop Envoy.
    """
    trust_domains = sorted(policy.trust_domains, key=str)
    tls = (
        from_spire(box_id(policy.trust_domain, serving.box.name, ENVOY), trust_domains)
        if serving.agent_socket
        else from_files(trust_domains)
    )
    return bootstrap.Bootstrap(
        node=core.Node(id=serving.box.name, cluster="edge"),
        overload_manager=_overload_manager(),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[listener(serving, ports.envoy, transport_socket(tls))],
            clusters=[
                *(
                    item
                    for upstream in serving.upstreams
                    for item in _upstream_clusters(upstream, serving, ports)
                ),
                _authz_cluster(),
                *(_agent_cluster(path) for path in (serving.agent_socket,) if path),
            ],
        ),
    )


def _overload_manager() -> overload.OverloadManager:
    """Shed load before the kernel kills Envoy."""
    return overload.OverloadManager(
        refresh_interval=timedelta(seconds=0.25),
        resource_monitors=[
            overload.ResourceMonitor(
                name=_HEAP,
                typed_config=Any.pack(
                    fixed_heap.FixedHeapConfig(max_heap_size_bytes=MAX_HEAP_BYTES)
                ),
            ),
            overload.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Any.pack(
                    downstream_connections.DownstreamConnectionsConfig(
                        max_active_downstream_connections=MAX_CONNECTIONS
                    )
                ),
            ),
        ],
        actions=[
            _action("envoy.overload_actions.shrink_heap", 0.90),
            _action("envoy.overload_actions.stop_accepting_requests", 0.95),
        ],
    )


def _action(name: str, threshold: float) -> overload.OverloadAction:
    return overload.OverloadAction(
        name=name,
        triggers=[
            overload.Trigger(
                name=_HEAP, threshold=overload.ThresholdTrigger(value=threshold)
            )
        ],
    )


def _upstream_clusters(
    upstream: Upstream, serving: Serving, ports: Ports
) -> list[cluster.Cluster]:
    """Return how `upstream` is reached: on loopback alone, so past nobody."""
    if upstream.kind is not UpstreamKind.TRITON:
        is_dataset = upstream.kind is UpstreamKind.DATASET
        port = ports.dataset if is_dataset else ports.openai
        return [_cluster(http_cluster(upstream), _loopback(port))]
    clusters = [
        _cluster(http_cluster(upstream), _loopback(ports.triton_http)),
        _cluster(
            grpc_cluster(upstream), _loopback(ports.triton_grpc), speaks_http2=True
        ),
    ]
    if upstream.name in serving.with_metrics:
        clusters.append(
            _cluster(metrics_cluster(upstream), _loopback(ports.triton_metrics))
        )
    return clusters


def _authz_cluster() -> cluster.Cluster:
    found = _cluster(
        AUTHZ_CLUSTER, _socket(CHECK_SOCKET), connect_s=0.25, speaks_http2=True
    )
    found.circuit_breakers = cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                max_requests=MAX_QUESTIONS, max_pending_requests=MAX_QUESTIONS
            )
        ]
    )
    return found


def _agent_cluster(path: str) -> cluster.Cluster:
    return _cluster(AGENT_CLUSTER, _socket(path), speaks_http2=True)


def _cluster(
    name: str,
    address: core.Address,
    *,
    connect_s: float = 1.0,
    speaks_http2: bool = False,
) -> cluster.Cluster:
    options = upstream_http.HttpProtocolOptions(
        explicit_http_config=upstream_http.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions()
        )
    )
    return cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=connect_s),
        typed_extension_protocol_options=(
            {_HTTP_OPTIONS: Any.pack(options)} if speaks_http2 else {}
        ),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))
                    ]
                )
            ],
        ),
    )


def _loopback(port: int) -> core.Address:
    return core.Address(
        socket_address=core.SocketAddress(address="127.0.0.1", port_value=port)
    )


def _socket(path: str) -> core.Address:
    return core.Address(pipe=core.Pipe(path=path))
