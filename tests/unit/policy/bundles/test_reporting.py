"""Reports of the status, over links that fail."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from https_endpoint import Handler, HttpsEndpoint, answer, http_endpoint
from parts import eventually

from authz_server.demo.process import free_ports
from authz_server.policy.bundles import reporting
from authz_server.policy.bundles.reporting import Reporter
from authz_server.policy.bundles.source import bearer_headers


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpsEndpoint]:
    monkeypatch.setattr(reporting, "retry_delay_s", lambda _: 0.02)
    with http_endpoint() as running:
        yield running


@pytest.fixture
def reporter(endpoint: HttpsEndpoint) -> Iterator[Reporter]:
    made = Reporter(endpoint.url, None, bearer_headers(""))
    made.start()
    yield made
    made.stop()


def reports(endpoint: HttpsEndpoint) -> list[object]:
    return [json.loads(body) for body in endpoint.bodies]


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_report_is_posted_once(
    status: int, endpoint: HttpsEndpoint, reporter: Reporter
) -> None:
    endpoint.respond = answer(b"", status)
    reporter.offer({"n": "é"})
    assert eventually(lambda: len(endpoint.requests) == 1)
    reporter.offer({"n": 2})
    assert eventually(lambda: len(endpoint.requests) == 2)
    assert reports(endpoint) == [{"n": "é"}, {"n": 2}]
    assert endpoint.requests[0][1]["Content-Type"] == "application/json"


def test_only_the_latest_of_those_that_wait_is_posted(
    endpoint: HttpsEndpoint, reporter: Reporter
) -> None:
    held = threading.Event()

    def late(handler: Handler) -> None:
        held.wait(10)
        answer(b"")(handler)

    endpoint.respond = late
    reporter.offer({"n": 0})
    assert eventually(lambda: len(endpoint.bodies) == 1)
    for number in range(1, 1000):
        reporter.offer({"n": number})
    # None of them waited for the answer, which is still to come.
    assert len(endpoint.bodies) == 1
    held.set()
    assert eventually(lambda: len(endpoint.bodies) == 2)
    assert reports(endpoint) == [{"n": 0}, {"n": 999}]


@pytest.mark.parametrize("status", [301, 400, 401, 500])
def test_a_report_that_was_not_taken_is_posted_again(
    status: int,
    endpoint: HttpsEndpoint,
    reporter: Reporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.respond = answer(b"", status, {"Location": endpoint.url})
    with caplog.at_level(logging.WARNING, "authz_server.bundles"):
        reporter.offer({"n": 1})
        assert eventually(lambda: len(endpoint.bodies) >= 3)
        endpoint.respond = answer(b"")
        assert eventually(lambda: len(endpoint.bodies) >= 4)
    assert reports(endpoint)[:4] == [{"n": 1}] * 4
    assert "the status of the bundle was not reported" in caplog.text


def test_a_newer_report_takes_the_place_of_one_that_failed(
    endpoint: HttpsEndpoint, reporter: Reporter
) -> None:
    endpoint.respond = answer(b"", 500)
    reporter.offer({"n": 1})
    assert eventually(lambda: len(endpoint.bodies) >= 1)
    reporter.offer({"n": 2})
    assert eventually(lambda: {"n": 2} in reports(endpoint))
    endpoint.respond = answer(b"")
    count = len(endpoint.bodies)
    assert eventually(lambda: len(endpoint.bodies) > count)
    assert reports(endpoint)[-1] == {"n": 2}


def test_a_report_that_failed_does_not_come_before_a_newer_one(
    endpoint: HttpsEndpoint, reporter: Reporter
) -> None:
    held = threading.Event()

    def late(handler: Handler) -> None:
        held.wait(10)
        answer(b"", 500)(handler)

    endpoint.respond = late
    reporter.offer({"n": 1})
    assert eventually(lambda: len(endpoint.bodies) == 1)
    reporter.offer({"n": 2})
    held.set()
    assert eventually(lambda: len(endpoint.bodies) >= 3)
    assert reports(endpoint)[1:3] == [{"n": 2}, {"n": 2}]


def test_a_token_that_is_missing_is_no_end_of_reports(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    reporter = Reporter(endpoint.url, None, bearer_headers(str(file)))
    reporter.start()
    reporter.offer({"n": 1})
    time.sleep(0.05)
    file.write_text("t")
    assert eventually(lambda: len(endpoint.bodies) == 1)
    assert endpoint.requests[0][1]["Authorization"] == "Bearer t"
    reporter.stop()


def test_nothing_is_sent_before_the_start_nor_after_the_stop(
    endpoint: HttpsEndpoint,
) -> None:
    reporter = Reporter(endpoint.url, None, bearer_headers(""))
    reporter.offer({"n": 1})
    reporter.stop()
    other = Reporter(endpoint.url, None, bearer_headers(""))
    other.start()
    other.stop()
    other.offer({"n": 2})
    assert not other._thread.is_alive()
    assert endpoint.connections == 0


def test_a_stop_does_not_wait_for_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def delay_s(_: int) -> float:
        failed.set()
        return 600.0

    monkeypatch.setattr(reporting, "retry_delay_s", delay_s)
    monkeypatch.setattr(reporting, "_STOP_WAIT_S", 20.0)
    (port,) = free_ports(1)
    reporter = Reporter(f"http://127.0.0.1:{port}/", None, bearer_headers(""))
    reporter.start()
    reporter.offer({"n": 1})
    assert failed.wait(10)
    reporter.stop()
    assert not reporter._thread.is_alive()


def test_a_stop_does_not_wait_for_a_server_that_hangs(
    endpoint: HttpsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_STOP_WAIT_S", 0.05)
    endpoint.respond = endpoint.hang()
    reporter = Reporter(endpoint.url, None, bearer_headers(""))
    reporter.start()
    reporter.offer({"n": 1})
    assert eventually(lambda: len(endpoint.bodies) == 1)
    reporter.stop()
    # It gave up on the thread, which waits for the server.
    assert reporter._thread.is_alive()
    endpoint.stopping.set()
    reporter._thread.join(10)
    assert not reporter._thread.is_alive()
