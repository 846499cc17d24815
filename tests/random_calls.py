"""Random calls of the built-in functions that we host, by name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from token_forge import ALGORITHMS, encode, jwk, key_of_kind, key_set, kind_for, sign

Make = Callable[[random.Random], Any]

WORDS = (
    *(
        "",
        "a",
        "b",
        "ab",
        "abc",
        "aab",
        "Abc",
        "é",
        "日本",
        "😀",
        "a b",
        "a/b",
        "%",
        "&=;",
    ),
    *("\x00", "\x7f", "\u2028", "\ufeff", "\u0301", "\n", "\t", '"', "\\", "`", "$1"),
    *("<script>", "x" * 70, "null", "0", "-1", "1.5", "true", "[1]", '{"a":1}'),
)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 10, 65, 255, 256, 1000, -17, 2**31, 2**53, 2**63 - 1, 2**63),
    *(-(2**63), 2**64, 10**30, 0.5, 1.5, -2.5, 0.1, 1e6, 1e21, 1e-7, 1.25e300, 100.0),
)
TIMES_NS = (
    *(0, 1, -1, 1_700_000_000_000_000_000, 1_582_977_600_123_456_789),
    *(951_782_400_000_000_000, -86_400_000_000_000, 1_711_846_800_000_000_000),
    *(2**63 - 1, -(2**63), 2**63, 1_730_000_000_500_000_000, 1.5, 1e18),
)
ZONES = ("", "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Nowhere/No")
LAYOUTS = (
    *("RFC3339", "RFC3339Nano", "ANSIC", "UnixDate", "RubyDate", "RFC822", "RFC822Z"),
    *("RFC850", "RFC1123", "RFC1123Z", "2006-01-02", "15:04:05.000", "3:04PM", "pm 03"),
    *(
        "Jan _2 2006",
        "January 2, 06 Monday",
        "002 2006",
        "__2",
        "2006-01-02T15:04:05Z07",
    ),
    *("-07:00:00", "Z0700", "05,999", "Monthly Janus 1 2", "_2006", "no layout", "MST"),
)
PIECES = (
    *(
        "a",
        "b",
        ".",
        "a*",
        "b+",
        "a?",
        "(a)",
        "(?P<x>b)",
        "[ab]",
        "[^a]",
        "^",
        "$",
        "|",
    ),
    *("\\b", "\\d", "\\w+", "\\s", "(a|b)*", "x{2}", "(?i)A", "\\pL", "é", "()", "\\z"),
    *("(", "[", "a**", "\\C", "\\1", "(?=a)", "{", "a*?", "(?:ab)"),
)
TEMPLATES = (
    "",
    "$1",
    "${1}x",
    "$x",
    "${x}",
    "$$",
    "$0",
    "$1x",
    "$",
    "${",
    "<$0>",
    "$é",
)
FLAGS = (
    "",
    "",
    "",
    "+",
    "-",
    "#",
    "0",
    " ",
    "+0",
    "-0",
    "# ",
    "6",
    "-6",
    "06",
    "+6",
    "12",
)
PRECISIONS = ("", "", "", ".0", ".2", ".10", ".")
VERBS = "vvvsssdddqxXobOcUtTeEfFgG%z"
ADDRESSES = (
    *(
        "10.0.0.1",
        "192.168.1.17",
        "::1",
        "fe80::1",
        "2001:db8::8a2e",
        "1.2.3",
        "01.2.3.4",
    ),
    *("255.255.255.255", "0.0.0.0", "fe80::1%eth0", "::", "1:2:3:4:5:6:7:8", "x"),
)
PREFIXES = (
    "/0",
    "/8",
    "/16",
    "/24",
    "/31",
    "/32",
    "/33",
    "/64",
    "/127",
    "/128",
    "/08",
    "",
)
UNITS = (
    "",
    "k",
    "K",
    "ki",
    "Ki",
    "KiB",
    "m",
    "M",
    "mb",
    "MB",
    "Mi",
    "G",
    "e",
    "Ei",
    "x",
)
AMOUNTS = (
    "1",
    "10",
    "0",
    "1.5",
    "0.0005",
    "-2",
    "+3",
    "1e3",
    "1E-2",
    ".5",
    "5.",
    "",
    "1.2.3",
)
VERSIONS = (
    *(
        "1.0.0",
        "v1.2.3",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0+b.01",
    ),
    *(
        "1.0.0-01",
        "1.0",
        "01.0.0",
        "1.0.0-rc.10",
        "1.0.0-rc.9",
        "1.0.0-",
        "1.0.0+",
        "x",
    ),
    *("9223372036854775807.0.0", "9223372036854775808.0.0", "1.0.0-0a", "2.0.0--"),
)
URIS = (
    *(
        "http://a.example/b%20c?d=e#f",
        "https://u:p@h:8443/x",
        "mailto:a@b",
        "/p/q",
        "a:b",
    ),
    *(
        "//host/p",
        "http://[::1]:80/",
        "http://[::1/",
        "http://a b/",
        "*",
        "?q",
        "#f",
        ":x",
    ),
    *("http://h:x/", "ftp://h:1:2/", "http://h:1:2/", "http://%41/", "/a%2Fb", "/a%zz"),
    *(
        "http://é.example/ü",
        "HTTP://H/",
        "x",
        "./a:b",
        "a/b:c",
        "http://h/!*'()",
        "///p",
    ),
)
QUERIES = (
    "a=b",
    "a=b&a=c",
    "a",
    "=",
    "",
    "a=%20+",
    "a=%zz",
    "a;b=c",
    "&&",
    "é=%C3%A9",
    "%2",
)
DURATIONS = (
    *("1h", "1h30m", "-1.5h", "1d", "2w3d", "1y", "1.5d", "100ms", "3us", "4µs", "1ns"),
    *(
        "",
        "0",
        "+0",
        "1",
        "h",
        "1x",
        ".5s",
        "1..s",
        "1.s",
        "-",
        "+5m",
        "1h-2m",
        "9999999h",
    ),
)
UUIDS = (
    *("00000000-0000-4000-8000-000000000000", "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}"),
    *(
        "urn:uuid:000003e8-48b9-21ee-b200-325096b39f47",
        "6ba7b8109dad11d180b400c04fd430c8",
    ),
    *(
        "6ba7b810-9dad-11d1-c0b4-01c04fd430c8",
        "6ba7b810-9dad-11d1-e0b4-03c04fd430c8",
        "x",
    ),
    *("6ba7b810-9dad-71d1-00b4-03c04fd430c8", "6ba7b810x9dad-11d1-80b4-00c04fd430c8"),
)


def choice(*values: Any) -> Make:
    return lambda rng: rng.choice(values)


def many(make: Make, most: int = 3) -> Make:
    return lambda rng: [make(rng) for _ in range(rng.randint(0, most))]


def either(*makers: Make) -> Make:
    return lambda rng: rng.choice(makers)(rng)


def joined(make: Make, most: int = 4) -> Make:
    return lambda rng: "".join(make(rng) for _ in range(rng.randint(0, most)))


def value(rng: random.Random, depth: int = 2) -> Any:
    kind = rng.randrange(7 if depth else 4)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind in (2, 3):
        return rng.choice(WORDS)
    if kind == 4:
        return {
            rng.choice(WORDS): value(rng, depth - 1) for _ in range(rng.randint(0, 3))
        }
    return [value(rng, depth - 1) for _ in range(rng.randint(0, 3))]


WORD = choice(*WORDS)
TEXT = joined(WORD, 3)
WORD_OR_WORDS = either(WORD, many(WORD))
NUMBER = choice(*NUMBERS)
SMALL = choice(*range(-4, 8), 1.0, 1.5)
WHEN = either(
    choice(*TIMES_NS),
    lambda rng: [rng.choice(TIMES_NS), rng.choice(ZONES)],
    lambda rng: [rng.choice(TIMES_NS), rng.choice(ZONES), rng.choice(LAYOUTS)],
)
NETWORK = lambda rng: rng.choice(ADDRESSES) + rng.choice(PREFIXES)  # noqa: E731
PATTERN = joined(choice(*PIECES), 3)
SUBJECT = joined(choice("a", "b", "ab", "A", " ", "é", "x", "1", "\n", "xx"), 6)


def make_mergeable(rng: random.Random) -> str:
    # OPA 1.22.2 itself crashes where merged networks begin with a zero.
    if rng.random() < 0.5:
        return rng.choice(("fe80::1", "fe80::8", "2001:db8::8a2e")) + rng.choice(
            ("/16", "/32", "/64", "/125", "/127", "/128", "/129", "")
        )
    return rng.choice(("10.0.0.1", "10.0.0.2", "192.168.1.17", "10.0.1.0", "x")) + (
        rng.choice(("/0", "/8", "/23", "/24", "/30", "/31", "/32", "/33", ""))
    )


def make_format(rng: random.Random) -> str:
    return "".join(
        rng.choice(WORDS)
        if rng.random() < 0.3
        else "%" + rng.choice(FLAGS) + rng.choice(PRECISIONS)
        + rng.choice(("", "", "", "[1]", "[2]", "*", "[3]*")) + rng.choice(VERBS)
        for _ in range(rng.randint(1, 4))
    )  # fmt: skip


def make_graph(rng: random.Random) -> dict[str, Any]:
    nodes = "abcde"
    return {node: rng.sample(nodes, rng.randint(0, 3)) for node in rng.sample(nodes, 4)}


def make_patch(rng: random.Random) -> list[dict[str, Any]]:
    paths = ("", "/a", "/a/b", "/0", "/1", "/-", "/a/0", "/a~1b", "/", "/01", "a", "/b")
    made = [
        {
            "op": rng.choice(("add", "remove", "replace", "move", "copy", "test", "x")),
            "path": rng.choice(paths),
            "from": rng.choice(paths),
            "value": value(rng, 1),
        }
        for _ in range(rng.randint(0, 3))
    ]
    # OPA 1.22.2 itself crashes where a patch removes the whole document.
    safe = ("add", "copy", "test")
    return [c for c in made if c["op"] in safe or (c["path"] and c["from"])]


def make_document(rng: random.Random) -> Any:
    return rng.choice(
        ({"a": {"b": 1}}, {"a": [1, 2]}, [1, [2], {"a": 3}], {"a/b": 1, "": 2}, 5)
    )


def similar(rng: random.Random) -> list[Any]:
    """Return two values, the second often a part of the first."""
    larger = value(rng, 3)
    smaller = json.loads(json.dumps(larger))
    if isinstance(smaller, dict) and smaller:
        smaller.pop(rng.choice(list(smaller)))
    elif isinstance(smaller, list):
        start = rng.randint(0, len(smaller))
        smaller = smaller[start : rng.randint(start, len(smaller))]
    return [larger, smaller]


def make_token(
    rng: random.Random, algorithm: str, secret: str = "secret"
) -> tuple[str, str]:
    """Return a token, and the key that verifies it in a form or another."""
    claims = {
        "iss": rng.choice(("i", "j")),
        "aud": rng.choice(("a", ["a", "b"], [], 1)),
        "exp": rng.choice((1000, 2000.5, 3e9, 1_700_000_000)),
        "nbf": rng.choice((0, 1500, 1e3)),
        "text": rng.choice(WORDS),
        "number": rng.choice((1.0, 10**25, 1.5e3)),
    }
    claims = {name: claims[name] for name in claims if rng.random() < 0.6}
    header: dict[str, Any] = {"alg": algorithm, "typ": "JWT"}
    if rng.random() < 0.5:
        header["kid"] = rng.choice(("key-1", "key-2"))
    if rng.random() < 0.1:
        header |= rng.choice(
            (
                {"crit": ["x"], "x": 1},
                {"crit": []},
                {"enc": "A"},
                {"alg": 5},
                {"alg": ""},
            )
        )
    head, body = (encode(json.dumps(part).encode()) for part in (header, claims))
    content = head + b"." + body
    if algorithm.startswith("HS"):
        signature, keys = sign(secret.encode(), algorithm, content), secret
    else:
        key = key_of_kind("Ed25519" if algorithm == "EdDSA" else kind_for(algorithm))
        signature = sign(key, algorithm, content)
        other = key_of_kind("P-256")
        keys = key_set(
            jwk(other, "key-2"), *([jwk(key, "key-1")] if rng.random() < 0.9 else [])
        ).decode()
    token = (content + b"." + encode(signature)).decode()
    if rng.random() < 0.15:
        place = rng.randrange(len(token))
        token = token[:place] + rng.choice("A.-=_ ") + token[place + 1 :]
    return token, keys


def tokens_by(*algorithms: str) -> Callable[[random.Random], list[Any]]:
    return lambda rng: list(make_token(rng, rng.choice(algorithms)))


def make_verified(rng: random.Random) -> list[Any]:
    algorithm = rng.choice((*ALGORITHMS, "EdDSA", "HS256", "HS512"))
    token, keys = make_token(rng, algorithm)
    constraints: dict[str, Any] = {
        "secret" if algorithm.startswith("HS") else "cert": keys,
        "time": rng.choice((1_200_000_000_000, 1.7e12, 1_700_000_000_000_000_000, 0)),
    }
    if rng.random() < 0.4:
        constraints["aud"] = rng.choice(("a", "b", ""))
    if rng.random() < 0.4:
        constraints["iss"] = rng.choice(("i", ""))
    if rng.random() < 0.3:
        constraints["alg"] = algorithm
    if rng.random() < 0.1:
        constraints[rng.choice(("x", "secret", "cert"))] = "y"
    return [token, constraints]


WRITTEN = {
    "RFC3339": (
        "2024-02-29T12:30:00Z",
        "2024-02-29T12:30:00.5+01:00",
        "2024-02-29T24:00:00Z",
    ),
    "ANSIC": ("Mon Jan  2 15:04:05 2006", "mon jan 12 15:04:05 2006"),
    "UnixDate": ("Mon Jan  2 15:04:05 CET 2006", "Mon Jan 2 15:04:05 UTC 2006"),
    "RFC822": ("02 Jan 06 15:04 CEST", "02 Jan 70 15:04 GMT-7", "2 Jan 06 15:04 X"),
    "RFC822Z": ("02 Jan 06 15:04 +0230", "02 Jan 06 15:04 -2400", "02 Jan 06 15:04 Z"),
    "RFC850": ("Friday, 02-Jan-06 15:04:05 MST", "Fri, 02-Jan-06 15:04:05 MST"),
    "RFC1123": ("Mon, 02 Jan 2006 15:04:05 GMT+3", "Mon, 02 Jan 2006 15:04:05 WITA"),
    "2006-01-02": (
        "2024-02-29",
        "2023-02-29",
        "2024-1-02",
        "2024-13-01",
        "2024-02-29 ",
    ),
    "2006-1-2 15:4:5": (
        "2024-1-2 3:4:5",
        "2024-01-02 3:04:05.123456",
        "2024-1-2 3:4:65",
    ),
    "2006-01-02 15:04:05.000": ("2024-02-29 12:30:01.123", "2024-02-29 12:30:01.12"),
    "2006-01-02 15:04:05.999": ("2024-02-29 12:30:01.1", "2024-02-29 12:30:01,123456"),
    "2006-01-02 3:04PM": (
        "2024-02-29 3:04AM",
        "2024-02-29 12:04PM",
        "2024-02-29 13:04PM",
    ),
    "January 2, 06 Monday": (
        "january 2, 99 monday",
        "May 12, 68 Sunday",
        "Ma 1, 68 Sunday",
    ),
    "002 2006": ("060 2024", "366 2023", "366 2024", "000 2024", "60 2024"),
    "__2 Jan 2006": (" 60 Feb 2024", "1 Jan 2024", "60 Jan 2024"),
    "2006 Z070000 _2": ("2024 Z  1", "2024 +013015 12", "2024 -23 1"),
    "2006 -07:00:00": ("2024 +01:30:15", "2024 +01:30", "2024 -00:00:30"),
    "2006  01": ("2024 01", "2024   01", "2024\t01"),
}


def make_written(rng: random.Random) -> list[Any]:
    layout = rng.choice(list(WRITTEN))
    return [layout, rng.choice(WRITTEN[layout if rng.random() < 0.9 else "RFC3339"])]


def arguments(*makers: Make) -> Callable[[random.Random], list[Any]]:
    return lambda rng: [make(rng) for make in makers]


CALLS: dict[str, Callable[[random.Random], list[Any]]] = {
    "base64url.encode_no_pad": arguments(TEXT),
    "crypto.hmac.equal": arguments(WORD, WORD),
    **{f"crypto.hmac.{name}": arguments(TEXT, TEXT)
       for name in ("md5", "sha1", "sha256", "sha512")},
    **{f"crypto.{name}": arguments(TEXT) for name in ("md5", "sha1", "sha256")},
    "glob.quote_meta": arguments(joined(choice(*"*a{},\\?["))),
    "graph.reachable_paths": arguments(make_graph, many(choice(*"abcdef"))),
    "hex.decode": arguments(choice("", "61", "6", "C3A9", "zz", "00", "e697a5", " 61")),
    "hex.encode": arguments(TEXT),
    "indexof_n": arguments(SUBJECT, choice("", "a", "ab", "é", "xx")),
    "io.jwt.decode": lambda rng: [make_token(rng, rng.choice(("HS256", "ES256")))[0]],
    "io.jwt.decode_verify": make_verified,
    "io.jwt.verify_eddsa": tokens_by("EdDSA", "ES256"),
    **{f"io.jwt.verify_{name.lower()}": tokens_by(name, name, name, "RS256")
       for name in (*ALGORITHMS, "HS256", "HS384", "HS512")},
    "json.marshal_with_options": arguments(
        value, choice({}, {"pretty": True}, {"pretty": False, "indent": "x"},
                      {"prefix": "p "}, {"indent": ""}, {"x": 1}, {"pretty": 1})
    ),
    "json.patch": arguments(make_document, make_patch),
    "net.cidr_contains_matches": arguments(
        either(NETWORK, many(NETWORK)), either(NETWORK, many(NETWORK))
    ),
    "net.cidr_expand": arguments(
        choice("10.0.0.0/30", "10.0.0.9/29", "fe80::/126", "1.2.3.4/32", "x", "1.2.3.4")
    ),
    "net.cidr_is_valid": arguments(NETWORK),
    "net.cidr_merge": arguments(many(make_mergeable, 6)),
    "numbers.range_step": arguments(SMALL, SMALL, SMALL),
    "object.subset": similar,
    "regex.find_n": arguments(PATTERN, SUBJECT, choice(-1, 0, 1, 2, 5)),
    "regex.replace": arguments(SUBJECT, PATTERN, choice(*TEMPLATES)),
    "regex.split": arguments(PATTERN, SUBJECT),
    "semver.compare": arguments(choice(*VERSIONS), choice(*VERSIONS)),
    "semver.is_valid": arguments(choice(*VERSIONS)),
    "sprintf": arguments(make_format, many(either(value, NUMBER, WORD))),
    "strings.any_prefix_match": arguments(WORD_OR_WORDS, WORD_OR_WORDS),
    "strings.any_suffix_match": arguments(WORD_OR_WORDS, WORD_OR_WORDS),
    "strings.count": arguments(SUBJECT, choice("", "a", "ab", "é")),
    "strings.split_n": arguments(SUBJECT, choice("", "a", "ab", " "), SMALL),
    "time.add_date": arguments(WHEN, SMALL, SMALL, either(SMALL, choice(400, -10**6))),
    "time.clock": arguments(WHEN),
    "time.date": arguments(WHEN),
    "time.diff": arguments(WHEN, WHEN),
    "time.format": arguments(WHEN),
    "time.parse_duration_ns": arguments(choice(*DURATIONS)),
    "time.parse_ns": make_written,
    "time.parse_rfc3339_ns": arguments(
        choice("2024-02-29T12:30:00Z", "2024-02-29T12:30:00.123456789+05:30",
               "2024-02-29t12:30:00z", "2024-02-29T1:30:00Z", "2024-02-29T12:30:00,5Z",
               "1500-01-01T00:00:00Z", "2024-02-29T12:30:00+24:00",
               "2024-02-30T00:00:00Z",
               "2024-02-29T12:30:60Z", "2024-02-29T12:30:00", "")
    ),
    "time.weekday": arguments(WHEN),
    "units.parse": lambda rng: [rng.choice(AMOUNTS) + rng.choice(UNITS)],
    "units.parse_bytes": lambda rng: [rng.choice(AMOUNTS) + rng.choice(UNITS)],
    "uri.is_valid": arguments(choice(*URIS)),
    "uri.parse": arguments(choice(*URIS)),
    "urlquery.decode": arguments(either(choice(*QUERIES), TEXT)),
    "urlquery.decode_object": arguments(choice(*QUERIES)),
    "urlquery.encode": arguments(TEXT),
    "urlquery.encode_object": arguments(
        lambda rng: {rng.choice(WORDS): either(WORD, many(WORD), value)(rng)
                     for _ in range(2)}
    ),
    "uuid.parse": arguments(choice(*UUIDS)),
}  # fmt: skip
"""What makes arguments for each."""


def make_call(rng: random.Random, name: str) -> list[Any]:
    """Return arguments for `name`; now and then one of them of any type."""
    made = CALLS[name](rng)
    # OPA itself knows no bound for how many numbers it lists.
    if rng.random() < 0.1 and name != "numbers.range_step":
        made[rng.randrange(len(made))] = value(rng)
    return made
