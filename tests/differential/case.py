"""One request of a differential run, as it goes onto the wire."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

Headers = tuple[tuple[bytes, bytes], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A request that may be wrong in any way.

    Attributes:
        is_grpc: for Triton's gRPC port; else for its HTTP port.
        headers: beside those that make it a request at all.
        cuts: where `body` is cut into writes, or into frames of HTTP/2.
        is_crossed: through Envoy, sent in the other version of HTTP.
        labels: what was done to it; the first says what it was before.
    """

    is_grpc: bool
    method: bytes
    path: bytes
    headers: Headers = ()
    body: bytes = b""
    cuts: tuple[int, ...] = ()
    is_crossed: bool = False
    labels: tuple[str, ...] = ()

    @property
    def pieces(self) -> list[bytes]:
        """The body, cut."""
        edges = [0, *sorted(c for c in self.cuts if 0 < c < len(self.body))]
        ends = [*edges[1:], len(self.body)]
        return [self.body[a:b] for a, b in zip(edges, ends, strict=True)]

    def to_json(self) -> str:
        """Return the case as one line; bytes that are text stay readable."""
        return json.dumps(
            {
                "is_grpc": self.is_grpc,
                "method": self.method.decode("latin-1"),
                "path": self.path.decode("latin-1"),
                "headers": [
                    [name.decode("latin-1"), value.decode("latin-1")]
                    for name, value in self.headers
                ],
                "body": base64.b64encode(self.body).decode("ascii"),
                "cuts": self.cuts,
                "is_crossed": self.is_crossed,
                "labels": self.labels,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Case:
        """Return the case that `to_json` wrote."""
        found = json.loads(line)
        return cls(
            is_grpc=found["is_grpc"],
            method=found["method"].encode("latin-1"),
            path=found["path"].encode("latin-1"),
            headers=tuple(
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in found["headers"]
            ),
            body=base64.b64decode(found["body"]),
            cuts=tuple(found["cuts"]),
            is_crossed=found["is_crossed"],
            labels=tuple(found["labels"]),
        )


KEPT = Path(__file__).parent / "kept.jsonl"
"""Cases that ever failed, and a few that were close: replayed by every run."""


def kept_cases() -> Iterator[Case]:
    """Yield what `KEPT` holds."""
    for line in KEPT.read_text("utf-8").splitlines():
        if line:
            yield Case.from_json(line)
