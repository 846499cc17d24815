"""The parsers of untrusted bytes, each as a function that must never raise another
error than the parser's own.
"""

from __future__ import annotations

from collections.abc import Callable

from authz_server.errors import (
    AuthzError,
    BundleError,
    ForwardedError,
    RequestError,
    SpiffeIdError,
    SvidError,
    TokenError,
)
from authz_server.facts import Facts, Plan, extract
from authz_server.facts.struct_value import payload_in
from authz_server.identity.certificate import load_certificates, parse_leaf, read_chain
from authz_server.identity.forwarded import parse_forwarded
from authz_server.identity.jwk import parse_key_set
from authz_server.identity.jws import parse_token
from authz_server.identity.revocation import parse_revocations
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust_bundle import parse_bundle, parse_bundle_map
from authz_server.identity.workload_messages import (
    decode_jwt_bundles,
    decode_svid,
    decode_x509_bundles,
)
from authz_server.operations.triton_grpc import OUTLINES

_PLAN = Plan(
    headers=("x-line",),
    credentials=("authorization",),
    jwt_payload="jwt",
    outlines=OUTLINES,
)


def _spiffe_id(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert str(SpiffeId.parse(text)) == text


def _check_request(data: bytes) -> None:
    key, _ = extract(data, _PLAN)
    assert Facts.decode(key).encode() == key


def _revocations(data: bytes) -> None:
    parse_revocations(data.decode("utf-8", "replace"))


TARGETS: dict[str, tuple[Callable[[bytes], object], type[AuthzError] | None]] = {
    "spiffe_id": (_spiffe_id, SpiffeIdError),
    "leaf": (parse_leaf, SvidError),
    "chain": (read_chain, SvidError),
    "certificates": (load_certificates, SvidError),
    "forwarded": (parse_forwarded, ForwardedError),
    "token": (parse_token, TokenError),
    "key_set": (parse_key_set, BundleError),
    "bundle": (lambda data: parse_bundle(data, TrustDomain("td")), BundleError),
    "bundle_map": (parse_bundle_map, BundleError),
    "x509_bundles": (decode_x509_bundles, BundleError),
    "jwt_bundles": (decode_jwt_bundles, BundleError),
    "own_svid": (decode_svid, SvidError),
    "revocations": (_revocations, None),
    "check_request": (_check_request, RequestError),
    "struct": (lambda data: payload_in(data, "jwt"), RequestError),
}
"""By name: the parser, and the only error that it may raise."""


def fuzz_one(name: str, data: bytes) -> None:
    """Give `data` to one parser; any error but its own comes out."""
    parse, error = TARGETS[name]
    try:
        parse(data)
    except AuthzError as raised:
        if error is None or not isinstance(raised, error):
            raise
