"""The gate on a real Envoy and a real Triton: every message of a stream is judged."""

import contextlib
import copy
import http.client
import itertools
import json
import queue
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from checks import frame, len_field
from differential.case import Case
from differential.wires import Http2, to_tls_port
from parts import EXAMPLE, eventually, resident_bytes
from triton_plant import OWN_MODELS, Plant, running
from tritonclient.grpc import service_pb2

from authz_server.demo.calls import Caller, Edge, Protocol, Verdict
from authz_server.demo.scenario import CAMERA, DEPLOYER, FORECASTER
from authz_server.demo.triton import MODELS

pytestmark = [pytest.mark.envoy, pytest.mark.triton]

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"

# The example policy, and streams on one model of two.
POLICY = EXAMPLE.read_text().replace(
    "  grants:\n",
    "    streamer: [{actions: [inference-stream], models: [defect-detection]}]\n"
    "    lister:\n"
    "      - {actions: [model-list, statistics], models: [defect-*], versions: ['1']}\n"
    "  grants:\n"
    "    - {role: streamer, to: [factory-floor], on: [triton]}\n"
    "    - {role: lister, to: [factory-floor], on: [triton]}\n",
)


INPUTS = {
    "defect-detection": [("IMAGE", "UINT8", np.arange(64, dtype=np.uint8), (8, 8))],
    "demand-forecast": [
        ("SERIES", "FP32", np.arange(8, dtype=np.float32), (8,)),
        ("HORIZON", "INT32", np.ones(1, dtype=np.int32), (1,)),
    ],
}

UNKNOWN_FIELD = 15


def message(model: str, version: str = "1", padding: int = 0) -> bytes:
    """Return a ModelInferRequest that Triton runs; what names the model comes last.

    The padding is a field of no definition, which a reader passes over.
    """
    request = service_pb2.ModelInferRequest()
    for name, kind, values, shape in INPUTS[model]:
        request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.append(values.tobytes())
    return (
        request.SerializeToString()
        + (len_field(UNKNOWN_FIELD, b"x" * padding) if padding else b"")
        + len_field(1, model.encode())
        + len_field(2, version.encode())
    )


def named_first(model: str, padding: int = 0) -> bytes:
    """Return the message that `message` returns, its fields in the usual order."""
    request = service_pb2.ModelInferRequest.FromString(message(model))
    return request.SerializeToString() + len_field(UNKNOWN_FIELD, b"x" * padding)


class Conversation:
    """A stream on which a test writes and reads in turn."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.heard = 0
        self.call = channel.stream_stream(STREAM)(
            iter(self._requests.get, None), timeout=20
        )

    def say(self, request: bytes) -> None:
        self._requests.put(request)

    def hear(self) -> str:
        """Return which model answered."""
        answer = service_pb2.ModelStreamInferResponse.FromString(next(self.call))
        assert not answer.error_message
        return str(answer.infer_response.model_name)

    def close(self) -> None:
        self._requests.put(None)

    def end(self) -> grpc.StatusCode:
        """Return how the stream ends, whatever comes before; `heard` counts that."""
        try:
            for _ in self.call:
                self.heard += 1
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def plant() -> Iterator[Plant]:
    with running(POLICY) as made:
        yield made


def test_a_stream_on_a_granted_model_gives_tritons_own_answers(plant: Plant) -> None:
    edge = Edge(plant.port, plant.bundle)
    with Caller(edge, Protocol.GRPC, plant.identities[CAMERA]) as caller:
        outcome = caller.attempt(lambda camera: camera.stream_defects("1"))
    assert outcome.verdict is Verdict.ALLOWED, outcome
    event = plant.events[-1]
    assert (event["action"], event["model"], event["version"]) == (
        "inference-stream",
        "defect-detection",
        "1",
    )


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_compressed_messages_are_judged_too(plant: Plant, packing: str) -> None:
    how = {
        "gzip": grpc.Compression.Gzip,
        "deflate": grpc.Compression.Deflate,
    }[packing]
    before = plant.executions("demand-forecast")
    with plant.channel() as channel:
        call = channel.stream_stream(STREAM)(
            iter([message("demand-forecast", padding=4000)]),
            timeout=10,
            compression=how,
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        allowed = channel.stream_stream(STREAM)(
            iter([message("defect-detection", padding=4000)]),
            timeout=10,
            compression=how,
        )
        assert len(list(allowed)) == 1
    assert plant.executions("demand-forecast") == before


def test_a_first_message_for_another_model_is_denied_and_never_reaches_triton(
    plant: Plant,
) -> None:
    before = plant.executions("demand-forecast")
    with plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("demand-forecast"))
        assert talk.end() is grpc.StatusCode.PERMISSION_DENIED
        metadata = dict(talk.call.trailing_metadata())
        assert metadata["x-authz-reason"] == "not_granted"
        assert talk.call.details() == "access denied (not_granted)"
    assert plant.executions("demand-forecast") == before
    event = plant.events[-1]
    assert (event["decision"], event["model"]) == ("deny", "demand-forecast")
    assert event["request_id"] == metadata["x-request-id"]


@pytest.mark.parametrize("size", [0, 100 * 1024, 8 * 1024 * 1024])
def test_a_later_message_for_another_model_ends_the_stream(
    plant: Plant, size: int
) -> None:
    before = plant.executions("demand-forecast")
    seen = len(plant.events)
    with plant.channel() as channel:
        talk = Conversation(channel)
        for _ in range(3):
            talk.say(message("defect-detection"))
            assert talk.hear()
        talk.say(named_first("demand-forecast", padding=size))
        talk.say(message("defect-detection"))
        assert talk.end() is grpc.StatusCode.PERMISSION_DENIED
        assert talk.call.details() == "access denied (not_granted)"
        metadata = dict(talk.call.trailing_metadata())
        assert metadata["x-authz-reason"] == "not_granted"
    assert plant.executions("demand-forecast") == before
    event = plant.events[-1]
    assert (event["decision"], event["model"]) == ("deny", "demand-forecast")
    assert len(plant.events) == seen + 5


def test_a_name_behind_a_later_messages_tensors_is_too_late_for_a_status(
    plant: Plant,
) -> None:
    before = plant.executions("demand-forecast")
    with plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection"))
        assert talk.hear()
        talk.say(message("demand-forecast", padding=100 * 1024))
        assert talk.end() is grpc.StatusCode.INTERNAL
    assert plant.executions("demand-forecast") == before
    assert plant.events[-1]["decision"] == "deny"


@pytest.mark.parametrize("size", [1024, 100 * 1024, 8 * 1024 * 1024])
def test_a_message_of_any_size_is_judged_by_a_name_at_its_very_end(
    plant: Plant, size: int
) -> None:
    before = plant.executions("demand-forecast")
    with plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection", padding=size))
        assert talk.hear()
        talk.close()
        assert talk.end() is grpc.StatusCode.OK
        denied = Conversation(channel)
        denied.say(message("demand-forecast", padding=size))
        assert denied.end() is grpc.StatusCode.PERMISSION_DENIED
    assert plant.executions("demand-forecast") == before


def test_who_has_no_stream_at_all_is_denied_at_the_beginning(plant: Plant) -> None:
    with plant.channel(FORECASTER) as channel:
        talk = Conversation(channel)
        talk.say(message("demand-forecast"))
        assert talk.end() is grpc.StatusCode.PERMISSION_DENIED
    assert plant.events[-1]["scope"] == "server"


def test_many_messages_at_once_are_each_judged_and_answered_in_order(
    plant: Plant,
) -> None:
    count = 200
    seen, before = len(plant.events), plant.executions("defect-detection")
    with plant.channel() as channel:
        call = channel.stream_stream(STREAM)(
            iter([message("defect-detection")] * count), timeout=20
        )
        assert len(list(call)) == count
    # What the other tests rely on: Triton counts each message that reaches it.
    assert plant.executions("defect-detection") == before + count
    assert len(plant.events) == seen + count + 1


def test_a_revocation_ends_a_running_stream_at_its_next_message(plant: Plant) -> None:
    revoked = plant.folder / "revoked"
    with plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection"))
        assert talk.hear()
        before = plant.executions("defect-detection")
        revoked.write_text("subtree spiffe://factory.example/ns/line1\n")
        try:
            time.sleep(1.0)  # what the documentation promises
            talk.say(message("defect-detection"))
            assert talk.end() is grpc.StatusCode.UNAUTHENTICATED
        finally:
            revoked.write_text("")
        assert plant.events[-1]["reason"] == "principal_revoked"
        assert plant.executions("defect-detection") == before
    assert eventually(lambda: is_open(plant))


def test_a_change_of_policy_ends_a_running_stream_at_its_next_message(
    plant: Plant,
) -> None:
    policy = plant.folder / "access.yaml"
    with plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection"))
        assert talk.hear()
        policy.write_text(EXAMPLE.read_text())
        try:
            assert eventually(lambda: not is_open(plant))
            talk.say(message("defect-detection"))
            assert talk.end() is grpc.StatusCode.PERMISSION_DENIED
        finally:
            policy.write_text(POLICY)
        assert plant.events[-1]["reason"] == "not_granted"
    assert eventually(lambda: is_open(plant))


def is_open(plant: Plant) -> bool:
    with plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection"))
        talk.close()
        return talk.end() is grpc.StatusCode.OK


INDEX = "/inference.GRPCInferenceService/RepositoryIndex"


def ask_http(
    plant: Plant, method: str, path: str, who: str = CAMERA, **headers: str
) -> tuple[int, Any]:
    svid = plant.identities[who]
    tls = ssl.create_default_context(cafile=str(plant.bundle))
    tls.load_cert_chain(svid.certificate, svid.key)
    line = http.client.HTTPSConnection("localhost", plant.port, context=tls, timeout=10)
    with contextlib.closing(line):
        line.request(method, path, headers=headers)
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())


def listed(entries: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(entry["name"], entry.get("version", "")) for entry in entries}


ALL = {("defect-detection", "1"), ("defect-detection", "2"), ("demand-forecast", "1")}
SEEN = {("defect-detection", "1")}


def test_the_index_shows_a_caller_the_models_it_may_list(plant: Plant) -> None:
    status, entries = ask_http(plant, "POST", "/v2/repository/index")
    assert status == 200
    assert listed(entries) == SEEN
    assert all(entry["state"] == "READY" for entry in entries)
    status, entries = ask_http(plant, "POST", "/v2/repository/index", DEPLOYER)
    assert listed(entries) == ALL
    status, error = ask_http(plant, "POST", "/v2/repository/index", FORECASTER)
    assert status == 403
    assert error == {"error": "access denied (not_granted)"}


def test_the_index_over_grpc_shows_the_same(plant: Plant) -> None:
    with plant.channel() as channel:
        answer = channel.unary_unary(INDEX)(b"", timeout=10)
    models = service_pb2.RepositoryIndexResponse.FromString(answer).models
    assert {(item.name, item.version) for item in models} == SEEN
    with plant.channel(DEPLOYER) as channel:
        answer = channel.unary_unary(INDEX)(b"", timeout=10)
    models = service_pb2.RepositoryIndexResponse.FromString(answer).models
    assert {(item.name, item.version) for item in models} == ALL


def test_statistics_show_a_caller_its_own_models(plant: Plant) -> None:
    status, answer = ask_http(plant, "GET", "/v2/models/stats")
    assert status == 200
    assert listed(answer["model_stats"]) == SEEN
    with plant.channel() as channel:
        statistics = channel.unary_unary(STATISTICS)
        named = len_field(1, b"defect-detection") + len_field(2, b"1")
        for message in (b"", named):
            raw = statistics(message, timeout=10)
            found = service_pb2.ModelStatisticsResponse.FromString(raw).model_stats
            assert {(item.name, item.version) for item in found} == SEEN


def test_statistics_tell_nobody_which_other_models_there_are(plant: Plant) -> None:
    denials = set()
    with plant.channel() as channel:
        statistics = channel.unary_unary(STATISTICS)
        for name, version in (
            ("demand-forecast", ""),
            ("demand-forecast", "9"),
            ("no-such-model", ""),
        ):
            message = len_field(1, name.encode()) + len_field(2, version.encode())
            with pytest.raises(grpc.RpcError) as caught:
                statistics(message, timeout=10)
            denials.add((caught.value.code(), caught.value.details()))
    assert denials == {
        (grpc.StatusCode.PERMISSION_DENIED, "access denied (not_granted)")
    }


SLOW_POLICY = POLICY.replace(
    "actions: [inference-stream], models: [defect-detection]",
    "actions: [inference-stream], models: [defect-detection, echo]",
)


def slow_echo(delay_ms: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.parameters["delay_ms"].int64_param = delay_ms
    request.inputs.add(name="NUMBERS", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.ones(1, dtype=np.float32).tobytes())
    return request.SerializeToString()


@pytest.mark.long
def test_what_was_allowed_is_answered_before_a_denial_but_not_waited_for_long() -> None:
    with running(SLOW_POLICY, models=(MODELS, OWN_MODELS)) as plant:
        for delay_ms, answers, status in (
            (200, 1, grpc.StatusCode.PERMISSION_DENIED),
            (4000, 0, grpc.StatusCode.INTERNAL),
        ):
            before = plant.executions("demand-forecast")
            with plant.channel() as channel:
                talk = Conversation(channel)
                talk.say(slow_echo(0))
                assert talk.hear() == "echo"
                talk.say(slow_echo(delay_ms))
                talk.say(named_first("demand-forecast"))
                assert (talk.end(), talk.heard) == (status, answers)
            assert plant.executions("demand-forecast") == before
        assert eventually(lambda: is_open(plant))


ALLOWED = frame(message("defect-detection"))
BIG = frame(named_first("defect-detection", padding=50_000))
FORBIDDEN = frame(named_first("demand-forecast", padding=50_000))


@pytest.mark.parametrize(
    ("pieces", "answers", "reason"),
    [
        ([ALLOWED, ALLOWED + FORBIDDEN + ALLOWED, ALLOWED], 2, "not_granted"),
        ([ALLOWED, FORBIDDEN[:3], FORBIDDEN[3:]], 1, "not_granted"),
        ([ALLOWED, FORBIDDEN[:10], FORBIDDEN[10:12], FORBIDDEN[12:]], 1, "not_granted"),
        ([ALLOWED, BIG[:9], BIG[9:16000], BIG[16000:], FORBIDDEN], 2, "not_granted"),
        ([ALLOWED, BIG[:9], BIG[9:-9]], 1, "body_partial"),
        ([ALLOWED, BIG[:9]], 1, "body_partial"),
    ],
    ids=["many at once", "prefix", "name", "allowed", "body", "head"],
)
def test_a_denial_comes_behind_the_answers_wherever_the_messages_are_cut(
    plant: Plant, pieces: list[bytes], answers: int, reason: str
) -> None:
    allowed, forbidden = map(plant.executions, ("defect-detection", "demand-forecast"))
    cuts = tuple(itertools.accumulate(map(len, pieces)))
    headers = ((b"content-type", b"application/grpc"),)
    stream = Case(
        is_grpc=True,
        method=b"POST",
        path=STREAM.encode(),
        headers=headers,
        body=b"".join(pieces),
        cuts=cuts,
    )
    connect = to_tls_port(plant.port, plant.bundle, plant.identities[CAMERA], "h2")
    with contextlib.closing(Http2(connect, b"https", pause_s=0.2)) as line:
        answer = line.send(stream)
    assert (answer.status, answer.grpc_status) == (200, 7)
    assert answer.message == f"access denied ({reason})".encode()
    assert answer.body.count(b"defect-detection") == answers
    assert plant.executions("defect-detection") == allowed + answers
    assert plant.executions("demand-forecast") == forbidden


def test_a_slow_reader_holds_nobody_up_and_takes_no_memory(plant: Plant) -> None:
    count, size = 64, 1024 * 1024
    assert is_open(plant)
    before = plant.executions("defect-detection")
    held = resident_bytes(plant.server.pid)
    with plant.channel() as channel:
        slow = channel.stream_stream(STREAM)(
            iter([message("defect-detection", padding=size)] * count), timeout=30
        )
        while plant.executions("defect-detection") < before + count / 2:
            assert is_open(plant)
        assert resident_bytes(plant.server.pid) - held < 32 * 1024 * 1024
        assert len(list(slow)) == count


def test_abandoned_and_idle_streams_leave_the_server_as_it_was(plant: Plant) -> None:
    descriptors = Path(f"/proc/{plant.server.pid}/fd")
    assert is_open(plant)
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        with plant.channel() as channel:
            talk = Conversation(channel)
            talk.say(message("defect-detection"))
            talk.hear()
            talk.call.cancel()
    assert eventually(lambda: len(list(descriptors.iterdir())) <= before + 2)
    assert is_open(plant)


@pytest.mark.long
def test_a_server_that_is_gone_fails_closed_in_the_middle_of_a_stream() -> None:
    with running(POLICY) as plant, plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection"))
        assert talk.hear()
        before = plant.executions("defect-detection")
        plant.server.stop()
        talk.say(message("defect-detection"))
        assert talk.end() is not grpc.StatusCode.OK
        assert plant.executions("defect-detection") == before


def gate_infer(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with ModelInfer gated like the stream."""
    changed = copy.deepcopy(configuration)
    manager = changed["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = manager["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    stream = routes[0]
    assert stream["match"] == {"path": STREAM}
    routes.insert(0, {**copy.deepcopy(stream), "match": {"path": INFER}})
    return changed


def without_check(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration whose gate has no check before it."""
    changed = copy.deepcopy(configuration)
    manager = changed["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = manager["filters"][0]["typed_config"]
    manager["http_filters"] = manager["http_filters"][1:]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        del route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
    return changed


@pytest.mark.long
def test_a_unary_call_with_tensors_over_the_checks_buffer_passes_the_gate() -> None:
    with running(POLICY, gate_infer) as plant, plant.channel() as channel:
        infer = channel.unary_unary(INFER)
        before = plant.executions("demand-forecast")
        for size in (1024, 32 * 1024 * 1024):
            with pytest.raises(grpc.RpcError) as caught:
                infer(message("demand-forecast", padding=size), timeout=20)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert plant.executions("demand-forecast") == before

        held = resident_bytes(plant.server.pid)
        for size in (1024, 64 * 1024 * 1024):
            raw = infer(message("defect-detection", padding=size), timeout=30)
            answer = service_pb2.ModelInferResponse.FromString(raw)
            assert answer.model_name == "defect-detection"
        assert resident_bytes(plant.server.pid) - held < 32 * 1024 * 1024


@pytest.mark.long
def test_a_gate_without_a_check_before_it_lets_nothing_through() -> None:
    with running(POLICY, without_check) as plant, plant.channel() as channel:
        talk = Conversation(channel)
        talk.say(message("defect-detection"))
        assert talk.end() is not grpc.StatusCode.OK
        assert plant.executions("defect-detection") == 0
        assert "gate is ended" in plant.server.command.log.read_text()
