"""Names and versions of models that somebody may take for others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

ODD_NAMES: Final = (
    b"",
    b"\x00",
    b".",
    b"..",
    b"../secret",
    b"a/b",
    b"*",
    b"stats",
    b"STATS",
    b"ready",
    b"config",
    b"infer",
    b"versions",
    b"\xc3\xa9cho",
    b"nothing",
    b"x" * 300,
    b"x" * 2000,
)

VERSIONS: Final = (b"1", b"1", b"1", b"2", b"2")
ODD_VERSIONS: Final = (
    b"01",
    b"002",
    b"0",
    b"-1",
    b"+1",
    b" 1",
    b"1 ",
    b"1abc",
    b"2.0",
    b"1e0",
    b"0x1",
    b"\t1",
    b"1\x002",
    b"\x00",
    b"3",
    b"99999999999999999999",
    b"9223372036854775807",
    b"18446744073709551617",  # 2**64 + 1
    b"4294967297",
    b"\xd9\xa1",  # ARABIC-INDIC DIGIT ONE
    b"\xef\xbc\x91",  # FULLWIDTH DIGIT ONE
    b"latest",
    b"*",
)


def odd_name(rng: random.Random, names: Sequence[str]) -> bytes:
    """Return something like one of `names`, or a name that is odd by itself."""
    name = rng.choice(names).encode()
    other = rng.choice(names).encode()
    return rng.choice(
        [
            name + b"\x00",
            name + b"\x00" + other,
            name + b"\x00" + other,
            name + b"\x00" + other,
            b"\x00" + name,
            name + b" ",
            b" " + name,
            name + b"\n",
            name + b"\t",
            name + b"\xff",
            b"\xff" + name,
            name + b"\xc3",
            b"\xed\xa0\x80" + name,  # a lone surrogate
            b"\xef\xbb\xbf" + name,  # a byte order mark
            name + b"\xe2\x80\x8b",  # ZERO WIDTH SPACE
            name.upper(),
            name.lower(),
            name.title(),
            name.replace(b"e", b"\xd0\xb5"),  # the Cyrillic letter
            name + b"2",
            name[:-1],
            name + b".",
            name + b"/",
            name + b"/../" + other,
            name + b"\\" + other,
            name + b"," + other,
            name + b";" + other,
            name + b"#" + other,
            name + b"?" + other,
            name + b":1",
            b"%" + name[:1].hex().encode() + name[1:],
            rng.choice(ODD_NAMES),
        ]
    )
