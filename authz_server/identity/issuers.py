"""The keys of token issuers, from files or over HTTPS, kept fresh.

`IssuerKeys` is one frozen state of all issuers' keys; `Issuers` keeps it true to where
they come from. An issuer and its location are configured together: no discovery
document is asked, since whoever could change that would choose the keys.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz_server.clock import Clock
from authz_server.errors import BundleError, FetchError, Reason, TokenError
from authz_server.fetch import Poller, fetch, retry_delay_s, spread
from authz_server.identity.jwk import (
    MAX_KEY_SET_BYTES,
    KeySet,
    digest,
    parse_key_set,
)
from authz_server.watch import Fingerprint, fingerprint

_log: Final = logging.getLogger("authz_server.issuers")

FETCH_TIMEOUT_S: Final = 10.0

ASK_AGAIN_S: Final = 30.0
"""The least time between two fetches for the sake of unknown keys.

Anybody can send a token that names a key which does not exist. This bounds what that
costs an issuer, and how long a key that is new is not known.
"""


@dataclass(frozen=True, slots=True)
class HeldKeys:
    """The last good keys of one issuer.

    Attributes:
        good_until_s: wall-clock seconds after which they are too old.
    """

    keys: KeySet
    good_until_s: float


@dataclass(frozen=True, slots=True)
class IssuerKeys:
    """The keys of all issuers at one moment.

    Attributes:
        held: by issuer; None for one whose keys could not be had yet.
        revision: changes whenever a key does.
    """

    held: Mapping[str, HeldKeys | None]
    revision: str

    def keys_of(self, issuer: str, now_s: float) -> KeySet:
        """Return the keys that may have signed a token of `issuer`; maybe none.

        Raises:
            TokenError: if `issuer` is not configured, or its keys cannot be relied on.
        """
        if issuer not in self.held:
            # Not quoted: it is a claim of a token that nobody has verified.
            raise TokenError(
                "the token's issuer is not configured", Reason.TOKEN_UNTRUSTED
            )
        held = self.held[issuer]
        if held is None:
            raise TokenError(
                f"there are no keys of {issuer} yet", Reason.TOKEN_KEYS_UNAVAILABLE
            )
        if now_s > held.good_until_s:
            raise TokenError(
                f"the keys of {issuer} are too old", Reason.TOKEN_KEYS_UNAVAILABLE
            )
        return held.keys

    def good_until_s(self, issuer: str) -> float:
        """Return when the keys of `issuer` are too old, in wall seconds.

        What is believed by them must not be believed for longer.
        """
        held = self.held.get(issuer)
        return float("-inf") if held is None else held.good_until_s


class Issuers:
    """Keys of token issuers. Safe to share between threads.

    Keys that cannot be had any more, or are no key set, leave the last good ones in
    force, and `error` says so; but only until those are too old. A key set that holds
    no usable key is a good one: it ends the belief in all the issuer's tokens.

    Args:
        locations: by issuer, as tokens spell it, the absolute path or the HTTPS URL of
            its JWK Set (RFC 7517 §5).
        max_age_s: how old keys may get, counted from when they were last asked for with
            success; `math.inf` for no limit.
        refresh_s: how often they are asked for. A file is also read when it changes.
        on_change: called whenever other keys are in force, from any thread.
    """

    def __init__(
        self,
        locations: Mapping[str, str],
        *,
        web_tls: ssl.SSLContext,
        clock: Clock,
        max_age_s: float,
        refresh_s: float = 300.0,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._sources = {
            issuer: _Source(
                f"the keys of {issuer}",
                _reader(location, web_tls),
                clock=clock,
                max_age_s=max_age_s,
                refresh_s=refresh_s,
                on_keys=self._publish,
            )
            for issuer, location in locations.items()
        }
        self._pollers: dict[str, Poller] = {}
        self._current = self._state()

    @property
    def current(self) -> IssuerKeys:
        """The keys in force."""
        return self._current

    @property
    def error(self) -> str | None:
        """What is wrong with whose keys; None if all are good."""
        now_s = self._clock().wall_s
        problems = []
        for issuer, source in self._sources.items():
            if source.problem is not None:
                problems.append(source.problem)
            if source.held is not None and now_s > source.held.good_until_s:
                problems.append(f"the keys of {issuer} are too old")
        if any(poller.has_died for poller in list(self._pollers.values())):
            problems.append("issuers' keys are no longer watched; restart the server")
        return "; ".join(problems) or None

    def reload(self) -> None:
        """Ask for all keys again, at the same time; waits for the slowest answer."""
        if self._sources:
            with ThreadPoolExecutor(len(self._sources), "issuer-keys") as pool:
                list(pool.map(_Source.read, self._sources.values()))

    def ask_again(self, issuer: str) -> None:
        """Note that a token named a key of `issuer` that is not known.

        The next look asks for its keys, though not within `ASK_AGAIN_S` of the last
        time. Costs nothing to call, as often as an attacker likes.
        """
        source = self._sources.get(issuer)
        if source is not None:
            source.wanted.set()

    def start_watching(self, interval_s: float) -> None:
        """Look every `interval_s` seconds from now on what is to be asked for.

        Each issuer in a thread of its own: one that hangs holds up no other.
        """
        for issuer, source in self._sources.items():
            if issuer not in self._pollers:
                look = functools.partial(source.look, interval_s)
                self._pollers[issuer] = Poller(look, "issuer-keys-watch")
                self._pollers[issuer].start()

    def stop(self) -> None:
        """End the watching; the keys stay. A fetch that hangs is left to itself."""
        pollers, self._pollers = self._pollers, {}
        for poller in pollers.values():
            poller.stop()

    def _publish(self) -> None:
        with self._lock:
            self._current = self._state()
        self._on_change()

    def _state(self) -> IssuerKeys:
        held = {issuer: source.held for issuer, source in self._sources.items()}
        revision = hashlib.sha256()
        for issuer, keys in sorted(held.items()):
            # As Python writes it, so that no name can look like the end of another.
            revision.update(repr(issuer).encode())
            revision.update(b"none" if keys is None else digest(keys.keys))
        return IssuerKeys(held, revision.hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class _Reader:
    """How to get the bytes of a key set.

    Attributes:
        seen: returns what changes when they do, as far as that can be seen from here.
    """

    where: str
    read: Callable[[], bytes]
    seen: Callable[[], Fingerprint | None]


def _reader(location: str, web_tls: ssl.SSLContext) -> _Reader:
    if location.startswith("/"):
        path = Path(location)
        return _Reader(f"{path}: ", lambda: _read_file(path), lambda: fingerprint(path))
    return _Reader(
        "",  # what `fetch` raises names the URL, less its query
        lambda: fetch(
            location,
            web_tls,
            max_bytes=MAX_KEY_SET_BYTES,
            timeout_s=FETCH_TIMEOUT_S,
        ),
        lambda: None,
    )


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_SET_BYTES + 1)
    except OSError as error:
        raise FetchError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_KEY_SET_BYTES:
        raise FetchError(f"is longer than {MAX_KEY_SET_BYTES} bytes")
    return data


class _Source:
    """One issuer's keys, and when to ask for them again.

    Attributes:
        held: the last good keys.
        problem: what is wrong; None if nothing is.
        wanted: whether a token named a key that is not among them.
    """

    def __init__(
        self,
        name: str,
        reader: _Reader,
        *,
        clock: Clock,
        max_age_s: float,
        refresh_s: float,
        on_keys: Callable[[], None],
    ) -> None:
        self.held: HeldKeys | None = None
        self.problem: str | None = f"{name} were not asked for yet"
        self.wanted = threading.Event()
        self._name = name
        self._reader = reader
        self._clock = clock
        self._max_age_s = max_age_s
        self._refresh_s = refresh_s
        self._on_keys = on_keys
        self._lock = threading.Lock()
        self._seen: Fingerprint | None = None
        self._asked_s = float("-inf")
        self._due_s = float("-inf")
        self._failures = 0

    def look(self, interval_s: float) -> float:
        """Ask for the keys if it is time to; return `interval_s`."""
        now_s = self._clock().steady_s
        if (
            now_s >= self._due_s
            or self._reader.seen() != self._seen
            or (self.wanted.is_set() and now_s >= self._asked_s + ASK_AGAIN_S)
        ):
            self.read()
        return interval_s

    def read(self) -> None:
        """Ask for the keys now; `held` or `problem` tells how that went."""
        with self._lock:
            # Before reading: what changes, or is wanted, while it is read then counts
            # as one more change.
            self._seen = self._reader.seen()
            self.wanted.clear()
            now = self._clock()
            self._asked_s = now.steady_s
            try:
                keys = parse_key_set(self._reader.read())
            except (FetchError, BundleError) as error:
                self._complain(f"{self._name}: {self._reader.where}{error}")
                self._failures += 1
                self._due_s = now.steady_s + retry_delay_s(self._failures)
                return
            self._failures = 0
            self._due_s = now.steady_s + spread(self._refresh_s)
            self.held = HeldKeys(keys, now.wall_s + self._max_age_s)
            self._on_keys()
            if keys:
                self.problem = None
            else:
                self._complain(
                    f"{self._name}: {self._reader.where}no key in it can be used"
                )

    def _complain(self, problem: str) -> None:
        if self.problem != problem:
            _log.error("%s", problem)
        self.problem = problem
