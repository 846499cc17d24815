"""EnvoyFilters: what ext_authz needs and Istio's own API has no field for.

If the patch of the check does not match, the server gets no certificate or no body, and
denies. A stream passes the gate (ext_proc), which judges each of its messages.
"""

from __future__ import annotations

from typing import Any, Final

from authz_server.emit.manifest import Object, dns_name, metadata
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.site.model import SERVER, Site

MAX_BODY_BYTES: Final = 4_194_304

EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
EXT_PROC: Final = "envoy.filters.http.ext_proc"
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3."
_PROC_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3."

CHECK_TIMEOUT: Final = "0.5s"
"""Istio's default is 600 s: a server that hangs would hang every call."""

_GATE_HEADERS: Final = "^(x-authz-[a-z0-9-]+|grpc-(status|message)|content-length)$"

STREAM_PATH: Final = "/inference.GRPCInferenceService/ModelStreamInfer"

# Their answers name every model, so the gate takes out what the caller may not see.
_GRPC_LISTINGS: Final = (
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/ModelStatistics",
)
_HTTP_LISTINGS: Final = ("/v2/repository/index", "/v2/models/stats")
_OPENAI_LISTINGS: Final = ("/v1/models", "/metrics")

HTTP_INFERENCE_PATH: Final = (
    "/v2/models/[^/]+(/versions/[^/]+)?/(infer|generate|generate_stream)"
)
"""Envoy matches it against the whole path without the query."""


def envoy_filter(policy: AccessPolicy, upstream: Upstream, site: Site) -> Object:
    """Return the EnvoyFilter of `upstream`'s sidecars."""
    selector = {
        "workloadSelector": {"labels": dict(sorted(upstream.pod_selector.items()))}
    }
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata(
            policy, dns_name(upstream.name, "ext-authz"), upstream.namespace
        ),
        "spec": {
            **(selector if upstream.pod_selector else {}),
            "configPatches": [
                _check_patch(upstream),
                *(_gate_patches(upstream, site)),
            ],
        },
    }


def _gate_patches(upstream: Upstream, site: Site) -> list[dict[str, Any]]:
    """Return what lets the server see messages of a stream, and models in answers."""
    if upstream.kind is UpstreamKind.DATASET:
        return []
    if upstream.kind is UpstreamKind.OPENAI:
        port = site.ports.openai
        return [
            _gate_patch(site),
            *(
                _route(f"authz-server-list-{number}", port, {"path": path}, *_LISTING)
                for number, path in enumerate(_OPENAI_LISTINGS)
            ),
        ]
    grpc, http = site.ports.triton_grpc, site.ports.triton_http
    return [
        _gate_patch(site),
        _route("authz-server-stream", grpc, {"path": STREAM_PATH}, *_STREAM),
        *(
            _route(f"authz-server-list-{number}", port, {"path": path}, *_LISTING)
            for number, (port, path) in enumerate(
                [
                    *((grpc, path) for path in _GRPC_LISTINGS),
                    *((http, path) for path in _HTTP_LISTINGS),
                ]
            )
        ),
        _route(
            "authz-server-http-inference",
            http,
            {"safe_regex": {"regex": HTTP_INFERENCE_PATH}},
            {"disable_request_body_buffering": True},
            {},
        ),
    ]


def check_config(upstream: Upstream) -> dict[str, Any]:
    """Return what is merged into the ext_authz filter that istiod generates."""
    config: dict[str, Any] = {
        "@type": _TYPE + "ExtAuthz",
        "include_peer_certificate": True,
        # Raw bytes, and a repeated header stays repeated: nothing is judged that the
        # upstream would read in another way.
        "encode_raw_headers": True,
        "validate_mutations": True,
    }
    if upstream.kind is not UpstreamKind.DATASET:
        # A gRPC call names its model in the body, and so does one in OpenAI's form.
        # Never a partial one: a second model name behind the end of what was checked
        # would win.
        config["with_request_body"] = {
            "max_request_bytes": MAX_BODY_BYTES,
            "allow_partial_message": False,
            "pack_as_bytes": True,
        }
    return config


def _check_patch(upstream: Upstream) -> dict[str, Any]:
    return {
        "applyTo": "HTTP_FILTER",
        "match": {
            "context": "SIDECAR_INBOUND",
            "listener": {
                "filterChain": {
                    "filter": {
                        "name": "envoy.filters.network.http_connection_manager",
                        "subFilter": {"name": EXT_AUTHZ},
                    }
                }
            },
        },
        "patch": {
            "operation": "MERGE",
            "value": {"name": EXT_AUTHZ, "typed_config": check_config(upstream)},
        },
    }


def _gate_patch(site: Site) -> dict[str, Any]:
    # Before the router, so behind all that decides whether a call may begin. It is off
    # but where a route has settings for it; the server takes part in no other call.
    host = f"{SERVER}.{site.server.namespace}.svc.{site.cluster.domain}"
    return {
        "applyTo": "HTTP_FILTER",
        "match": {
            "context": "SIDECAR_INBOUND",
            "listener": {
                "filterChain": {
                    "filter": {
                        "name": "envoy.filters.network.http_connection_manager",
                        "subFilter": {"name": "envoy.filters.http.router"},
                    }
                }
            },
        },
        "patch": {
            "operation": "INSERT_BEFORE",
            "value": {
                "name": EXT_PROC,
                "disabled": True,
                "typed_config": {
                    "@type": _PROC_TYPE + "ExternalProcessor",
                    "stat_prefix": "gate",
                    "grpc_service": {
                        # The cluster of the provider's Service, which ext_authz asks.
                        "envoy_grpc": {
                            "cluster_name": f"outbound|{site.server.port}||{host}",
                            # By itself it would be that name, which no HTTP/2 server
                            # takes, for its bars.
                            "authority": host,
                        }
                    },
                    "failure_mode_allow": False,
                    "message_timeout": CHECK_TIMEOUT,
                    "processing_mode": _modes(request_body="STREAMED"),
                    # Who calls, and what the check found: the server's own words.
                    "metadata_options": {
                        "forwarding_namespaces": {"untyped": [EXT_AUTHZ]}
                    },
                    "mutation_rules": {
                        "disallow_all": True,
                        "allow_expression": {"regex": _GATE_HEADERS},
                    },
                },
            },
        },
    }


def _modes(
    *, request_body: str, response_body: str = "NONE", **more: str
) -> dict[str, str]:
    return {
        "request_header_mode": "SEND",
        "request_body_mode": request_body,
        "request_trailer_mode": "SKIP",
        "response_header_mode": "SKIP",
        "response_body_mode": response_body,
        "response_trailer_mode": "SKIP",
        **more,
    }


_GATED: Final = {"context_extensions": {"gate": "ext_proc"}}

_Settings = tuple[dict[str, Any], dict[str, str]]

# Of ext_authz, and the modes of ext_proc; none where that stays off.
_STREAM: Final[_Settings] = (
    {**_GATED, "disable_request_body_buffering": True},
    _modes(
        request_body="STREAMED",
        # Answers begin, and may end with a denial.
        response_header_mode="SEND",
        response_trailer_mode="SEND",
    ),
)
_LISTING: Final[_Settings] = (
    _GATED,
    _modes(request_body="NONE", response_body="BUFFERED", response_header_mode="SEND"),
)


def _route(
    name: str,
    port: int,
    match: dict[str, Any],
    check_settings: dict[str, Any],
    modes: dict[str, str],
) -> dict[str, Any]:
    # istiod gives an inbound port one route for everything, and names the route
    # configuration like the port's cluster. So where this name matches, the cluster
    # exists; where it doesn't, nothing is inserted and the body stays required.
    # Timeouts are those of istiod's own inbound route: none.
    cluster = f"inbound|{port}||"
    settings: dict[str, Any] = {
        EXT_AUTHZ: {
            "@type": _TYPE + "ExtAuthzPerRoute",
            "check_settings": check_settings,
        }
    }
    if modes:
        settings[EXT_PROC] = {
            "@type": _PROC_TYPE + "ExtProcPerRoute",
            "overrides": {"processing_mode": modes},
        }
    return {
        "applyTo": "HTTP_ROUTE",
        "match": {
            "context": "SIDECAR_INBOUND",
            "routeConfiguration": {"name": cluster},
        },
        "patch": {
            "operation": "INSERT_FIRST",
            "value": {
                "name": name,
                "match": match,
                "route": {
                    "cluster": cluster,
                    "timeout": "0s",
                    "max_stream_duration": {
                        "max_stream_duration": "0s",
                        "grpc_timeout_header_max": "0s",
                    },
                },
                "typed_per_filter_config": settings,
            },
        },
    }
