"""Tells which IDs of Istio's form, ``/ns/NAMESPACE/sa/ACCOUNT``, patterns hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern

_FORM: Final = ("ns", ANY_SEGMENT, "sa", ANY_SEGMENT)


def holds_all(pattern: SpiffePattern) -> bool:
    """Whether `pattern` holds every ID of this form in its trust domain."""
    return _has_length(pattern) and all(
        segment in {ANY_SEGMENT, form}
        for segment, form in zip(pattern.segments, _FORM, strict=False)
    )


def namespaces_of(patterns: Iterable[SpiffePattern]) -> frozenset[str] | None:
    """Return the namespaces that IDs of this form can be of; None for any."""
    found = set()
    for pattern in filter(_holds_some, patterns):
        namespace = pattern.segments[1] if len(pattern.segments) > 1 else ANY_SEGMENT
        if namespace == ANY_SEGMENT:
            return None
        found.add(namespace)
    return frozenset(found)


def _holds_some(pattern: SpiffePattern) -> bool:
    return _has_length(pattern) and all(
        segment == form or ANY_SEGMENT in {segment, form}
        for segment, form in zip(pattern.segments, _FORM, strict=False)
    )


def _has_length(pattern: SpiffePattern) -> bool:
    """Whether it holds IDs with as many segments as this form has."""
    count = len(pattern.segments)
    return count < len(_FORM) if pattern.has_rest else count == len(_FORM)
