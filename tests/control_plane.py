"""A control plane on loopback: it serves a bundle as OPA's do, and takes reports."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_BUNDLES = "application/vnd.openpolicyagent.bundles"


@dataclass
class ControlPlane:
    """What it serves, and what it was asked and told.

    Attributes:
        bundle: changed by `publish`.
        can_wait: whether it holds requests open.
        cut_at: after how many bytes of a body the link is lost; None for never.
        requests: the headers of each request for the bundle.
        reports: what was posted to /status.
    """

    port: int
    bundle: bytes = b""
    can_wait: bool = True
    cut_at: int | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    is_stopping: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/bundles/plant-7.tar.gz"

    @property
    def status_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/status"

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.bundle).hexdigest()[:16]}"'

    def publish(self, bundle: bytes) -> None:
        """Serve `bundle` from now on."""
        with self.changed:
            self.bundle = bundle
            self.changed.notify_all()

    def wait_for_news(self, etag: str, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: self.etag != etag or self.is_stopping, seconds
            )


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    plane: ControlPlane

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        plane, asked = self.server.plane, self.headers
        plane.requests.append(dict(asked))
        known = asked.get("If-None-Match", "")
        wait = asked.get("Prefer", "").partition("wait=")[2]
        if known == plane.etag and plane.can_wait and wait:
            plane.wait_for_news(known, float(wait))
        if known == plane.etag:
            self.send_response(304)
            self.end_headers()
            return
        body, start = plane.bundle, 0
        if asked.get("If-Range") == plane.etag:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            end = len(body) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(body)}")
        self.send_header("ETag", plane.etag)
        self.send_header("Content-Type", _BUNDLES if plane.can_wait else "text/plain")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        self.wfile.write(rest if plane.cut_at is None else rest[: plane.cut_at])

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.plane.reports.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""


@contextlib.contextmanager
def control_plane(port: int = 0) -> Iterator[ControlPlane]:
    """Yield a running control plane."""
    with _Server(("127.0.0.1", port), _Handler) as server:
        plane = server.plane = ControlPlane(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield plane
        finally:
            with plane.changed:
                plane.is_stopping = True
                plane.changed.notify_all()
            server.shutdown()
            thread.join()
