"""What the extraction costs: in C, and its Python twin.

Times `extract` alone, in process, on three requests of Envoy's: an HTTP inference, a
gRPC inference with a body of 8 KiB, and one with twenty headers. Both must give the
same before anything is timed. Processor time, the best of some rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth

from authz_server.facts import Annotations, BodyState, Facts, Plan, native
from authz_server.facts.extraction import extract as twin
from authz_server.operations.openai import JSON_MODELS
from authz_server.operations.triton_grpc import OUTLINES

Extract = Callable[[bytes, Plan], tuple[bytes, Annotations]]

PLAN = Plan(
    headers=("x-line",),
    credentials=("authorization",),
    signals=("grpc-encoding",),
    outlines=OUTLINES,
    json_models=JSON_MODELS,
)
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
INFER = "/v2/models/defect-detection/versions/1/infer"


def request(path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Return a CheckRequest as Envoy writes it for a camera's call."""
    peer = auth.AttributeContextPeer(
        address=core.Address(
            socket_address=core.SocketAddress(address="10.1.2.3", port_value=40123)
        ),
        principal="spiffe://factory.example/ns/line1/sa/camera",
        # As long as that of a P-256 leaf, percent-encoded.
        certificate="%0A".join(["a" * 64] * 12),
    )
    http = auth.AttributeContextHttpRequest(
        id="1234567890",
        method="POST",
        path=path,
        host="triton.factory.example",
        scheme="https",
        protocol="HTTP/2",
        headers=headers,
        raw_body=body,
        size=len(body),
    )
    return bytes(
        auth.CheckRequest(
            attributes=auth.AttributeContext(
                source=peer,
                request=auth.AttributeContextRequest(http=http),
                context_extensions={"upstream": "triton"},
            )
        )
    )


def grpc_body(size: int) -> bytes:
    """Return a ModelInferRequest of about `size` bytes, as one gRPC frame."""
    message = b"\x0a\x10defect-detection\x12\x011"
    tensor = b"t" * (size - len(message))
    length = bytes((len(tensor) & 0x7F | 0x80, len(tensor) >> 7))
    message += b"\x3a" + length + tensor
    return b"\x00" + len(message).to_bytes(4) + message


def cases() -> dict[str, tuple[bytes, BodyState]]:
    """Return requests by name, and what is to be known of their bodies."""
    few = {
        "x-request-id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "x-line": "1",
        "content-type": "application/json",
        "user-agent": "python-httpx/0.28",
    }
    many = few | {f"x-header-{number}": "some value" for number in range(16)}
    grpc = few | {"content-type": "application/grpc"}
    return {
        "HTTP infer": (request(INFER, few), BodyState.UNREAD),
        "gRPC ModelInfer, 8 KiB": (
            request(MODEL_INFER, grpc, grpc_body(8 << 10)),
            BodyState.COMPLETE,
        ),
        "HTTP infer, 20 headers": (request(INFER, many), BodyState.UNREAD),
    }


def check(raw: bytes, state: BodyState) -> None:
    """Return if both extract the same, and what is expected.

    Raises:
        SystemExit: if they do not.
    """
    key, annotations = native.extract(raw, PLAN)
    facts = Facts.decode(key)
    if (key, annotations) != twin(raw, PLAN) or facts.body.state is not state:
        raise SystemExit("the two extractions differ")
    if not native.EXTRACTOR.answers(raw, PLAN):
        raise SystemExit("the native extraction asks its twin")
    if facts.headers != (("x-line", (b"1",)),):
        raise SystemExit("a header is missing")


def microseconds(extract: Extract, raw: bytes, calls: int, rounds: int) -> float:
    """Return the processor time of one call, in the best round."""
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time_ns()
        for _ in range(calls):
            extract(raw, PLAN)
        best = min(best, time.process_time_ns() - begin)
    return best / calls / 1e3


def main() -> None:
    """Print a row for each request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5_000, help="of the twin")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'request':<24}{'bytes':>7}{'twin us':>10}{'native us':>11}{'ratio':>8}")
    for name, (raw, state) in cases().items():
        check(raw, state)
        slow = microseconds(twin, raw, arguments.calls, arguments.rounds)
        calls = arguments.calls * 20
        fast = microseconds(native.extract, raw, calls, arguments.rounds)
        print(f"{name:<24}{len(raw):>7}{slow:>10.1f}{fast:>11.2f}{slow / fast:>8.0f}")


if __name__ == "__main__":
    main()
