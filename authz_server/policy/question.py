"""The input document of a policy: everything it may ask about, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Final

from authz_server.errors import Reason, RequestError
from authz_server.facts import Facts
from authz_server.identity.identify import Identity
from authz_server.identity.user_token import User
from authz_server.operations.operation import Operation
from authz_server.operations.upstreams import normalize_host
from authz_server.policy.engine import JsonObject


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
    headers = {name: _only(name, values) for name, values in facts.headers}
    # A SPIFFE ID has no character that JSON escapes.
    segments = '","'.join(spiffe_id.path)
    document = (
        f'{{"principal":{{"id":"{identity.name}",'
        f'"trust_domain":"{spiffe_id.trust_domain.name}",'
        f'"path":["{segments}"]}},'
        f'"user":{"null" if user is None else _encode_user(user)},'
        f'"operation":{{"action":{quote(call.action)},"scope":{quote(call.scope)},'
        f'"model":{quote(call.model)},"version":{quote(call.version)},'
        f'"adapter":{quote(call.adapter)},"upstream":{quote(operation.upstream)},'
        f'"dataset":{quote(operation.dataset)}}},'
        f'"http":{{"method":{quote(facts.method.decode("ascii"))},'
        f'"path":{quote(path.decode("ascii"))},'
        f'"host":{quote(normalize_host(facts.host))},'
        f'"headers":{_ENCODER.encode(headers) if headers else "{}"}}},'
        f'"time":{{"open":{_ENCODER.encode(open_times) if open_times else "[]"}}}}}'
    ).encode("ascii")
    # Claims are as their issuer wrote them, and may be what OPA does not read.
    return JsonObject(document) if user is None else document


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def _encode_user(user: User) -> str:
    return _ENCODER.encode(
        {
            "issuer": user.issuer,
            "subject": user.subject,
            "claims": dict(user.claims),
        }
    )


def _only(name: str, values: tuple[bytes, ...]) -> str:
    if len(values) != 1:
        raise RequestError(
            f"header {name} came {len(values)} times", Reason.HEADER_DUPLICATE
        )
    try:
        return values[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"header {name} is not UTF-8") from error
