"""Stage 8, audit: one event for every decision, cache hits too."""

from typing import TYPE_CHECKING

from authz_server._native.choice import is_pure
from authz_server.audit.event import Occurrence, encode_record
from authz_server.audit.sink import FileSink, Sink

if TYPE_CHECKING or is_pure():
    from authz_server.audit.event import complete_event
else:
    from authz_server.audit.native import complete_event

__all__ = ["FileSink", "Occurrence", "Sink", "complete_event", "encode_record"]
