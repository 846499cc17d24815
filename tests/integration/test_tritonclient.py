"""NVIDIA's own client through a real Envoy to a real Triton, feature by feature.

Who may gets what Triton itself answers; who may not gets tritonclient's own exception.
"""

import asyncio
import contextlib
import json
import queue
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from triton_clients import (
    DENIAL,
    ECHO,
    LIMIT_S,
    WORDS,
    Client,
    Clients,
    Result,
    aio_client,
    clients_of,
    echo_inputs,
    echoed,
    plant_for_clients,
    texts,
    total,
)
from triton_plant import OWN_MODELS, Plant
from tritonclient.utils import InferenceServerException

from authz_server.demo.calls import FORECAST, Protocol
from authz_server.demo.scenario import CAMERA, FORECASTER

pytestmark = [pytest.mark.envoy, pytest.mark.triton]


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with plant_for_clients() as made:
        yield made


@pytest.fixture(scope="module")
def http(plant: Plant) -> Iterator[Clients]:
    with clients_of(plant, Protocol.HTTP) as made:
        yield made


@pytest.fixture(scope="module")
def over_grpc(plant: Plant) -> Iterator[Clients]:
    with clients_of(plant, Protocol.GRPC) as made:
        yield made


@pytest.fixture(params=["http", "over_grpc"])
def clients(request: pytest.FixtureRequest) -> Clients:
    made: Clients = request.getfixturevalue(request.param)
    return made


# What both protocols have.


def test_infer_gives_tritons_own_answer(clients: Clients) -> None:
    assert clients.agreed(clients.echo) == ECHO


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_infer_with_a_compressed_request(clients: Clients, packing: str) -> None:
    name = "compression_algorithm" if clients.json else "request_compression_algorithm"
    answer = clients.agreed(lambda client: clients.echo(client, **{name: packing}))
    assert answer == ECHO


def test_infer_of_a_version_by_its_number(clients: Clients) -> None:
    answer = clients.agreed(lambda client: clients.echo(client, model_version="1"))
    assert answer == ECHO


def test_infer_of_one_output(clients: Clients) -> None:
    wanted = [clients.module.InferRequestedOutput("WORDS")]

    def call(client: Client) -> tuple[list[str], object]:
        result = client.infer("echo", echo_inputs(clients.module), outputs=wanted)
        return texts(result), result.as_numpy("NUMBERS")

    assert clients.agreed(call) == (WORDS, None)


def test_what_goes_along_with_a_request_reaches_the_model(clients: Clients) -> None:
    def call(client: Client) -> tuple[str, dict[str, Any]]:
        result = client.infer(
            "echo",
            echo_inputs(clients.module),
            request_id="order-7",
            timeout=5_000_000,
            headers={"x-line": "Line 1"},
            parameters={"shift": "night", "piece": 7, "is_sample": True},
        )
        said = result.get_response(**clients.json)
        return said["id"], json.loads(texts(result, "PARAMETERS")[0])

    said = {"x-line": "Line 1", "shift": "night", "piece": 7, "is_sample": True}
    assert clients.agreed(call) == ("order-7", said)


def test_an_error_of_tritons_stays_what_it_is(clients: Clients) -> None:
    errors = []
    for client in (clients.direct, clients.worker):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("echo", [clients.tensor("WORDS", [1])])
        errors.append((caught.value.status(), caught.value.message()))
    assert errors[0] == errors[1]
    assert "data-type is 'INT32'" in errors[0][1]


def test_a_sequence_of_single_calls(clients: Clients) -> None:
    def call(client: Client) -> list[int]:
        return [
            total(
                client.infer(
                    "counter",
                    [clients.tensor("NUMBER", [number])],
                    sequence_id=7,
                    sequence_start=number == 1,
                    sequence_end=number == 3,
                )
            )
            for number in (1, 2, 3)
        ]

    assert clients.agreed(call) == [1, 3, 6]


@pytest.mark.parametrize("question", ["is_server_live", "is_server_ready"])
def test_readiness_of_the_server(clients: Clients, question: str) -> None:
    assert getattr(clients.direct, question)()
    assert getattr(clients.worker, question)()
    assert is_kept_from(clients, lambda client: getattr(client, question)())


@pytest.mark.parametrize("version", ["", "1"])
def test_readiness_of_a_model(clients: Clients, version: str) -> None:
    assert clients.direct.is_model_ready("echo", version)
    assert clients.worker.is_model_ready("echo", version)
    assert is_kept_from(clients, lambda client: client.is_model_ready("echo", version))


def is_kept_from(clients: Clients, question: Callable[[Client], bool]) -> bool:
    # Over HTTP tritonclient makes "not ready" of every status but 200.
    if clients.module is tritonclient.http:
        return question(clients.outsider) is False
    return clients.is_denied(question, clients.outsider)


def test_metadata_of_the_server(clients: Clients) -> None:
    answer = clients.agreed(lambda client: client.get_server_metadata(**clients.json))
    assert answer["name"] == "triton"


def test_metadata_of_a_model(clients: Clients) -> None:
    answer = clients.agreed(
        lambda client: client.get_model_metadata("repeat", **clients.json)
    )
    assert answer["inputs"][0]["name"] == "TIMES"


def test_configuration_of_a_model(clients: Clients) -> None:
    answer = clients.agreed(
        lambda client: client.get_model_config("repeat", **clients.json)
    )
    answer = answer.get("config", answer)  # gRPC wraps it
    assert answer["model_transaction_policy"] == {"decoupled": True}


def test_statistics_of_one_model(clients: Clients) -> None:
    answer = clients.agreed(
        lambda client: client.get_inference_statistics("echo", **clients.json)
    )
    assert [item["name"] for item in answer["model_stats"]] == ["echo"]


def test_statistics_of_all_models_are_of_those_that_one_has(clients: Clients) -> None:
    def call(client: Client) -> set[str]:
        answer = client.get_inference_statistics(**clients.json)
        return {item["name"] for item in answer["model_stats"]}

    assert call(clients.worker) == {"counter", "echo", "repeat"}
    answer = clients.agreed(call, by=clients.operator)
    assert {"counter", "echo", "repeat", FORECAST} <= answer


def test_the_repository_index_is_not_for_who_may_only_infer(clients: Clients) -> None:
    def call(client: Client) -> set[tuple[str, str]]:
        answer = client.get_model_repository_index(**clients.json)
        models = answer["models"] if clients.json else answer
        return {(item["name"], item["state"]) for item in models}

    answer = clients.agreed(call, by=clients.operator, but_not=[clients.worker])
    assert {("echo", "READY"), (FORECAST, "READY")} <= answer


def test_a_model_is_unloaded_and_loaded(clients: Clients) -> None:
    others = clients.worker, clients.outsider
    assert clients.is_denied(lambda client: client.unload_model("repeat"), *others)
    assert clients.direct.is_model_ready("repeat")
    clients.operator.unload_model("repeat")
    assert not clients.direct.is_model_ready("repeat")
    assert clients.is_denied(lambda client: client.load_model("repeat"), *others)
    assert not clients.direct.is_model_ready("repeat")
    clients.operator.load_model("repeat")
    assert clients.direct.is_model_ready("repeat")


def test_a_model_is_brought_along(clients: Clients) -> None:
    words = {"name": "WORDS", "data_type": "TYPE_STRING", "dims": [-1]}
    configuration = {"backend": "python", "input": [words], "output": [words]}
    program = (OWN_MODELS / "echo" / "1" / "model.py").read_bytes()

    def bring(client: Client) -> None:
        client.load_model(
            "brought",
            config=json.dumps(configuration),
            files={"file:1/model.py": program},
        )

    assert clients.is_denied(bring, clients.worker, clients.outsider)
    assert not clients.direct.is_model_ready("brought")
    bring(clients.operator)
    inputs = [clients.tensor("WORDS", WORDS, "BYTES")]
    assert texts(clients.operator.infer("brought", inputs)) == WORDS
    clients.operator.unload_model("brought")
    assert not clients.direct.is_model_ready("brought")


@pytest.mark.parametrize("model", [None, "echo"])
def test_trace_settings(clients: Clients, model: str | None) -> None:
    def read(client: Client) -> dict[str, Any]:
        answer: dict[str, Any] = client.get_trace_settings(model, **clients.json)
        return answer

    def write(client: Client) -> None:
        client.update_trace_settings(model, {"trace_rate": "77"})

    before = clients.agreed(read, by=clients.operator, but_not=[clients.worker])
    assert clients.is_denied(write, clients.worker, clients.outsider)
    assert read(clients.direct) == before
    write(clients.operator)
    try:
        assert "77" in str(read(clients.direct))
    finally:
        clients.direct.update_trace_settings(model, {"trace_rate": "1000"})


def test_log_settings(clients: Clients) -> None:
    def read(client: Client) -> dict[str, Any]:
        answer: dict[str, Any] = client.get_log_settings(**clients.json)
        return answer

    def write(client: Client) -> None:
        client.update_log_settings({"log_format": "ISO8601"})

    before = clients.agreed(read, by=clients.operator, but_not=[clients.worker])
    assert clients.is_denied(write, clients.worker, clients.outsider)
    assert read(clients.direct) == before
    write(clients.operator)
    try:
        assert "ISO8601" in str(read(clients.direct))
    finally:
        clients.direct.update_log_settings({"log_format": "default"})


@contextlib.contextmanager
def shared_memory() -> Iterator[SharedMemory]:
    memory = SharedMemory(create=True, size=64)
    try:
        yield memory
    finally:
        memory.close()
        memory.unlink()


def test_tensors_in_system_shared_memory(clients: Clients) -> None:
    others = clients.worker, clients.outsider
    with shared_memory() as memory:

        def register(client: Client) -> None:
            client.register_system_shared_memory("region", f"/{memory.name}", 64)

        def status(client: Client) -> Any:
            return client.get_system_shared_memory_status(**clients.json)

        def unregister(client: Client) -> None:
            client.unregister_system_shared_memory("region")

        assert clients.is_denied(register, *others)
        assert not status(clients.direct)
        register(clients.operator)
        answer = clients.agreed(status, by=clients.operator, but_not=[clients.worker])
        assert memory.name in str(answer)

        tensors = memory.buf
        assert tensors is not None
        tensors[:12] = np.array([1, 2, 3], np.float32).tobytes()
        given = clients.module.InferInput("NUMBERS", [3], "FP32")
        given.set_shared_memory("region", 12)
        wanted = clients.module.InferRequestedOutput("NUMBERS")
        wanted.set_shared_memory("region", 12, offset=32)
        clients.operator.infer("echo", [given], outputs=[wanted])
        assert tensors[32:44] == tensors[:12]

        assert clients.is_denied(unregister, *others)
        assert status(clients.direct)
        unregister(clients.operator)
        assert not status(clients.direct)


def test_status_of_cuda_shared_memory(clients: Clients) -> None:
    clients.agreed(
        lambda client: client.get_cuda_shared_memory_status(**clients.json),
        by=clients.operator,
        but_not=[clients.worker],
    )


# What only HTTP has.


def test_http_async_infer(http: Clients) -> None:
    def call(client: Client) -> tuple[list[str], list[float]]:
        return echoed(
            client.async_infer("echo", echo_inputs(http.module)).get_result(
                timeout=LIMIT_S
            )
        )

    assert http.agreed(call) == ECHO


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_http_answers_come_compressed_as_asked(http: Clients, packing: str) -> None:
    def call(client: Client) -> tuple[str, tuple[list[str], list[float]]]:
        asked = client.async_infer(
            "echo",
            echo_inputs(http.module),
            response_compression_algorithm=packing,
        )
        answer = echoed(asked.get_result(timeout=LIMIT_S))
        return asked._greenlet.value.get("Content-Encoding"), answer

    assert http.agreed(call) == (packing, ECHO)


@pytest.mark.parametrize("is_binary", [True, False])
def test_http_tensors_as_bytes_and_as_json(http: Clients, *, is_binary: bool) -> None:
    wanted = [
        http.module.InferRequestedOutput(name, binary_data=is_binary)
        for name in ("WORDS", "NUMBERS")
    ]

    def call(client: Client) -> tuple[tuple[list[str], list[float]], bool]:
        inputs = echo_inputs(http.module, binary_data=is_binary)
        result = client.infer("echo", inputs, outputs=wanted)
        return echoed(result), "data" in result.get_output("WORDS")

    assert http.agreed(call) == (ECHO, not is_binary)


def test_http_query_parameters(http: Clients) -> None:
    answer = http.agreed(
        lambda client: http.echo(client, query_params={"shift": ["a b", "%2F"]})
    )
    assert answer == ECHO


def test_http_aio_infer(plant: Plant) -> None:
    module = tritonclient.http.aio

    async def infer(who: str | None) -> tuple[list[str], list[float]]:
        async with aio_client(plant, module, who) as client:
            return echoed(await client.infer("echo", echo_inputs(module)))

    assert asyncio.run(infer(CAMERA)) == asyncio.run(infer(None)) == ECHO
    with pytest.raises(InferenceServerException) as caught:
        asyncio.run(infer(FORECASTER))
    assert (caught.value.status(), caught.value.message()) == ("403", DENIAL)


# What only gRPC has.


def test_grpc_async_infer_calls_back(over_grpc: Clients) -> None:
    def call(client: Client) -> tuple[list[str], list[float]]:
        heard: queue.SimpleQueue[Result] = queue.SimpleQueue()
        client.async_infer(
            "echo",
            echo_inputs(over_grpc.module),
            lambda result, error: heard.put(error or result),
            client_timeout=LIMIT_S,
        )
        outcome = heard.get(timeout=LIMIT_S)
        if isinstance(outcome, Exception):
            raise outcome
        return echoed(outcome)

    assert over_grpc.agreed(call) == ECHO


def test_grpc_calls_end_in_time(over_grpc: Clients) -> None:
    def call(client: Client) -> str:
        with pytest.raises(InferenceServerException) as caught:
            over_grpc.echo(client, client_timeout=0.2, parameters={"delay_ms": 600})
        status: str = caught.value.status()
        return status

    for client in (over_grpc.direct, over_grpc.worker):
        assert call(client) == "StatusCode.DEADLINE_EXCEEDED"
    assert over_grpc.echo(over_grpc.worker, client_timeout=LIMIT_S) == ECHO
    assert over_grpc.is_denied(
        lambda client: over_grpc.echo(client, client_timeout=LIMIT_S),
        over_grpc.outsider,
    )


def test_grpc_aio_infer(plant: Plant, over_grpc: Clients) -> None:
    module = tritonclient.grpc.aio

    async def infer(who: str | None) -> tuple[list[str], list[float]]:
        async with aio_client(plant, module, who) as client:
            return echoed(await client.infer("echo", echo_inputs(module)))

    assert asyncio.run(infer(CAMERA)) == asyncio.run(infer(None)) == ECHO
    with pytest.raises(InferenceServerException) as caught:
        asyncio.run(infer(FORECASTER))
    assert over_grpc.is_denial(caught.value)
