"""The trust bundles in force: which leaf is believed, and for how long.

`Trust` is one frozen state of all bundles; `TrustFiles` keeps it true to its files.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.clock import Clock
from authz_server.errors import BundleError
from authz_server.identity.certificate import Leaf
from authz_server.identity.chain import ChainVerifier, Window
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust_bundle import TrustBundle, parse_bundle
from authz_server.watch import Fingerprint, Watch, fingerprint

_log: Final = logging.getLogger("authz_server.trust")

_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Anchor:
    """One trust domain's bundle, ready to verify by.

    Attributes:
        good_until_s: wall-clock seconds after which the bundle is too old.
    """

    bundle: TrustBundle
    verifier: ChainVerifier
    good_until_s: float


@dataclass(frozen=True, slots=True)
class Trust:
    """All bundles at one moment.

    Attributes:
        revision: changes whenever an authority does.
    """

    anchors: Mapping[TrustDomain, Anchor]
    revision: str
    _seen: dict[bytes, Window] = field(default_factory=dict, compare=False, repr=False)

    def verify(self, leaf: Leaf, now_s: float) -> Window:
        """Return between when `leaf` is to be believed.

        A chain that was found is remembered by the certificate's bytes; its dates, and
        the bundle's age, count on every call.

        Raises:
            BundleError: if the leaf's trust domain has no bundle to rely on.
            SvidError: if no chain leads from the leaf to that bundle.
        """
        anchor = self.anchors.get(leaf.spiffe_id.trust_domain)
        if anchor is None:
            raise BundleError(f"{leaf.spiffe_id.trust_domain} has no usable bundle")
        if now_s > anchor.good_until_s:
            raise BundleError(f"the bundle of {leaf.spiffe_id.trust_domain} is too old")
        window = self._seen.get(leaf.der)
        if window is None or not window[0] <= now_s <= window[1]:
            window = anchor.verifier.verify(leaf.certificate, now_s)
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[leaf.der] = window
        return (window[0], min(window[1], anchor.good_until_s))


class TrustFiles:
    """Trust bundles from files, one a trust domain.

    A file that stops being a bundle, or goes back to an older sequence, leaves the last
    good one in force, and `error` says so; but only until that is too old. An empty
    bundle is a good one: it revokes everything of its trust domain.

    Args:
        files: the bundle file of each trust domain.
        max_age_s: how old a bundle may get, counted from when its file was last
            written; `math.inf` for no limit.
    """

    def __init__(
        self, files: Mapping[TrustDomain, Path], *, max_age_s: float, clock: Clock
    ) -> None:
        self._files = dict(files)
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[TrustDomain, Fingerprint | None] = {}
        self._bundles: dict[TrustDomain, tuple[TrustBundle, float]] = {}
        self._problems: dict[TrustDomain, str] = {}
        self._current = Trust({}, "")
        self._watch = Watch(self._look, "trust-watch")

    @property
    def current(self) -> Trust:
        """The bundles in force."""
        return self._current

    @property
    def error(self) -> str | None:
        """What is wrong with which bundles; None if all are good."""
        now_s = self._clock().wall_s
        problems = list(self._problems.values()) + [
            f"the bundle of {name} is too old"
            for name, anchor in self._current.anchors.items()
            if now_s > anchor.good_until_s
        ]
        if self._watch.has_died:
            problems.append("the bundles are no longer watched; restart the server")
        return "; ".join(problems) or None

    def reload(self) -> None:
        """Read every file again."""
        with self._lock:
            for name in self._files:
                self._read(name)
            self._publish()

    def start_watching(self, interval_s: float) -> None:
        """Read a file again from now on whenever it has changed."""
        self._watch.start(interval_s)

    def stop(self) -> None:
        """End the watching; the bundles stay."""
        self._watch.stop()

    def _look(self) -> None:
        with self._lock:
            changed = [
                name
                for name, path in self._files.items()
                if fingerprint(path) != self._seen.get(name)
            ]
            for name in changed:
                self._read(name)
            if changed:
                self._publish()

    def _read(self, name: TrustDomain) -> None:
        path = self._files[name]
        # Before reading: a change while it is read is then seen as one more change.
        self._seen[name] = fingerprint(path)
        try:
            written_s = path.stat().st_mtime
            bundle = parse_bundle(path.read_bytes(), name)
        except OSError as error:
            self._complain(name, f"{path}: cannot be read: {error.strerror}")
            return
        except BundleError as error:
            self._complain(name, f"{path}: {error}")
            return
        old = self._bundles.get(name)
        if old is not None and _is_older(bundle, old[0]):
            self._complain(name, f"{path}: went back to an older sequence")
            return
        self._problems.pop(name, None)
        if not bundle.authorities:
            self._complain(name, f"{path}: the bundle of {name} is empty")
        self._bundles[name] = (bundle, written_s + self._max_age_s)

    def _complain(self, name: TrustDomain, problem: str) -> None:
        if self._problems.get(name) != problem:
            _log.error("%s", problem)
        self._problems[name] = problem

    def _publish(self) -> None:
        digest = hashlib.sha256()
        anchors: dict[TrustDomain, Anchor] = {}
        for name, (bundle, good_until_s) in sorted(self._bundles.items()):
            digest.update(f"{name}\n{good_until_s}\n".encode())
            for authority in bundle.authorities:
                digest.update(
                    hashlib.sha256(authority.public_bytes(Encoding.DER)).digest()
                )
            if bundle.authorities:
                anchors[name] = Anchor(bundle, ChainVerifier(bundle), good_until_s)
        self._current = Trust(anchors, digest.hexdigest()[:16])


def _is_older(new: TrustBundle, old: TrustBundle) -> bool:
    """§4.1.1: a higher sequence wins; without numbers the newer file does."""
    return (
        new.sequence is not None
        and old.sequence is not None
        and new.sequence < old.sequence
    )
