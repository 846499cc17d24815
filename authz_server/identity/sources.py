"""What identities are judged by, all at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from authz_server.identity.revocation import RevocationFile, Revocations
from authz_server.identity.trust import Trust, TrustFiles

REVOCATION_INTERVAL_S: Final = 0.25
"""A revocation is in force within a second of its being written."""


@dataclass(frozen=True, slots=True)
class IdentityState:
    """Bundles and revocations that one decision is made under.

    Attributes:
        trust: None relies on the proxy's verification of the chain.
        revocations: None means that the list cannot be relied on: nobody is believed.
    """

    trust: Trust | None
    revocations: Revocations | None

    @property
    def revision(self) -> str:
        """Changes whenever a verdict on an identity could."""
        trust = self.trust.revision if self.trust else ""
        return f"{trust}/{self.revocations.revision if self.revocations else '-'}"


class IdentitySources:
    """The files behind `IdentityState`.

    Args:
        trust: None relies on the proxy's verification of the chain.
        revocations: None means that no list is configured.
    """

    def __init__(
        self, trust: TrustFiles | None = None, revocations: RevocationFile | None = None
    ) -> None:
        self.trust = trust
        self._revocations = revocations
        self._sources = [source for source in (trust, revocations) if source]

    @property
    def current(self) -> IdentityState:
        """What is in force now."""
        return IdentityState(
            self.trust.current if self.trust else None,
            self._revocations.current if self._revocations else Revocations(),
        )

    @property
    def error(self) -> str | None:
        """What is wrong with which file; None if nothing is."""
        found = [source.error for source in self._sources]
        return "; ".join(error for error in found if error) or None

    def reload(self) -> None:
        """Read every file again."""
        for source in self._sources:
            source.reload()

    def start_watching(self, interval_s: float) -> None:
        """Read files again from now on whenever they change."""
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
