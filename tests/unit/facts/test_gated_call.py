import pytest
from checks import CAMERA, check_request, frame, len_field

from authz_server.errors import RequestError
from authz_server.facts import Body, BodyState, Facts, Plan, extract
from authz_server.facts.gated_call import ENCODING, GatedCall, GatedFacts
from authz_server.operations.triton_grpc import GATED_OUTLINES, OUTLINES, UNARY

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "/inference.GRPCInferenceService/ModelInfer"
GATED = {"upstream": "triton", "gate": "ext_proc"}
PLAN = Plan(signals=(ENCODING,), outlines=OUTLINES)


def key_of(path: str = STREAM, **changes: object) -> bytes:
    arguments: dict[str, object] = {
        "path": path,
        "extensions": GATED,
        "headers": {"content-type": "application/grpc"},
        **changes,
    }
    key, _ = extract(bytes(check_request(**arguments)), PLAN)  # type: ignore[arg-type]
    return key


def call(path: str = STREAM, **changes: object) -> GatedCall:
    return GatedCall(GatedFacts(key_of(path, **changes)), GATED_OUTLINES, UNARY)


def message(model: str, version: str = "1") -> bytes:
    return frame(len_field(1, model.encode()) + len_field(2, version.encode()))


def bodies(gated: GatedCall, chunk: bytes, *, is_last: bool = False) -> list[Body]:
    return [Facts.decode(key).body for key in gated.feed(chunk, is_last=is_last)]


def names(found: list[Body]) -> list[bytes]:
    assert all(body.state is BodyState.COMPLETE for body in found)
    return [body.value(1) for body in found]


def test_each_message_has_the_calls_facts_and_its_own_names() -> None:
    (key,) = call().feed(message("m", "3"), is_last=False)
    facts = Facts.decode(key)
    assert facts.principal == CAMERA.encode()
    assert facts.path == STREAM.encode()
    assert facts.upstream == b"triton"
    assert facts.is_gated
    assert facts.is_grpc
    assert facts.body == Body(BodyState.COMPLETE, ((1, b"m"), (2, b"3")))


def test_messages_are_judged_with_the_chunk_that_completes_them() -> None:
    gated = call()
    data = message("a") + message("b")
    found: list[bytes] = []
    for position in range(len(data)):
        new = names(bodies(gated, data[position : position + 1]))
        if new:
            assert position in {len(message("a")) - 1, len(data) - 1}
        found += new
    assert found == [b"a", b"b"]


def test_many_messages_in_one_chunk_are_each_judged() -> None:
    assert names(bodies(call(), message("a") * 3 + message("b"))) == [*[b"a"] * 3, b"b"]


def test_a_call_that_ends_within_a_message_is_partial() -> None:
    gated = call()
    assert bodies(gated, message("a")[:-1]) == []
    (body,) = bodies(gated, b"", is_last=True)
    assert body.state is BodyState.PARTIAL


def test_a_call_that_ends_between_messages_has_nothing_more_to_judge() -> None:
    gated = call()
    assert names(bodies(gated, message("a"), is_last=True)) == [b"a"]
    assert bodies(gated, b"", is_last=True) == []


def test_a_second_message_of_a_unary_call_is_malformed() -> None:
    gated = call(INFER)
    first, second = bodies(gated, message("a") + message("b"))
    assert first.value(1) == b"a"
    assert second.state is BodyState.MALFORMED


def test_the_encoding_comes_from_the_call() -> None:
    import zlib

    packed = frame(zlib.compress(len_field(1, b"m")), flag=1)
    headers = {"content-type": "application/grpc", ENCODING: "deflate"}
    assert names(bodies(call(headers=headers), packed)) == [b"m"]
    (body,) = bodies(call(), packed)
    assert body.state is BodyState.COMPRESSED
    twice = [(ENCODING, b"deflate"), (ENCODING, b"gzip")]
    (body,) = bodies(call(headers=None, raw_headers=twice), packed)
    assert body.state is BodyState.COMPRESSED


def test_after_a_malformed_message_nothing_is_read_any_more() -> None:
    gated = call()
    (body,) = bodies(gated, b"\x02\x00\x00\x00\x00")
    assert body.state is BodyState.MALFORMED
    (body,) = bodies(gated, message("a"))
    assert body.state is BodyState.MALFORMED


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"x",
        key_of(extensions={"upstream": "triton"}),
        key_of("/inference.GRPCInferenceService/ServerLive"),
        key_of("/v2/models/m/infer"),
    ],
    ids=["nothing", "no facts", "not gated", "not a gated method", "HTTP"],
)
def test_what_is_no_gated_call_is_refused(key: bytes) -> None:
    with pytest.raises(RequestError):
        GatedCall(GatedFacts(key), GATED_OUTLINES, UNARY)
