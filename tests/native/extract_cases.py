"""CheckRequests of every kind, and bytes that nearly are one: for comparing extractors.

A request is built as a tree of fields, broken as a tree (fields twice, gone, moved, of
another type), written, and broken once more as bytes. The same seed gives the same.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import struct
import zlib
from collections.abc import Iterator

from checks import CAMERA, INFER, frame

from authz_server.facts import Keep, Plan
from authz_server.facts.input_paths import InputPaths
from authz_server.operations.openai import JSON_MODELS
from authz_server.operations.triton_grpc import OUTLINES, STREAM

LEN = 2
Value = int | bytes | list["Field"]
Field = tuple[int, int, Value]
"""(number, wire type, value); a list is a message."""

ODD_PATH = b"/odd.Service/Method"
EACH_PATH = b"/odd.Service/Each"
ODD_OUTLINE = {1: Keep.VALUE, 2: Keep.EACH, 3: Keep.PRESENCE, 15: Keep.EACH}

PLANS = (
    Plan(
        headers=("x-line", "x-role"),
        credentials=("authorization", "x-forwarded-client-cert"),
        signals=("grpc-encoding", "x-line", "content-type", "x-line"),
        outlines=OUTLINES,
        json_models=JSON_MODELS,
    ),
    Plan(
        headers=("x-request-id", "accept"),
        jwt_payload="jwt",
        outlines={
            **OUTLINES,
            ODD_PATH: ODD_OUTLINE,
            EACH_PATH: dict.fromkeys(range(1, 30), Keep.EACH),
        },
        json_models=dict.fromkeys((*JSON_MODELS, INFER.encode()), "m\u00f6del"),
    ),
    Plan(outlines={ODD_PATH: ODD_OUTLINE, EACH_PATH: {}}),
)
FOREIGN_PLANS = (
    Plan(document=InputPaths(((),))),
    Plan(json_models={b"/v1/completions": "half \ud800"}),
    Plan(outlines={EACH_PATH: dict.fromkeys(range(1, 80), Keep.EACH)}),
)
"""Plans that the core leaves to the twin, wholly or for a path."""

PATHS = (
    *OUTLINES,
    *OUTLINES,
    *JSON_MODELS,
    *(path + b"?x=1" for path in JSON_MODELS),
    STREAM.encode(),
    INFER.encode(),
    ODD_PATH,
    ODD_PATH,
    EACH_PATH,
    b"",
    b"/v2/\x00\xff",
    b"/v1/completions?",
)
HEADERS = (
    b"x-line",
    b"x-role",
    b"X-Line",
    b"accept",
    b"authorization",
    b"x-request-id",
    b"content-type",
    b"content-encoding",
    b"grpc-encoding",
    b"x-envoy-auth-partial-body",
    b"other",
    b"",
)
HEADER_VALUES = (
    b"",
    b"1",
    b"false",
    b"true",
    b"gzip",
    b"deflate",
    b"identity",
    b"IDENTITY",
    b"ident\x00ty",
    b"application/grpc",
    b"application/grpc+proto",
    b"application/grpc;x",
    b"application/grpc-web",
    b"r" * 200,
    b"\xff\xfe",
    "\u00e9\u20ac\U0001f600".encode() * 30,
    b"\xed\xa0\x80\xe2\x82",
)
NAMES = (
    *(b"", b"m", b"defect-detection", b"1", b"\xff\x00") * 3,
    *(b"x" * 1024, b"x" * 1025),
)
HOSTS = (b"10.1.2.3", b"::1", b"", b"h\xff:\xc3", b"\xf0\x9f\x98\x80")
NUMBERS = (0, 1, 127, 128, 40123, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**64, 2**70)


def varint(value: int) -> bytes:
    """Return `value` in as few bytes as it takes, even more than ten."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def write(fields: list[Field]) -> bytes:
    """Return a message; a value that is not of its type is written as it comes."""
    parts = []
    for number, wire_type, value in fields:
        parts.append(varint(number << 3 | wire_type))
        if isinstance(value, int):
            parts.append(varint(value))
            continue
        raw = write(value) if isinstance(value, list) else value
        if wire_type == LEN:
            parts.append(varint(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def requests(seed: int) -> Iterator[bytes]:
    """Yield requests without end."""
    rng = random.Random(seed)
    while True:
        yield request(rng)


def request(rng: random.Random) -> bytes:
    """Return one request, broken or not."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(60))
    fields = [(1, LEN, attributes(rng))]
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        break_tree(rng, fields)
    raw = write(fields)
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1))):
        raw = break_bytes(rng, raw)
    return raw


def attributes(rng: random.Random) -> list[Field]:
    """Return an AttributeContext."""
    address: Value = [
        (1, LEN, [(2, LEN, rng.choice(HOSTS)), (3, 0, rng.choice(NUMBERS[:9]))])
    ]
    if rng.random() < 0.2:
        address = rng.choice((b"", [(2, LEN, b"pipe")], [(1, LEN, b"")]))
    source: list[Field] = [
        (1, LEN, address),
        (4, LEN, CAMERA.encode()),
        (5, LEN, b"%2D" * rng.randrange(3)),
    ]
    found: list[Field] = [
        (1, LEN, source),
        (2, LEN, [(4, LEN, b"spiffe://td/triton")]),
        (4, LEN, [(1, LEN, b""), (2, LEN, http(rng))]),
    ]
    extensions = {b"upstream": b"triton"}
    if rng.random() < 0.2:
        extensions[b"gate"] = rng.choice((b"ext_proc", b"", b"other"))
    if rng.random() < 0.01:
        extensions |= {b"%d" % number: b"" for number in range(rng.choice((63, 70)))}
    found += [
        (10, LEN, [(1, LEN, key), (2, LEN, value)]) for key, value in extensions.items()
    ]
    if rng.random() < 0.4:
        found.append((11, LEN, metadata(rng)))
    return found


TEXTS = (
    *(b"", b"sub", b"me", b"groups", b"jwt", b'a\x00\x1f\x7f"\\/\n\r\t\b\f'),
    "\u00e9\u20ac\uffff\U0001f600\U0010ffff".encode(),
    *(b"\xff", b"\xed\xa0\x80"),
)
DOUBLES = (
    *(0.0, -0.0, 1.0, -1.0, 1732600000.0, 2.0**53, -(2.0**53)),
    *(2.0**53 + 2, 0.5, 1e300, math.inf, math.nan),
)


def metadata(rng: random.Random) -> list[Field]:
    """Return a Metadata, now and then with claims."""
    found: list[Field] = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice((b"envoy.filters.http.jwt_authn",) * 3 + (b"other", b""))
        top = struct_of(rng, 0)
        payload = [(5, LEN, struct_of(rng, 1))]
        if rng.random() < 0.1:
            payload = [value_of(rng, 0)]
        top.append((1, LEN, [(1, LEN, b"jwt"), (2, LEN, payload)]))
        if rng.random() < 0.05:
            depth = rng.choice((15, 16, 17, 18))
            top.append((1, LEN, [(1, LEN, b"deep"), (2, LEN, nested(rng, depth))]))
        if rng.random() < 0.15:
            break_tree(rng, top)
        found.append((1, LEN, [(1, LEN, name), (2, LEN, top)]))
    return found


def struct_of(rng: random.Random, depth: int) -> list[Field]:
    """Return a Struct, whose names seldom come twice."""
    names = rng.sample(TEXTS[:7], rng.randrange(4))
    if rng.random() < 0.02:
        names += [rng.choice(TEXTS)]
    if rng.random() < 0.01:
        names = [b"%d" % number for number in range(rng.choice((63, 64, 65, 70)))]
    if depth == 0:
        names = [name for name in names if name != b"jwt"]
    return [
        (1, LEN, [(1, LEN, name), (2, LEN, [value_of(rng, depth)])]) for name in names
    ]


def value_of(rng: random.Random, depth: int) -> Field:
    """Return the one field of a Value."""
    kind = rng.randrange(1, 7 if depth < 3 else 5)
    if kind in {1, 4}:
        return kind, 0, rng.choice((0, 0, 1, 2**63))
    if kind == 2:
        return kind, 1, struct.pack("<d", rng.choice(DOUBLES[:7] * 5 + DOUBLES))
    if kind == 3:
        return kind, LEN, rng.choice(TEXTS[:7] * 4 + TEXTS)
    if kind == 5:
        return kind, LEN, struct_of(rng, depth + 1)
    number = rng.choice((1,) * 30 + (2,))
    items = [value_of(rng, depth + 1) for _ in range(rng.randrange(3))]
    return kind, LEN, [(number, LEN, [item]) for item in items]


def nested(rng: random.Random, depth: int) -> list[Field]:
    """Return a Value of lists and objects in one another."""
    value: list[Field] = [(1, 0, 0)]
    for _ in range(depth):
        if rng.random() < 0.5:
            value = [(6, LEN, [(1, LEN, value)])]
        else:
            value = [(5, LEN, [(1, LEN, [(1, LEN, b"k"), (2, LEN, value)])])]
    return value


def http(rng: random.Random) -> list[Field]:
    """Return an HttpRequest."""
    path = rng.choice(PATHS)
    coding = rng.choice((b"",) * 6 + (b"gzip", b"deflate", b"br"))
    raw = body(rng, path, coding)
    size = rng.choice((*(len(raw),) * 8, 2**64 - 1, len(raw) + 1))
    found: list[Field] = [
        (1, LEN, rng.choice((b"id-1", b"\xff" * 130, b""))),
        (2, LEN, b"POST"),
        (4, LEN, path),
        (5, LEN, b"triton.factory.example"),
        (9, 0, size),
        (10, LEN, b"HTTP/2"),
        (12, LEN, raw),
    ]
    if rng.random() < 0.1:
        del found[rng.randrange(len(found))]
    headers = [(rng.choice(HEADERS), rng.choice(HEADER_VALUES)) for _ in range(4)]
    headers = headers[: rng.choice((0, 0, 1, 2, 3, 4))]
    if coding:
        headers.append((b"grpc-encoding", coding))
    if rng.random() < 0.5:
        found += [(3, LEN, [(1, LEN, key), (2, LEN, v)]) for key, v in headers]
    else:
        entries: list[Field] = []
        for key, value in headers:
            entry: list[Field] = [(1, LEN, key), (rng.choice((2, 3)), LEN, value)]
            if rng.random() < 0.05:
                entry = [(1, LEN, key), (2, LEN, b""), (3, LEN, value)]
            entries.append((1, LEN, entry))
        found.append((13, LEN, entries))
    return found


def body(rng: random.Random, path: bytes, coding: bytes) -> bytes:
    """Return a body that fits `path`, more or less."""
    if rng.random() < 0.1:
        return rng.choice((b"", rng.randbytes(rng.randrange(20))))
    if path.startswith(b"/v1/"):
        raw = json_body(rng)
        return break_bytes(rng, raw) if rng.random() < 0.3 else raw
    fields = message(rng)
    if rng.random() < 0.15:
        break_tree(rng, fields)
    raw = write(fields)
    flag = rng.choice((0,) * 18 + (1, 2))
    if coding and rng.random() < 0.5:
        flag = 1
        raw = gzip.compress(raw, 1) if coding == b"gzip" else zlib.compress(raw, 1)
    raw = frame(raw, flag)
    return break_bytes(rng, raw) if rng.random() < 0.1 else raw


def message(rng: random.Random) -> list[Field]:
    """Return a message with the numbers that outlines have, in some order."""
    found: list[Field] = [(1, LEN, rng.choice(NAMES)), (2, LEN, rng.choice(NAMES))]
    for _ in range(rng.randrange(4)):
        number = rng.choice((1, 2, 3, 3, 3, 4, 5, 7, 15, 16, 2**28))
        found.append(
            rng.choice(
                (
                    (number, LEN, rng.choice(NAMES)),
                    (number, LEN, [(1, LEN, b"k"), (2, LEN, b"v")]),
                    (number, 0, rng.choice(NUMBERS)),
                    (number, 1, b"8 bytes."),
                    (number, 5, b"four"),
                )
            )
        )
    if rng.random() < 0.05:
        found += [(rng.choice((2, 3, 15)), LEN, b"v")] * rng.choice((14, 15, 16, 17))
    if rng.random() < 0.005:
        found += [(9, 0, 0)] * 4096
    if rng.random() < 0.3:
        rng.shuffle(found)
    return found


JSON_TEXTS = (
    '"m"',
    '"model"',
    '"mode\\u006c"',
    '"m\u00f6del"',
    '"m\\u00f6del"',
    '""',
    '"\\ud83d\\ude00"',
    '"\\ud83d"',
    '"\\ude00\\ud83d"',
    '"\\u00zz"',
    '"a\\/b\\n\\t\\"\\\\"',
    '"\\x"',
    '"\x01"',
    '"\x7f\U0001f600"',
    f'"{"x" * 1024}"',
    f'"{"x" * 1025}"',
    '"' + "\\u00e9" * 513 + '"',
)
JSON_NUMBERS = (
    *("0", "-0", "-", "01", "1.", "1.5", ".5", "1e5", "1E+5", "1e", "-1.5e-400"),
    *("1e308", "1.8e308", "1e309", "9e307", "0.0e999", "0.001e311", "0.001e312"),
    *("1" * 640, "1" * 641, "1" * 4301, "1" * 400 + ".0", "1" * 309 + "e-5"),
    *("NaN", "Infinity", "-Infinity", "1e99999999999999999999", "0.0e-99999999999"),
)
JSON_LITERALS = ("true", "false", "null", "nul", "True")


def json_body(rng: random.Random) -> bytes:
    """Return a JSON text."""
    if rng.random() < 0.2:
        names = ["model", "x", "y", *(f"k{number}" for number in range(12))]
        rng.shuffle(names)
        return json.dumps(dict.fromkeys(names, "v"), indent=1).encode()
    text = json_object(rng, 0)
    if rng.random() < 0.02:
        depth = rng.choice((62, 63, 64, 65, 200))
        text = f'{{"model":"m","x":{"[" * depth}{"]" * depth}}}'
    if rng.random() < 0.05:
        text = rng.choice(("", "[]", '"m"', "1", "\ufeff{}", text + " x", text + "\n"))
    return text.encode()


def json_object(rng: random.Random, depth: int) -> str:
    """Return an object, often with the key that is asked for at its top."""
    pairs = [
        f"{rng.choice(JSON_TEXTS[:5])}:{json_value(rng, depth)}"
        for _ in range(rng.randrange(4))
    ]
    if depth == 0 and rng.random() < 0.7:
        key = rng.choice(('"model"', '"mode\\u006c"', '"m\u00f6del"'))
        pairs.insert(0, f"{key} : {rng.choice(JSON_TEXTS)}")
    separator = rng.choice((",", ",", " ,\n", "\t, ", "\r,"))
    end = rng.choice(("",) * 20 + (",", ":", "}"))
    return f"{{{separator.join(pairs)}{end}}}"


def json_value(rng: random.Random, depth: int) -> str:
    """Return some value, well-formed or not."""
    choice = rng.randrange(8)
    if choice < 2 and depth < 4:
        return json_object(rng, depth + 1)
    if choice < 4 and depth < 4:
        items = [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return f"[{','.join(items)}]"
    if choice < 6:
        return rng.choice(JSON_TEXTS)
    return rng.choice(JSON_NUMBERS if choice == 6 else JSON_LITERALS)


NUMBERS_OF_FIELDS = (0, 1, 2, 3, 4, 5, 9, 12, 13, 2**29 - 1, 2**29)
EXTRAS: tuple[Field, ...] = (
    *((number, LEN, b"unknown") for number in (6, 7, 20, 1000)),
    *(((20, 1, b"8 bytes."), (20, 5, b"four")) * 4),
)


def break_tree(rng: random.Random, fields: list[Field]) -> None:
    """Break one message, at any depth, by one field."""
    if not fields:
        return
    index = rng.randrange(len(fields))
    number, wire_type, value = fields[index]
    if isinstance(value, list) and value and rng.random() < 0.8:
        break_tree(rng, value)
        return
    small = rng.choice((b"", b"\xff", b"\x00", b"a" * 9))
    changes: tuple[list[Field], ...] = (
        [fields[index]] * 2,
        [],
        [(number, rng.randrange(8), value)],
        [(rng.choice(NUMBERS_OF_FIELDS), wire_type, value)],
        [(number, 0, rng.choice(NUMBERS))],
        [(number, LEN, small)],
        [rng.choice(EXTRAS), fields[index]],
    )
    fields[index : index + 1] = rng.choice(changes)
    if rng.random() < 0.2:
        rng.shuffle(fields)


def break_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Return `raw` with one place changed."""
    if not raw:
        return raw
    at = rng.randrange(len(raw))
    byte, rest = raw[at], raw[at + 1 :]
    # The last two: a number in more bytes than it takes.
    pieces = (
        b"",
        bytes((byte ^ 1 << rng.randrange(8),)) + rest,
        rng.randbytes(1) + rest,
        rng.randbytes(rng.randrange(1, 4)) + raw[at:],
        rest,
        bytes((byte | 0x80, 0)) + rest,
        bytes((byte | 0x80, 1)) + rest,
    )
    return raw[:at] + rng.choice(pieces)
