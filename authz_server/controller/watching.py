"""A copy of the cluster's objects of one kind, kept up to date by a watch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from authz_server.cluster.answers import RefusedError
from authz_server.cluster.client import Cluster
from authz_server.cluster.kinds import Kind
from authz_server.emit.manifest import Object
from authz_server.errors import SetupError

_log = logging.getLogger(__name__)

_RETRY_S: Final = 3.0

_Kept = TypeVar("_Kept")


class Copy(Generic[_Kept]):
    """What of each object is kept, by namespace and name.

    Args:
        namespace: whose objects; empty for all.
        keep: returns what of an object is kept.
        on_change: called, in the watch's thread, with the name of each object of which
            what is kept came, changed or went.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        namespace: str,
        keep: Callable[[Object], _Kept],
        on_change: Callable[[str, str], None],
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._namespace = namespace
        self._keep = keep
        self._on_change = on_change
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._version = ""  # up to which all is seen; empty if it must be listed
        self.is_complete = threading.Event()
        """Set once everything that there is has been seen."""

    def snapshot(self) -> Mapping[tuple[str, str], _Kept]:
        """Return what is kept now."""
        with self._lock:
            return dict(self._kept)

    def run(self, stop: threading.Event) -> None:
        """List and watch until `stop`."""
        while not stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow(stop)
            except SetupError as error:
                if isinstance(error, RefusedError):
                    # 410, the version is too old (API concepts, "410 Gone responses"),
                    # or who knows what: from the start.
                    self._version = ""
                _log.warning("%s can't be watched: %s", self._kind[1], error)
                stop.wait(_RETRY_S)

    def _list(self) -> None:
        items, self._version = self._cluster.listed(self._kind, self._namespace)
        fresh = {_name(item): self._keep(item) for item in items}
        with self._lock:
            before, self._kept = self._kept, fresh
        self.is_complete.set()
        for name in sorted(before.keys() | fresh.keys()):
            if before.get(name) != fresh.get(name):
                self._on_change(*name)

    def _follow(self, stop: threading.Event) -> None:
        events = self._cluster.watch(self._kind, self._namespace, self._version)
        for what, item in events:
            # Kept for a watch that breaks: what is seen twice would be old for a while.
            self._version = item["metadata"]["resourceVersion"]
            if what == "BOOKMARK":
                continue
            name = _name(item)
            with self._lock:
                before = self._kept.pop(name, None)
                after = None if what == "DELETED" else self._keep(item)
                if after is not None:
                    self._kept[name] = after
            if before != after:
                self._on_change(*name)
            if stop.is_set():
                return


def _name(item: Object) -> tuple[str, str]:
    meta = item["metadata"]
    return meta.get("namespace", ""), meta["name"]
