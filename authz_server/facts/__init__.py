"""Stage 1, extract: from CheckRequest bytes to everything a decision may depend on.

`extract` is the seam: bytes and a `Plan` in, canonical bytes and `Annotations` out. The
Python code here is one implementation of it; another may take its place if it returns
the same bytes.
"""

from authz_server.facts.canonical import Annotations, Body, BodyState, Facts, Headers
from authz_server.facts.extraction import extract
from authz_server.facts.plan import Keep, Outline, Plan

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
