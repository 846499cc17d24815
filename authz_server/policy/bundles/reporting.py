"""Sends the status of a bundle to a control plane, the latest one, in its own time."""

from __future__ import annotations

import json
import logging
import ssl
import threading
from collections.abc import Mapping
from typing import Any, Final

from authz_server.errors import FetchError
from authz_server.fetch import Request, exchange, retry_delay_s
from authz_server.policy.bundles.source import Headers

_log: Final = logging.getLogger("authz_server.bundles")

_STATUSES: Final = (200, 201, 202, 204)
_MAX_ANSWER: Final = 64 * 1024
_TIMEOUT_S: Final = 10.0
_STOP_WAIT_S: Final = 1.0


class Reporter:
    """A thread that posts reports. What is newer takes the place of what waits.

    Args:
        tls, headers: as of `exchange` and `WebSource`.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None, headers: Headers) -> None:
        self._url = url
        self._tls = tls
        self._headers = headers
        self._changed = threading.Condition()
        self._waiting: Mapping[str, Any] | None = None
        self._is_stopping = False
        self._thread = threading.Thread(
            target=self._run, name="bundle-status", daemon=True
        )

    def start(self) -> None:
        """Send from now on."""
        self._thread.start()

    def offer(self, report: Mapping[str, Any]) -> None:
        """Let `report` be the next that is sent. Never waits."""
        with self._changed:
            self._waiting = report
            self._changed.notify()

    def stop(self) -> None:
        """Send no more; one that is under way is waited for only a second."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_WAIT_S)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_stopping or self._waiting is not None
                )
                if self._is_stopping:
                    return
                report, self._waiting = self._waiting, None
            try:
                self._send(report)
                failures = 0
            except FetchError as error:
                failures += 1
                if failures == 1:
                    # An outage is told once, not at every attempt.
                    _log.warning("the status of the bundle was not reported: %s", error)
                with self._changed:
                    if self._waiting is None:
                        self._waiting = report
                    self._changed.wait_for(
                        lambda: self._is_stopping, retry_delay_s(failures)
                    )

    def _send(self, report: Mapping[str, Any] | None) -> None:
        exchange(
            self._url,
            self._tls,
            Request(
                method="POST",
                headers={"Content-Type": "application/json", **self._headers()},
                body=json.dumps(report).encode(),
            ),
            max_bytes=_MAX_ANSWER,
            timeout_s=_TIMEOUT_S,
            statuses=_STATUSES,
        )
