"""SPIFFE IDs and trust domains as values that cannot be invalid.

Rules and section numbers are those of the SPIFFE-ID specification
(https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md). The module knows
the syntax only: not certificates, and not who is allowed to do what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from authz_server.errors import SpiffeIdError

SCHEME: Final = "spiffe://"

MAX_ID_BYTES: Final = 2048
"""§2.3: implementations MUST support 2048 bytes and SHOULD NOT create longer ones."""

MAX_TRUST_DOMAIN_BYTES: Final = 255
"""§2.3: the host part of the URI, at most 255 bytes."""

# Upper case is refused rather than folded. §2.4 calls scheme and trust domain
# case-insensitive while §2.1 demands lower case; go-spiffe refuses, and one spelling
# for one identity is what a comparison of bytes needs.
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, e.g. ``factory.example``.

    It is not a DNS name: ``a..b``, ``.td`` and ``10.0.0.1`` are valid and distinct.

    Raises:
        SpiffeIdError: if `name` is not a trust domain name (§2.1).
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise SpiffeIdError("trust domain is empty")
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(
                f"trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes"
            )
        if _TRUST_DOMAIN.fullmatch(self.name) is None:
            raise SpiffeIdError(
                f"trust domain {self.name!r} may hold only a-z, 0-9, '.', '-' and '_'"
            )

    def __str__(self) -> str:
        return self.name


def check_segment(segment: str) -> None:
    """Raise `SpiffeIdError` unless `segment` is one legal path segment (§2.2)."""
    if not segment:
        raise SpiffeIdError("path has an empty segment or a trailing slash")
    if segment in {".", ".."}:
        raise SpiffeIdError("path has a '.' or '..' segment")
    if _SEGMENT.fullmatch(segment) is None:
        raise SpiffeIdError(
            f"path segment {segment!r} may hold only letters, digits, '.', '-' and '_'"
        )


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: trust domain and path segments.

    Two IDs are equal exactly when their bytes are. `path` is empty for the ID of a
    trust domain itself.

    Raises:
        SpiffeIdError: if a segment is not legal, or the whole exceeds 2048 bytes.
    """

    trust_domain: TrustDomain
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for segment in self.path:
            check_segment(segment)
        if len(str(self)) > MAX_ID_BYTES:
            raise SpiffeIdError(f"SPIFFE ID is longer than {MAX_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the ID that `text` spells.

        No normalizing of any kind: no case folding, no percent-decoding, no trimming.

        Raises:
            SpiffeIdError: if `text` is not a SPIFFE ID.
        """
        if len(text) > MAX_ID_BYTES:
            raise SpiffeIdError(f"SPIFFE ID is longer than {MAX_ID_BYTES} bytes")
        if not text.startswith(SCHEME):
            raise SpiffeIdError("SPIFFE ID does not start with 'spiffe://'")
        trust_domain, slash, path = text[len(SCHEME) :].partition("/")
        return cls(TrustDomain(trust_domain), tuple(path.split("/")) if slash else ())

    @classmethod
    def parse_workload(cls, text: str) -> Self:
        """Return the ID of a workload, which has a path (X509-SVID §2, JWT-SVID §3.1).

        Raises:
            SpiffeIdError: if `text` is not a SPIFFE ID, or names a trust domain only.
        """
        spiffe_id = cls.parse(text)
        if not spiffe_id.path:
            raise SpiffeIdError("SPIFFE ID names a trust domain, not a workload")
        return spiffe_id

    def __str__(self) -> str:
        return "/".join((SCHEME + self.trust_domain.name, *self.path))
