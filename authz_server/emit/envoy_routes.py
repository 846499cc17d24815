"""Where Envoy sends which call, and how each is checked on its way."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.google.protobuf import Any

from authz_server.emit.box import Serving
from authz_server.emit.envoy_checks import EXT_PROC, BodyMode, HeaderMode
from authz_server.emit.envoy_filters import EXT_AUTHZ, STREAM_PATH
from authz_server.policy.model import Upstream, UpstreamKind

_SERVICE: Final = "/inference.GRPCInferenceService/"

_BRIEF_S: Final = 10
_CALL_S: Final = 300

_Filters = dict[str, Any]


def http_cluster(upstream: Upstream) -> str:
    """Return the name of the cluster that serves it over HTTP."""
    return f"{upstream.name}_http"


def grpc_cluster(upstream: Upstream) -> str:
    """Return the name of the cluster of a Triton's gRPC port."""
    return f"{upstream.name}_grpc"


def metrics_cluster(upstream: Upstream) -> str:
    """Return the name of the cluster of a Triton's metrics port."""
    return f"{upstream.name}_metrics"


def route_configuration(serving: Serving) -> route.RouteConfiguration:
    """Return the routes: every one says which upstream it leads to.

    None switches the check off. A box with one upstream takes any host, another tells
    its upstreams by the host.
    """
    is_only = len(serving.upstreams) == 1
    return route.RouteConfiguration(
        name="upstreams",
        virtual_hosts=[
            *(
                route.VirtualHost(
                    name=upstream.name,
                    domains=["*"] if is_only else sorted(upstream.hosts),
                    routes=_routes(upstream, serving),
                )
                for upstream in serving.upstreams
            ),
            *([] if is_only else [_elsewhere()]),
        ],
    )


def _elsewhere() -> route.VirtualHost:
    """Return what answers for any other host.

    Without a route Envoy asks nobody, and the call is in no audit record. With this one
    the server is told of no upstream, and denies what it can't place.
    """
    return route.VirtualHost(
        name="*",
        domains=["*"],
        routes=[
            route.Route(
                match=route.RouteMatch(prefix="/"),
                direct_response=route.DirectResponseAction(status=404),
                typed_per_filter_config=_checked({}, is_whole=False),
            )
        ],
    )


def _routes(upstream: Upstream, serving: Serving) -> list[route.Route]:
    if upstream.kind is UpstreamKind.DATASET:
        return _dataset_routes(upstream)
    if upstream.kind is UpstreamKind.OPENAI:
        return _openai_routes(upstream)
    return _triton_routes(upstream, has_metrics=upstream.name in serving.with_metrics)


def _triton_routes(upstream: Upstream, *, has_metrics: bool) -> list[route.Route]:
    http, grpc = http_cluster(upstream), grpc_cluster(upstream)
    listing = _listing(upstream)
    whole = _checked(_named(upstream))
    routes = [
        # The check sees who calls, and the gate each message, which may name another
        # model than the one before it.
        _route(
            route.RouteMatch(path=STREAM_PATH),
            route.RouteAction(
                cluster=grpc, timeout=timedelta(), idle_timeout=_seconds(_CALL_S)
            ),
            _stream(upstream),
        ),
        *(
            _route(route.RouteMatch(path=_SERVICE + method), _to(grpc), listing)
            for method in ("RepositoryIndex", "ModelStatistics")
        ),
        *(
            _route(route.RouteMatch(path=path), _to(http), listing)
            for path in ("/v2/repository/index", "/v2/models/stats")
        ),
    ]
    if has_metrics:
        routes.append(
            _route(
                route.RouteMatch(path="/metrics"),
                _to(metrics_cluster(upstream)),
                listing,
            )
        )
    return [
        *routes,
        _route(route.RouteMatch(prefix=_SERVICE), _to(grpc, _CALL_S), whole),
        _route(route.RouteMatch(prefix="/grpc.health.v1.Health/"), _to(grpc), whole),
        # HTTP names the model in the path: tensors of any size pass through unbuffered.
        # What Triton has no route for, the server refuses.
        _route(
            route.RouteMatch(prefix="/"),
            _to(http, _CALL_S),
            _checked(_named(upstream), is_whole=False),
        ),
    ]


def _openai_routes(upstream: Upstream) -> list[route.Route]:
    http = http_cluster(upstream)
    listing = _listing(upstream)
    return [
        _route(route.RouteMatch(path="/v1/models"), _to(http), listing),
        _route(route.RouteMatch(path="/metrics"), _to(http), listing),
        # The body names the model, so the check gets all of it.
        _route(
            route.RouteMatch(prefix="/"), _to(http, _CALL_S), _checked(_named(upstream))
        ),
    ]


def _dataset_routes(upstream: Upstream) -> list[route.Route]:
    # An object may be larger than any time for the whole of it allows: what is bounded
    # is how long nothing moves. Nothing is judged by its body.
    return [
        _route(
            route.RouteMatch(prefix="/"),
            route.RouteAction(
                cluster=http_cluster(upstream),
                timeout=timedelta(),
                idle_timeout=_seconds(_CALL_S),
            ),
            _checked(_named(upstream), is_whole=False),
        )
    ]


def _route(
    match: route.RouteMatch, action: route.RouteAction, filters: _Filters
) -> route.Route:
    return route.Route(match=match, route=action, typed_per_filter_config=filters)


def _to(cluster: str, timeout_s: int = _BRIEF_S) -> route.RouteAction:
    return route.RouteAction(cluster=cluster, timeout=_seconds(timeout_s))


def _seconds(number: int) -> timedelta:
    return timedelta(seconds=number)


def _named(upstream: Upstream) -> dict[str, str]:
    return {"upstream": upstream.name}


def _checked(extensions: dict[str, str], *, is_whole: bool = True) -> _Filters:
    """Return the check alone, with the whole body or with none of it."""
    return {
        EXT_AUTHZ: _check(extensions, has_body=is_whole),
        EXT_PROC: Any.pack(ext_proc.ExtProcPerRoute(disabled=True)),
    }


def _stream(upstream: Upstream) -> _Filters:
    """Return the gate on every message; a buffering check would hang the stream."""
    return {
        EXT_AUTHZ: _check(_gated(upstream), has_body=False),
        EXT_PROC: _gate(
            ext_proc.ProcessingMode(
                request_header_mode=HeaderMode.SEND,
                request_body_mode=BodyMode.STREAMED,
                request_trailer_mode=HeaderMode.SKIP,
                response_header_mode=HeaderMode.SEND,  # answers begin,
                response_body_mode=BodyMode.NONE,
                response_trailer_mode=HeaderMode.SEND,  # and may end with a denial
            )
        ),
    }


def _listing(upstream: Upstream) -> _Filters:
    """Return the gate on an answer, which takes out what the caller may not see.

    The check gets the message, which may name a model.
    """
    return {
        EXT_AUTHZ: _check(_gated(upstream), has_body=True),
        EXT_PROC: _gate(
            ext_proc.ProcessingMode(
                request_header_mode=HeaderMode.SEND,
                request_body_mode=BodyMode.NONE,
                request_trailer_mode=HeaderMode.SKIP,
                response_header_mode=HeaderMode.SEND,
                response_body_mode=BodyMode.BUFFERED,
                response_trailer_mode=HeaderMode.SKIP,
            )
        ),
    }


def _gated(upstream: Upstream) -> dict[str, str]:
    # Without the filter this would let a stream in that nobody judges.
    return {**_named(upstream), "gate": "ext_proc"}


def _check(extensions: dict[str, str], *, has_body: bool) -> Any:
    return Any.pack(
        ext_authz.ExtAuthzPerRoute(
            check_settings=ext_authz.CheckSettings(
                context_extensions=extensions,
                disable_request_body_buffering=not has_body,
            )
        )
    )


def _gate(mode: ext_proc.ProcessingMode) -> Any:
    return Any.pack(
        ext_proc.ExtProcPerRoute(
            overrides=ext_proc.ExtProcOverrides(processing_mode=mode)
        )
    )
