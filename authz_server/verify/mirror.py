"""DENY and ALLOW together: what of a caller's calls passes at some pods."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.verify.authorization import (
    AuthorizationPolicy,
    AuthorizationRule,
    MeshDomains,
)
from authz_server.verify.calls import WireCall
from authz_server.verify.istio_callers import principal

Passes = Callable[[WireCall], bool]


def _refused(_: WireCall) -> bool:
    """Return that TLS lets nothing in."""
    return False


class Mirror:
    """The mirror at some pods (Istio: DENY first; with any ALLOW, only what one lists).

    Args:
        domains: of the mesh; TLS lets callers of no others in.
        is_l4: whether ztunnel judges.
    """

    def __init__(
        self,
        domains: MeshDomains,
        deny: Sequence[AuthorizationPolicy],
        allow: Sequence[AuthorizationPolicy],
        *,
        is_l4: bool,
    ) -> None:
        self._domains = domains
        self._is_l4 = is_l4
        self._deny = deny
        self._allow = allow
        self._judges: dict[tuple[tuple[AuthorizationRule, ...], ...], Passes] = {}

    @property
    def has_allow(self) -> bool:
        """Whether anybody is listed at all."""
        return bool(self._allow)

    def of(self, caller: SpiffeId) -> Passes:
        """Return what tells which of the caller's calls pass.

        It is the same for callers whom the same rules are about.
        """
        if caller.trust_domain.name not in self._domains.names:
            return _refused
        name = principal(caller)
        denying, allowing = (
            tuple(
                rule
                for item in items
                for rule in item.rules
                if rule.has_source(name, self._domains)
            )
            for items in (self._deny, self._allow)
        )
        return self._judges.setdefault(
            (denying, allowing), self._judge(denying, allowing)
        )

    def _judge(
        self,
        denying: tuple[AuthorizationRule, ...],
        allowing: tuple[AuthorizationRule, ...],
    ) -> Passes:
        def passes(call: WireCall) -> bool:
            if any(rule.has_target(call, is_l4=self._is_l4) for rule in denying):
                return False
            return not self._allow or any(
                rule.has_target(call, is_l4=self._is_l4) for rule in allowing
            )

        return passes

    def denial(self, caller: SpiffeId, calls: tuple[WireCall, ...]) -> str:
        """Return what denies the first of `calls` that is denied."""
        passes = self.of(caller)
        call = next(call for call in calls if not passes(call))
        by = self._by(self._deny, caller, call)
        shown = f"{call.method} {call.path} at {call.port}"
        if by:
            return f"denies {shown} by {by}"
        listed = ", ".join(str(item.origin) for item in self._allow)
        return f"denies {shown}, which {listed} does not list"

    def consent(self, caller: SpiffeId, calls: tuple[WireCall, ...]) -> str:
        """Return what lets the first of `calls` through that passes."""
        passes = self.of(caller)
        call = next(call for call in calls if passes(call))
        shown = f"{call.method} {call.path} at {call.port}"
        if not self._allow:
            return f"lets {shown} through: no ALLOW selects these pods"
        return f"lets {shown} through by {self._by(self._allow, caller, call)}"

    def _by(
        self, items: Sequence[AuthorizationPolicy], caller: SpiffeId, call: WireCall
    ) -> str:
        return ", ".join(
            str(item.origin)
            for item in items
            if any(
                rule.has_source(principal(caller), self._domains)
                and rule.has_target(call, is_l4=self._is_l4)
                for rule in item.rules
            )
        )
