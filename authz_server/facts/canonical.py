"""Facts as one canonical byte string, and back.

The bytes are the key of the decision cache *and* the only thing the later stages see,
so the key cannot miss an input. Layout (all integers big-endian):

    u8 version | 8 scalars | u8 flags | headers | credentials | signals | body

    scalar   u32 length, bytes
    headers  u16 count, then each: scalar name, u16 count, scalars
    flags    1 is_grpc, 2 is_gated
    credentials, signals  as headers
    body     u8 state, u16 count, then each field: u32 number, scalar

Every part is length-prefixed, so different facts cannot spell the same bytes.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final, Self

_VERSION: Final = 4
_IS_GRPC: Final = 1
_IS_GATED: Final = 2
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_u16: Final = _U16.unpack_from
_u32: Final = _U32.unpack_from


Headers = tuple[tuple[str, tuple[bytes, ...]], ...]
"""(name, every value that came) of headers, in the plan's order."""


class BodyState(enum.IntEnum):
    """What is known of the request's body."""

    UNREAD = 0
    """No decision about this path depends on the body."""
    ABSENT = 1
    PARTIAL = 2
    COMPRESSED = 3
    MALFORMED = 4
    COMPLETE = 5
    """Exactly one whole message, read to its last byte."""


@dataclass(frozen=True, slots=True)
class Body:
    """The outline of a gRPC message, or of a JSON body as such a message.

    Attributes:
        fields: (number, value) of the kept fields in order of appearance; empty unless
            `state` is COMPLETE.
    """

    state: BodyState
    fields: tuple[tuple[int, bytes], ...] = ()

    def value(self, number: int) -> bytes:
        """Return the value of singular field `number`; empty if it is not there."""
        for key, value in self.fields:
            if key == number:
                return value
        return b""

    def values(self, number: int) -> tuple[bytes, ...]:
        """Return every entry of repeated field `number`."""
        return tuple(value for key, value in self.fields if key == number)

    def has(self, number: int) -> bool:
        """Return whether field `number` is there."""
        return any(key == number for key, _ in self.fields)


_BARE_BODIES: Final = tuple(Body(state) for state in BodyState)
"""By number: most requests have nothing of a body, and a new object costs a while."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision may depend on. Values are raw bytes: nothing is decoded yet.

    Attributes:
        principal: Envoy's `source.principal`, unverified.
        certificate: Envoy's `source.certificate`, percent-encoded PEM of the leaf.
        destination: `destination.principal`, the identity of the proxy's own workload.
        upstream: the route's `context_extensions["upstream"]`.
        is_grpc: whether Envoy will translate a denial into a gRPC status.
        headers: the planned headers that are present, with all their values.
        credentials: the same of the headers that tell who calls, secrets among them:
            for `identity` alone.
        signals: the same of the headers that tell what the call does.
        is_gated: whether the route has every message judged (`ext_proc`).
        claims: what jwt_authn verified, as JSON with sorted keys; empty if nothing.
        document: the input of a policy that is written for opa-envoy-plugin, JSON;
            empty if the plan asks for none.
    """

    principal: bytes
    certificate: bytes
    destination: bytes
    upstream: bytes
    method: bytes
    path: bytes
    host: bytes
    is_grpc: bool
    headers: Headers
    body: Body
    credentials: Headers = field(default=(), repr=False)
    claims: bytes = field(default=b"", repr=False)
    signals: Headers = ()
    is_gated: bool = False
    document: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        parts = [bytes((_VERSION,))]
        for scalar in (
            self.principal,
            self.certificate,
            self.destination,
            self.upstream,
            self.method,
            self.path,
            self.host,
            self.claims,
            self.document,
        ):
            parts += (_U32.pack(len(scalar)), scalar)
        flags = self.is_grpc * _IS_GRPC | self.is_gated * _IS_GATED
        parts.append(bytes((flags,)))
        for headers in (self.headers, self.credentials, self.signals):
            parts.append(_U16.pack(len(headers)))
            for name, values in headers:
                encoded = name.encode("ascii")
                parts += (_U32.pack(len(encoded)), encoded, _U16.pack(len(values)))
                for value in values:
                    parts += (_U32.pack(len(value)), value)
        parts += (bytes((self.body.state,)), _U16.pack(len(self.body.fields)))
        for number, value in self.body.fields:
            parts += (_U32.pack(number), _U32.pack(len(value)), value)
        return b"".join(parts)

    @classmethod
    def decode(cls, key: bytes) -> Self:
        """Return the facts that `key` spells.

        Only bytes that `encode` made are ever given, so anything else is a bug.

        Raises:
            ValueError: if `key` is not canonical facts.
        """
        try:
            if key[0] != _VERSION:
                raise ValueError("facts of another version")
            scalars, at = _scalars(key, 1, 7)
            principal, certificate, destination, upstream, method, path, host = scalars
            (claims, document), at = _scalars(key, at, 2)
            flags = key[at]
            headers, at = _headers(key, at + 1)
            credentials, at = _headers(key, at)
            signals, at = _headers(key, at)
            body, at = _body(key, at)
        except (struct.error, IndexError) as error:
            raise ValueError("facts are cut off") from error
        if at != len(key):
            raise ValueError("facts are cut off, or have trailing bytes")
        return cls(
            principal=principal,
            certificate=certificate,
            destination=destination,
            upstream=upstream,
            method=method,
            path=path,
            host=host,
            is_grpc=flags & _IS_GRPC != 0,
            headers=headers,
            body=body,
            credentials=credentials,
            claims=claims,
            signals=signals,
            is_gated=flags & _IS_GATED != 0,
            document=document,
        )


@dataclass(frozen=True, slots=True)
class Annotations:
    """What the audit trail wants beside the facts. No policy can see it.

    Attributes:
        request_id: Envoy's id of the request.
        source: address and port of the peer, ``ip:port``.
    """

    request_id: str = ""
    source: str = ""


# Every decision that is not remembered is read here, so these functions pass a position
# on instead of keeping a cursor. A slice past the end is short and no error: then the
# next integer is missing, or the end is not where it should be.


def _scalars(key: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Return `count` scalars from `at` on, and where the last one ends."""
    found = []
    for _ in range(count):
        begin = at + 4
        at = begin + _u32(key, at)[0]
        found.append(key[begin:at])
    return found, at


def _headers(key: bytes, at: int) -> tuple[Headers, int]:
    count = _u16(key, at)[0]
    at += 2
    if not count:
        return (), at
    found = []
    for _ in range(count):
        (name,), at = _scalars(key, at, 1)
        values, at = _scalars(key, at + 2, _u16(key, at)[0])
        found.append((name.decode("ascii"), tuple(values)))
    return tuple(found), at


def _body(key: bytes, at: int) -> tuple[Body, int]:
    bare = _BARE_BODIES[key[at]]
    count = _u16(key, at + 1)[0]
    at += 3
    if not count:
        return bare, at
    fields = []
    for _ in range(count):
        number = _u32(key, at)[0]
        (value,), at = _scalars(key, at + 4, 1)
        fields.append((number, value))
    return Body(bare.state, tuple(fields)), at
