"""Routes of Triton's other frontends, known so that they can be refused by name.

None of them says in its path alone which model runs: Vertex AI's default model, or that
of a header; SageMaker's, by a header as well; KServe v1 is not Triton's at all. An
operator who routes to one of them by mistake is told so in the log.
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.facts import Headers
from authz_server.operations.operation import OperationError

REDIRECT: Final = "x-vertex-ai-triton-redirect"
"""On its Vertex AI port Triton runs what this header names instead of the path."""

SIGNALS: Final = (REDIRECT,)
"""Headers that `refuse_foreign` needs to see."""

# SageMaker: src/sagemaker_server.h. Vertex AI: any route that AIP_PREDICT_ROUTE and
# AIP_HEALTH_ROUTE name; these are the ones that Vertex AI itself sets. KServe v1:
# the data plane's protocol, version 1.
_FOREIGN: Final = (
    ("SageMaker", re.compile(r"/ping|/invocations|/models/?(?:[^/]+)?(?:/invoke)?")),
    (
        "Vertex AI",
        re.compile(r"/v1/endpoints/[^/]+(?:/deployedModels/[^/]+)?(?:[:/]predict)?"),
    ),
    (
        "Vertex AI",
        re.compile(r"/v1/models/[^/]+/versions/[^/:]+(?::(?:predict|explain))?"),
    ),
    ("KServe v1", re.compile(r"/v1/models(?:/[^/:]+(?::(?:predict|explain))?)?")),
    (
        "the OpenAI-compatible frontend",
        re.compile(r"/v1/(?:chat/completions|completions|embeddings)"),
    ),
)

_BEGINNINGS: Final = ("/ping", "/invocations", "/models", "/v1/")
"""Of every route above. None is Triton's, so most calls are done with here."""


def refuse_foreign(path: str, signals: Headers) -> None:
    """Refuse a call that is another frontend's than KServe v2; else return.

    Not checked: the header, where the proxy does not send it along. It does nothing on
    Triton's own HTTP port.

    Args:
        path: a path that `parse_path` accepted.
        signals: those of `SIGNALS` that came, among others.

    Raises:
        OperationError: if the path, or a header, is that of another frontend.
    """
    if signals and any(name == REDIRECT for name, _ in signals):
        raise OperationError(
            f"the header {REDIRECT} sends a call elsewhere than its path says "
            "(Vertex AI), which is not served"
        )
    if not path.startswith(_BEGINNINGS):
        return
    for frontend, route in _FOREIGN:
        if route.fullmatch(path) is not None:
            raise OperationError(f"a route of {frontend}, which is not served here")
