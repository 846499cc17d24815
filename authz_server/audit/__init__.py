"""Stage 8, audit: one event for every decision, cache hits too."""

from authz_server.audit.event import Occurrence, complete_event, encode_record
from authz_server.audit.sink import FileSink, Sink

__all__ = ["FileSink", "Occurrence", "Sink", "complete_event", "encode_record"]
