"""The CheckRequest of Envoy as values, in the form that opa-envoy-plugin gives it.

Messages and numbers: envoy/service/auth/v3/external_auth.proto,
attribute_context.proto and what they import. The form is the plugin's: names are those
of protobuf's JSON, only what is populated is there, and values are what reflection
shows: numbers as numbers (64-bit ones too), an enumeration as its number, a timestamp
as its two fields. Bytes stay bytes here.

One table a message drives the walk. What is not wanted is skipped without a look
inside. But a singular field, a key of a map or a choice that comes twice is refused
wherever the walk gets to, wanted or not, since readers differ in what they take.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_server.errors import RequestError
from authz_server.facts.struct_value import read_struct
from authz_server.wire import LEN, VARINT, read_fields

Wanted = Mapping[str, Any] | None
"""A tree of wanted keys; None for all that there is, empty for that it is there."""

Span = tuple[int, int]


class Kind(enum.Enum):
    """What the value of a field is."""

    TEXT = enum.auto()
    BYTES = enum.auto()
    BOOL = enum.auto()
    UINT32 = enum.auto()
    INT32 = enum.auto()
    INT64 = enum.auto()
    MESSAGE = enum.auto()
    STRUCT = enum.auto()
    """google.protobuf.Struct, as the object that it stands for."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One field of a message.

    Attributes:
        name: its name in protobuf's JSON.
        kind: of the value; of one entry, if there are several.
        message: the table of a MESSAGE.
        is_map: whether it is a map with text for keys.
        is_repeated: whether it is a list.
        choice: the ``oneof`` it belongs to. Its members are there even with a zero.
    """

    name: str
    kind: Kind = Kind.TEXT
    message: Table | None = None
    is_map: bool = False
    is_repeated: bool = False
    choice: str = ""


Table = Mapping[int, Slot]


def _message(name: str, table: Table, *, choice: str = "") -> Slot:
    return Slot(name, Kind.MESSAGE, table, choice=choice)


_TIMESTAMP: Final[Table] = {
    1: Slot("seconds", Kind.INT64),
    2: Slot("nanos", Kind.INT32),
}
_ANY: Final[Table] = {1: Slot("typeUrl"), 2: Slot("value", Kind.BYTES)}
_METADATA: Final[Table] = {
    1: Slot("filterMetadata", Kind.STRUCT, is_map=True),
    2: Slot("typedFilterMetadata", Kind.MESSAGE, _ANY, is_map=True),
}
_SOCKET_ADDRESS: Final[Table] = {
    1: Slot("protocol", Kind.INT32),
    2: Slot("address"),
    3: Slot("portValue", Kind.UINT32, choice="port"),
    4: Slot("namedPort", choice="port"),
    5: Slot("resolverName"),
    6: Slot("ipv4Compat", Kind.BOOL),
    7: Slot("networkNamespaceFilepath"),
}
_PIPE: Final[Table] = {1: Slot("path"), 2: Slot("mode", Kind.UINT32)}
_INTERNAL_ADDRESS: Final[Table] = {
    1: Slot("serverListenerName", choice="name"),
    2: Slot("endpointId"),
}
_ADDRESS: Final[Table] = {
    1: _message("socketAddress", _SOCKET_ADDRESS, choice="address"),
    2: _message("pipe", _PIPE, choice="address"),
    3: _message("envoyInternalAddress", _INTERNAL_ADDRESS, choice="address"),
}
_PEER: Final[Table] = {
    1: _message("address", _ADDRESS),
    2: Slot("service"),
    3: Slot("labels", is_map=True),
    4: Slot("principal"),
    5: Slot("certificate"),
}
_HEADER_VALUE: Final[Table] = {
    1: Slot("key"),
    2: Slot("value"),
    3: Slot("rawValue", Kind.BYTES),
}
_HEADER_MAP: Final[Table] = {
    1: Slot("headers", Kind.MESSAGE, _HEADER_VALUE, is_repeated=True)
}
_HTTP: Final[Table] = {
    1: Slot("id"),
    2: Slot("method"),
    3: Slot("headers", is_map=True),
    4: Slot("path"),
    5: Slot("host"),
    6: Slot("scheme"),
    7: Slot("query"),
    8: Slot("fragment"),
    9: Slot("size", Kind.INT64),
    10: Slot("protocol"),
    11: Slot("body"),
    12: Slot("rawBody", Kind.BYTES),
    13: _message("headerMap", _HEADER_MAP),
}
_REQUEST: Final[Table] = {1: _message("time", _TIMESTAMP), 2: _message("http", _HTTP)}
_ATTRIBUTES: Final[Table] = {
    1: _message("source", _PEER),
    2: _message("destination", _PEER),
    4: _message("request", _REQUEST),
    10: Slot("contextExtensions", is_map=True),
    11: _message("metadataContext", _METADATA),
    12: _message("tlsSession", {1: Slot("sni")}),
    13: _message("routeMetadataContext", _METADATA),
}
_CHECK_REQUEST: Final[Table] = {1: _message("attributes", _ATTRIBUTES)}

_WIRE_TYPES: Final = {
    Kind.TEXT: LEN,
    Kind.BYTES: LEN,
    Kind.MESSAGE: LEN,
    Kind.STRUCT: LEN,
    Kind.BOOL: VARINT,
    Kind.UINT32: VARINT,
    Kind.INT32: VARINT,
    Kind.INT64: VARINT,
}
_NUMBER_BITS: Final = {Kind.UINT32: 32, Kind.INT32: 32, Kind.INT64: 64}


def read_check_request(raw: bytes, wanted: Wanted) -> dict[str, Any]:
    """Return the wanted part of a CheckRequest.

    Raises:
        RequestError: if what the walk gets to see is not well-formed.
    """
    return _read(raw, (0, len(raw)), _CHECK_REQUEST, wanted)


def _read(raw: bytes, span: Span, table: Table, wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, spans in _fields(raw, span, table).items():
        slot = table[number]
        if wanted is not None and slot.name not in wanted:
            continue
        below = None if wanted is None else wanted[slot.name]
        if slot.is_map:
            found[slot.name] = _map(raw, spans, slot, below)
        elif slot.is_repeated:
            # The positions of a list are never told apart.
            values = [_value(raw, each, slot, None) for each in spans]
            found[slot.name] = narrowed(values, below)
        elif slot.kind is Kind.MESSAGE:
            found[slot.name] = _value(raw, spans[0], slot, below)
        else:
            value = _value(raw, spans[0], slot, None)
            # proto3: a zero without a choice around it is as good as absent.
            if value or slot.choice:
                found[slot.name] = narrowed(value, below)
    return found


def _fields(raw: bytes, span: Span, table: Table) -> dict[int, list[Span]]:
    """Return where each field of a message lies; of a varint, (value, 0)."""
    found: dict[int, list[Span]] = {}
    chosen: set[str] = set()
    for number, wire_type, start, end in read_fields(raw, *span):
        slot = table.get(number)
        if slot is None:
            continue
        if wire_type != (LEN if slot.is_map else _WIRE_TYPES[slot.kind]):
            raise RequestError("field has another wire type than its definition")
        spans = found.setdefault(number, [])
        is_several = slot.is_map or slot.is_repeated
        if (spans and not is_several) or slot.choice in chosen:
            raise RequestError("a singular field comes twice")
        spans.append((start, end))
        if slot.choice:
            chosen.add(slot.choice)
    return found


def narrowed(value: Any, wanted: Wanted) -> Any:  # noqa: ANN401 - any JSON value
    """Return the wanted part of `value`.

    What is on the way to something wanted stays even if that is not there, as an empty
    object, or as null if it is no object: asked for any wanted key, neither answers
    otherwise than the value itself would.
    """
    if wanted is None:
        return value
    if not isinstance(value, dict):
        return None
    return {
        key: narrowed(value[key], below)
        for key, below in wanted.items()
        if key in value
    }


def _map(raw: bytes, spans: list[Span], slot: Slot, wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {}
    keys: set[bytes] = set()
    for span in spans:
        key, value = _entry(raw, span)
        if key in keys:
            raise RequestError("a map has a key twice")
        keys.add(key)
        name = _text(key)
        if wanted is None or name in wanted:
            below = None if wanted is None else wanted[name]
            found[name] = narrowed(_value(raw, value, slot, below), below)
    return found


def _entry(raw: bytes, span: Span) -> tuple[bytes, Span]:
    """Return the key of a map's entry, and where its value lies."""
    key, value = b"", (0, 0)
    seen: set[int] = set()
    for number, wire_type, start, end in read_fields(raw, *span):
        if number not in {1, 2}:
            continue
        if wire_type != LEN or number in seen:
            raise RequestError("a map has an entry that is none")
        seen.add(number)
        if number == 1:
            key = raw[start:end]
        else:
            value = (start, end)
    return key, value


def _value(raw: bytes, span: Span, slot: Slot, wanted: Wanted) -> Any:  # noqa: ANN401
    if slot.kind is Kind.MESSAGE:
        return _read(raw, span, slot.message or {}, wanted)
    if slot.kind is Kind.STRUCT:
        return read_struct(raw, *span, 0)
    if slot.kind is Kind.TEXT:
        return _text(raw[span[0] : span[1]])
    if slot.kind is Kind.BYTES:
        return raw[span[0] : span[1]]
    return _number(span[0], slot.kind)


def _number(varint: int, kind: Kind) -> int:
    if kind is Kind.BOOL:
        if varint > 1:
            raise RequestError("a boolean is neither true nor false")
        return bool(varint)
    bits = _NUMBER_BITS[kind]
    if kind is Kind.UINT32:
        value, is_good = varint, varint < 1 << bits
    else:
        # Negative numbers are written as 64 bits, whatever the field's own size.
        value = varint - (1 << 64) if varint >= 1 << 63 else varint
        is_good = -(1 << bits - 1) <= value < 1 << bits - 1
    if not is_good:
        raise RequestError("a number is out of its field's range")
    return value


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        # Without its cause, which holds the text.
        raise RequestError("text is not UTF-8") from None
