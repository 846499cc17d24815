"""Names of objects as requests spell them, decoded once and only where that is safe.

Unlike Triton's, an object store's names may need escapes: a space, an umlaut. The store
decodes a name once, and what is judged must be what it will see; so an escape is read
only if no reader before or after it could make structure of it. A dataset's own path
holds none of the characters that are decoded here, so no escape ever changes which
dataset a name is in.
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.errors import Reason
from authz_server.operations.operation import OperationError

# Segments as `request_path.parse_path` takes them, and escapes in upper-case
# hexadecimal, the only normal form (RFC 3986 §2.1).
_PATH: Final = re.compile(
    rb"(?:/(?:[!$&'()*+,\-.0-9:=@A-Z\[\]^_`a-z{|}~\"<>]|%[0-9A-F]{2})*)+"
)
# Within a header or a query. There `+` is a space to some readers, `,` joins two
# headers, and `&` two parameters: all must be escaped.
_VALUE: Final = re.compile(rb"(?:[!$'()*\-./0-9:=@A-Z_a-z~]|%[0-9A-F]{2})*")
_ESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")

# Not among them: what needs no escape (one spelling for one name: RFC 3986 §2.3), dots
# with it; / \ % ; and # ? which a second reader would take for structure; controls.
_ESCAPABLE: Final = frozenset(b" !\"$&'()*+,:<=>@[]^`{|}") | frozenset(range(0x80, 256))
_WITH_SLASH: Final = _ESCAPABLE | frozenset(b"/")

_DOT_SEGMENTS: Final = frozenset({".", ".."})


def decode_path(path: bytes) -> str:
    """Return the name in a request's path, with its leading slash.

    It has no empty segment but perhaps the last, no dot segment, and no control.

    Raises:
        OperationError: if `path` could be read in two ways.
    """
    if _PATH.fullmatch(path) is None:
        raise OperationError("path has an unacceptable byte", Reason.PATH_INVALID)
    return _checked(path, _ESCAPABLE, "path")


def decode_value(value: bytes, what: str) -> str:
    """Return the name, or the beginning of one, in a query parameter or a header.

    An escaped slash is a slash here: nothing routes by a value, and everybody decodes
    it before taking it apart. The name has no leading slash.

    Args:
        what: what the value is, for the error.

    Raises:
        OperationError: if `value` could be read in two ways.
    """
    if _VALUE.fullmatch(value) is None:
        raise OperationError(f"{what} has an unacceptable byte", Reason.PATH_INVALID)
    return _checked(b"/" + value, _WITH_SLASH, what)[1:]


def _checked(raw: bytes, escapable: frozenset[int], what: str) -> str:
    def unescape(match: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex(match[1].decode("ascii"))
        if byte[0] not in escapable:
            raise OperationError(
                f"{what} escapes a character that is never or always escaped",
                Reason.PATH_INVALID,
            )
        return byte

    try:
        name = _ESCAPE.sub(unescape, raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise OperationError(f"{what} is not UTF-8", Reason.PATH_INVALID) from error
    segments = name.split("/")[1:]
    if "" in segments[:-1] or not _DOT_SEGMENTS.isdisjoint(segments):
        raise OperationError(f"{what} has an empty or dot segment", Reason.PATH_INVALID)
    # Also no invisible and no undefined characters, which stores fold or drop.
    if not name.isprintable():
        raise OperationError(
            f"{what} has an unprintable character", Reason.PATH_INVALID
        )
    return name
