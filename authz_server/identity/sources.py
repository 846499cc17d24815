"""What identities are judged by, all at one moment, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from authz_server.identity.issuers import IssuerKeys, Issuers
from authz_server.identity.remote_bundles import WorkloadApiBundles
from authz_server.identity.revocation import RevocationFile, Revocations
from authz_server.identity.trust import NO_TRUST, Trust, TrustStore

REVOCATION_INTERVAL_S: Final = 0.25
"""A revocation is in force within a second of its being written."""

NO_KEYS: Final = IssuerKeys({}, "")
_NOTHING_REVOKED: Final = Revocations()


@dataclass(frozen=True, slots=True)
class IdentityState:
    """Bundles, keys and revocations that one decision is made under.

    Attributes:
        revocations: None means that the list cannot be relied on: nobody is believed.
    """

    trust: Trust = NO_TRUST
    issuers: IssuerKeys = NO_KEYS
    revocations: Revocations | None = field(default_factory=Revocations)

    @property
    def revision(self) -> str:
        """Changes whenever a verdict on an identity could."""
        revoked = self.revocations.revision if self.revocations else "-"
        return f"{self.trust.revision}/{self.issuers.revision}/{revoked}"


class Source(Protocol):
    """Keeps something true to the world outside, from `start_watching` to `stop`."""

    @property
    def error(self) -> str | None:
        """What is wrong; None if nothing is."""

    def reload(self) -> None:
        """Ask for everything once; what cannot be had is told by `error`."""

    def start_watching(self, interval_s: float) -> None:
        """Go on asking. Files are looked at every `interval_s` seconds."""

    def stop(self) -> None:
        """End the watching; what is in force stays."""


class IdentitySources:
    """Everything behind `IdentityState`.

    Args:
        store: what `bundles` fill.
        bundles: the sources of trust bundles.
        revocations: None means that no list is configured.
        issuers: None means that no user tokens are verified here.
        workload_api: that one of `bundles` which also has our own SVID.
    """

    def __init__(
        self,
        store: TrustStore | None = None,
        bundles: Sequence[Source] = (),
        revocations: RevocationFile | None = None,
        issuers: Issuers | None = None,
        workload_api: WorkloadApiBundles | None = None,
    ) -> None:
        self.store = store
        self._issuers = issuers
        self.workload_api = workload_api
        self._revocations = revocations
        self._sources: list[Source] = [*bundles]
        self._sources += [source for source in (revocations, issuers) if source]
        self._current = IdentityState()

    @property
    def current(self) -> IdentityState:
        """What is in force now: the same object for as long as its parts are."""
        trust = self.store.current if self.store else NO_TRUST
        issuers = self._issuers.current if self._issuers else NO_KEYS
        revocations = (
            self._revocations.current if self._revocations else _NOTHING_REVOKED
        )
        state = self._current
        if (
            state.trust is not trust
            or state.issuers is not issuers
            or state.revocations is not revocations
        ):
            state = self._current = IdentityState(trust, issuers, revocations)
        return state

    @property
    def error(self) -> str | None:
        """What is wrong with what; None if nothing is."""
        found = [source.error for source in self._sources]
        if self.store is not None:
            found.insert(0, self.store.error)
        return "; ".join(error for error in found if error) or None

    def ask_again(self, issuer: str) -> None:
        """Note that a token named a key of `issuer` that is not known. Never blocks."""
        if self._issuers is not None:
            self._issuers.ask_again(issuer)

    def reload(self) -> None:
        """Ask every source once."""
        for source in self._sources:
            source.reload()

    def start_watching(self, interval_s: float) -> None:
        """Keep everything true to its source from now on."""
        for source in self._sources:
            source.start_watching(
                min(interval_s, REVOCATION_INTERVAL_S)
                if source is self._revocations
                else interval_s
            )

    def stop(self) -> None:
        """End the watching; what is in force stays."""
        for source in self._sources:
            source.stop()
