"""A signal ends the demo once, and not while it takes charge of a part."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from authz_server.demo.interrupts import SIGNALS, Interrupts


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_interrupts(number: signal.Signals) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        send(number)


def test_a_held_signal_interrupts_when_the_block_is_over() -> None:
    steps = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with interrupts.hold():
            send(signal.SIGTERM)
            steps.append("in charge")
        steps.append("not reached")
    assert steps == ["in charge"]


def test_a_nested_hold_lasts_until_the_outer_one_ends() -> None:
    steps = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with interrupts.hold():
            with interrupts.hold():
                send(signal.SIGTERM)
            steps.append("outer")
        steps.append("not reached")
    assert steps == ["outer"]


def test_a_hold_without_a_signal_changes_nothing() -> None:
    with Interrupts() as interrupts:
        with interrupts.hold():
            pass
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_signal_does_not_disturb_the_clean_up() -> None:
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        send(signal.SIGINT)
        send(signal.SIGTERM)


def test_no_signal_disturbs_once_closed() -> None:
    with Interrupts() as interrupts:
        interrupts.close()
        send(signal.SIGINT)


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_was_lost_is_found_out() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):
            send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
