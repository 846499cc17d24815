"""The parsers of untrusted bytes, each as a function that must never raise another
error than the parser's own.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

from authz_server.errors import (
    AuthzError,
    BundleError,
    ForwardedError,
    PolicyError,
    RequestError,
    SpiffeIdError,
    SvidError,
    TokenError,
)
from authz_server.facts import BodyState, Facts, Keep, Plan, extract
from authz_server.facts.inflate import Inflater
from authz_server.facts.json_body import outline_json
from authz_server.facts.message_scanner import MessageScanner
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
from authz_server.operations.openai import JSON_MODELS
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.policy.bundles.bundle import read_bundle, write_bundle
from authz_server.policy.bundles.patch import apply_patch, parse_patch
from authz_server.policy.bundles.signature import SIGNATURES, Signers

_LIMIT = 1 << 20

_SIGNERS = Signers({"k": Path(__file__).parent / "bundle_key.pem"})

_PLAN = Plan(
    headers=("x-line",),
    credentials=("authorization",),
    jwt_payload="jwt",
    outlines=OUTLINES,
    json_models=JSON_MODELS,
)


def _spiffe_id(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert str(SpiffeId.parse(text)) == text


def _check_request(data: bytes) -> None:
    key, _ = extract(data, _PLAN)
    assert Facts.decode(key).encode() == key


def _json_body(data: bytes) -> None:
    """Read a body; what is kept is what the frontend's own JSON reader sees."""
    body = outline_json(data, "model")
    if body.state is BodyState.COMPLETE:
        assert json.loads(data)["model"].encode() == body.value(1)


_OUTLINE = {1: Keep.VALUE, 2: Keep.PRESENCE, 3: Keep.EACH}


def _message_scanner(data: bytes) -> None:
    """Scan all but the first byte, which chooses the coding and the size of pieces."""
    choice, raw = int.from_bytes(data[:1]), data[1:]
    encoding = (b"gzip", b"deflate", b"")[choice % 3]
    size = 1 + choice // 3
    whole = MessageScanner(_OUTLINE, encoding)
    parts = MessageScanner(_OUTLINE, encoding)
    bodies = whole.feed(raw)
    found = [
        body
        for start in range(0, len(raw), size)
        for body in parts.feed(raw[start : start + size])
    ]
    assert found[: len(bodies)] == bodies
    assert parts.is_between_messages == whole.is_between_messages


def _inflate(data: bytes) -> None:
    # As gzip begins (RFC 1952 §2.3.1); no zlib stream does (RFC 1950 §2.2).
    is_gzip = data[:1] == b"\x1f"
    inflater = Inflater(b"gzip" if is_gzip else b"deflate")
    whole = b"".join(inflater.pieces(data))
    inflater.finish()
    assert whole == zlib.decompress(data, zlib.MAX_WBITS | (16 if is_gzip else 0))


def _revocations(data: bytes) -> None:
    parse_revocations(data.decode("utf-8", "replace"))


def _opa_bundle(data: bytes) -> None:
    """Read the archive `data`, which is compressed first: a chance hits no checksum."""
    bundle = read_bundle(gzip.compress(data, 0), _LIMIT, None)
    if bundle.patch is None:
        assert read_bundle(write_bundle(bundle), 8 * _LIMIT, None) == bundle


def _opa_patch(data: bytes) -> None:
    before = {"a": {"b": [1, {"c": 2}]}}
    apply_patch(before, parse_patch(data))
    assert before == {"a": {"b": [1, {"c": 2}]}}


def _opa_signatures(data: bytes) -> None:
    """Take `data` for the signature of one file."""
    _SIGNERS.verify({SIGNATURES: data, "data.json": b"{}"})


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
    "opa_bundle": (_opa_bundle, PolicyError),
    "opa_patch": (_opa_patch, PolicyError),
    "opa_signatures": (_opa_signatures, PolicyError),
    "x509_bundles": (decode_x509_bundles, BundleError),
    "jwt_bundles": (decode_jwt_bundles, BundleError),
    "own_svid": (decode_svid, SvidError),
    "revocations": (_revocations, None),
    "check_request": (_check_request, RequestError),
    "message_scanner": (_message_scanner, None),
    "inflate": (_inflate, RequestError),
    "json_body": (_json_body, None),
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
