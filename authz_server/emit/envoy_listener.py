"""Envoy's listener on a box: what it takes from callers, and what it believes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listeners
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as http_connection_manager,
)
from envoy_data_plane.google.protobuf import Any, Struct

from authz_server.emit.box import Serving
from authz_server.emit.envoy_checks import http_filters
from authz_server.emit.envoy_routes import route_configuration

CONNECTION_BUFFER_BYTES: Final = 64 << 10
"""What one connection may have in memory. A body that the server must see in full
raises it for its own stream, to the check's limit and no further."""

_LOG: Final = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "tls_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:PATH)%",  # no query: a secret may stand there
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "authz_us": "%FILTER_STATE(envoy.filters.http.ext_authz:FIELD:latency_us)%",
}

_Manager = http_connection_manager.HttpConnectionManager
_Escaped = http_connection_manager.HttpConnectionManagerPathWithEscapedSlashesAction
_Internal = http_connection_manager.HttpConnectionManagerInternalAddressConfig
_Certificate = http_connection_manager.HttpConnectionManagerForwardClientCertDetails
_Underscores = core.HttpProtocolOptionsHeadersWithUnderscoresAction


def listener(
    serving: Serving, port: int, socket: core.TransportSocket
) -> listeners.Listener:
    """Return the listener on `port` of every address, behind TLS of `socket`."""
    return listeners.Listener(
        name="edge",
        address=core.Address(
            socket_address=core.SocketAddress(address="0.0.0.0", port_value=port)  # noqa: S104 - callers come from elsewhere
        ),
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER_BYTES,
        filter_chains=[
            listeners.FilterChain(
                # A handshake that never ends holds no place.
                transport_socket_connect_timeout=_seconds(10),
                transport_socket=socket,
                filters=[
                    listeners.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=Any.pack(_manager(serving)),
                    )
                ],
            )
        ],
    )


def _manager(serving: Serving) -> _Manager:
    return _Manager(
        stat_prefix="edge",
        codec_type=http_connection_manager.HttpConnectionManagerCodecType.AUTO,
        # What the server judges must be what the upstream gets, in one spelling.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=_Escaped.REJECT_REQUEST,
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        # The caller's word about itself is worth nothing here. Envoy takes private
        # addresses for internal callers, who may set x-envoy-* headers and choose their
        # request id, and in a plant all addresses are private. An empty list means that
        # default, so the one listed is nobody's.
        use_remote_address=True,
        internal_address_config=_Internal(
            unix_sockets=False,
            cidr_ranges=[
                core.CidrRange(address_prefix="255.255.255.255", prefix_len=32)
            ],
        ),
        xff_num_trusted_hops=0,
        forward_client_cert_details=_Certificate.SANITIZE,  # drop a forged XFCC
        # The request id is in the audit record, so Envoy alone makes it.
        generate_request_id=True,
        preserve_external_request_id=False,
        always_set_request_id_in_response=True,
        common_http_protocol_options=core.HttpProtocolOptions(
            # x_auth_user would be read as x-auth-user.
            headers_with_underscores_action=_Underscores.REJECT_REQUEST,
            max_headers_count=64,
            idle_timeout=_seconds(300),
            # Half an SVID's hour: a new handshake checks anew.
            max_connection_duration=_seconds(1800),
        ),
        http1_safe_max_connection_duration=True,  # never in mid-answer
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=1 << 20,
            initial_connection_window_size=4 << 20,
            connection_keepalive=core.KeepaliveSettings(
                interval=_seconds(30), timeout=_seconds(10)
            ),
        ),
        max_request_headers_kb=32,
        request_headers_timeout=_seconds(10),
        # No request_timeout: it would end a stream that is still being written. Idle
        # time is bounded instead, here and on each route.
        stream_idle_timeout=_seconds(60),
        delayed_close_timeout=_seconds(1),
        access_log=[
            accesslog.AccessLog(
                name="envoy.access_loggers.stdout",
                typed_config=Any.pack(
                    stream.StdoutAccessLog(
                        log_format=core.SubstitutionFormatString(
                            json_format=Struct.from_dict(_LOG)
                        )
                    )
                ),
            )
        ],
        http_filters=http_filters(serving),
        route_config=route_configuration(serving),
    )


def _seconds(number: int) -> timedelta:
    return timedelta(seconds=number)
