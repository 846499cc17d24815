"""From facts to the operation: the one entry of this room."""

from __future__ import annotations

from authz_server.errors import Reason
from authz_server.facts import Facts
from authz_server.operations.datasets import classify_dataset
from authz_server.operations.foreign_routes import refuse_foreign
from authz_server.operations.listings import listing_at
from authz_server.operations.openai import classify_openai
from authz_server.operations.operation import Operation, OperationError
from authz_server.operations.request_path import parse_path
from authz_server.operations.triton_grpc import classify_grpc, is_grpc_path
from authz_server.operations.triton_http import classify_http
from authz_server.operations.upstreams import UpstreamIndex, resolve_upstream


def classify(facts: Facts, index: UpstreamIndex, *, trust_host: bool) -> Operation:
    """Return what the request does, to which model of which upstream.

    Raises:
        OperationError: if that is not known for certain.
    """
    upstream = resolve_upstream(facts, index, trust_host=trust_host)
    try:
        method = facts.method.decode("ascii")
    except UnicodeDecodeError as error:
        raise OperationError("method is not ASCII") from error
    store = index.dataset.get(upstream)
    if store is not None:
        return classify_dataset(facts, method, upstream, store)
    path = parse_path(facts.path)
    listing = listing_at(method, path) if facts.is_gated else None
    if listing is not None:
        return Operation(listing.call(facts.body), upstream)
    separator = index.openai.get(upstream)
    if separator is not None:
        call = classify_openai(method, path, facts.body, separator)
        return Operation(call, upstream)
    refuse_foreign(path, facts.signals)
    if is_grpc_path(path):
        if b"?" in facts.path:
            # Triton's gRPC server matches the whole target.
            raise OperationError("a gRPC path has no query", Reason.PATH_INVALID)
        call = classify_grpc(method, path, facts.body, is_gated=facts.is_gated)
    else:
        call = classify_http(method, path)
    return Operation(call, upstream)
