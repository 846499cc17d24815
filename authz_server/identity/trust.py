"""The trust bundles in force: which SVID is believed, and for how long.

`Trust` is one frozen state of all bundles; `TrustStore` holds the newest, whichever
sources they come from. Neither does any I/O.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from authz_server.clock import Clock
from authz_server.errors import BundleError
from authz_server.identity.certificate import Leaf
from authz_server.identity.chain import Chain, ChainVerifier, Window
from authz_server.identity.jwk import KeySet
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust_bundle import TrustBundle

_log: Final = logging.getLogger("authz_server.trust")


@dataclass(frozen=True, slots=True)
class Anchor:
    """One trust domain's bundle, ready to verify by.

    Attributes:
        verifier: None if the bundle has no X.509 authority.
        good_until_s: wall-clock seconds after which the bundle is too old.
    """

    bundle: TrustBundle
    verifier: ChainVerifier | None
    good_until_s: float


@dataclass(frozen=True, slots=True)
class Trust:
    """All bundles at one moment.

    Attributes:
        revision: changes whenever a verdict under these bundles could, but for time.
    """

    anchors: Mapping[TrustDomain, Anchor]
    revision: str

    def verify(self, leaf: Leaf, now_s: float, intermediates: Chain = ()) -> Window:
        """Return between when `leaf` is to be believed.

        Dates, and the bundle's age, count on every call.

        Raises:
            BundleError: if the leaf's trust domain has no bundle to rely on.
            SvidError: if no chain leads from the leaf to that bundle.
        """
        anchor = self._anchor(leaf.spiffe_id.trust_domain, now_s)
        if anchor.verifier is None:
            raise BundleError(
                f"the bundle of {leaf.spiffe_id.trust_domain} has no X.509 authority"
            )
        window = anchor.verifier.verify(leaf, intermediates, now_s)
        return (window[0], min(window[1], anchor.good_until_s))

    def jwt_keys(self, trust_domain: TrustDomain, now_s: float) -> KeySet:
        """Return the keys that may have signed a JWT-SVID of `trust_domain`.

        Raises:
            BundleError: if there are none to rely on.
        """
        keys = self._anchor(trust_domain, now_s).bundle.jwt_authorities
        if not keys:
            raise BundleError(f"the bundle of {trust_domain} has no JWT authority")
        return keys

    def good_until_s(self, trust_domain: TrustDomain) -> float:
        """Return when the bundle of `trust_domain` is too old, in wall seconds."""
        return self.anchors[trust_domain].good_until_s

    def _anchor(self, trust_domain: TrustDomain, now_s: float) -> Anchor:
        anchor = self.anchors.get(trust_domain)
        if anchor is None:
            raise BundleError(f"{trust_domain} has no usable bundle")
        if now_s > anchor.good_until_s:
            raise BundleError(f"the bundle of {trust_domain} is too old")
        return anchor


NO_TRUST: Final = Trust({}, "")


@dataclass(frozen=True, slots=True)
class Standing:
    """How one trust domain's bundle is, for health and metrics.

    Attributes:
        age_s: seconds since its source was last known to say the same; 0 while it is
            connected, infinite if there never was a bundle.
        problem: what is wrong with it; empty if nothing is.
    """

    age_s: float
    problem: str


@dataclass(frozen=True, slots=True)
class _Held:
    """A bundle in force, from where, and when that last said so."""

    bundle: TrustBundle
    fresh_s: float
    source: str


class TrustStore:
    """The newest bundle of each trust domain. Safe to share between threads.

    A trust domain has one bundle at a time, never a union: the newest of what its
    sources said, and never one of an older sequence. A bundle that stops being good
    leaves the last one in force, but only until that is too old. An empty bundle is a
    good one: it revokes everything of its trust domain.

    Args:
        expected: trust domains that must have a bundle.
        max_age_s: how old a bundle may get; `math.inf` for no limit.
        on_change: called whenever other bundles are in force, from any thread.
    """

    def __init__(
        self,
        expected: Collection[TrustDomain] = (),
        *,
        max_age_s: float,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._held: dict[TrustDomain, _Held] = {}
        self._problems: dict[tuple[TrustDomain, str], str] = {}
        self._expected = frozenset(expected)
        self._shared: frozenset[TrustDomain] = frozenset()
        self._shortened = 0  # how often a bundle's end came nearer, or came
        self._current = NO_TRUST

    @property
    def current(self) -> Trust:
        """The bundles in force."""
        return self._current

    @property
    def error(self) -> str | None:
        """What is wrong with which bundles; None if all are good."""
        problems = [item.problem for item in self.standings().values() if item.problem]
        return "; ".join(problems) or None

    def standings(self) -> Mapping[TrustDomain, Standing]:
        """Return how every trust domain's bundle is."""
        now_s = self._clock().wall_s
        with self._lock:
            names = self._expected | self._held.keys()
            names |= {name for name, _ in self._problems}
            return {name: self._standing(name, now_s) for name in sorted(names)}

    def put(self, bundle: TrustBundle, fresh_s: float, source: str) -> None:
        """Put `bundle` in force, unless a newer one is.

        Args:
            fresh_s: wall seconds at which its source last said so; `math.inf` while the
                source is connected and would tell of a change.
            source: what to call its source in messages.
        """
        with self._lock:
            if self._take(bundle, fresh_s, source):
                self._publish()

    def put_all(
        self, bundles: Mapping[TrustDomain, TrustBundle], fresh_s: float, source: str
    ) -> None:
        """Put the whole state of a source of many bundles in force.

        A trust domain that the source no longer names is revoked. One that is expected
        from a source of its own is left to that.
        """
        with self._lock:
            for name in self._shared - bundles.keys():
                # Counted, or what was decided under a bundle that comes back for a
                # shorter time would hold again.
                self._shortened += self._held.pop(name, None) is not None
                self._problems.pop((name, source), None)
            self._shared = frozenset(bundles.keys() - self._expected)
            for name in self._shared:
                self._take(bundles[name], fresh_s, source)
            self._publish()

    def complain(self, trust_domain: TrustDomain, problem: str, source: str) -> None:
        """Note that a source of `trust_domain` is not well; its next `put` ends it."""
        with self._lock:
            self._complain(trust_domain, problem, source)

    def _complain(self, trust_domain: TrustDomain, problem: str, source: str) -> None:
        problem = f"{source}: {problem}"
        if self._problems.get((trust_domain, source)) != problem:
            _log.error("%s", problem)
        self._problems[trust_domain, source] = problem

    def _take(self, bundle: TrustBundle, fresh_s: float, source: str) -> bool:
        name = bundle.trust_domain
        old = self._held.get(name)
        if old is not None and _is_older(bundle, old.bundle):
            self._complain(name, "went back to an older sequence", source)
            return False
        if bundle.is_empty:
            self._complain(name, f"the bundle of {name} is empty", source)
        else:
            self._problems.pop((name, source), None)
        if old is not None and fresh_s < old.fresh_s:
            if source != old.source:
                return False
            self._shortened += 1
        self._held[name] = _Held(bundle, fresh_s, source)
        return True

    def _standing(self, name: TrustDomain, now_s: float) -> Standing:
        problems = [text for (of, _), text in self._problems.items() if of == name]
        held = self._held.get(name)
        if held is None:
            return Standing(
                math.inf, "; ".join(problems) or f"{name} has no bundle yet"
            )
        if now_s > held.fresh_s + self._max_age_s:
            problems.append(f"the bundle of {name} is too old")
        return Standing(max(0.0, now_s - held.fresh_s), "; ".join(problems))

    def _publish(self) -> None:
        digest = hashlib.sha256(str(self._shortened).encode())
        anchors: dict[TrustDomain, Anchor] = {}
        for name, held in sorted(self._held.items()):
            digest.update(held.bundle.digest())
            if not held.bundle.is_empty:
                anchors[name] = Anchor(
                    held.bundle,
                    self._verifier(held.bundle),
                    held.fresh_s + self._max_age_s,
                )
        self._current = Trust(anchors, digest.hexdigest()[:16])
        self._on_change()

    def _verifier(self, bundle: TrustBundle) -> ChainVerifier | None:
        """Return the verifier in force if its authorities stay: it remembers chains."""
        old = self._current.anchors.get(bundle.trust_domain)
        if old and old.bundle.x509_authorities == bundle.x509_authorities:
            return old.verifier
        if not bundle.x509_authorities:
            return None
        return ChainVerifier(bundle.trust_domain, bundle.x509_authorities)


def _is_older(new: TrustBundle, old: TrustBundle) -> bool:
    """§4.1.1: a higher sequence wins; without numbers the newer file does."""
    return (
        new.sequence is not None
        and old.sequence is not None
        and new.sequence < old.sequence
    )
