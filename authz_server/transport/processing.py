"""The messages of Envoy's external processing service, as far as a gate needs them.

Definitions: envoy/service/ext_proc/v3/external_processor.proto. Read by `wire`, so that
a chunk of tensors is not copied into objects.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from authz_server.errors import RequestError
from authz_server.facts.struct_value import text_in
from authz_server.response import GATE_FACTS
from authz_server.wire import LEN, VARINT, read_fields

# ProcessingRequest
_REQUEST_HEADERS: Final = 2
_RESPONSE_HEADERS: Final = 3
_REQUEST_BODY: Final = 4
_RESPONSE_BODY: Final = 5
_REQUEST_TRAILERS: Final = 6
_RESPONSE_TRAILERS: Final = 7
_METADATA_CONTEXT: Final = 8
# HttpHeaders.headers, HttpBody.body
_CONTENT: Final = 1
# config.core.v3: HeaderMap, HeaderValue
_HEADER_MAP_HEADERS: Final = 1
_HEADER_KEY: Final = 1
_HEADER_VALUE: Final = 2
_HEADER_RAW_VALUE: Final = 3
# config.core.v3.Metadata and its map entries
_FILTER_METADATA: Final = 1
_ENTRY_KEY: Final = 1
_ENTRY_VALUE: Final = 2

_EXT_AUTHZ: Final = b"envoy.filters.http.ext_authz"
_REQUEST_ID: Final = b"x-request-id"
_MAX_REQUEST_ID_BYTES: Final = 128


class Part(enum.Enum):
    """Which part of a call Envoy asks about, by its field number."""

    REQUEST_HEADERS = _REQUEST_HEADERS
    REQUEST_BODY = _REQUEST_BODY
    REQUEST_TRAILERS = _REQUEST_TRAILERS
    RESPONSE_HEADERS = _RESPONSE_HEADERS
    RESPONSE_BODY = _RESPONSE_BODY
    RESPONSE_TRAILERS = _RESPONSE_TRAILERS


_HEADERS: Final = frozenset({Part.REQUEST_HEADERS, Part.RESPONSE_HEADERS})
_TRAILERS: Final = frozenset({Part.REQUEST_TRAILERS, Part.RESPONSE_TRAILERS})
_PARTS: Final = frozenset(part.value for part in Part)


@dataclass(frozen=True, slots=True)
class Processing:
    """One question of Envoy's.

    Attributes:
        facts: what the check before handed on; empty if nothing did.
        body: a chunk of a body.
        is_last: whether request or response ends with this part.
        headers: by lower-case name; of several of one name the last.
    """

    part: Part
    facts: bytes = b""
    body: bytes = b""
    is_last: bool = False
    headers: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        """The request's ID for the audit trail; empty if it has none."""
        value = self.headers.get(_REQUEST_ID, b"")[:_MAX_REQUEST_ID_BYTES]
        return value.decode("utf-8", "backslashreplace")


def read_processing(raw: bytes) -> Processing:
    """Return the question in `raw`, a ProcessingRequest.

    Raises:
        RequestError: if it is none about one part of a call.
    """
    found = {
        number: raw[start:end]
        for number, wire_type, start, end in read_fields(raw, 0, len(raw))
        if wire_type == LEN
    }
    parts = found.keys() & _PARTS
    if len(parts) != 1:
        raise RequestError("the gate judges one part of a call at a time")
    part = Part(parts.pop())
    content = found[part.value]
    facts = _facts_in(found.get(_METADATA_CONTEXT, b""))
    if part in _TRAILERS:
        return Processing(part, facts, is_last=True)
    is_last, value = False, b""
    end_of_stream = 3 if part in _HEADERS else 2
    for number, wire_type, start, end in read_fields(content, 0, len(content)):
        if number == end_of_stream and wire_type == VARINT:
            is_last = bool(start)
        elif number == _CONTENT and wire_type == LEN:
            value = content[start:end]
    if part in _HEADERS:
        return Processing(part, facts, b"", is_last, _headers_in(value))
    return Processing(part, facts, value, is_last)


def _facts_in(metadata: bytes) -> bytes:
    for number, wire_type, start, end in read_fields(metadata, 0, len(metadata)):
        if number != _FILTER_METADATA or wire_type != LEN:
            continue
        entry = _scalars(metadata[start:end])
        if entry.get(_ENTRY_KEY) == _EXT_AUTHZ:
            text = text_in(entry.get(_ENTRY_VALUE, b""), GATE_FACTS)
            try:
                return base64.b64decode(text, validate=True)
            except (ValueError, binascii.Error) as error:
                raise RequestError("the facts of the check are not Base64") from error
    return b""


def _headers_in(headers: bytes) -> Mapping[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for number, wire_type, start, end in read_fields(headers, 0, len(headers)):
        if number == _HEADER_MAP_HEADERS and wire_type == LEN:
            header = _scalars(headers[start:end])
            value = header.get(_HEADER_RAW_VALUE) or header.get(_HEADER_VALUE, b"")
            found[header.get(_HEADER_KEY, b"")] = value
    return found


def _scalars(raw: bytes) -> dict[int, bytes]:
    return {
        number: raw[start:end]
        for number, wire_type, start, end in read_fields(raw, 0, len(raw))
        if wire_type == LEN
    }
