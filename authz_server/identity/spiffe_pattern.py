"""Patterns over SPIFFE IDs, compared segment by segment.

``*`` stands for exactly one whole segment; ``/**`` at the end stands for one or more
further segments. The trust domain is always literal. There is no prefix match inside a
segment and no regular expression, so ``/ns/prod`` can never match ``/ns/prod-evil``.
"""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from typing import Final, Self

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SCHEME, SpiffeId, TrustDomain, check_segment

ANY_SEGMENT: Final = "*"
ANY_REST: Final = "**"

# Segments without wildcards, none of which can be `.` or `..`: each begins with another
# character.
_PLAIN: Final = re.compile(
    r"[a-zA-Z0-9_-][a-zA-Z0-9._-]*(/[a-zA-Z0-9_-][a-zA-Z0-9._-]*)*", re.ASCII
)
_trust_domain: Final = functools.lru_cache(maxsize=64)(TrustDomain)


@dataclass(frozen=True, slots=True, order=True)
class SpiffePattern:
    """A set of workload IDs of one trust domain.

    Attributes:
        trust_domain: the only trust domain that can match.
        segments: literal segments, or ``*``.
        has_rest: whether one or more further segments may (and must) follow.

    Raises:
        SpiffeIdError: if a segment is neither ``*`` nor a legal segment, or the
            pattern could match no workload.
    """

    trust_domain: TrustDomain
    segments: tuple[str, ...]
    has_rest: bool = False

    def __post_init__(self) -> None:
        if not self.segments and not self.has_rest:
            raise SpiffeIdError("pattern has no path, so it matches no workload")
        path = "/".join(self.segments)
        if path.count("/") < len(self.segments) and _PLAIN.fullmatch(path):
            return  # The usual case, at a fifth of the cost.
        for segment in self.segments:
            if segment == ANY_REST:
                raise SpiffeIdError("'**' is allowed only as the last segment")
            if segment != ANY_SEGMENT:
                check_segment(segment)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pattern that `text` spells.

        Raises:
            SpiffeIdError: if `text` is not a pattern.
        """
        if not text.startswith(SCHEME):
            raise SpiffeIdError("pattern does not start with 'spiffe://'")
        trust_domain, slash, path = text[len(SCHEME) :].partition("/")
        # Policies hold very many IDs, in which the same words come again and again.
        segments = tuple(map(sys.intern, path.split("/"))) if slash else ()
        has_rest = segments[-1:] == (ANY_REST,)
        return cls(
            _trust_domain(trust_domain),
            segments[:-1] if has_rest else segments,
            has_rest,
        )

    @property
    def is_exact(self) -> bool:
        """Whether exactly one ID matches."""
        return not self.has_rest and ANY_SEGMENT not in self.segments

    def matches(self, spiffe_id: SpiffeId) -> bool:
        """Return whether `spiffe_id` is in the set."""
        if spiffe_id.trust_domain != self.trust_domain:
            return False
        count = len(self.segments)
        if self.has_rest:
            if len(spiffe_id.path) <= count:
                return False
        elif len(spiffe_id.path) != count:
            return False
        return all(
            pattern in (ANY_SEGMENT, segment)
            for pattern, segment in zip(self.segments, spiffe_id.path, strict=False)
        )

    def __str__(self) -> str:
        rest = (ANY_REST,) if self.has_rest else ()
        return "/".join((SCHEME + self.trust_domain.name, *self.segments, *rest))
