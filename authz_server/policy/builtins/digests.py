"""crypto.*: hashes and keyed hashes, in hexadecimal."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from authz_server.policy.builtins.operands import string


def make_hash(algorithm: str) -> Callable[[object], str]:
    """Return the function that hashes by `algorithm`."""

    def compute(text: object) -> str:
        content = string(text).encode()
        # MD5 and SHA-1 stand here for what policies compare, not for security.
        return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()

    return compute


def make_hmac(algorithm: str) -> Callable[[object, object], str]:
    """Return the function that hashes a message with a key by `algorithm`."""

    def compute(message: object, key: object) -> str:
        content = string(message).encode()
        return hmac.new(string(key).encode(), content, algorithm).hexdigest()

    return compute


def equal(one: object, other: object) -> bool:
    """Return whether the two are equal, in a time that does not tell where they differ.

    The time depends on their length.
    """
    return hmac.compare_digest(string(one).encode(), string(other).encode())
