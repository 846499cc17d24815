"""From the wire bytes of a CheckRequest to canonical facts and annotations.

Messages and field numbers: envoy/service/auth/v3/attribute_context.proto and
external_auth.proto. The bytes are walked once, without building objects for the fields
that nobody asked for. Envoy writes each singular field once; a second one is refused
rather than merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from authz_server.errors import Reason, RequestError
from authz_server.facts.canonical import Annotations, Body, BodyState, Facts, Headers
from authz_server.facts.envoy_document import build_document
from authz_server.facts.grpc_body import outline_body
from authz_server.facts.json_body import outline_json
from authz_server.facts.plan import Plan
from authz_server.facts.struct_value import payload_in
from authz_server.wire import LEN, VARINT, read_fields

# CheckRequest
_ATTRIBUTES: Final = 1
# AttributeContext
_SOURCE: Final = 1
_DESTINATION: Final = 2
_REQUEST: Final = 4
_CONTEXT_EXTENSIONS: Final = 10
_METADATA_CONTEXT: Final = 11
# AttributeContext.Peer
_PEER_ADDRESS: Final = 1
_PEER_PRINCIPAL: Final = 4
_PEER_CERTIFICATE: Final = 5
# AttributeContext.Request
_HTTP: Final = 2
# AttributeContext.HttpRequest
_HTTP_ID: Final = 1
_HTTP_METHOD: Final = 2
_HTTP_HEADERS: Final = 3
_HTTP_PATH: Final = 4
_HTTP_HOST: Final = 5
_HTTP_SIZE: Final = 9
_HTTP_RAW_BODY: Final = 12
_HTTP_HEADER_MAP: Final = 13
# config.core.v3: HeaderMap, HeaderValue, Address, SocketAddress
_HEADER_MAP_HEADERS: Final = 1
_HEADER_KEY: Final = 1
_HEADER_VALUE: Final = 2
_HEADER_RAW_VALUE: Final = 3
_SOCKET_ADDRESS: Final = 1
_SOCKET_HOST: Final = 2
_SOCKET_PORT: Final = 3
# config.core.v3.Metadata
_FILTER_METADATA: Final = 1
# protobuf map entries
_ENTRY_KEY: Final = 1
_ENTRY_VALUE: Final = 2

_JWT_AUTHN: Final = b"envoy.filters.http.jwt_authn"
_UPSTREAM_EXTENSION: Final = b"upstream"
_GATE_EXTENSION: Final = b"gate"
_GATE: Final = b"ext_proc"
_CONTENT_TYPE: Final = b"content-type"
_CONTENT_ENCODING: Final = b"content-encoding"
_GRPC_ENCODING: Final = b"grpc-encoding"
# Set by Envoy's ext_authz filter itself; a client's copy never reaches the check.
_PARTIAL_BODY: Final = b"x-envoy-auth-partial-body"
# What the caller is given to quote. HttpRequest.id is another number, Envoy's own id of
# the stream, which nobody outside ever sees.
_REQUEST_ID: Final = b"x-request-id"

_GRPC: Final = b"application/grpc"

MAX_REQUEST_ID_BYTES: Final = 128


@dataclass(slots=True)
class _Request:
    """What the walk has found so far."""

    principal: bytes = b""
    certificate: bytes = b""
    destination: bytes = b""
    extensions: dict[bytes, bytes] = field(default_factory=dict)
    source_address: str = ""
    has_http: bool = False
    scalars: dict[int, bytes] = field(default_factory=dict)
    size: int | None = None
    headers: dict[bytes, list[bytes]] = field(default_factory=dict)
    claims: bytes = b""

    def named(self, names: tuple[str, ...]) -> Headers:
        """Return those of `names` that came, with every value."""
        return tuple(
            (name, tuple(values))
            for name in names
            if (values := self.headers.get(name.encode("ascii")))
        )


def extract(raw: bytes, plan: Plan) -> tuple[bytes, Annotations]:
    """Return the canonical facts in `raw` and what the audit wants beside them.

    Args:
        raw: wire bytes of an envoy.service.auth.v3.CheckRequest.
        plan: the configured inputs.

    Raises:
        RequestError: if `raw` is not a well-formed CheckRequest, or is one of the TCP
            filter.
    """
    request = _Request()
    wanted = frozenset(
        {
            _CONTENT_TYPE,
            _CONTENT_ENCODING,
            _GRPC_ENCODING,
            _PARTIAL_BODY,
            _REQUEST_ID,
            *(
                name.encode("ascii")
                for name in (*plan.headers, *plan.credentials, *plan.signals)
            ),
        }
    )
    for attributes in _messages(raw, (0, len(raw)), _ATTRIBUTES):
        _walk_attributes(raw, attributes, wanted, request)
        if plan.jwt_payload:
            request.claims = _claims(raw, attributes, plan.jwt_payload)
    if not request.has_http:
        raise RequestError("CheckRequest has no HTTP request", Reason.REQUEST_NOT_HTTP)
    path = request.scalars.get(_HTTP_PATH, b"")
    facts = Facts(
        principal=request.principal,
        certificate=request.certificate,
        destination=request.destination,
        upstream=request.extensions.get(_UPSTREAM_EXTENSION, b""),
        method=request.scalars.get(_HTTP_METHOD, b""),
        path=path,
        host=request.scalars.get(_HTTP_HOST, b""),
        is_grpc=_is_grpc(request.headers.get(_CONTENT_TYPE, [])),
        headers=request.named(plan.headers),
        body=_body(request, plan, path),
        credentials=request.named(plan.credentials),
        claims=request.claims,
        signals=request.named(plan.signals),
        is_gated=_is_gated(request),
        document=b"" if plan.document is None else build_document(raw, plan.document),
    )
    given = request.headers.get(_REQUEST_ID, [])
    request_id = given[0] if len(given) == 1 else request.scalars.get(_HTTP_ID, b"")
    request_id = request_id[:MAX_REQUEST_ID_BYTES]
    return facts.encode(), Annotations(
        request_id=request_id.decode("utf-8", "backslashreplace"),
        source=request.source_address,
    )


Span = tuple[int, int]


def _claims(raw: bytes, attributes: Span, name: str) -> bytes:
    """Return what jwt_authn left under `name`, as JSON; empty if it left nothing."""
    found = b""
    for metadata in _messages(raw, attributes, _METADATA_CONTEXT):
        for number, wire_type, start, end in read_fields(raw, *metadata):
            if number != _FILTER_METADATA or not _is_len(wire_type):
                continue
            key, value = _entry(raw, (start, end))
            if key == _JWT_AUTHN:
                if found:
                    raise RequestError("metadata of one filter comes twice")
                found = payload_in(value, name)
    return found


def _messages(raw: bytes, span: Span, wanted: int) -> list[Span]:
    """Return where field `wanted`, a singular message, lies: one span or none."""
    spans = [
        (start, end)
        for number, wire_type, start, end in read_fields(raw, *span)
        if number == wanted and _is_len(wire_type)
    ]
    if len(spans) > 1:
        raise RequestError("a singular message comes twice")
    return spans


def _is_len(wire_type: int) -> bool:
    if wire_type != LEN:
        raise RequestError("field has another wire type than its definition")
    return True


def _walk_attributes(
    raw: bytes, span: Span, wanted: frozenset[bytes], request: _Request
) -> None:
    seen: set[int] = set()
    for number, wire_type, start, end in read_fields(raw, *span):
        if number == _CONTEXT_EXTENSIONS and _is_len(wire_type):
            key, value = _entry(raw, (start, end))
            if key in request.extensions:
                raise RequestError("a context extension comes twice")
            request.extensions[key] = value
            continue
        if number not in {_SOURCE, _DESTINATION, _REQUEST}:
            continue
        _is_len(wire_type)
        if number in seen:
            raise RequestError("a singular message comes twice")
        seen.add(number)
        if number == _REQUEST:
            for http in _messages(raw, (start, end), _HTTP):
                request.has_http = True
                _walk_http(raw, http, wanted, request)
            continue
        peer = _scalars(
            raw, (start, end), {_PEER_ADDRESS, _PEER_PRINCIPAL, _PEER_CERTIFICATE}
        )
        if number == _DESTINATION:
            request.destination = peer.get(_PEER_PRINCIPAL, b"")
        else:
            request.principal = peer.get(_PEER_PRINCIPAL, b"")
            request.certificate = peer.get(_PEER_CERTIFICATE, b"")
            request.source_address = _address(peer.get(_PEER_ADDRESS, b""))


_HTTP_SCALARS: Final = frozenset(
    {_HTTP_ID, _HTTP_METHOD, _HTTP_PATH, _HTTP_HOST, _HTTP_RAW_BODY}
)


def _walk_http(
    raw: bytes, span: Span, wanted: frozenset[bytes], request: _Request
) -> None:
    for number, wire_type, start, end in read_fields(raw, *span):
        if number in _HTTP_SCALARS and _is_len(wire_type):
            if number in request.scalars:
                raise RequestError("a singular field comes twice")
            request.scalars[number] = raw[start:end]
        elif number == _HTTP_HEADERS and _is_len(wire_type):
            key, value = _entry(raw, (start, end))
            if key in wanted:
                request.headers.setdefault(key, []).append(value)
        elif number == _HTTP_HEADER_MAP and _is_len(wire_type):
            _walk_header_map(raw, (start, end), wanted, request)
        elif number == _HTTP_SIZE:
            if wire_type != VARINT or request.size is not None:
                raise RequestError("request size is not one number")
            request.size = start


def _walk_header_map(
    raw: bytes, span: Span, wanted: frozenset[bytes], request: _Request
) -> None:
    for number, wire_type, start, end in read_fields(raw, *span):
        if number != _HEADER_MAP_HEADERS or not _is_len(wire_type):
            continue
        header = _scalars(
            raw, (start, end), {_HEADER_KEY, _HEADER_VALUE, _HEADER_RAW_VALUE}
        )
        key = header.get(_HEADER_KEY, b"")
        if key in wanted:
            if _HEADER_VALUE in header and _HEADER_RAW_VALUE in header:
                raise RequestError("a header has two kinds of value")
            value = header.get(_HEADER_RAW_VALUE, header.get(_HEADER_VALUE, b""))
            request.headers.setdefault(key, []).append(value)


def _scalars(raw: bytes, span: Span, wanted: set[int]) -> dict[int, bytes]:
    """Return the wanted singular length-delimited fields of one message."""
    found: dict[int, bytes] = {}
    for number, wire_type, start, end in read_fields(raw, *span):
        if number in wanted and _is_len(wire_type):
            if number in found:
                raise RequestError("a singular field comes twice")
            found[number] = raw[start:end]
    return found


def _entry(raw: bytes, span: Span) -> tuple[bytes, bytes]:
    """Return (key, value) of one ``map<string, string>`` entry."""
    entry = _scalars(raw, span, {_ENTRY_KEY, _ENTRY_VALUE})
    return entry.get(_ENTRY_KEY, b""), entry.get(_ENTRY_VALUE, b"")


def _address(raw: bytes) -> str:
    """Return ``host:port`` of a core.v3.Address; empty for anything but a socket."""
    spans = _messages(raw, (0, len(raw)), _SOCKET_ADDRESS)
    if not spans:
        return ""
    host, port = b"", 0
    for number, wire_type, start, end in read_fields(raw, *spans[0]):
        if number == _SOCKET_HOST and _is_len(wire_type):
            host = raw[start:end]
        elif number == _SOCKET_PORT and wire_type == VARINT:
            port = start
    text = host.decode("utf-8", "backslashreplace")
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _is_gated(request: _Request) -> bool:
    return request.extensions.get(_GATE_EXTENSION) == _GATE


def _is_grpc(content_types: list[bytes]) -> bool:
    """Return whether Envoy treats the request as gRPC.

    Same rule as Envoy's Grpc::Common::hasGrpcContentType: the type itself, or followed
    by ``+`` or ``;``. It only chooses the form of a denial.
    """
    value = content_types[0] if len(content_types) == 1 else b""
    return value.startswith(_GRPC) and value[len(_GRPC) :][:1] in {b"", b"+", b";"}


def _body(request: _Request, plan: Plan, path: bytes) -> Body:
    outline = plan.outlines.get(path)
    json_key = plan.json_models.get(path.partition(b"?")[0])
    if outline is None and json_key is None:
        return Body(BodyState.UNREAD)
    raw = request.scalars.get(_HTTP_RAW_BODY, b"")
    if not raw and _is_gated(request):
        # The gate gets it.
        return Body(BodyState.UNREAD)
    # Envoy says so itself when it cut the body; and says how long the body really was,
    # with -1 (a varint of 64 ones) for "unknown".
    is_marked = any(
        value != b"false" for value in request.headers.get(_PARTIAL_BODY, [])
    )
    is_short = request.size is not None and request.size not in {
        len(raw),
        0xFFFF_FFFF_FFFF_FFFF,
    }
    if raw and (is_marked or is_short):
        return Body(BodyState.PARTIAL)
    if outline is None:
        return _json_body(request, raw, json_key or "")
    codings = request.headers.get(_GRPC_ENCODING, [])
    encoding = codings[0] if len(codings) == 1 else b""
    return outline_body(raw, outline, encoding)


def _json_body(request: _Request, raw: bytes, key: str) -> Body:
    # RFC 9110 §8.4: a coding changes what the bytes mean, and `identity` is none.
    codings = request.headers.get(_CONTENT_ENCODING, [])
    if any(coding.lower() != b"identity" for coding in codings):
        return Body(BodyState.COMPRESSED)
    return outline_json(raw, key)
