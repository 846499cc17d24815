"""Base64url as RFC 7515 §2 has it: no padding, and one spelling for each value."""

from __future__ import annotations

import base64
import re
from typing import Final

_ALPHABET: Final = re.compile(rb"[A-Za-z0-9_-]*")


def decode_base64url(text: bytes) -> bytes:
    """Return the bytes that `text` spells.

    Raises:
        ValueError: on padding, any other byte, or bits in the last digit that belong to
            nothing: a second spelling of the same value.
    """
    if _ALPHABET.fullmatch(text) is None or len(text) % 4 == 1:
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text:
        raise ValueError("not base64url in its one spelling")
    return data
