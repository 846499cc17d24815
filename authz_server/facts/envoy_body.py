"""What is in the body of an HTTP request, in the form that opa-envoy-plugin gives it.

Which body is read as what goes by its media type. Beyond what the plugin does, a body
is refused that two readers could take for different ones: names that come twice in a
JSON object, more than one known media type, a coding that changes the bytes, parts with
a transfer encoding, text that is not UTF-8, anything before the first or behind the
last part. All of it is bounded, since a caller chooses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from authz_server.errors import Reason, RequestError
from authz_server.facts.json_body import MAX_JSON_BYTES, MAX_JSON_MARKS
from authz_server.strict_json import parse_json_object

MAX_BODY_BYTES: Final = MAX_JSON_BYTES
MAX_PARAMETERS: Final = 10_000
"""Of a form or a query."""
MAX_PARTS: Final = 1_000

_JSON: Final = "application/json"
_GRPC: Final = "application/grpc"
_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_KNOWN: Final = (_JSON, _GRPC, _FORM, _MULTIPART)

CONTENT_TYPE: Final = "content-type"
CONTENT_LENGTH: Final = "content-length"
CONTENT_ENCODING: Final = "content-encoding"
# Set by Envoy's ext_authz filter itself; a client's copy never reaches the check.
PARTIAL_BODY: Final = "x-envoy-auth-partial-body"

_DIGITS: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 9110 §5.6.6, and RFC 2046 §5.1.1 for the boundary.
_PARAMETER: Final = re.compile(
    r";[ \t]*([a-z0-9!#$&^_.+-]+\*?)="
    r'(?:"((?:[^"\\\x00-\x1f]|\\["\\])*)"|([^\s";\\]*))[ \t]*',
    re.ASCII | re.IGNORECASE,
)
_BOUNDARY: Final = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]")
_HEADER_LINE: Final = re.compile(rb"([A-Za-z0-9-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Payload:
    """What came of a body, and what the request says of it.

    Attributes:
        raw: the bytes; empty if Envoy sent none along.
        size: how long the body really is, as Envoy says; not positive if it is unknown.
        headers: every value of the headers that say how to read it.
    """

    raw: bytes
    size: int
    headers: Mapping[str, Sequence[str]]

    def header(self, name: str) -> str:
        """Return the one value of a header; empty if there is none.

        Raises:
            RequestError: with HEADER_DUPLICATE, if there are several.
        """
        values = self.headers.get(name, ())
        if len(values) > 1:
            raise RequestError(f"several {name} headers", Reason.HEADER_DUPLICATE)
        return values[0] if values else ""


def read_body(payload: Payload) -> tuple[Any, bool]:
    """Return what the body says, None if nothing, and whether it was cut off.

    Raises:
        RequestError: if it is not what its media type says, or is ambiguous.
    """
    if any(value != "false" for value in payload.headers.get(PARTIAL_BODY, ())):
        return None, True
    media_type = payload.header(CONTENT_TYPE)
    # Names of media types know no case (RFC 9110 §8.3.1). That one is looked for
    # anywhere in the header is the plugin's rule.
    known = [name for name in _KNOWN if name in media_type.lower()]
    if len(known) > 1:
        raise RequestError("a body of two types", Reason.BODY_MALFORMED)
    # To read gRPC takes descriptors of its messages. Without them, as in the plugin:
    if not known or known == [_GRPC] or not payload.raw:
        return None, False
    if _is_cut_off(payload):
        return None, True
    if len(payload.raw) > MAX_BODY_BYTES:
        raise _malformed("it is too long")
    # RFC 9110 §8.4: a coding changes what the bytes mean, and `identity` is none.
    if payload.header(CONTENT_ENCODING).lower() not in {"", "identity"}:
        raise RequestError("the body has a content coding", Reason.BODY_COMPRESSED)
    if known == [_JSON]:
        return read_json(payload.raw), False
    if known == [_FORM]:
        return read_form(payload.raw), False
    return _read_multipart(payload.raw, media_type), False


def read_json(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value in `raw`.

    Raises:
        RequestError: if it is not exactly one, or not I-JSON (RFC 7493).
    """
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_JSON_MARKS:
        raise _malformed("it has too many values")
    try:
        # The strict reader takes objects only. One with a single name, whose value is
        # all that is between the braces: another name in `raw` would be a second one.
        document = parse_json_object(b'{"":' + raw + b"}")
    except ValueError:
        # Without its cause, which holds the whole document.
        raise _malformed("it is no strict JSON") from None
    if len(document) != 1:
        raise _malformed("it is no strict JSON")
    return document[""]


def read_form(raw: bytes) -> dict[str, list[str]]:
    """Return every value of each name in a form or a query.

    Raises:
        RequestError: if an escape is malformed, a ``;`` is in it, which some readers
            take for ``&``, or text is not UTF-8.
    """
    if raw.count(b"&") >= MAX_PARAMETERS:
        raise _malformed("it has too many parameters")
    found: dict[str, list[str]] = {}
    for pair in _text(raw).split("&"):
        if ";" in pair:
            raise _malformed("a parameter has a semicolon")
        if pair:
            name, _, value = pair.partition("=")
            found.setdefault(_unquoted(name), []).append(_unquoted(value))
    return found


def decoded(text: str) -> str:
    """Return `text` with its percent escapes decoded, once.

    Raises:
        ValueError: if an escape is malformed, or the result is not UTF-8. It quotes
            nothing.
    """
    if "%" not in text:
        return text
    if _BAD_ESCAPE.search(text):
        raise ValueError("an escape is malformed")
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("an escape is not UTF-8") from None


def _unquoted(text: str) -> str:
    try:
        return decoded(text.replace("+", " "))
    except ValueError as error:
        raise _malformed(str(error)) from None


def _is_cut_off(payload: Payload) -> bool:
    length = payload.header(CONTENT_LENGTH)
    if length and not _DIGITS.fullmatch(length):
        raise RequestError("content-length is no number")
    return max(int(length or "0"), payload.size) > len(payload.raw)


def _read_multipart(raw: bytes, media_type: str) -> dict[str, list[Any]]:
    """Return every value of each named part (RFC 7578)."""
    _, parameters = _parameters(media_type)
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed("it has no usable boundary")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    # The first delimiter stands at the start, without a line before it.
    first, *rest = (b"\r\n" + raw).split(delimiter, MAX_PARTS + 2)
    if first or len(rest) > MAX_PARTS + 1 or len(rest) < 1:
        raise _malformed("its parts are not delimited")
    *parts, end = rest
    if end not in {b"--", b"--\r\n"}:
        raise _malformed("its parts do not end")
    found: dict[str, list[Any]] = {}
    for part in parts:
        name, value = _part(part)
        if name:
            found.setdefault(name, []).append(value)
    return found


def _part(part: bytes) -> tuple[str, Any]:
    """Return the name of a part, empty if it has none, and its value."""
    if not part.startswith(b"\r\n"):
        raise _malformed("a delimiter has a tail")
    # A part without headers has its empty line right away.
    head, separator, content = part.partition(b"\r\n\r\n")
    if not separator:
        raise _malformed("a part has no content")
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:]:
        match = _HEADER_LINE.fullmatch(line)
        if match is None or b"\n" in line or b"\r" in line:
            raise _malformed("a part has a malformed header")
        name = match[1].decode("ascii").lower()
        if name in headers:
            raise _malformed("a part has a header twice")
        headers[name] = _text(match[2])
    if headers.get("content-transfer-encoding", "binary").lower() not in {
        *("7bit", "8bit", "binary"),
    }:
        raise _malformed("a part has a transfer encoding")
    disposition, parameters = _parameters(headers.get("content-disposition", ""))
    if disposition != "form-data":
        return "", None
    if "application/json" in headers.get("content-type", "").lower():
        return parameters.get("name", ""), read_json(content)
    return parameters.get("name", ""), _text(content)


def _parameters(value: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the parameters of a header, in lower case, and them."""
    start, semicolon, rest = value.partition(";")
    found: dict[str, str] = {}
    position, text = 0, semicolon + rest
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            if text[position:].strip("; \t"):
                raise _malformed("a header has a malformed parameter")
            break
        name = match[1].lower()
        # RFC 8187's `name*` would be a second way to say the same.
        if name in found or name == "name*":
            raise _malformed("a header has a parameter twice")
        quoted = match[2]
        found[name] = match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = match.end()
    return start.strip().lower(), found


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Without its cause, which holds the text.
        raise _malformed("it is not UTF-8") from None


def _malformed(why: str) -> RequestError:
    return RequestError(f"the body is refused: {why}", Reason.BODY_MALFORMED)
