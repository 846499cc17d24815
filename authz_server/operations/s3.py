"""The part of S3's API that reads and writes objects: which requests there are.

A request is told by its method, by whether it names an object or only a bucket, and by
its query parameters, since S3's sub-resources are parameters: the same path with
``?acl`` is another operation. So every parameter must be known by name. Amazon S3 API
Reference, "Actions"; what is not here is configuration, or reads what cannot be seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from authz_server.errors import Reason
from authz_server.facts import Headers
from authz_server.operations.actions import Action
from authz_server.operations.operation import OperationError

COPY_SOURCE: Final = "x-amz-copy-source"
_ACL: Final = "x-amz-acl"

# With any of these a request does more than its method and path say, and what more
# cannot be granted. A caller that needs none of them loses nothing.
_REFUSED_HEADERS: Final = frozenset(
    {
        # Another method than the one that is judged.
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        # What `?acl`, `?tagging`, `?retention` and `?legal-hold` would do.
        "x-amz-grant-full-control",
        "x-amz-grant-read",
        "x-amz-grant-read-acp",
        "x-amz-grant-write",
        "x-amz-grant-write-acp",
        "x-amz-tagging",
        "x-amz-object-lock-legal-hold",
        "x-amz-object-lock-mode",
        "x-amz-object-lock-retain-until-date",
        "x-amz-bypass-governance-retention",
        # MinIO and Snowball unpack the body, an archive, all over the bucket.
        "x-amz-meta-snowball-auto-extract",
        # Other objects, named in the dialects of other stores.
        "x-amz-rename-source",
        "x-copy-from",
        "x-goog-copy-source",
        "x-ms-copy-source",
        "x-object-manifest",
        "x-symlink-target",
    }
)

SIGNALS: Final = (COPY_SOURCE, _ACL, *sorted(_REFUSED_HEADERS))
"""For the extraction plan: the headers on which it depends what a request does. Without
them in the plan a copy would look like a plain write."""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation, and the query parameters by which it is told.

    Attributes:
        required: what must be there.
        optional: what may be there beside it, and what may be on any request.
    """

    action: Action
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()

    def takes(self, names: frozenset[str]) -> bool:
        """Return whether a request with just these parameters is this operation."""
        return self.required <= names <= self.required | self.optional | _ANYWHERE


# A signature in the URL ("presigned", version 4 and 2) is the store's to check. S3 also
# takes *any* of its headers from a presigned query, x-amz-acl for one, so this is no
# pattern.
_ANYWHERE: Final = frozenset(
    {
        "x-id",
        "AWSAccessKeyId",
        "Expires",
        "Signature",
        "x-amz-security-token",
        "X-Amz-Algorithm",
        "X-Amz-Content-Sha256",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "x-amz-checksum-crc32",
        "x-amz-checksum-mode",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-user-agent",
    }
)
_RESPONSE: Final = frozenset(
    {
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
    }
)
_LISTING: Final = frozenset({"delimiter", "encoding-type", "max-keys", "prefix"})
_READING: Final = _RESPONSE | {"partNumber", "versionId"}

_READ: Final = Action.DATASET_READ
_WRITE: Final = Action.DATASET_WRITE
_UPLOAD: Final = frozenset({"uploadId"})

_OBJECT: Final[Mapping[str, tuple[Route, ...]]] = {
    "GET": (
        Route(_READ, optional=_READING),
        Route(  # ListParts
            _READ,
            _UPLOAD,
            frozenset({"encoding-type", "max-parts", "part-number-marker"}),
        ),
    ),
    "HEAD": (Route(_READ, optional=_READING),),
    "PUT": (Route(_WRITE), Route(_WRITE, _UPLOAD | {"partNumber"})),
    # Without a parameter it would be a form that names its object in the body.
    "POST": (Route(_WRITE, frozenset({"uploads"})), Route(_WRITE, _UPLOAD)),
    "DELETE": (
        Route(_WRITE, optional=frozenset({"versionId"})),
        Route(_WRITE, _UPLOAD),
    ),
    "PATCH": (Route(_WRITE),),
}

# Each touches what lies beneath `prefix`; without one, or where there is none, the
# whole bucket.
_BUCKET: Final[Mapping[str, tuple[Route, ...]]] = {
    "GET": (
        Route(_READ, optional=_LISTING | {"marker"}),
        Route(
            _READ,
            frozenset({"list-type"}),
            _LISTING | {"continuation-token", "fetch-owner", "start-after"},
        ),
        Route(
            _READ,
            frozenset({"versions"}),
            _LISTING | {"key-marker", "version-id-marker"},
        ),
        Route(
            _READ,
            frozenset({"uploads"}),
            (_LISTING - {"max-keys"})
            | {"key-marker", "max-uploads", "upload-id-marker"},
        ),
    ),
    "HEAD": (Route(_READ),),
    # The objects are named in the body: DeleteObjects, and an upload by a form.
    "POST": (Route(_WRITE, frozenset({"delete"})), Route(_WRITE)),
}

_NAME: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
# Visible ASCII without & # % ; \ and escapes of anything but controls.
_VALUE: Final = re.compile(
    rb"(?:[!\"$'-:<-\[\]-~]|%(?:[2-689A-Fa-f][0-9A-Fa-f]|7[0-9A-Ea-e]))*"
)
_NOTHING: Final = re.compile(rb"")
_NUMBER: Final = re.compile(rb"[0-9]{1,5}")
# Stores have built file names from it.
_IDENTIFIER: Final = re.compile(rb"(?!.*\.\.)[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,1023}")

_VALUES: Final[Mapping[str, re.Pattern[bytes]]] = {
    "delete": _NOTHING,
    "uploads": _NOTHING,
    "versions": _NOTHING,
    "list-type": re.compile(rb"2"),
    "partNumber": _NUMBER,
    "uploadId": _IDENTIFIER,
    "versionId": _IDENTIFIER,
}


def parse_query(query: bytes) -> dict[str, bytes]:
    """Return the parameters of `query`, whose values are as they came.

    Raises:
        OperationError: if a parameter comes twice, or could be read in two ways.
    """
    parameters: dict[str, bytes] = {}
    for part in query.split(b"&") if query else ():
        raw_name, _, value = part.partition(b"=")
        name = raw_name.decode("ascii", "backslashreplace")
        if _NAME.fullmatch(name) is None:
            raise OperationError(
                "a query parameter has no plain name", Reason.PATH_INVALID
            )
        if name in parameters:
            raise OperationError("a query parameter comes twice", Reason.PATH_INVALID)
        if _VALUES.get(name, _VALUE).fullmatch(value) is None:
            raise OperationError(
                f"query parameter {name} has an unacceptable value",
                Reason.PATH_INVALID,
            )
        parameters[name] = value
    return parameters


def find_route(
    method: str, parameters: Mapping[str, bytes], *, is_object: bool
) -> Route:
    """Return the operation that a request is.

    Args:
        method: as sent; methods are case-sensitive (RFC 9110 §9.1).
        is_object: whether the path names an object, not only a bucket.

    Raises:
        OperationError: if it is none that reads or writes objects alone.
    """
    names = frozenset(parameters)
    for route in (_OBJECT if is_object else _BUCKET).get(method, ()):
        if route.takes(names):
            return route
    raise OperationError("not a request that reads or writes objects")


def copy_source(signals: Headers) -> bytes | None:
    """Return what a copy is made of, as it came; None if nothing is copied.

    Raises:
        OperationError: if there are two, or a header asks for what cannot be granted.
    """
    source: bytes | None = None
    for name, values in signals:
        if name == COPY_SOURCE:
            if len(values) != 1:
                raise OperationError(
                    f"header {name} came {len(values)} times", Reason.HEADER_DUPLICATE
                )
            source = values[0]
        elif name in _REFUSED_HEADERS or (name == _ACL and set(values) != {b"private"}):
            raise OperationError(f"header {name} asks for what no role gives")
    return source


def split_source(source: bytes) -> bytes:
    """Return the escaped ``bucket/key`` in a copy source, without leading slash.

    Raises:
        OperationError: if something other than a version id follows it.
    """
    name, mark, rest = source.partition(b"?")
    key, _, value = rest.partition(b"=")
    if mark and (key != b"versionId" or _IDENTIFIER.fullmatch(value) is None):
        raise OperationError("the copy source has an odd version", Reason.PATH_INVALID)
    return name.removeprefix(b"/")
