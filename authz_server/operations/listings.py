"""Answers that disclose every model, less those that a caller may not see.

Where the gate sees the answer, such a call may begin for whoever has its action on some
model, and each model in the answer is then judged as if it had been asked for alone.
The forms are those that Triton writes; an answer in any other is not let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from authz_server.errors import Reason, RequestError
from authz_server.facts import Body, BodyState
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Scope, require_complete
from authz_server.wire import LEN, read_fields

MODEL: Final = 1
VERSION: Final = 2
"""Numbers under which a listed model's name and version stand in `Body.fields`."""

_SERVICE: Final = "/inference.GRPCInferenceService/"
_FRAME_BYTES: Final = 5


class Entry(NamedTuple):
    """A model in an answer, in one version; empty if the answer names none."""

    model: str
    version: str = ""

    @property
    def body(self) -> Body:
        """The entry as the body of facts."""
        return Body(
            BodyState.COMPLETE,
            ((MODEL, self.model.encode()), (VERSION, self.version.encode())),
        )


class ListingError(RequestError):
    """An answer is not in the form that Triton writes, so it cannot be filtered."""

    default_reason = Reason.LISTING_UNREADABLE


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind of answer.

    Attributes:
        action: what the call does.
        parts: splits an answer into its parts, each with the entry that it discloses;
            None for what belongs to no model.
        join: puts the parts that stay together again.
        may_be_narrowed: whether the request may ask for one model. That one's name is
            judged before Triton tells whether there is such a model.
    """

    action: Action
    parts: Callable[[bytes], list[tuple[Entry | None, Any]]]
    join: Callable[[list[Any]], bytes]
    may_be_narrowed: bool = False

    def call(self, body: Body) -> Call:
        """Return what the call does: with no entry seen yet, or with the one in `body`.

        Raises:
            OperationError: if the entry is none that a policy could name, or a request
                that may ask for one model was not seen whole.
        """
        if self.may_be_narrowed:
            require_complete(body)
            if not body.value(MODEL):
                return Call(self.action, Scope.SERVER)
        if body.state is not BodyState.COMPLETE:
            return Call(self.action, Scope.SERVER)
        model, version = (
            body.value(number).decode("utf-8", "backslashreplace")
            for number in (MODEL, VERSION)
        )
        return Call(self.action, Scope.MODEL, model, version)

    def entries(self, answer: bytes) -> Collection[Entry]:
        """Return every model that `answer` discloses, each once.

        Raises:
            ListingError: if it is in no form that is known.
        """
        entries = dict.fromkeys(entry for entry, _ in self.parts(answer) if entry)
        if any(not entry.model for entry in entries):
            raise ListingError("the answer has a model without a name")
        return entries

    def keep(self, answer: bytes, kept: Collection[Entry]) -> bytes:
        """Return `answer` with no other models than `kept`.

        Raises:
            ListingError: if it is in no form that is known.
        """
        return self.join(
            [part for entry, part in self.parts(answer) if not entry or entry in kept]
        )


def listing_at(method: str, path: str) -> Listing | None:
    """Return the listing that a call is answered with; None if it is no listing."""
    if method == "POST" and _INDEX.fullmatch(path):
        return _HTTP_INDEX
    return _BY_CALL.get((method, path))


def _json(answer: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(answer.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ListingError("the answer is not JSON") from error


def _items(items: object, name: str) -> list[tuple[Entry | None, Any]]:
    if not isinstance(items, list):
        raise ListingError("the answer has no list of models")
    found: list[tuple[Entry | None, Any]] = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get(name), str):
            raise ListingError("the answer has a model without a name")
        version = item.get("version", "")
        if not isinstance(version, str):
            raise ListingError("the answer has a version that is no text")
        found.append((Entry(item[name], version), item))
    return found


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _only(answer: bytes, keys: set[str], name: str) -> object:
    document = _json(answer)
    # A key that is not known could disclose what nobody looks at.
    if not isinstance(document, dict) or not document.keys() <= keys:
        raise ListingError("the answer has other keys than it should")
    return document.get(name)


def _messages(answer: bytes) -> list[tuple[Entry | None, Any]]:
    """Read a gRPC answer whose field 1 is repeated and names a model in its field 1."""
    if len(answer) < _FRAME_BYTES or answer[0] != 0:
        raise ListingError("the answer is no plain gRPC message")
    if int.from_bytes(answer[1:_FRAME_BYTES]) != len(answer) - _FRAME_BYTES:
        raise ListingError("the answer is not exactly one gRPC message")
    try:
        fields = list(read_fields(answer, _FRAME_BYTES, len(answer)))
        found: list[tuple[Entry | None, Any]] = [
            (_named(answer[start:end]), answer[start:end])
            for number, wire_type, start, end in fields
            if number == MODEL and wire_type == LEN
        ]
    except RequestError as error:
        raise ListingError("the answer is no protobuf message") from error
    if len(found) != len(fields):
        raise ListingError("the answer has other fields than it should")
    return found


def _named(raw: bytes) -> Entry:
    texts = {MODEL: "", VERSION: ""}
    for number, wire_type, start, end in read_fields(raw, 0, len(raw)):
        if number in texts:
            if wire_type != LEN:
                raise ListingError("the answer has a model without a name")
            texts[number] = raw[start:end].decode("utf-8", "backslashreplace")
    return Entry(texts[MODEL], texts[VERSION])


def _frame(parts: list[bytes]) -> bytes:
    message = b"".join(b"\x0a" + _varint(len(part)) + part for part in parts)
    return b"\0" + len(message).to_bytes(4) + message


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


# Prometheus text format: a sample with labels. Triton quotes nothing in them.
_LABEL: Final = re.compile(rb'(?:^|[{,])(model|version)="((?:[^"\\]|\\.)*)"')


def _samples(answer: bytes) -> list[tuple[Entry | None, Any]]:
    return [(_labelled(line), line) for line in answer.splitlines(keepends=True)]


def _labelled(line: bytes) -> Entry | None:
    if line.startswith(b"#"):
        return None
    labels = {
        name: value.decode("utf-8", "backslashreplace")
        for name, value in _LABEL.findall(line)
    }
    if b"model" not in labels:
        if b"model" in line.partition(b"{")[2]:
            raise ListingError("the answer has a sample that cannot be read")
        return None
    return Entry(labels[b"model"], labels.get(b"version", ""))


_INDEX: Final = re.compile(r"/v2/repository(?:/[^/]+)?/index", re.ASCII)

_HTTP_INDEX: Final = Listing(
    Action.MODEL_LIST, lambda answer: _items(_json(answer), "name"), _dump
)
_HTTP_STATISTICS: Final = Listing(
    Action.STATISTICS,
    lambda answer: _items(_only(answer, {"model_stats"}, "model_stats"), "name"),
    lambda parts: _dump({"model_stats": parts}),
)
_METRICS: Final = Listing(Action.METRICS, _samples, b"".join)
_OPENAI: Final = Listing(
    Action.MODEL_LIST,
    lambda answer: _items(_only(answer, {"object", "data"}, "data"), "id"),
    lambda parts: _dump({"object": "list", "data": parts}),
)

_BY_CALL: Final[dict[tuple[str, str], Listing]] = {
    ("GET", "/v2/models/stats"): _HTTP_STATISTICS,
    ("GET", "/metrics"): _METRICS,
    ("GET", "/metrics/"): _METRICS,
    ("GET", "/v1/models"): _OPENAI,
    ("POST", _SERVICE + "RepositoryIndex"): Listing(
        Action.MODEL_LIST, _messages, _frame
    ),
    ("POST", _SERVICE + "ModelStatistics"): Listing(
        Action.STATISTICS, _messages, _frame, may_be_narrowed=True
    ),
}
