"""The engine: which answers of a policy it believes, and what it makes of the rest."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opapywasm import OpaWasmPolicy

from authz_server.errors import PolicyError, Reason
from authz_server.policy.building import shipped_wasm
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import load_policy
from authz_server.policy.engine import (
    Engine,
    JsonObject,
    Verdict,
    _compile,
    _read_result,
    _read_verdict,
    _verdict_in,
)
from authz_server.policy.wasm import PAGE_BYTES, Instance, Module, WasmError

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"


def question(
    workload: str = "ns/line1/sa/camera", model: str = "defect-detection"
) -> bytes:
    return json.dumps(
        {
            "principal": {
                "id": f"spiffe://factory.example/{workload}",
                "trust_domain": "factory.example",
                "path": workload.split("/"),
            },
            "user": None,
            "operation": {
                "action": "inference",
                "scope": "model",
                "model": model,
                "version": "1",
                "adapter": "",
                "upstream": "triton",
                "dataset": "",
            },
            "http": {"method": "POST", "path": "/", "host": "", "headers": {}},
        }
    ).encode()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    data = compile_policy(load_policy(EXAMPLE)).data
    engine = Engine(shipped_wasm(), data, timeout_s=5.0, instances=2)
    yield engine
    engine.close()


def reason_of(result: Any) -> Reason:
    with pytest.raises(PolicyError) as caught:
        _read_verdict(result)
    return caught.value.reason


def test_a_granted_call_is_allowed_with_its_role(engine: Engine) -> None:
    expected = Verdict(allow=True, reason=Reason.GRANTED, role="inspector", ttl_s=None)
    assert engine.evaluate(question()) == expected


def test_a_call_without_a_grant_is_denied(engine: Engine) -> None:
    expected = Verdict(allow=False, reason=Reason.NOT_GRANTED, role="", ttl_s=None)
    assert engine.evaluate(question(model="other")) == expected


def test_a_caller_in_no_group_is_unknown(engine: Engine) -> None:
    assert engine.evaluate(question("x")).reason is Reason.PRINCIPAL_UNKNOWN


def test_many_threads_get_their_own_answers(engine: Engine) -> None:
    questions = [question(), question(model="other"), question("x")] * 40
    expected = [Reason.GRANTED, Reason.NOT_GRANTED, Reason.PRINCIPAL_UNKNOWN] * 40
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(engine.evaluate, questions))
    assert [verdict.reason for verdict in verdicts] == expected


# OPA evaluates without input what it cannot parse; a rule with `not` could allow then.
@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"{", b"[]", b"1", b"{} {}", b'{"x": NaN}', b'{"x": Infinity}'),
        *(b'{"x": "\x01"}', b'{"x": "\xff"}', b"\xef\xbb\xbf{}", b'{"x": %s}'),
        '{"x": 1}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"x": ' + b"9" * 5_000 + b"}",
        b'{"x": "' + b"a" * 1_100_000 + b'"}',
        b'{"x": "\\ud800"}',
    ],
    ids=range(16),
)
def test_an_input_that_opa_would_not_see_is_an_error(
    engine: Engine, document: bytes
) -> None:
    with pytest.raises(PolicyError) as caught:
        engine.evaluate(document)
    assert caught.value.reason is Reason.POLICY_ERROR
    assert engine.evaluate(question()).allow


def test_an_object_that_needs_no_second_reading_is_answered_alike(
    engine: Engine,
) -> None:
    for document in (question(), question(model="other"), question("x")):
        assert engine.evaluate(JsonObject(document)) == engine.evaluate(document)
    too_long = JsonObject(b'{"x": "' + b"a" * 1_100_000 + b'"}')
    with pytest.raises(PolicyError, match="more than"):
        engine.evaluate(too_long)


def test_a_result_that_is_no_verdict_is_none_the_second_time() -> None:
    for _ in range(2):
        with pytest.raises(PolicyError) as caught:
            _verdict_in(b'[{"result":{"allow":"true"}}]')
        assert caught.value.reason is Reason.POLICY_RESULT_INVALID
    with pytest.raises(PolicyError) as caught:
        _verdict_in(b"[]")
    assert caught.value.reason is Reason.POLICY_UNDEFINED


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (True, Verdict(allow=True, reason=Reason.GRANTED, role="", ttl_s=None)),
        (False, Verdict(allow=False, reason=Reason.NOT_GRANTED, role="", ttl_s=None)),
        (
            {"allow": True, "role": "r", "ttl_seconds": 0},
            Verdict(allow=True, reason=Reason.GRANTED, role="r", ttl_s=0.0),
        ),
        (
            {"allow": True, "reason": "granted", "ttl_seconds": 1.5},
            Verdict(allow=True, reason=Reason.GRANTED, role="", ttl_s=1.5),
        ),
        (
            {"allow": False, "reason": "principal_unknown"},
            Verdict(
                allow=False, reason=Reason.PRINCIPAL_UNKNOWN, role="", ttl_s=None
            ),
        ),
        (
            {"allow": False, "reason": "not_granted"},
            Verdict(allow=False, reason=Reason.NOT_GRANTED, role="", ttl_s=None),
        ),
    ],
)  # fmt: skip
def test_an_answer_of_the_documented_form_is_believed(
    result: Any, verdict: Verdict
) -> None:
    assert _read_verdict(result) == verdict


@pytest.mark.parametrize(
    "result",
    [
        *(None, 1, "true", [], [True], {}),
        *({"allow": 1}, {"allow": "true"}, {"allow": None}, {"reason": "granted"}),
        {"allow": True, "reason": "not_granted"},
        {"allow": True, "reason": None},
        {"allow": True, "reason": ["granted"]},
        {"allow": False, "reason": "granted"},
        {"allow": False, "reason": "overloaded"},
        {"allow": False, "reason": "because"},
        {"allow": False, "reason": {}},
        {"allow": True, "role": 1},
        {"allow": True, "role": None},
        {"allow": True, "ttl_seconds": True},
        {"allow": True, "ttl_seconds": None},
        {"allow": True, "ttl_seconds": "5"},
        {"allow": True, "ttl_seconds": -1},
        {"allow": True, "ttl_seconds": float("inf")},
        {"allow": True, "ttl_seconds": float("nan")},
        {"allow": True, "ttl_seconds": 10**400},
        {"allow": True, "headers": {}},
    ],
    ids=str,
)
def test_an_answer_of_any_other_form_is_invalid(result: Any) -> None:
    assert reason_of(result) is Reason.POLICY_RESULT_INVALID


def test_no_answer_is_undefined_not_a_denial() -> None:
    with pytest.raises(PolicyError) as caught:
        _read_result(b"[]")
    assert caught.value.reason is Reason.POLICY_UNDEFINED


@pytest.mark.parametrize(
    ("wasm", "data"),
    [(b"", b"{}"), (b"\0asm", b"{}"), (b"\0asm\1\0\0\0", b"{}")],
    ids=["empty", "cut", "no-policy"],
)
def test_bytes_that_are_no_policy_are_refused(wasm: bytes, data: bytes) -> None:
    with pytest.raises(PolicyError, match="cannot be loaded"):
        Engine(wasm, data, timeout_s=1.0, instances=1)


def test_memory_grows_where_it_is() -> None:
    """Its address is asked for once."""
    module = Module(shipped_wasm(), HOST_FUNCTIONS)
    instance = Instance(module, b'{"access":{}}', max_pages=32_768)
    try:
        for pages in (1, 100, 5_000, 20_000):
            instance._memory.grow(instance._store, pages)
            pointer = instance._memory.data_ptr(instance._store)
            assert ctypes.cast(pointer, ctypes.c_void_p).value == instance._base
    finally:
        instance.close()


def test_all_modules_have_one_engine_and_one_clock() -> None:
    """An engine of its own would be freed with it, perhaps while its clock ticks."""
    modules = [Module(shipped_wasm(), HOST_FUNCTIONS) for _ in range(2)]
    assert modules[0].engine is modules[1].engine
    clocks = [each for each in threading.enumerate() if each.name == "policy-clock"]
    assert len(clocks) == 1


def test_data_that_is_not_json_is_refused() -> None:
    with pytest.raises(PolicyError, match="data cannot be loaded"):
        Engine(shipped_wasm(), b"{", timeout_s=1.0, instances=1)


def test_all_instances_are_made_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(shipped_wasm(), b"{}", timeout_s=5.0, instances=3)
    try:
        monkeypatch.delattr(Engine, "_make")
        for _ in range(4):
            assert engine.evaluate(question()).allow is False
    finally:
        engine.close()


def test_no_free_instance_in_time_is_an_overload() -> None:
    engine = Engine(shipped_wasm(), b"{}", timeout_s=0.05, instances=1)
    try:
        instance = engine._borrow()
        with pytest.raises(PolicyError) as caught:
            engine.evaluate(question())
        assert caught.value.reason is Reason.OVERLOADED
        engine._give_back(instance)
        assert engine.evaluate(question()).allow is False
    finally:
        engine.close()


def test_a_closed_engine_gives_errors() -> None:
    engine = Engine(shipped_wasm(), b"{}", timeout_s=1.0, instances=1)
    engine.close()
    engine.close()
    with pytest.raises(PolicyError, match="was closed"):
        engine.evaluate(question())


def test_an_instance_that_failed_is_thrown_away_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(shipped_wasm(), b"{}", timeout_s=5.0, instances=1)
    try:
        spoilt = engine._borrow()
        engine._give_back(spoilt)
        with monkeypatch.context() as patch:
            patch.setattr("authz_server.policy.engine._MAX_RESULT_BYTES", 1)
            with pytest.raises(PolicyError, match="the policy failed") as caught:
                engine.evaluate(question())
        assert caught.value.reason is Reason.POLICY_ERROR
        assert engine.evaluate(question()).allow is False
        assert engine._borrow() is not spoilt
    finally:
        engine.close()


def test_evaluations_under_way_survive_the_closing() -> None:
    data = compile_policy(load_policy(EXAMPLE)).data
    engine = Engine(shipped_wasm(), data, timeout_s=5.0, instances=2)
    started = threading.Barrier(3)

    def ask_until_closed() -> list[bool]:
        answers = []
        started.wait()
        while True:
            try:
                answers.append(engine.evaluate(question()).allow)
            except PolicyError as error:
                assert "was closed" in str(error)  # noqa: PT017 -- ends the loop
                return answers

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask_until_closed) for _ in range(2)]
        started.wait()
        engine.close()
        assert all(all(future.result()) for future in asked)


def test_an_abort_in_the_policy_is_told_by_its_first_line(engine: Engine) -> None:
    with pytest.raises(PolicyError, match="illegal string escape"):
        engine.evaluate(b'{"x": "\\ud800"}')


def test_policies_of_one_code_share_its_compilation() -> None:
    wasm = shipped_wasm()
    assert _compile(wasm) is _compile(bytes(bytearray(wasm)))


def test_an_instance_takes_no_more_memory_than_it_may() -> None:
    module = _compile(shipped_wasm())
    data = json.dumps({"x": ["y" * 50] * 100_000}).encode()
    with pytest.raises(WasmError, match="opa_malloc"):
        Instance(module, data, max_pages=module.first_pages + 16)
    instance = Instance(module, b"{}", max_pages=module.first_pages + 16)
    try:
        with pytest.raises(WasmError, match="more memory than it may take"):
            instance.evaluate(
                b'{"x": "' + b"y" * 64 * PAGE_BYTES + b'"}',
                0,
                timeout_s=1.0,
                max_bytes=100,
            )
    finally:
        instance.close()


def test_memory_of_an_input_is_used_again() -> None:
    data = compile_policy(load_policy(EXAMPLE)).data
    instance = Instance(_compile(shipped_wasm()), data, max_pages=4096)
    try:
        large = b'{"x": "' + b"y" * 1_000_000 + b'"}'
        sizes = []
        for document in (large, question(), large, question(), large):
            instance.evaluate(document, 0, timeout_s=1.0, max_bytes=1000)
            sizes.append(instance._size())
        assert len(set(sizes)) == 1
    finally:
        instance.close()


@pytest.fixture(scope="module")
def oracle() -> Iterator[OpaWasmPolicy]:
    """Another runtime for the same Wasm and data."""
    policy = OpaWasmPolicy.from_wasm_bytes(shipped_wasm())
    policy.set_data(compile_policy(load_policy(EXAMPLE)).data)
    yield policy
    policy.close()


def test_another_runtime_gives_the_same_answers(
    engine: Engine, oracle: OpaWasmPolicy
) -> None:
    for workload in ("ns/line1/sa/camera", "ns/release/sa/deployer", "x"):
        for model in ("defect-detection", "demand-forecast", "other"):
            document = question(workload, model)
            expected = _read_verdict(oracle.evaluate(document, "authz/decision"))
            assert engine.evaluate(document) == expected


def test_whatever_is_raised_the_place_of_an_instance_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise MemoryError

    engine = Engine(shipped_wasm(), b"{}", timeout_s=5.0, instances=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Instance, "evaluate", fail)
            for _ in range(3):
                with pytest.raises(MemoryError):
                    engine.evaluate(question())
        assert engine.evaluate(question()).allow is False
    finally:
        engine.close()


def test_a_place_outside_of_the_memory_is_refused() -> None:
    instance = Instance(_compile(shipped_wasm()), b"{}", max_pages=4096)
    try:
        with pytest.raises(WasmError, match="not where it says"):
            instance._text(instance._size(), 100)
        instance._call = lambda *_: 0xFFFFFFF0  # type: ignore[method-assign]
        with pytest.raises(WasmError, match="not where it says"):
            instance._parse(b"{}")
    finally:
        instance.close()
