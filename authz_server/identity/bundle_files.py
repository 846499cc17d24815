"""Trust bundles from files, watched: one file a trust domain, or a map of many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from authz_server.errors import BundleError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.identity.trust_bundle import parse_bundle, parse_bundle_map
from authz_server.watch import ChangingFile, Watch

_log: Final = logging.getLogger("authz_server.trust")


class BundleFiles:
    """Keeps a store true to its files.

    A bundle's age counts from when its file was last written.

    Args:
        files: the bundle file of each trust domain.
        bundle_map: a file with the bundles of any number of further ones.
    """

    def __init__(
        self,
        store: TrustStore,
        files: Mapping[TrustDomain, Path],
        bundle_map: Path | None = None,
    ) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._map_error: str | None = None
        self._files = [
            ChangingFile(path, self._reader(name)) for name, path in files.items()
        ]
        if bundle_map is not None:
            self._files.append(ChangingFile(bundle_map, self._read_map))
        self._watch = Watch(self._look, "trust-watch")

    @property
    def error(self) -> str | None:
        """What is wrong beside what the store tells; None if nothing is."""
        if self._watch.has_died:
            return "the bundles are no longer watched; restart the server"
        return self._map_error

    def reload(self) -> None:
        """Read every file again."""
        with self._lock:
            for file in self._files:
                file.read()

    def start_watching(self, interval_s: float) -> None:
        """Read a file again from now on whenever it has changed."""
        self._watch.start(interval_s)

    def stop(self) -> None:
        """End the watching; the bundles stay."""
        self._watch.stop()

    def _look(self) -> None:
        with self._lock:
            for file in self._files:
                file.read_if_changed()

    def _reader(self, name: TrustDomain) -> Callable[[Path], None]:
        def read(path: Path) -> None:
            try:
                written_s = path.stat().st_mtime
                bundle = parse_bundle(path.read_bytes(), name)
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
                self._store.complain(name, problem, str(path))
            except BundleError as error:
                self._store.complain(name, str(error), str(path))
            else:
                self._store.put(bundle, written_s, str(path))

        return read

    def _read_map(self, path: Path) -> None:
        try:
            written_s = path.stat().st_mtime
            bundles = parse_bundle_map(path.read_bytes())
        except OSError as error:
            self._map_error = f"{path}: cannot be read: {error.strerror}"
        except BundleError as error:
            self._map_error = f"{path}: {error}"
        else:
            self._store.put_all(bundles, written_s, str(path))
            self._map_error = None
            return
        _log.error("%s", self._map_error)
