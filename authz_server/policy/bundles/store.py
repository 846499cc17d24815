"""The policy in force, out of a bundle that is fetched again and again.

Without the link the last bundle stays in force, over restarts too if it is kept on
disk, until it is older than the operator wants. Its age counts from when its source
last said that it is the newest.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from authz_server.clock import Clock, Instant
from authz_server.errors import FetchError, PolicyError, Reason
from authz_server.fetch import Poller, retry_delay_s, spread
from authz_server.policy.bundles.archive import DamagedError
from authz_server.policy.bundles.bundle import Bundle, read_bundle, write_bundle
from authz_server.policy.bundles.kept import Kept, KeptBundle
from authz_server.policy.bundles.signature import Signers
from authz_server.policy.bundles.source import BundleSource, Download
from authz_server.policy.bundles.status import Status
from authz_server.policy.in_force import (
    AnyPolicy,
    InForce,
    LoadedPolicy,
    Material,
    OpaEnvoyMaterial,
)

_log: Final = logging.getLogger("authz_server.bundles")

_SHORTEST_POLL_S: Final = 1.0
"""A server that says it holds requests open and does not must not be flooded."""

_NOTES_A_LIFE: Final = 50
"""How often, until a bundle is too old, it is noted on disk that it is the newest: not
at every poll, which would wear out the flash of a small machine."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms bundles are taken.

    Attributes:
        name: of the bundle, in reports.
        open: returns the policy that a bundle holds.
        signers: whose bundles are taken; None for anybody's.
        interval_s: between polls.
        max_age_s: after which the policy in force is not used any more; infinity for
            never.
    """

    name: str
    open: Callable[[Bundle], Material | OpaEnvoyMaterial]
    max_bytes: int
    signers: Signers | None
    interval_s: float
    max_age_s: float = math.inf


class BundleStore:
    """The policy in force, from a source of bundles.

    Args:
        kept: where the last good bundle is kept; None for nowhere.
        on_status: told how things stand after every poll, in the thread that polls;
            must not raise, nor wait.
    """

    def __init__(
        self,
        source: BundleSource,
        in_force: InForce,
        terms: Terms,
        kept: KeptBundle | None,
        *,
        clock: Clock,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self._source = source
        self._in_force = in_force
        self._terms = terms
        self._kept = kept
        self._clock = clock
        self._on_status = on_status
        self._working = threading.Lock()
        self._bundle: Bundle | None = None
        self._raw = b""
        self._etag = ""
        self._unverified: Download | None = None
        self._refusal = ""
        self._is_newest = False
        self._confirmed = Instant(0.0, -math.inf)
        self._noted_s = -math.inf
        self._keeping_problem: str | None = None
        self._failures = 0
        self._poller = Poller(self._poll, "policy-bundle")
        self.status = Status(terms.name)
        """How things stand."""

    @property
    def current(self) -> AnyPolicy | None:
        """The policy in force; None before there is one, and once it is too old."""
        if self._is_too_old():
            return None
        return self._in_force.current

    @property
    def missing(self) -> Reason:
        """Why `current` is None, when it is."""
        if self._in_force.current is None:
            return Reason.POLICY_UNAVAILABLE
        return Reason.POLICY_STALE

    @property
    def error(self) -> str | None:
        """Why the policy in force may not be the newest; None if it is."""
        if self._poller.has_died:
            return "bundles are no longer asked for; restart the server"
        problem = self._in_force.error or self._keeping_problem
        if self._in_force.current is not None and self._is_too_old():
            why = f": {problem}" if problem else ""
            return f"the policy is older than distribution.max_age_s{why}"
        return problem

    def rehearse_with(
        self, rehearse: Callable[[LoadedPolicy], Callable[[], None]]
    ) -> None:
        """Let `rehearse` get to know each new policy; as of `InForce`."""
        self._in_force.rehearse_with(rehearse)

    def reload(self) -> bool:
        """Put in force what is kept, without asking; return whether a policy is."""
        with self._working:
            if self._bundle is None and self._kept is not None:
                try:
                    self._take_kept(self._kept)
                except PolicyError as error:
                    self._complain(str(error))
            return self.current is not None

    def ask(self) -> bool:
        """Ask the source once; return whether what it has is in force."""
        with self._working:
            return self._ask() and self._is_newest

    def start_watching(self, interval_s: float) -> None:  # noqa: ARG002 - a policy store
        """Ask the source from now on, as often as the terms say."""
        self._poller.start()

    def stop(self) -> None:
        """Ask no more, and free what replaced policies held; the current stays."""
        self._poller.stop()
        self._in_force.stop()

    def close(self) -> None:
        """Stop, and free the current policy too: every later decision is an error."""
        self._poller.stop()
        self._in_force.close()

    def _poll(self) -> float:
        began = self._clock()
        with self._working:
            is_answered = self._ask()
        self._failures = 0 if is_answered else self._failures + 1
        if not is_answered:
            return retry_delay_s(self._failures)
        if self._source.is_waiting:
            return max(0.0, began.steady_s + _SHORTEST_POLL_S - self._clock().steady_s)
        return spread(self._terms.interval_s)

    def _ask(self) -> bool:
        """Ask the source; return whether it answered."""
        asked = self._clock()
        self._note(requested_s=asked.wall_s)
        try:
            download = self._source.ask(self._etag)
        except FetchError as error:
            self._complain(str(error))
            self._tell()
            return False
        self._note(answered_s=self._clock().wall_s)
        if download is not None:
            self._note(downloaded_s=asked.wall_s, size=len(download.raw))
        try:
            if download is not None:
                self._take(download, asked)
            elif self._unverified is not None:
                # It may be trusted by now: keys are files, and change.
                self._take(self._unverified, asked)
            elif self._is_newest:
                self._confirm(asked)
            else:
                self._complain(self._refusal)
        except PolicyError as error:
            self._refusal = f"{self._source.place}: {error}"
            self._complain(self._refusal)
        self._tell()
        return True

    def _take(self, download: Download, asked: Instant) -> None:
        """Put in force what came.

        Raises:
            PolicyError: if it cannot be; the old policy stays.
        """
        self._is_newest = False
        self._etag, self._unverified = download.etag, download
        try:
            bundle = read_bundle(
                download.raw, self._terms.max_bytes, self._terms.signers
            )
        except DamagedError:
            # By its name it would never come again.
            self._etag, self._unverified = "", None
            raise
        self._unverified = None
        raw = download.raw
        if bundle.patch is not None:
            # Whatever becomes of it, next time there is a whole one.
            self._etag = ""
            if self._terms.signers is not None:
                # Its signature does not say what it changes: anybody on the way could
                # have it change something else, or twice. OPA takes none either.
                raise PolicyError("a delta bundle came, and no signature covers those")
            if self._bundle is None:
                raise PolicyError("a delta bundle came, and there is none to change")
            bundle = self._bundle.changed_by(bundle)
            raw = write_bundle(bundle)
            if len(raw) > self._terms.max_bytes:
                # It could not be read again from where it is kept.
                raise PolicyError(
                    f"by delta bundles it has more than {self._terms.max_bytes} bytes"
                )
            self._put(bundle)
            self._etag = download.etag
            self._note(kind="delta")
        else:
            self._put(bundle)
            self._note(kind="snapshot")
        is_new = raw != self._raw
        self._raw = raw
        self._is_newest = True
        self._note(activated_s=self._clock().wall_s)
        self._confirm(asked, is_new=is_new)

    def _take_kept(self, folder: KeptBundle) -> None:
        kept = folder.load(self._terms.max_bytes)
        if kept is None:
            return
        bundle = read_bundle(kept.raw, self._terms.max_bytes, self._terms.signers)
        self._put(bundle)
        self._raw, self._etag, self._is_newest = kept.raw, kept.etag, bool(kept.etag)
        now = self._clock()
        age_s = now.wall_s - kept.confirmed_s
        # A clock that went back tells no age: then it counts as too old.
        if kept.confirmed_s > 0 and age_s >= 0:
            self._confirmed = Instant(kept.confirmed_s, now.steady_s - age_s)
        self._note(activated_s=now.wall_s)
        _log.info("began with the bundle that was kept, revision %r", self._revision)

    def _put(self, bundle: Bundle) -> None:
        try:
            self._in_force.put(self._terms.open(bundle))
        except RecursionError as error:
            raise PolicyError("the bundle is nested too deeply") from error
        self._bundle = bundle
        self._note(active_revision=self._revision)

    @property
    def _revision(self) -> str:
        """What the bundle is called; a revision of ours if it is not."""
        named = self._bundle.manifest.revision if self._bundle else ""
        loaded = self._in_force.current
        return named or (loaded.revision if loaded else "")

    def _confirm(self, asked: Instant, *, is_new: bool = False) -> None:
        """Note that what is in force is the newest."""
        # When it was asked: what changed later the answer may not know.
        self._confirmed = asked
        self._in_force.error = None
        self._note(problem="")
        if self._kept is None:
            return
        kept = Kept(self._raw, self._etag, asked.wall_s)
        pause_s = self._terms.max_age_s / _NOTES_A_LIFE
        try:
            if is_new or self._keeping_problem:
                self._kept.save(kept)
            elif asked.steady_s - self._noted_s >= pause_s:
                self._kept.confirm(kept)
            else:
                return
            self._noted_s, self._keeping_problem = asked.steady_s, None
        except PolicyError as error:
            # It is in force all the same; what is lost is the start without the link.
            if str(error) != self._keeping_problem:
                _log.error("%s", error)
            self._keeping_problem = str(error)

    def _complain(self, problem: str) -> None:
        # A link that is down is told once, not at every attempt.
        if problem != self._in_force.error:
            self._in_force.complain(self._source.place, problem)
        self._note(problem=problem)

    def _is_too_old(self) -> bool:
        return (
            math.isfinite(self._terms.max_age_s)
            and self._clock().steady_s - self._confirmed.steady_s
            > self._terms.max_age_s
        )

    def _note(self, **changes: str | float) -> None:
        self.status = dataclasses.replace(self.status, **changes)  # type: ignore[arg-type]

    def _tell(self) -> None:
        if self._on_status is not None:
            self._on_status(self.status)
