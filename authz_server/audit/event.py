"""The audit event: one JSON object on one line.

It has two halves. The *record* follows from facts and policy, so it is encoded once and
remembered with the decision; the *occurrence* is this one request. Neither has a place
for a token, a key, a certificate, a query string or a body.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_TEXT_CHARACTERS: Final = 2048
"""Longer names and paths are cut: a caller must not fill the disk with one request."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What is particular to one request.

    Attributes:
        wall_s: seconds since the epoch at which the request arrived.
        latency_s: seconds from the arrival of the check to its answer.
        cache_hit: whether the decision was remembered rather than made.
        request_id, source: Envoy's id of the request; address of the peer.
    """

    wall_s: float
    latency_s: float
    cache_hit: bool
    request_id: str
    source: str


def encode_record(fields: Mapping[str, object]) -> bytes:
    """Return `fields` as a JSON object in ASCII, without the closing brace.

    Control characters come out escaped, so no name can forge a second line.
    """
    return _encode(fields)[:-1]


def complete_event(record: bytes, occurrence: Occurrence) -> bytes:
    """Return the whole event, ended by a newline."""
    moment = dt.datetime.fromtimestamp(occurrence.wall_s, tz=dt.UTC)
    tail = _encode(
        {
            "time": moment.isoformat(timespec="microseconds"),
            "cache_hit": occurrence.cache_hit,
            "latency_us": round(occurrence.latency_s * 1e6),
            "request_id": occurrence.request_id,
            "source": occurrence.source,
        }
    )
    return b"%b,%b\n" % (record, tail[1:])


def _encode(fields: Mapping[str, object]) -> bytes:
    return _ENCODER.encode(
        {
            key: value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else value
            for key, value in fields.items()
        }
    ).encode("ascii")


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
