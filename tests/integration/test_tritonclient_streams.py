"""The streams of NVIDIA's own client through a real Envoy to a real Triton."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio
from triton_clients import (
    DENIAL,
    ECHO,
    LIMIT_S,
    Clients,
    Result,
    Stream,
    aio_client,
    clients_of,
    echo_inputs,
    echoed,
    plant_for_clients,
    tensor,
    texts,
    total,
)
from triton_plant import Plant
from tritonclient.utils import InferenceServerException

from authz_server.demo.calls import FORECAST, Protocol
from authz_server.demo.scenario import CAMERA, FORECASTER

pytestmark = [pytest.mark.envoy, pytest.mark.triton]


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with plant_for_clients() as made:
        yield made


@pytest.fixture(scope="module")
def over_grpc(plant: Plant) -> Iterator[Clients]:
    with clients_of(plant, Protocol.GRPC) as made:
        yield made


def test_grpc_aio_stream_infer(plant: Plant) -> None:
    module = tritonclient.grpc.aio

    async def infer(who: str | None) -> dict[str, list[Result]]:
        heard: dict[str, list[Result]] = {"echo": [], "repeat": []}
        turns: asyncio.Queue[None] = asyncio.Queue()

        async def requests() -> AsyncIterator[dict[str, Any]]:
            # One after the other, and open to the last answer: Triton 2.51 can abort
            # where a decoupled model answers beside another, or after a half-close.
            yield {"model_name": "echo", "inputs": echo_inputs(module)}
            await turns.get()
            yield {"model_name": "repeat", "inputs": [tensor(module, "TIMES", [2])]}
            for _ in range(2):
                await turns.get()

        async with aio_client(plant, module, who) as client:
            stream = client.stream_infer(requests(), stream_timeout=LIMIT_S)
            async for result, error in stream:
                assert error is None
                heard[result.get_response().model_name].append(result)
                turns.put_nowait(None)
        return heard

    for who in (CAMERA, None):
        heard = asyncio.run(infer(who))
        assert [echoed(result) for result in heard["echo"]] == [ECHO]
        assert [step_of(result) for result in heard["repeat"]] == [1, 2]
    # tritonclient's iterator leaves gRPC's own exception as it is.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(infer(FORECASTER))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == DENIAL


def step_of(result: Result) -> int:
    return int(result.as_numpy("STEP")[0])


def test_a_stream_answers_each_message_before_the_next(over_grpc: Clients) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client, headers={"x-line": "Line 1"}) as stream:
            for request_id in ("a", "b", "c"):
                stream.say("echo", echo_inputs(over_grpc.module), request_id=request_id)
                result = stream.hear()
                assert echoed(result) == ECHO
                assert result.get_response().id == request_id
                assert json.loads(texts(result, "PARAMETERS")[0])["x-line"] == "Line 1"
            assert stream.rest() == []


@pytest.mark.parametrize("model", ["echo", "repeat", "counter"])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_a_stream_is_denied_with_the_reason(
    over_grpc: Clients, model: str, packing: str | None
) -> None:
    with Stream(over_grpc.outsider, compression_algorithm=packing) as stream:
        # The denial may be here before the message is; then this raises that the
        # stream is over.
        with contextlib.suppress(InferenceServerException):
            stream.say(model, echo_inputs(over_grpc.module), sequence_id=1)
        assert over_grpc.is_denial(stream.hear())


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_compressed_stream(over_grpc: Clients, packing: str) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client, compression_algorithm=packing) as stream:
            stream.say("echo", echo_inputs(over_grpc.module))
            assert echoed(stream.hear()) == ECHO
    with Stream(over_grpc.worker, compression_algorithm=packing) as stream:
        stream.say(FORECAST, echo_inputs(over_grpc.module))
        assert over_grpc.is_denial(stream.hear())


def test_a_decoupled_model_answers_one_message_many_times(over_grpc: Clients) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client) as stream:
            for times in (50, 0, 2):
                stream.say("repeat", [over_grpc.tensor("TIMES", [times])])
            steps = [step_of(stream.hear()) for _ in range(52)]
            assert not list(stream.rest())
        assert steps == [*range(1, 51), 1, 2]


def test_a_decoupled_model_says_when_it_is_done(over_grpc: Clients) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client) as stream:
            stream.say(
                "repeat",
                [over_grpc.tensor("TIMES", [2])],
                enable_empty_final_response=True,
            )
            finals = [
                stream.hear()
                .get_response()
                .parameters["triton_final_response"]
                .bool_param
                for _ in range(3)
            ]
        assert finals == [False, False, True]


def test_a_decoupled_model_has_no_single_answer_by_triton(over_grpc: Clients) -> None:
    errors = []
    for client in (over_grpc.direct, over_grpc.worker):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("repeat", [over_grpc.tensor("TIMES", [2])])
        errors.append((caught.value.status(), caught.value.message()))
    assert errors[0] == errors[1]
    assert errors[0][0] == "StatusCode.UNIMPLEMENTED"


def count(stream: Stream, clients: Clients, number: int, **how: Any) -> None:
    stream.say("counter", [clients.tensor("NUMBER", [number])], **how)


@pytest.mark.parametrize("name", [41, "sequence-41"])
def test_a_sequence_over_a_stream(over_grpc: Clients, name: int | str) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client) as stream:
            sums = []
            for number in (1, 2, 3, 4):
                count(
                    stream,
                    over_grpc,
                    number,
                    sequence_id=name,
                    sequence_start=number == 1,
                    sequence_end=number == 4,
                )
                sums.append(total(stream.hear()))
        assert sums == [1, 3, 6, 10]


def test_two_interleaved_sequences_keep_apart(over_grpc: Clients) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client) as stream:
            sums: dict[int, list[int]] = {51: [], 52: []}
            for turn in (1, 2, 3):
                for sequence, factor in ((51, 1), (52, 100)):
                    count(
                        stream,
                        over_grpc,
                        turn * factor,
                        sequence_id=sequence,
                        sequence_start=turn == 1,
                        sequence_end=turn == 3,
                    )
                    sums[sequence].append(total(stream.hear()))
        assert sums == {51: [1, 3, 6], 52: [100, 300, 600]}


def test_two_streams_at_once_carry_on_each_its_sequence(
    plant: Plant, over_grpc: Clients
) -> None:
    with (
        clients_of(plant, Protocol.GRPC) as more,
        Stream(over_grpc.worker) as one,
        Stream(more.worker) as other,
    ):
        sums = []
        for turn in (1, 2, 3):
            for sequence, stream in ((61, one), (62, other)):
                count(
                    stream,
                    over_grpc,
                    turn * sequence,
                    sequence_id=sequence,
                    sequence_start=turn == 1,
                    sequence_end=turn == 3,
                )
                sums.append(total(stream.hear()))
    assert sums == [61, 62, 183, 186, 366, 372]


def test_a_message_for_a_model_of_others_ends_the_stream_in_its_middle(
    plant: Plant, over_grpc: Clients
) -> None:
    before = plant.executions(FORECAST)
    with Stream(over_grpc.worker) as stream:
        stream.say("echo", echo_inputs(over_grpc.module))
        assert echoed(stream.hear()) == ECHO
        stream.say(FORECAST, echo_inputs(over_grpc.module))
        error = stream.hear()
        assert isinstance(error, InferenceServerException)
        assert over_grpc.is_denial(error)
        with pytest.raises(InferenceServerException, match="no longer in valid state"):
            stream.say("echo", echo_inputs(over_grpc.module))
    assert plant.executions(FORECAST) == before
    assert plant.events[-1]["reason"] == "not_granted"
    assert plant.events[-1]["model"] == FORECAST
    with Stream(over_grpc.worker) as stream:
        stream.say("echo", echo_inputs(over_grpc.module))
        assert echoed(stream.hear()) == ECHO


def test_an_error_of_tritons_does_not_end_a_stream(over_grpc: Clients) -> None:
    for client in (over_grpc.direct, over_grpc.worker):
        with Stream(client) as stream:
            stream.say("echo", [over_grpc.tensor("WORDS", [1])])
            assert "data-type is 'INT32'" in stream.hear().message()
            stream.say("echo", echo_inputs(over_grpc.module))
            assert echoed(stream.hear()) == ECHO
