"""EnvoyFilters: what ext_authz needs and Istio's own API has no field for.

If a patch does not match, the server gets no certificate or no body, and denies.
"""

from __future__ import annotations

from typing import Any, Final

from authz_server.emit.manifest import Object, dns_name, metadata
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.site.model import Site

MAX_BODY_BYTES: Final = 4_194_304

EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3."

STREAM_PATH: Final = "/inference.GRPCInferenceService/ModelStreamInfer"

HTTP_INFERENCE_PATH: Final = (
    "/v2/models/[^/]+(/versions/[^/]+)?/(infer|generate|generate_stream)"
)
"""Envoy matches it against the whole path without the query."""


def envoy_filter(policy: AccessPolicy, upstream: Upstream, site: Site) -> Object:
    """Return the EnvoyFilter of `upstream`'s sidecars."""
    selector = {
        "workloadSelector": {"labels": dict(sorted(upstream.pod_selector.items()))}
    }
    patches = [_check_patch(upstream)]
    if upstream.kind is UpstreamKind.TRITON:
        patches += [
            _unbuffered(
                "authz-server-stream", site.ports.triton_grpc, {"path": STREAM_PATH}
            ),
            _unbuffered(
                "authz-server-http-inference",
                site.ports.triton_http,
                {"safe_regex": {"regex": HTTP_INFERENCE_PATH}},
            ),
        ]
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata(
            policy, dns_name(upstream.name, "ext-authz"), upstream.namespace
        ),
        "spec": {
            **(selector if upstream.pod_selector else {}),
            "configPatches": patches,
        },
    }


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


def _unbuffered(name: str, port: int, match: dict[str, Any]) -> dict[str, Any]:
    # istiod gives an inbound port one route for everything, and names the route
    # configuration like the port's cluster. So where this name matches, the cluster
    # exists; where it doesn't, nothing is inserted and the body stays required.
    # Timeouts are those of istiod's own inbound route: none.
    cluster = f"inbound|{port}||"
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
                "typed_per_filter_config": {
                    EXT_AUTHZ: {
                        "@type": _TYPE + "ExtAuthzPerRoute",
                        "check_settings": {"disable_request_body_buffering": True},
                    }
                },
            },
        },
    }
