"""Patterns over SPIFFE IDs, compared segment by segment.

``*`` stands for exactly one whole segment; ``/**`` at the end stands for one or more
further segments. The trust domain is always literal. There is no prefix match inside a
segment and no regular expression, so ``/ns/prod`` can never match ``/ns/prod-evil``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Final, Self

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SCHEME, SpiffeId, TrustDomain, check_segment

ANY_SEGMENT: Final = "*"
ANY_REST: Final = "**"

# A whole pattern without wildcards. No segment of it can be `.` or `..`: each begins
# with another character.
_EXACT: Final = re.compile(
    r"spiffe://([a-z0-9._-]+)(?:/[a-zA-Z0-9_-][a-zA-Z0-9._-]*+)++", re.ASCII
)
_trust_domain: Final = functools.lru_cache(maxsize=64)(TrustDomain)


@dataclass(frozen=True, slots=True, init=False)
class SpiffePattern:
    """A set of workload IDs of one trust domain.

    Policies hold very many of them, so it is little more than its text. One text spells
    one pattern and the other way round, hence two are equal when their texts are.

    Attributes:
        trust_domain: the only trust domain that can match.
        text: how it is written.

    Args:
        segments: literal segments, or ``*``.
        has_rest: whether one or more further segments may (and must) follow.

    Raises:
        SpiffeIdError: if a segment is neither ``*`` nor a legal segment, or the
            pattern could match no workload.
    """

    trust_domain: TrustDomain = field(compare=False)
    text: str

    def __init__(
        self,
        trust_domain: TrustDomain,
        segments: tuple[str, ...],
        has_rest: bool = False,  # noqa: FBT001, FBT002 - as a field would be
    ) -> None:
        if not segments and not has_rest:
            raise SpiffeIdError("pattern has no path, so it matches no workload")
        for segment in segments:
            if segment == ANY_REST:
                raise SpiffeIdError("'**' is allowed only as the last segment")
            if segment != ANY_SEGMENT:
                check_segment(segment)
        rest = (ANY_REST,) if has_rest else ()
        text = "/".join((SCHEME + trust_domain.name, *segments, *rest))
        object.__setattr__(self, "trust_domain", trust_domain)
        object.__setattr__(self, "text", text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pattern that `text` spells.

        Raises:
            SpiffeIdError: if `text` is not a pattern.
        """
        exact = _EXACT.fullmatch(text)
        if exact is not None:  # The usual case, at a fifth of the cost.
            pattern = cls.__new__(cls)
            object.__setattr__(pattern, "trust_domain", _trust_domain(exact[1]))
            object.__setattr__(pattern, "text", text)
            return pattern
        if not text.startswith(SCHEME):
            raise SpiffeIdError("pattern does not start with 'spiffe://'")
        trust_domain, slash, path = text[len(SCHEME) :].partition("/")
        segments = tuple(path.split("/")) if slash else ()
        has_rest = segments[-1:] == (ANY_REST,)
        return cls(
            _trust_domain(trust_domain),
            segments[:-1] if has_rest else segments,
            has_rest,
        )

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments, each a literal or ``*``, without the rest."""
        return _segments(self.text)

    @property
    def has_rest(self) -> bool:
        """Whether one or more further segments may (and must) follow."""
        return self.text.endswith("/" + ANY_REST)

    @property
    def is_exact(self) -> bool:
        """Whether exactly one ID matches."""
        return ANY_SEGMENT not in self.text

    def matches(self, spiffe_id: SpiffeId) -> bool:
        """Return whether `spiffe_id` is in the set."""
        if self.is_exact:
            return str(spiffe_id) == self.text
        if spiffe_id.trust_domain != self.trust_domain:
            return False
        segments = self.segments
        if self.has_rest:
            if len(spiffe_id.path) <= len(segments):
                return False
        elif len(spiffe_id.path) != len(segments):
            return False
        return all(
            pattern in (ANY_SEGMENT, segment)
            for pattern, segment in zip(segments, spiffe_id.path, strict=False)
        )

    def __lt__(self, other: SpiffePattern) -> bool:
        """Whether it comes first: by trust domain, then segment by segment."""
        return self._order < other._order

    @property
    def _order(self) -> tuple[TrustDomain, tuple[str, ...], bool]:
        return self.trust_domain, self.segments, self.has_rest

    def __str__(self) -> str:
        return self.text


# Whoever compares patterns asks for the same ones again and again.
@functools.lru_cache(maxsize=4096)
def _segments(text: str) -> tuple[str, ...]:
    _, *segments = text[len(SCHEME) :].split("/")
    return tuple(segments[:-1] if segments[-1] == ANY_REST else segments)
