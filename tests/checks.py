"""CheckRequests as Envoy writes them, made with the typed messages of its own API."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
FORECASTER = "spiffe://factory.example/ns/planning/sa/forecaster"
DEPLOYER = "spiffe://factory.example/ns/release/sa/deployer"

INFER = "/v2/models/defect-detection/versions/1/infer"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


def envoy_certificate(pem: bytes) -> str:
    """Return `pem` as Envoy puts it into source.certificate."""
    return urllib.parse.quote(pem.decode("ascii"), safe="")


def frame(message: bytes, flag: int = 0) -> bytes:
    """Return `message` as one gRPC frame."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def len_field(number: int, value: bytes) -> bytes:
    """Return one length-delimited protobuf field with a short number."""
    length = len(value)
    encoded = b""
    while length > 0x7F:
        encoded += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return bytes((number << 3 | 2,)) + encoded + bytes((length,)) + value


def check_request(
    *,
    principal: str = CAMERA,
    certificate: str = "",
    destination: str = "",
    method: str = "POST",
    path: str = INFER,
    host: str = "triton.factory.example",
    headers: Mapping[str, str] | None = None,
    raw_headers: Sequence[tuple[str, bytes]] | None = None,
    raw_body: bytes = b"",
    body: str = "",
    size: int | None = None,
    extensions: Mapping[str, str] | None = None,
    request_id: str = "req-1",
) -> auth.CheckRequest:
    """Return a CheckRequest; by default one that the example policy allows."""
    http = auth.AttributeContextHttpRequest(
        id=request_id,
        method=method,
        path=path,
        host=host,
        scheme="https",
        protocol="HTTP/2",
        headers=dict(headers or {}),
        raw_body=raw_body,
        body=body,
        size=len(raw_body) if size is None else size,
    )
    if raw_headers is not None:
        http.header_map = core.HeaderMap(
            headers=[
                core.HeaderValue(key=key, raw_value=value) for key, value in raw_headers
            ]
        )
    return auth.CheckRequest(
        attributes=auth.AttributeContext(
            source=auth.AttributeContextPeer(
                address=core.Address(
                    socket_address=core.SocketAddress(
                        address="10.1.2.3", port_value=40123
                    )
                ),
                principal=principal,
                certificate=certificate,
            ),
            destination=auth.AttributeContextPeer(principal=destination),
            request=auth.AttributeContextRequest(http=http),
            context_extensions=dict(
                {"upstream": "triton"} if extensions is None else extensions
            ),
        )
    )


def grpc_check_request(
    path: str, message: bytes, **changes: object
) -> auth.CheckRequest:
    """Return the CheckRequest of a unary gRPC call with its complete body."""
    arguments: dict[str, object] = {
        "path": path,
        "raw_body": frame(message),
        "headers": {"content-type": "application/grpc"},
        **changes,
    }
    return check_request(**arguments)  # type: ignore[arg-type]


def is_allowed(response: bytes) -> bool:
    """Return what Envoy makes of a CheckResponse: status.code alone decides."""
    status = auth.CheckResponse.parse(response).status
    return status is None or status.code == 0


def reason_of(response: bytes) -> str:
    """Return the reason code of a denial."""
    denied = auth.CheckResponse.parse(response).denied_response
    assert denied is not None
    return next(
        option.header.value
        for option in denied.headers
        if option.header is not None and option.header.key == "x-authz-reason"
    )
