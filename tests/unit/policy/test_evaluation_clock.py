"""The clock that cuts evaluations off, and rests while there are none."""

from __future__ import annotations

import time

import pytest
from parts import eventually

from authz_server.policy import evaluation_clock
from authz_server.policy.building import shipped_wasm
from authz_server.policy.engine import _compile
from authz_server.policy.evaluation_clock import EvaluationClock
from authz_server.policy.wasm import Instance, WasmTimeoutError


class Ticks:
    count = 0

    def add(self) -> None:
        self.count += 1


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def clock(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> EvaluationClock:
    monkeypatch.setattr(evaluation_clock, "TICK_S", 0.001)
    monkeypatch.setattr(evaluation_clock, "REST_TICKS", 3)
    return EvaluationClock(ticks.add, "test-clock")


def test_it_rests_when_nothing_is_evaluated(
    clock: EvaluationClock, ticks: Ticks
) -> None:
    assert eventually(lambda: clock.is_resting)
    before = ticks.count
    time.sleep(0.02)
    assert ticks.count == before


def test_it_ticks_for_as_long_as_an_evaluation_takes(
    clock: EvaluationClock, ticks: Ticks
) -> None:
    for _ in range(3):
        assert eventually(lambda: clock.is_resting)
        before = ticks.count
        clock.begin()
        assert eventually(lambda: ticks.count > before + 20)  # noqa: B023 - at once
        assert not clock.is_resting
        clock.end()


def test_the_end_of_one_evaluation_is_not_that_of_another(
    clock: EvaluationClock, ticks: Ticks
) -> None:
    clock.begin()
    clock.begin()
    clock.end()
    before = ticks.count
    assert eventually(lambda: ticks.count > before + 20)
    assert not clock.is_resting
    clock.end()
    assert eventually(lambda: clock.is_resting)


def test_evaluations_that_follow_each_other_wake_nobody(
    clock: EvaluationClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be too short for a tick to see it run."""
    monkeypatch.setattr(evaluation_clock, "REST_TICKS", 10_000)
    clock.begin()
    clock.end()
    wakes = 0
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        wakes += clock.is_resting
        clock.begin()
        clock.end()
    assert wakes == 0


def test_an_evaluation_after_a_rest_is_cut_off_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation_clock, "REST_TICKS", 1)
    module = _compile(shipped_wasm())
    assert eventually(lambda: module.clock.is_resting)
    names = ",".join(f'"{number}":{number}' for number in range(300_000))
    document = f'{{"x":{{{names}}}}}'.encode()
    instance = Instance(module, b"{}", max_pages=32_768)
    try:
        # Reading the document alone takes longer than the ticks that it is given.
        with pytest.raises(WasmTimeoutError):
            instance.evaluate(document, 0, timeout_s=0.0, max_bytes=1000)
    finally:
        instance.close()
