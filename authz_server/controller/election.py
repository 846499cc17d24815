"""Holds the Lease, or waits for it."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from authz_server.cluster.answers import RefusedError
from authz_server.cluster.client import Cluster
from authz_server.cluster.kinds import Key
from authz_server.controller.lease import (
    API_VERSION,
    RENEW_S,
    RETRY_S,
    Observed,
    may_take,
    new_lease,
    observe,
    released,
    taken,
)
from authz_server.errors import SetupError

_log = logging.getLogger(__name__)


class Election:
    """One candidate.

    Args:
        identity: of this process alone.
        on_won: called, in the candidate's thread, when it begins to lead.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        on_won: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._key = Key(API_VERSION, "Lease", namespace, name)
        self._identity = identity
        self._on_won = on_won
        self._observed: Observed | None = None
        self._renewed_s: float | None = None

    @property
    def is_leading(self) -> bool:
        """Whether this candidate is the one that acts."""
        renewed = self._renewed_s
        return renewed is not None and time.monotonic() < renewed + RENEW_S

    def run(self, stop: threading.Event) -> None:
        """Be a candidate until `stop`, and then give the lease back."""
        while not stop.is_set():
            was_leading = self.is_leading
            try:
                self._try()
            except SetupError as error:
                _log.warning("the lease can't be had: %s", error)
            if self.is_leading and not was_leading:
                _log.info("leading as %s", self._identity)
                self._on_won()
            elif was_leading and not self.is_leading:
                _log.warning("not leading any more")
            stop.wait(RETRY_S)
        self._release()

    def _try(self) -> None:
        # The time before the request: the holder's must be the shorter one.
        now_s, now = time.monotonic(), dt.datetime.now(dt.UTC)
        lease = self._cluster.find(self._key)
        try:
            if lease is None:
                fresh = new_lease(
                    self._key.name, self._key.namespace, self._identity, now
                )
                self._cluster.create(fresh)
            else:
                self._observed = observe(lease, self._observed, now_s)
                if not may_take(self._observed, self._identity, now_s):
                    self._renewed_s = None
                    return
                self._cluster.replace(taken(lease, self._identity, now))
        except RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return  # Somebody was quicker.
        self._renewed_s = now_s

    def _release(self) -> None:
        """Let the next one begin at once."""
        if not self.is_leading:
            return
        self._renewed_s = None
        try:
            lease = self._cluster.find(self._key)
            free = None if lease is None else released(lease, self._identity)
            if free is not None:
                self._cluster.replace(free)
        except SetupError as error:
            _log.warning("the lease can't be given back: %s", error)
