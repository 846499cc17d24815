"""The coding of a call's message, from the headers that Envoy sends along."""

import gzip
from collections.abc import Sequence

import pytest
from checks import MODEL_INFER, check_request, frame, len_field

from authz_server.facts import Body, BodyState, Facts, Plan, extract
from authz_server.operations.triton_grpc import OUTLINES

PLAN = Plan(outlines=OUTLINES)
COMPRESSED = frame(gzip.compress(len_field(1, b"model")), flag=1)


def body_of(encodings: Sequence[bytes]) -> Body:
    """Return what is known of COMPRESSED, sent with these ``grpc-encoding`` headers."""
    request = check_request(
        path=MODEL_INFER,
        raw_body=COMPRESSED,
        raw_headers=[("grpc-encoding", encoding) for encoding in encodings],
    )
    key, _ = extract(bytes(request), PLAN)
    return Facts.decode(key).body


def test_a_compressed_message_is_read_in_the_coding_that_its_header_names() -> None:
    assert body_of([b"gzip"]) == Body(BodyState.COMPLETE, ((1, b"model"),))
    assert body_of([b"deflate"]).state is BodyState.MALFORMED


@pytest.mark.parametrize(
    "encodings",
    [[], [b"gzip", b"gzip"], [b"identity", b"gzip"], [b"gzip,gzip"], [b"gzip "]],
)
def test_without_one_plain_header_the_coding_is_unknown(
    encodings: list[bytes],
) -> None:
    assert body_of(encodings).state is BodyState.COMPRESSED
