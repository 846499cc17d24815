"""Whether the server is asked at all: CUSTOM, which Istio judges before all else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from authz_server.verify.authorization import AuthorizationPolicy
from authz_server.verify.calls import WireCall
from authz_server.verify.difference import Difference, Kind, Layer

_SHOWN: Final = 3


def asked_differences(
    custom: Sequence[AuthorizationPolicy],
    provider: str,
    target: str,
    calls: Sequence[WireCall],
) -> Iterator[Difference]:
    """Yield about which of `calls` the server is not asked.

    Args:
        custom: the objects that hold for the pods.
        provider: the server's name.
        target: what the pods are, for people.
    """
    ours = [item for item in custom if item.provider == provider]
    unasked = [
        call
        for call in calls
        if not any(
            rule.has_target(call, is_l4=False) for item in ours for rule in item.rules
        )
    ]
    if unasked:
        shown = ", ".join(f"{c.method} {c.path} at {c.port}" for c in unasked[:_SHOWN])
        whose = ", ".join(str(item.origin) for item in ours)
        why = (
            f"{whose} asks about others alone"
            if whose
            else f"no CUSTOM of provider {provider!r} selects these pods"
        )
        yield Difference(
            Layer.ISTIO,
            Kind.EXTRA,
            ("every caller",),
            target,
            f"{len(unasked)} of {len(calls)} calls, e.g. {shown}",
            "the server is to be asked about every call",
            f"the server is never asked: {why}",
        )
    for item in custom:
        if item.provider != provider:
            yield Difference(
                Layer.ISTIO,
                Kind.MISSING,
                ("every caller",),
                target,
                "every call that it matches",
                f"asks provider {provider!r} alone",
                f"{item.origin} asks provider {item.provider!r}: Istio denies what it "
                "does not know, and what has two providers",
            )
