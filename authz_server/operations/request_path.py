"""The request target, checked and never repaired.

Decoding first and deciding then is how path rules are bypassed: proxy, authorizer and
server end up with three readings. Triton decodes nothing, so a legitimate client never
sends what is refused here.
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.errors import Reason
from authz_server.operations.operation import OperationError

# Segments of visible ASCII without the characters that some reader treats as structure
# or as an escape: % \ # ; and, outside the query, ?
_PATH: Final = re.compile(rb"(?:/[!$&'()*+,\-.0-9:=@A-Z\[\]^_`a-z{|}~\"<>]*)+")
_QUERY: Final = re.compile(rb"[!-\"$-~]*")
_DOT_SEGMENTS: Final = frozenset({b".", b".."})


def parse_path(target: bytes) -> str:
    """Return the path of `target`, everything before the first ``?``.

    Raises:
        OperationError: if path or query has a byte, an escape, an empty segment or a
            dot segment that could be read in two ways.
    """
    path, _, query = target.partition(b"?")
    if _PATH.fullmatch(path) is None:
        raise OperationError("path has an unacceptable byte", Reason.PATH_INVALID)
    # An empty last segment is a trailing slash: it matches no route, but is not odd.
    if b"//" in path or (
        b"/." in path and not _DOT_SEGMENTS.isdisjoint(path.split(b"/"))
    ):
        raise OperationError("path has an empty or dot segment", Reason.PATH_INVALID)
    if query and _QUERY.fullmatch(query) is None:
        raise OperationError("query has an unacceptable byte", Reason.PATH_INVALID)
    return path.decode("ascii")
