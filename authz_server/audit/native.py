"""The audit event by the core; `event.py` has its twin."""

from __future__ import annotations

from authz_server._native._core import audit_event
from authz_server.audit.event import Occurrence


def complete_event(record: bytes, occurrence: Occurrence) -> bytes:
    """Return the whole event, ended by a newline."""
    return audit_event(record, *occurrence)
