"""Generated calls of Triton's gRPC methods: right ones, and mutations of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from differential.case import Case, Headers
from differential.messages import (
    INLINE,
    INPUT,
    RAW,
    entry,
    field,
    frame,
    number_field,
    oddly_numbered,
    oddly_typed,
    override,
    pack,
)
from differential.names import ODD_VERSIONS, VERSIONS, odd_name
from differential.repository import DOORS, NAMES

SERVICE: Final = b"/inference.GRPCInferenceService/"
TYPE: Final = (b"content-type", b"application/grpc")

_NAMED: Final = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
_NAMELESS: Final = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "RepositoryIndex",
    "LogSettings",
    "SystemSharedMemoryStatus",
    "CudaSharedMemoryStatus",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryUnregister",
    "SystemSharedMemoryRegister",
)
_METHODS: Final = {
    "ModelInfer": 40,
    "ModelStreamInfer": 6,
    **dict.fromkeys(_NAMED, 9),
    "RepositoryModelLoad": 3,
    "RepositoryModelUnload": 3,
    "TraceSetting": 9,
    "Health": 1,
    **dict.fromkeys(_NAMELESS, 1),
}


class _Message:
    """A message in the making: its fields, which hold what is to be confused."""

    def __init__(self, rng: random.Random, method: str) -> None:
        self.rng = rng
        self.method = method
        self.names = DOORS if method.startswith("RepositoryModel") else NAMES
        self.name_number = 2 if method in _NAME_IS_SECOND else 1
        self.version_number = 0 if method in _NAME_IS_SECOND else 2
        self.name = rng.choice(self.names).encode()
        self.fields = [field(self.name_number, self.name)]
        if self.version_number and rng.random() < 0.5:
            self.fields.append(field(2, rng.choice(VERSIONS)))
        self.fields += self._others()

    def _others(self) -> list[bytes]:
        rng = self.rng
        match self.method:
            case "ModelInfer" | "ModelStreamInfer":
                tensors = rng.choice([[INPUT, RAW], [INLINE]])
                if rng.random() < 0.2:
                    tensors.insert(0, field(3, b"an-id"))
                if rng.random() < 0.1:
                    tensors.append(entry(4, b"model_name", field(3, b"public")))
                return tensors
            case "RepositoryModelLoad" if rng.random() < 0.4:
                config = field(3, override(self.name.decode()))
                return [entry(3, b"config", config)]
            case "RepositoryModelUnload" if rng.random() < 0.5:
                value = number_field(1, rng.choice([0, 0, 1]))
                return [entry(3, b"unload_dependents", value)]
            case "TraceSetting" if rng.random() < 0.4:
                count = field(1, str(rng.randrange(1, 9)).encode())
                return [entry(1, b"trace_count", count)]
        return []

    def other_name(self) -> bytes:
        return field(self.name_number, self.rng.choice(self.names).encode())

    def replace(self, number: int, replacement: bytes) -> None:
        """Put `replacement` in the place of field `number`, or add it."""
        for i, one in enumerate(self.fields):
            if one[:1] == bytes((number << 3 | 2,)):
                self.fields[i] = replacement
                return
        self.insert(replacement)

    def insert(self, one: bytes) -> None:
        self.fields.insert(self.rng.randrange(len(self.fields) + 1), one)


_NAME_IS_SECOND: Final = {
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "TraceSetting",
}


def _duplicate_name(m: _Message) -> None:
    m.insert(m.other_name())


def _duplicate_version(m: _Message) -> None:
    m.insert(field(2, m.rng.choice(VERSIONS)))


def _empty_name(m: _Message) -> None:
    m.insert(field(m.name_number, b""))


def _only_empty_name(m: _Message) -> None:
    m.replace(m.name_number, m.rng.choice([b"", field(m.name_number, b"")]))


def _odd_name(m: _Message) -> None:
    m.replace(m.name_number, field(m.name_number, odd_name(m.rng, m.names)))


def _odd_version(m: _Message) -> None:
    m.replace(2, field(2, m.rng.choice(ODD_VERSIONS)))


def _shuffle(m: _Message) -> None:
    m.rng.shuffle(m.fields)


def _overlong(m: _Message) -> None:
    pads = {m.rng.choice(["tag_pad", "len_pad"]): m.rng.choice([1, 2, 4, 8])}
    name = m.rng.choice(m.names).encode()
    one = field(m.name_number, name, **pads)
    if m.rng.random() < 0.5:
        m.replace(m.name_number, one)
    else:
        m.insert(one)


def _wrong_type(m: _Message) -> None:
    number = m.rng.choice([m.name_number, 2, 3, 5])
    m.insert(oddly_typed(m.rng, number, m.other_name()))


def _wrong_number(m: _Message) -> None:
    m.insert(oddly_numbered(m.rng, m.name_number, m.rng.choice(m.names).encode()))


def _other_number(m: _Message) -> None:
    number = m.rng.choice([1, 2, 3])
    m.insert(field(number, m.rng.choice(m.names).encode()))


def _unknown(m: _Message) -> None:
    number = m.rng.choice([8, 15, 16, 99, 536870911])
    inside = m.rng.choice([m.other_name(), b"", b"\xff"])
    m.insert(field(number, inside))


def _many(m: _Message) -> None:
    # Just beside how many fields are read.
    count = m.rng.choice([4080, 4096, 4200])
    m.insert(b"\x80\x01\x00" * count)


def _nested_name(m: _Message) -> None:
    m.insert(field(m.rng.choice([4, 5, 6, 7, 20]), m.other_name()))


def _cut(m: _Message) -> None:
    whole = b"".join(m.fields)
    m.fields = [whole[: m.rng.randrange(len(whole))]] if whole else []


def _rest(m: _Message) -> None:
    m.fields.append(m.rng.choice([b"\x00", b"\x0a", b"\x0a\x05ec", b"\xff", b"\x0c"]))


def _flip(m: _Message) -> None:
    whole = bytearray(b"".join(m.fields))
    for _ in range(m.rng.choice([1, 1, 2])):
        if whole:
            whole[m.rng.randrange(len(whole))] = m.rng.randrange(256)
    m.fields = [bytes(whole)]


_MUTATIONS: Final[tuple[Callable[[_Message], None], ...]] = (
    _duplicate_name,
    _duplicate_version,
    _empty_name,
    _only_empty_name,
    _odd_name,
    _odd_name,
    _odd_version,
    _odd_version,
    _shuffle,
    _overlong,
    _wrong_type,
    _wrong_number,
    _other_number,
    _unknown,
    _many,
    _nested_name,
    _cut,
    _rest,
    _flip,
)

Framed = tuple[str, Headers, bytes]


def _frames(rng: random.Random, message: bytes, other: bytes) -> Framed:
    """Return (label, headers, body) of an odd framing of `message`."""
    kind = rng.randrange(9)
    if kind <= 3:
        label, encoding, packed = pack(rng, message)
        headers: Headers = ((b"grpc-encoding", encoding),) if encoding else ()
        if rng.random() < 0.1:
            headers += ((b"grpc-encoding", rng.choice([b"gzip", b"identity"])),)
            label += "+second-header"
        return label, headers, frame(packed, 1)
    if kind == 4:
        encoding = rng.choice([b"gzip", b"deflate", b"identity", b"br", b"snappy"])
        return "flag-0", ((b"grpc-encoding", encoding),), frame(message)
    return rng.choice(
        [
            ("two-frames", (), frame(message) + frame(other)),
            ("two-frames", (), frame(other) + frame(message)),
            ("empty-frame-first", (), frame(b"") + frame(message)),
            ("empty-frame-last", (), frame(message) + frame(b"")),
            ("trailing", (), frame(message) + rng.choice([b"\x00", b"rest", b"\n"])),
            ("length-less", (), frame(message, length=len(message) - 1)),
            ("length-more", (), frame(message, length=len(message) + 1)),
            ("length-wild", (), frame(message, length=rng.getrandbits(32))),
            ("length-only", (), frame(message, length=0)),
            ("flag-odd", (), frame(message, rng.choice([2, 3, 128, 255]))),
            ("flag-1", (), frame(message, 1)),
            ("no-frame", (), message),
            ("no-body", (), b""),
            ("half-frame", (), frame(message)[:4]),
        ]
    )


def _odd_path(rng: random.Random, path: bytes) -> bytes:
    method = path.rpartition(b"/")[2]
    return rng.choice(
        [
            path.lower(),
            path + b"/",
            path + b"?x=1",
            path + b"?",
            path + b"#x",
            b"/" + path,
            path.replace(b"/", b"//"),
            path[1:],
            path.replace(b"M", b"%4d"),
            path.replace(b"/Model", b"/./Model"),
            path.replace(b".", b"%2e"),
            b"/x/.." + path,
            path + b" ",
            path + b"\x00",
            b"/Inference.GRPCInferenceService/" + method,
            b"/inference.GRPCInferenceService/" + method.swapcase(),
            b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            b"/grpc.health.v1.Health/Watch",
            b"http://any" + path,
            b"*",
        ]
    )


def _odd_headers(rng: random.Random) -> Headers:
    content_type = rng.choice(
        [
            b"application/grpc+proto",
            b"application/grpc;charset=utf-8",
            b"application/grpc-web",
            b"application/json",
            b"APPLICATION/GRPC",
            b"",
        ]
    )
    return rng.choice(
        [
            ((b"content-type", content_type),),
            (),
            (TYPE, TYPE),
            (TYPE, (b"x-model", b"public")),
            (TYPE, (b"content-encoding", b"gzip")),
            (TYPE, (b"content-length", b"3")),
            (TYPE, (b"grpc-accept-encoding", b"gzip")),
            (TYPE, (b"x-envoy-auth-partial-body", b"false")),
            (TYPE, (b"x-envoy-original-path", SERVICE + b"ServerLive")),
        ]
    )


def grpc_case(rng: random.Random) -> Case:
    """Return a call that is right one time in three."""
    method = rng.choices(list(_METHODS), list(_METHODS.values()))[0]
    path = SERVICE + method.encode()
    labels = [method]
    if method == "Health":
        path, message = b"/grpc.health.v1.Health/Check", b""
    elif method in _NAMELESS:
        message = rng.choice([b"", b"", field(1, rng.choice(NAMES).encode())])
    else:
        making = _Message(rng, method)
        for _ in range(rng.choice([0, 0, 0, 1, 1, 1, 1, 2, 2, 3])):
            mutate = rng.choice(_MUTATIONS)
            mutate(making)
            labels.append(mutate.__name__.strip("_").replace("_", "-"))
        message = b"".join(making.fields)
    headers: Headers = (TYPE,)
    body, verb = frame(message), b"POST"
    if method == "ModelStreamInfer":
        more = [b"".join(_Message(rng, method).fields) for _ in range(rng.randrange(3))]
        body += b"".join(map(frame, more))
    odd = rng.random()
    if odd < 0.2:
        other = b"".join(_Message(rng, "ModelInfer").fields)
        label, more_headers, body = _frames(rng, message, other)
        headers += more_headers
        labels.append(label)
    elif odd < 0.24:
        path = _odd_path(rng, path)
        labels.append("odd-path")
    elif odd < 0.28:
        headers = _odd_headers(rng)
        labels.append("odd-headers")
    elif odd < 0.30:
        verb = rng.choice([b"GET", b"PUT", b"post", b"DELETE", b"OPTIONS", b"PATCH"])
        labels.append("odd-method")
    cuts: tuple[int, ...] = ()
    if body and rng.random() < 0.2:
        cuts = tuple(sorted(rng.choices(range(len(body)), k=rng.randrange(1, 4))))
    crossed = rng.random() < 0.1
    return Case(
        is_grpc=True,
        method=verb,
        path=path,
        headers=headers,
        body=body,
        cuts=cuts,
        is_crossed=crossed,
        labels=tuple(labels),
    )
