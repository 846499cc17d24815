"""What to extract: the configured inputs of the decision."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from authz_server.facts.input_paths import InputPaths

_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


class Keep(enum.Enum):
    """How a field of a gRPC message becomes a fact."""

    VALUE = "value"
    """A singular string or bytes field: its value; twice is malformed."""
    EACH = "each"
    """A repeated message or map: every entry's bytes, in order."""
    PRESENCE = "presence"
    """Only whether it is there."""


Outline = Mapping[int, Keep]
"""The top-level fields of one gRPC message that a decision depends on, by number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The inputs of a decision beside those that are always taken.

    Attributes:
        headers: lower-case names of request headers that the policy reads.
        credentials: lower-case names of request headers that tell who calls. No policy
            gets to see them.
        signals: lower-case names of request headers that tell what the call does.
        jwt_payload: the name under which Envoy's jwt_authn filter leaves the claims of
            a token that it verified; empty for none.
        document: what of opa-envoy-plugin's input document is kept, for a policy that
            is written for it; None for no such document.
        json_models: for an HTTP path without its query, the top-level key of its JSON
            body whose value is kept, as field 1.
        outlines: for a gRPC path, which fields of its one request message are kept. A
            path that is not listed has its body left unread.
    """

    headers: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()
    jwt_payload: str = ""
    outlines: Mapping[bytes, Outline] = field(default_factory=dict)
    json_models: Mapping[bytes, str] = field(default_factory=dict)
    document: InputPaths | None = None

    def __post_init__(self) -> None:
        for name in (*self.headers, *self.credentials, *self.signals):
            # RFC 9110 §5.1, lower case as HTTP/2 and Envoy have it.
            if _HEADER_NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is not a lower-case header name")
        names = (*self.headers, *self.credentials)
        if len(set(names)) != len(names):
            raise ValueError(
                "a header is listed twice, or is both a credential and an input"
            )
