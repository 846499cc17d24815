import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from checks import check_request, frame, len_field
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.google import protobuf
from hypothesis import given
from hypothesis import strategies as st
from parts import EXAMPLE, MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline
from authz_server.config import Policy
from authz_server.errors import Reason, RequestError
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.transport.decider import Decider
from authz_server.transport.ext_proc import Gate
from authz_server.transport.processing import Part, read_processing

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
EXT_AUTHZ = "envoy.filters.http.ext_authz"


@pytest.fixture(scope="module")
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory, sink: MemorySink
) -> Iterator[Pipeline]:
    policy = tmp_path_factory.mktemp("policy") / "access.yaml"
    policy.write_text(
        EXAMPLE.read_text().replace(
            "  grants:\n",
            "    streamer: [{actions: [inference-stream], models: [defect-*]}]\n"
            "    lister: [{actions: [model-list, metrics], models: [defect-*]}]\n"
            "  grants:\n"
            "    - {role: streamer, to: [factory-floor], on: [triton]}\n"
            "    - {role: lister, to: [factory-floor], on: [triton]}\n",
        )
    )
    config = example_config(policy=Policy(file=str(policy)))
    with loaded_policies(config) as policies:
        yield build_pipeline(config, policies, sink, IdentitySources())


def handed_on(
    pipeline: Pipeline, path: str = STREAM, method: str = "POST"
) -> protobuf.Struct:
    """Return what the check of a gated call's beginning hands on."""
    raw = bytes(
        check_request(
            path=path,
            method=method,
            extensions={"upstream": "triton", "gate": "ext_proc"},
            headers={"content-type": "application/grpc"},
        )
    )
    metadata = auth.CheckResponse.parse(pipeline.check(raw)).dynamic_metadata
    assert metadata is not None
    return metadata


def headers(metadata: protobuf.Struct | None) -> bytes:
    message = ext_proc.ProcessingRequest(
        request_headers=ext_proc.HttpHeaders(
            headers=core.HeaderMap(
                headers=[
                    core.HeaderValue(key=":path", raw_value=STREAM.encode()),
                    core.HeaderValue(key="x-request-id", raw_value=b"req-7"),
                ]
            )
        )
    )
    if metadata is not None:
        message.metadata_context = core.Metadata(filter_metadata={EXT_AUTHZ: metadata})
    return bytes(message)


def body(chunk: bytes, *, is_last: bool = False) -> bytes:
    return bytes(
        ext_proc.ProcessingRequest(
            request_body=ext_proc.HttpBody(body=chunk, end_of_stream=is_last)
        )
    )


def answer_headers(*, is_last: bool = False, **headers_: str) -> bytes:
    return bytes(
        ext_proc.ProcessingRequest(
            response_headers=ext_proc.HttpHeaders(
                headers=core.HeaderMap(
                    headers=[
                        core.HeaderValue(
                            key={"status": ":status"}.get(name, name.replace("_", "-")),
                            raw_value=value.encode(),
                        )
                        for name, value in {"status": "200", **headers_}.items()
                    ]
                ),
                end_of_stream=is_last,
            )
        )
    )


TRAILERS = bytes(ext_proc.ProcessingRequest(request_trailers=ext_proc.HttpTrailers()))


def message(model: str) -> bytes:
    return frame(len_field(1, model.encode()))


def converse(
    pipeline: Pipeline, parts: Sequence[bytes], *, max_pending: int = 8
) -> list[ext_proc.ProcessingResponse]:
    async def given_parts() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def run() -> list[bytes]:
        decider = Decider(pipeline, max_pending=max_pending, workers=1)
        try:
            gate = Gate(pipeline, decider)
            return [answer async for answer in gate.process(given_parts())]
        finally:
            decider.close()

    return [ext_proc.ProcessingResponse.parse(raw) for raw in asyncio.run(run())]


def reason(response: ext_proc.ProcessingResponse) -> str:
    ending = response.immediate_response
    assert ending is not None
    assert ending.headers is not None
    (option,) = ending.headers.set_headers
    assert option.header is not None
    assert option.header.key == "x-authz-reason"
    return option.header.raw_value.decode()


def test_allowed_messages_flow_on_unchanged(
    pipeline: Pipeline, sink: MemorySink
) -> None:
    answers = converse(
        pipeline,
        [
            headers(handed_on(pipeline)),
            body(message("defect-detection")),
            body(message("defect-two")),
            body(b"", is_last=True),
            TRAILERS,
        ],
    )
    assert answers == [
        ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse()),
        *[ext_proc.ProcessingResponse(request_body=ext_proc.BodyResponse())] * 3,
        ext_proc.ProcessingResponse(request_trailers=ext_proc.TrailersResponse()),
    ]
    assert b'"model":"defect-two"' in sink.events[-1]
    assert b'"request_id":"req-7"' in sink.events[-1]


PREFIX_BYTES = 5
NO_MESSAGE = frame(b"\0")
ANSWER = answer_headers()
ANSWER_TRAILERS = bytes(
    ext_proc.ProcessingRequest(response_trailers=ext_proc.HttpTrailers())
)


def flown(chunk: bytes, answer: ext_proc.ProcessingResponse) -> bytes:
    """Return what Envoy sends on in the place of `chunk`."""
    assert answer.request_body is not None
    change = answer.request_body.response
    if change is None or change.body_mutation is None:
        return chunk
    assert (change.body_mutation.body is None) == bool(change.body_mutation.clear_body)
    return change.body_mutation.body or b""


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


def long_message(model: str, size: int) -> bytes:
    return frame(len_field(1, model.encode()) + len_field(7, b"t" * size))


CUTS = st.lists(st.integers(0, 400), max_size=6)
SIZES = st.sampled_from([0, 40, 5000])


@given(sizes=st.lists(SIZES, max_size=4), cuts=CUTS, is_answered=st.booleans())
def test_what_is_allowed_flows_on_whole_wherever_it_is_cut(
    pipeline: Pipeline, sizes: list[int], cuts: list[int], *, is_answered: bool
) -> None:
    data = b"".join(long_message("defect-detection", size) for size in sizes)
    chunks = pieces_of(data, cuts)
    parts = [headers(handed_on(pipeline)), *[ANSWER] * is_answered]
    answers = converse(pipeline, [*parts, *map(body, chunks), body(b"", is_last=True)])[
        len(parts) :
    ]
    assert len(answers) == len(chunks) + 1
    assert b"".join(map(flown, [*chunks, b""], answers)) == data


@given(before=st.lists(SIZES, max_size=3), size=SIZES, cuts=CUTS)
def test_of_a_message_that_is_denied_nothing_flows_if_its_name_comes_first(
    pipeline: Pipeline, before: list[int], size: int, cuts: list[int]
) -> None:
    allowed = b"".join(long_message("defect-detection", size) for size in before)
    data = allowed + long_message("other", size) + message("defect-detection")
    chunks = pieces_of(data, cuts)
    answers = converse(
        pipeline,
        [headers(handed_on(pipeline)), ANSWER, *map(body, chunks), ANSWER_TRAILERS],
    )
    passed = b"".join(map(flown, chunks, answers[2:-1]))
    assert passed == allowed + NO_MESSAGE
    changed = answers[-1].response_trailers
    assert changed is not None
    assert changed.header_mutation is not None
    assert {
        option.header.key: option.header.raw_value
        for option in changed.header_mutation.set_headers
        if option.header is not None
    } == {
        "grpc-status": b"7",
        "grpc-message": b"access denied (not_granted)",
        "x-authz-reason": b"not_granted",
    }


@given(cuts=CUTS)
def test_of_a_message_that_is_denied_late_its_end_does_not_flow(
    pipeline: Pipeline, cuts: list[int]
) -> None:
    unnamed = len_field(7, b"t" * 5000)
    data = frame(unnamed + len_field(1, b"other"))
    chunks = pieces_of(data, [*cuts, PREFIX_BYTES + len(unnamed)])
    answers = converse(
        pipeline, [headers(handed_on(pipeline)), ANSWER, *map(body, chunks)]
    )[2:]
    assert reason(answers[-1]) == Reason.NOT_GRANTED
    passed = b"".join(map(flown, chunks, answers[:-1]))
    assert passed == data[: len(passed)]
    assert len(passed) <= PREFIX_BYTES + len(unnamed)


def test_what_is_foreseen_is_not_on_record(
    pipeline: Pipeline, sink: MemorySink
) -> None:
    data = long_message("defect-detection", 5000)
    count = len(sink.events)
    start = headers(handed_on(pipeline))  # the check's own event
    converse(pipeline, [start, *map(body, pieces_of(data, [100, 2000]))])
    assert len(sink.events) == count + 2
    converse(pipeline, [start, body(long_message("other", 5000)[:100])])
    assert len(sink.events) == count + 3


def test_a_call_that_upstream_does_not_end_is_ended(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.transport.ext_proc._END_S", 0.05)
    parts = [headers(handed_on(pipeline)), ANSWER, body(message("other"))]

    async def run() -> list[bytes]:
        async def given_parts() -> AsyncIterator[bytes]:
            for part in parts:
                yield part
            await asyncio.Event().wait()

        decider = Decider(pipeline, max_pending=8, workers=1)
        try:
            gate = Gate(pipeline, decider)
            return [answer async for answer in gate.process(given_parts())]
        finally:
            decider.close()

    answers = [ext_proc.ProcessingResponse.parse(raw) for raw in asyncio.run(run())]
    assert len(answers) == len(parts) + 1
    assert flown(b"", answers[2]) == NO_MESSAGE
    assert reason(answers[3]) == Reason.NOT_GRANTED


@pytest.mark.parametrize(
    ("chunk", "is_last", "why"),
    [
        (message("demand-forecast"), False, Reason.NOT_GRANTED),
        (message("defect-detection") + message("other"), False, Reason.NOT_GRANTED),
        (message(""), False, Reason.MODEL_NAME_INVALID),
        (frame(b""), False, Reason.MODEL_NAME_INVALID),
        (frame(len_field(1, b"a") * 2), False, Reason.BODY_MALFORMED),
        (frame(b"x", flag=1), False, Reason.BODY_COMPRESSED),
        (message("defect-detection")[:-1], True, Reason.BODY_PARTIAL),
    ],
)
def test_a_message_that_is_not_allowed_ends_the_call(
    pipeline: Pipeline, chunk: bytes, why: Reason, *, is_last: bool
) -> None:
    answers = converse(
        pipeline,
        [
            headers(handed_on(pipeline)),
            body(chunk, is_last=is_last),
            body(message("defect-detection")),
        ],
    )
    assert len(answers) == 2
    assert reason(answers[1]) == why
    ending = answers[1].immediate_response
    assert ending is not None
    assert ending.grpc_status is not None
    assert ending.grpc_status.status == 7
    assert ending.body == f"access denied ({why})".encode()


@pytest.mark.parametrize(
    "parts",
    [
        [headers(None)],
        [headers(protobuf.Struct())],
        [
            headers(
                protobuf.Struct(
                    fields={
                        "authz_server_facts": protobuf.Value(string_value="not base64!")
                    }
                )
            )
        ],
        [
            headers(
                protobuf.Struct(
                    fields={"authz_server_facts": protobuf.Value(string_value="AAAA")}
                )
            )
        ],
        [body(message("defect-detection"))],
        [TRAILERS],
        [b""],
        [b"\xff"],
        [bytes(ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders()))],
        [
            bytes(
                ext_proc.ProcessingRequest(
                    observability_mode=True, protocol_config=None
                )
            )
        ],
    ],
)
def test_a_call_of_which_nothing_is_known_is_ended_at_once(
    pipeline: Pipeline, parts: list[bytes]
) -> None:
    (answer,) = converse(pipeline, [*parts, body(message("defect-detection"))])
    assert reason(answer) in {Reason.GATE_FACTS_MISSING, Reason.REQUEST_MALFORMED}


def answer_body(data: bytes) -> bytes:
    return bytes(
        ext_proc.ProcessingRequest(
            response_body=ext_proc.HttpBody(body=data, end_of_stream=True)
        )
    )


INDEX = b'[{"name":"defect-a","version":"1"},{"name":"secret","version":"1"}]'


def test_an_answer_comes_back_without_the_models_that_a_caller_may_not_see(
    pipeline: Pipeline,
) -> None:
    answers = converse(
        pipeline,
        [
            headers(handed_on(pipeline, "/v2/repository/index")),
            answer_headers(),
            answer_body(INDEX),
        ],
    )
    assert len(answers) == 3
    changed = answers[2].response_body
    assert changed is not None
    assert changed.response is not None
    assert changed.response.body_mutation is not None
    assert changed.response.body_mutation.body == (
        b'[{"name":"defect-a","version":"1"}]'
    )


@pytest.mark.parametrize(
    "parts",
    [
        [answer_headers(content_encoding="gzip")],
        [answer_headers(grpc_encoding="deflate")],
        [answer_headers(), answer_body(b"nonsense")],
        [answer_headers(), answer_body(b'{"models": []}')],
    ],
    ids=["gzip", "deflate", "no JSON", "no list"],
)
def test_an_answer_that_cannot_be_filtered_does_not_come_back(
    pipeline: Pipeline, parts: list[bytes]
) -> None:
    begin = headers(handed_on(pipeline, "/v2/repository/index"))
    answers = converse(pipeline, [begin, *parts])
    assert reason(answers[-1]) == Reason.LISTING_UNREADABLE


def test_an_error_of_triton_comes_back_as_it_is(pipeline: Pipeline) -> None:
    begin = headers(handed_on(pipeline, "/v2/repository/index"))
    parts = [begin, answer_headers(status="400"), answer_body(b"what you asked")]
    assert converse(pipeline, parts)[-1] == ext_proc.ProcessingResponse(
        response_body=ext_proc.BodyResponse()
    )


@pytest.mark.parametrize(
    ("parts", "passes"),
    [
        ([answer_headers(status="403"), answer_body(b"denied")], True),
        ([answer_headers(grpc_status="7", is_last=True)], True),
        ([answer_headers(), answer_body(INDEX)], False),
        ([answer_headers(grpc_status="0", is_last=True)], False),
        ([answer_body(INDEX)], False),
    ],
    ids=["denied", "denied over gRPC", "an answer", "an empty answer", "a body"],
)
def test_of_calls_that_never_passed_the_gate_only_denials_come_back(
    pipeline: Pipeline, parts: list[bytes], *, passes: bool
) -> None:
    answers = converse(pipeline, parts)
    if passes:
        assert len(answers) == len(parts)
        assert all(answer.immediate_response is None for answer in answers)
    else:
        assert reason(answers[0]) == Reason.GATE_FACTS_MISSING


def test_a_full_queue_ends_the_call(pipeline: Pipeline) -> None:
    metadata = handed_on(pipeline)

    async def run() -> bytes:
        decider = Decider(pipeline, max_pending=1, workers=1)
        decider._slots.acquire()
        try:
            gate = Gate(pipeline, decider)

            async def parts() -> AsyncIterator[bytes]:
                yield headers(metadata)
                yield body(message("defect-never-asked-before"))

            return [answer async for answer in gate.process(parts())][-1]
        finally:
            decider._slots.release()
            decider.close()

    answer = ext_proc.ProcessingResponse.parse(asyncio.run(run()))
    assert reason(answer) == Reason.OVERLOADED


def test_thousands_of_small_messages_let_others_have_their_turn(
    pipeline: Pipeline,
) -> None:
    metadata = handed_on(pipeline)
    turns = 0

    async def run() -> None:
        nonlocal turns
        decider = Decider(pipeline, max_pending=8, workers=1)

        async def parts() -> AsyncIterator[bytes]:
            yield headers(metadata)
            yield body(message("defect-detection") * 2000)

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        try:
            async for _ in Gate(pipeline, decider).process(parts()):
                pass
        finally:
            task.cancel()
            decider.close()

    asyncio.run(run())
    assert turns > 20


@given(st.binary(max_size=80))
def test_any_bytes_are_a_question_or_a_request_error(data: bytes) -> None:
    try:
        assert read_processing(data).part in Part
    except RequestError:
        return
