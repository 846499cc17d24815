"""Generated requests for Triton's HTTP routes: right ones, and mutations of them."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Final

from differential.case import Case, Headers
from differential.messages import override
from differential.names import ODD_VERSIONS, VERSIONS, odd_name
from differential.repository import DOORS, NAMES

_INFER: Final = json.dumps(
    {
        # No field of Triton's: the path names the model.
        "model_name": "public",
        "inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [7]}],
    }
).encode()
_GENERATE: Final = b'{"model_name":"public","IN":7}'

_VERBS: Final = {
    b"infer": 10,
    b"generate": 3,
    b"generate_stream": 2,
    b"ready": 4,
    b"config": 4,
    b"stats": 4,
    b"trace/setting": 4,
    b"": 5,
}
_OTHERS: Final = (
    (b"GET", b"/v2/models/stats"),
    (b"GET", b"/v2/models/stats"),
    (b"GET", b"/v2/logging"),
    (b"POST", b"/v2/logging"),
    (b"GET", b"/v2"),
    (b"GET", b"/v2/health/live"),
    (b"GET", b"/v2/health/ready"),
    (b"GET", b"/v2/systemsharedmemory/status"),
    (b"GET", b"/v2/cudasharedmemory/status"),
    (b"GET", b"/v2/systemsharedmemory/region/x/status"),
    (b"POST", b"/v2/systemsharedmemory/unregister"),
    (b"POST", b"/v2/systemsharedmemory/region/x/unregister"),
    (b"POST", b"/v2/cudasharedmemory/unregister"),
    (b"POST", b"/v2/repository/index"),
    (b"POST", b"/v2/repository/x/index"),
    (b"GET", b"/v2/trace/setting"),
    (b"POST", b"/v2/trace/setting"),
    (b"GET", b"/metrics"),
    (b"POST", b"/v1/models/echo:predict"),
)
_METHODS: Final = (b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"PATCH", b"OPTIONS")
_ODD_METHODS: Final = (*_METHODS, b"get", b"Post", b"TRACE", b"PROPFIND", b"X")


def _right(rng: random.Random) -> tuple[str, bytes, bytes, bytes]:
    """Return (label, method, path, body) of a good request."""
    kind = rng.random()
    if kind < 0.12:
        method, path = rng.choice(_OTHERS)
        return path.decode(), method, path, b"{}" if method == b"POST" else b""
    if kind < 0.17:
        name, verb = rng.choice(DOORS), rng.choice([b"load", b"unload"])
        body = b"{}"
        if rng.random() < 0.3:
            config = override(name).decode()
            parameters = {"config": config, "unload_dependents": True}
            key = "config" if verb == b"load" else "unload_dependents"
            body = json.dumps({"parameters": {key: parameters[key]}}).encode()
        path = b"/v2/repository/models/" + name.encode() + b"/" + verb
        return verb.decode(), b"POST", path, body
    verb = rng.choices(list(_VERBS), list(_VERBS.values()))[0]
    path = b"/v2/models/" + rng.choice(NAMES).encode()
    if rng.random() < 0.5 and verb != b"trace/setting":
        path += b"/versions/" + rng.choice(VERSIONS)
    if verb:
        path += b"/" + verb
    if verb in {b"infer", b"generate", b"generate_stream"}:
        return verb.decode(), b"POST", path, _INFER if verb == b"infer" else _GENERATE
    if verb == b"trace/setting" and rng.random() < 0.4:
        return "trace-write", b"POST", path, b'{"trace_count":"5"}'
    return verb.decode() or "metadata", b"GET", path, b""


def _segment(rng: random.Random, path: bytes, part: bytes) -> bytes:
    """Return `path` with another model's name in the place of its own, or a version."""
    pieces = path.split(b"/")
    at = [i for i in range(1, len(pieces)) if pieces[i - 1] == part]
    if not at:
        return path + b"/"
    odd = (
        odd_name(rng, NAMES)
        if part == b"models"
        else rng.choice([*ODD_VERSIONS, b"1/versions/2", b"", b"1/2"])
    )
    pieces[at[0]] = odd
    return b"/".join(pieces)


_QUERIES: Final = (
    b"?",
    b"?x",
    b"?model=public",
    b"?/v2/models/public/infer",
    b"?a?b",
    b"?x=%2e%2e",
    b"?\xff",
    b"?%00",
    b"?x#y",
)


def _odd_name(rng: random.Random, path: bytes) -> bytes:
    return _segment(rng, path, b"models")


def _odd_version(rng: random.Random, path: bytes) -> bytes:
    return _segment(rng, path, b"versions")


def _encoded(rng: random.Random, path: bytes) -> bytes:
    spot = rng.randrange(1, len(path))
    encoded = rng.choice([b"%%%02x", b"%%%02X"]) % path[spot]
    return path[:spot] + encoded + path[spot + 1 :]


def _byte(rng: random.Random, path: bytes) -> bytes:
    spot = rng.randrange(1, len(path))
    return path[:spot] + rng.randbytes(1) + path[spot + rng.randrange(2) :]


_SLASHES: Final = (
    b"// /./ /../ /%2e%2e/ \\ /;/ /.;/ %2f %5c /..;/ /x/../ /.%2e/".split()
)


def _slash(rng: random.Random, path: bytes) -> bytes:
    at = rng.choice([i for i, byte in enumerate(path) if byte == ord("/")] or [0])
    return path[:at] + rng.choice(_SLASHES) + path[at + 1 :]


def _query(rng: random.Random, path: bytes) -> bytes:
    return path + rng.choice(_QUERIES)


_AUTHORITIES: Final = (b"http://any", b"ftp://any", b"//any", b"http://", b"any:80")


def _absolute(rng: random.Random, path: bytes) -> bytes:
    return rng.choice(_AUTHORITIES) + path


_ENDS: Final = (
    b"\t",
    *b"/ // . %20 %00 # ;x /. /.. % %0a /infer /ready /config /stats \\ ~".split(),
)


def _end(rng: random.Random, path: bytes) -> bytes:
    return path + rng.choice(_ENDS)


def _case(rng: random.Random, path: bytes) -> bytes:
    return rng.choice([path.upper(), path.title(), path.swapcase()])


def _walk(rng: random.Random, path: bytes) -> bytes:
    other = rng.choice(NAMES).encode()
    return path + b"/../../" + other + rng.choice([b"", b"/infer"])


def _walk_inside(rng: random.Random, path: bytes) -> bytes:
    other = rng.choice(NAMES).encode()
    return path.replace(b"/v2/models/", b"/v2/models/" + other + b"/../", 1)


def _prefix(rng: random.Random, path: bytes) -> bytes:
    return rng.choice([b"/x", b"/v2", b"/V2", b"/v2/.."]) + path


def _cut(rng: random.Random, path: bytes) -> bytes:
    return path[: rng.randrange(1, len(path))]


_MUTATIONS: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (
    *(_odd_name, _odd_name, _odd_name, _odd_version, _odd_version, _encoded, _byte),
    *(_slash, _query, _absolute, _end, _case, _walk, _walk_inside, _prefix, _cut),
)


def _mutate_body(rng: random.Random, body: bytes) -> tuple[str, Headers, bytes]:
    length = str(len(body)).encode()
    binary = json.dumps(
        {
            "inputs": [
                {
                    "name": "IN",
                    "datatype": "INT32",
                    "shape": [1],
                    "parameters": {"binary_data_size": 4},
                }
            ]
        }
    ).encode()
    count = str(len(binary)).encode()
    return rng.choice(
        [
            ("gzip", ((b"content-encoding", b"gzip"),), gzip.compress(body, mtime=0)),
            ("deflate", ((b"content-encoding", b"deflate"),), zlib.compress(body)),
            (
                "binary",
                ((b"inference-header-content-length", count),),
                binary + b"\x07\x00\x00\x00",
            ),
            (
                "raw-binary",
                ((b"inference-header-content-length", b"0"),),
                b"\x07\x00\x00\x00",
            ),
            ("no-body", (), b""),
            ("two-lengths", ((b"content-length", length),) * 2, body),
            (
                "chunked",
                ((b"transfer-encoding", b"chunked"),),
                b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
            ),
        ]
    )


_ODD_HEADERS: Final[tuple[Headers, ...]] = (
    ((b"x-http-method-override", b"POST"),),
    ((b"x-original-url", b"/v2/models/secret"),),
    ((b"x-rewrite-url", b"/v2/models/secret"),),
    ((b"x-envoy-original-path", b"/v2/models/public"),),
    ((b"x-amzn-sagemaker-target-model", b"secret"),),
    ((b"x-vertex-ai-triton-redirect", b"v2/models/secret/infer"),),
    ((b"x-model", b"public"),),
    ((b"content-type", b"application/grpc"),),
    ((b"upgrade", b"h2c"), (b"connection", b"upgrade")),
    ((b"expect", b"100-continue"),),
)


def http_case(rng: random.Random) -> Case:
    """Return a request that is right one time in three."""
    label, method, path, body = _right(rng)
    labels = [label]
    headers: Headers = ()
    for _ in range(rng.choice([0, 0, 0, 1, 1, 1, 1, 1, 2])):
        kind = rng.random()
        if kind < 0.7:
            mutate = rng.choice(_MUTATIONS)
            path = mutate(rng, path if len(path) > 1 else b"/v2")
            label = mutate.__name__.strip("_").replace("_", "-")
        elif kind < 0.8:
            method, label = rng.choice(_ODD_METHODS), "odd-method"
        elif kind < 0.9 and body:
            label, headers, body = _mutate_body(rng, body)
        else:
            headers, label = rng.choice(_ODD_HEADERS), "odd-headers"
        labels.append(label)
    crossed = rng.random() < 0.5
    return Case(
        is_grpc=False,
        method=method,
        path=path,
        headers=headers,
        body=body,
        is_crossed=crossed,
        labels=tuple(labels),
    )
