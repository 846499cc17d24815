"""Envoy's HTTP filters on a box: the check, the gate, the router."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as http_connection_manager,
)
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from authz_server.emit.box import Serving
from authz_server.emit.envoy_filters import EXT_AUTHZ, MAX_BODY_BYTES
from authz_server.operations import foreign_routes, s3
from authz_server.policy.model import UpstreamKind

AUTHZ_CLUSTER: Final = "authz_server"
EXT_PROC: Final = "envoy.filters.http.ext_proc"

HeaderMode = ext_proc.ProcessingModeHeaderSendMode
BodyMode = ext_proc.ProcessingModeBodySendMode

# Longer than the server's own deadline.
_ANSWER: Final = timedelta(seconds=0.5)

# The last two open Triton's own lock (`triton.access_secret`), over HTTP and gRPC.
_MAY_BE_SET: Final = (
    "^(x-authz-[a-z0-9-]+|(triton-grpc-protocol-)?triton-access-token)$"
)
_MAY_BE_CHANGED: Final = "^(x-authz-[a-z0-9-]+|grpc-(status|message)|content-length)$"

_STORE_PREFIX: Final = "x-amz-"


def http_filters(serving: Serving) -> list[http_connection_manager.HttpFilter]:
    """Return the filters in the order in which a call passes them.

    The gate stands behind the check, which tells it who calls.
    """
    return [
        _filter(EXT_AUTHZ, Any.pack(_check(serving))),
        _filter(EXT_PROC, Any.pack(_gate())),
        _filter(
            "envoy.filters.http.router",
            # Callers need no timing of ours.
            Any.pack(router.Router(suppress_envoy_headers=True)),
        ),
    ]


def _filter(name: str, config: Any) -> http_connection_manager.HttpFilter:
    return http_connection_manager.HttpFilter(name=name, typed_config=config)


def asked_headers(serving: Serving) -> list[str]:
    """Return the headers that decisions and audit read; others stay out of a check.

    What a store reads beside ``x-amz-`` is among them: a header that does more than its
    request says must be seen, so that it is refused.
    """
    names = ["content-type", "grpc-encoding", "x-request-id", foreign_routes.REDIRECT]
    if serving.serves(UpstreamKind.OPENAI):
        names.append("content-encoding")  # another reading of the body
    if serving.serves(UpstreamKind.DATASET):
        names += [name for name in s3.SIGNALS if not name.startswith(_STORE_PREFIX)]
    return names


def _check(serving: Serving) -> ext_authz.ExtAuthz:
    return ext_authz.ExtAuthz(
        stat_prefix="authz",
        transport_api_version=core.ApiVersion.V3,
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=AUTHZ_CLUSTER),
            timeout=_ANSWER,
        ),
        # No answer is a no.
        failure_mode_allow=False,
        # 503 would invite retries.
        status_on_error=envoy_type.HttpStatus(code=envoy_type.StatusCode.Forbidden),
        # For who adds `filter_enabled`: switched off then means closed.
        deny_at_disable=core.RuntimeFeatureFlag(
            default_value=True, runtime_key="authz.deny_at_disable"
        ),
        include_peer_certificate=True,
        # Duplicates stay apart, bytes stay bytes.
        encode_raw_headers=True,
        # Bearer tokens and cookies stay out of the question.
        allowed_headers=matcher.ListStringMatcher(
            patterns=[
                *(matcher.StringMatcher(exact=name) for name in asked_headers(serving)),
                matcher.StringMatcher(prefix=_STORE_PREFIX),
            ]
        ),
        disallowed_headers=matcher.ListStringMatcher(
            patterns=[matcher.StringMatcher(exact="x-amz-security-token")]
        ),
        # gRPC names the model in the message, so the whole message is sent. The
        # server's own limit is above this one.
        with_request_body=ext_authz.BufferSettings(
            max_request_bytes=MAX_BODY_BYTES,
            allow_partial_message=False,
            pack_as_bytes=True,
        ),
        # An answer moves no request elsewhere.
        clear_route_cache=False,
        validate_mutations=True,
        # Nor may it rewrite :path or host. A change that is not allowed is a 500:
        # dropped, it would leave a caller's own copy of that header in place.
        decoder_header_mutation_rules=mutation_rules.HeaderMutationRules(
            disallow_all=True,
            disallow_is_error=True,
            allow_expression=matcher.RegexMatcher(regex=_MAY_BE_SET),
        ),
        emit_filter_state_stats=True,
    )


def _gate() -> ext_proc.ExternalProcessor:
    return ext_proc.ExternalProcessor(
        stat_prefix="gate",
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=AUTHZ_CLUSTER)
        ),
        failure_mode_allow=False,
        message_timeout=_ANSWER,  # for the verdict on one chunk
        processing_mode=ext_proc.ProcessingMode(
            request_header_mode=HeaderMode.SEND,
            request_body_mode=BodyMode.STREAMED,  # chunk by chunk, as they come
            request_trailer_mode=HeaderMode.SKIP,
            response_header_mode=HeaderMode.SKIP,
            response_body_mode=BodyMode.NONE,
            response_trailer_mode=HeaderMode.SKIP,
        ),
        metadata_options=ext_proc.MetadataOptions(
            forwarding_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(
                untyped=[EXT_AUTHZ]
            )
        ),
        # Why a call is denied; a shorter list.
        mutation_rules=mutation_rules.HeaderMutationRules(
            disallow_all=True,
            allow_expression=matcher.RegexMatcher(regex=_MAY_BE_CHANGED),
        ),
    )
