"""The audit event: one JSON object on one line.

It has two halves. The *record* follows from facts and policy, so it is encoded once and
remembered with the decision; the *occurrence* is this one request. Neither has a place
for a token, a key, a certificate, a query string or a body.
"""

from __future__ import annotations

import datetime as dt
import functools
import math
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Final, NamedTuple

MAX_TEXT_CHARACTERS: Final = 2048
"""Longer names and paths are cut: a caller must not fill the disk with one request."""


class Occurrence(NamedTuple):
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


def encode_record(fields: Mapping[str, str | bool]) -> bytes:
    """Return `fields` as a JSON object in ASCII, without the closing brace.

    Control characters come out escaped, so no name can forge a second line.

    Args:
        fields: by names of ours, which need no escaping.
    """
    record = _encode(fields)
    # Nothing is longer than its encoding: only in a long record can a text be too long.
    if len(record) > MAX_TEXT_CHARACTERS:
        record = _encode(
            {
                name: value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else value
                for name, value in fields.items()
            }
        )
    return record


def complete_event(record: bytes, occurrence: Occurrence) -> bytes:
    """Return the whole event, ended by a newline."""
    tail = (
        f'"time":"{_utc(occurrence.wall_s)}",'
        f'"cache_hit":{"true" if occurrence.cache_hit else "false"},'
        f'"latency_us":{round(occurrence.latency_s * 1e6)},'
        f'"request_id":{quote(occurrence.request_id[:MAX_TEXT_CHARACTERS])},'
        f'"source":{quote(occurrence.source[:MAX_TEXT_CHARACTERS])}}}\n'
    )
    return b"%b,%b" % (record, tail.encode("ascii"))


def _encode(fields: Mapping[str, str | bool]) -> bytes:
    # As `json.dumps` writes it, which would build an encoder for every event.
    members = [
        f'"{name}":{quote(value)}'
        if isinstance(value, str)
        else f'"{name}":{"true" if value else "false"}'
        for name, value in fields.items()
    ]
    return ("{" + ",".join(members)).encode("ascii")


def _utc(wall_s: float) -> str:
    """Return the moment as `datetime` writes it in UTC, to the microsecond."""
    fraction, whole = math.modf(wall_s)
    carry, microseconds = divmod(round(fraction * 1e6), 10**6)
    return f"{_whole_second(int(whole) + carry)}.{microseconds:06}+00:00"


@functools.lru_cache(maxsize=8)
def _whole_second(second: int) -> str:
    """Return date and time of day; the same for all events of a second."""
    moment = dt.datetime.fromtimestamp(second, tz=dt.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="seconds")
