"""Stage 1, extract: from CheckRequest bytes to everything a decision may depend on.

`extract` is the seam: bytes and a `Plan` in, canonical bytes and `Annotations` out. The
native core has it; the Python code in `extraction` is its twin, for what the core
leaves to it, for the tests, and for ``AUTHZ_SERVER_PURE=1``.
"""

from authz_server._native.choice import is_pure
from authz_server.facts.canonical import Annotations, Body, BodyState, Facts, Headers
from authz_server.facts.plan import Keep, Outline, Plan

if is_pure():
    from authz_server.facts.extraction import extract
else:
    from authz_server.facts.native import extract  # type: ignore[assignment] # positional

__all__ = [
    "Annotations",
    "Body",
    "BodyState",
    "Facts",
    "Headers",
    "Keep",
    "Outline",
    "Plan",
    "extract",
]
