"""The input document of a policy: everything it may ask about, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from authz_server.errors import Reason, RequestError
from authz_server.facts import Facts
from authz_server.identity.identify import Identity
from authz_server.operations.operation import Operation
from authz_server.operations.upstreams import normalize_host


def build_question(
    identity: Identity,
    operation: Operation,
    facts: Facts,
    open_times: Sequence[str] = (),
) -> bytes:
    """Return the policy's input as JSON in ASCII.

    Args:
        open_times: names of the policy's time limits that hold now. The time itself is
            none of it: an answer must stay right until one of them changes.

    Raises:
        RequestError: if a header that the policy reads came twice, or is not UTF-8.
    """
    spiffe_id, user, call = identity.spiffe_id, identity.user, operation.call
    path, _, _ = facts.path.partition(b"?")
    return _ENCODER.encode(
        {
            "principal": {
                "id": str(spiffe_id),
                "trust_domain": spiffe_id.trust_domain.name,
                "path": spiffe_id.path,
            },
            "user": None
            if user is None
            else {
                "issuer": user.issuer,
                "subject": user.subject,
                "claims": dict(user.claims),
            },
            "operation": {
                "action": call.action,
                "scope": call.scope,
                "model": call.model,
                "version": call.version,
                "adapter": call.adapter,
                "upstream": operation.upstream,
                "dataset": operation.dataset,
            },
            "http": {
                "method": facts.method.decode("ascii"),
                "path": path.decode("ascii"),
                "host": normalize_host(facts.host),
                "headers": {
                    name: _only(name, values) for name, values in facts.headers
                },
            },
            "time": {"open": open_times},
        }
    ).encode("ascii")


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def _only(name: str, values: tuple[bytes, ...]) -> str:
    if len(values) != 1:
        raise RequestError(
            f"header {name} came {len(values)} times", Reason.HEADER_DUPLICATE
        )
    try:
        return values[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"header {name} is not UTF-8") from error
