"""What Prometheus may know: decisions, their time, and how policy and trust are.

Names follow https://prometheus.io/docs/practices/naming/. Labels are bounded: reasons
are an enumeration, and trust domains those of the configuration and its sources.
Nothing of a caller or a request is ever in one.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import socket
import socketserver
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from authz_server.address import Address
from authz_server.errors import ConfigError, Reason
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import Standing
from authz_server.policy.shadow import Answer
from authz_server.transport.counts import BUCKETS_S, Counts

_PATH: Final = "/metrics"
_STATUS_PATH: Final = "/v1/status"
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MAX_CONNECTIONS: Final = 8
_TIMEOUT_S: Final = 5.0

_log: Final = logging.getLogger("authz_server.transport")


class Metrics(Collector):
    """Counts decisions, and asks the rest when it is scraped.

    Args:
        is_current: whether the newest policy is in force.
        standings: how every trust domain's bundle is.
        shadow: how often a candidate policy's answer was what; None without one.
    """

    def __init__(
        self,
        *,
        is_current: Callable[[], bool],
        standings: Callable[[], Mapping[TrustDomain, Standing]],
        shadow: Callable[[], Mapping[Answer, int]] | None = None,
    ) -> None:
        self._is_current = is_current
        self._standings = standings
        self._shadow = shadow
        self._lock = threading.Lock()
        # Every reason from the start: what first shows with a 1 has no increase.
        self._checks = {(reason, False): 0 for reason in Reason}
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0
        self._counts: Callable[[], Counts] = Counts

    def add(self, counts: Callable[[], Counts]) -> None:
        """Add what `counts` returns to every scrape."""
        self._counts = counts

    def observe(self, reason: Reason, cache_hit: bool, latency_s: float) -> None:  # noqa: FBT001 - an Observer
        """Count one decision. Takes about a microsecond, from any thread."""
        key = (reason, cache_hit)
        bucket = bisect_left(BUCKETS_S, latency_s)
        with self._lock:
            self._checks[key] = self._checks.get(key, 0) + 1
            self._buckets[bucket] += 1
            self._sum_s += latency_s

    def collect(self) -> Iterator[Metric]:
        """Yield everything as it is now."""
        with self._lock:
            checks, buckets, sum_s = (
                dict(self._checks),
                list(self._buckets),
                self._sum_s,
            )
        beside = self._counts()
        for reason, count in beside.reasons.items():
            checks[reason, True] = checks.get((reason, True), 0) + count
        buckets = [a + b for a, b in zip(buckets, beside.buckets, strict=True)]
        sum_s += beside.sum_s
        counter = CounterMetricFamily(
            "authz_server_checks",
            "Checks that were answered.",
            labels=["decision", "reason", "cached"],
        )
        for (reason, cache_hit), count in checks.items():
            decision = "allow" if reason is Reason.GRANTED else "deny"
            counter.add_metric([decision, reason, str(cache_hit).lower()], count)
        yield counter
        yield _histogram(buckets, sum_s)
        yield GaugeMetricFamily(
            "authz_server_policy_current",
            "Whether the newest policy file is the policy in force.",
            value=self._is_current(),
        )
        yield from _bundles(self._standings())
        if self._shadow is not None:
            yield _shadow(self._shadow())


def _shadow(counts: Mapping[Answer, int]) -> Metric:
    counter = CounterMetricFamily(
        "authz_server_shadow_decisions",
        "Decisions by what the candidate policy would make of them.",
        labels=["answer"],
    )
    for answer, count in counts.items():
        counter.add_metric([answer], count)
    return counter


def _histogram(buckets: list[int], sum_s: float) -> Metric:
    bounds = [*map(repr, BUCKETS_S), "+Inf"]
    return HistogramMetricFamily(
        "authz_server_decision_seconds",
        "Seconds from a check's arrival to its answer.",
        buckets=list(zip(bounds, accumulate(buckets), strict=True)),
        sum_value=sum_s,
    )


def _bundles(standings: Mapping[TrustDomain, Standing]) -> Iterator[Metric]:
    good = GaugeMetricFamily(
        "authz_server_trust_bundle_good",
        "Whether the trust domain's bundle is there, fresh, and free of problems.",
        labels=["trust_domain"],
    )
    age = GaugeMetricFamily(
        "authz_server_trust_bundle_age_seconds",
        "Seconds since the bundle's source last confirmed it; +Inf without a bundle.",
        labels=["trust_domain"],
    )
    for name, standing in standings.items():
        good.add_metric([str(name)], not standing.problem)
        age.add_metric([str(name)], standing.age_s)
    yield good
    yield age


@contextlib.contextmanager
def serve_metrics(
    address: Address,
    metrics: Collector,
    status: Callable[[], Mapping[str, Any]] | None = None,
) -> Iterator[str]:
    """Answer GET /metrics at `address` while inside; yield the address that came of it.

    With `status`, GET /v1/status answers what it returns, in the form of OPA's status
    API.

    Who asks is not checked: there is no TLS and no password, so keep it to a network
    that may see the figures.

    Raises:
        ConfigError: if the address cannot be listened on.
    """
    registry = CollectorRegistry()  # not the global one, which every library may fill
    registry.register(metrics)
    try:
        server = _Server(address, registry, status)
    except OSError as error:
        raise ConfigError(
            [f"listen.metrics: cannot listen on {address.target}: {error.strerror}"]
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(0.1,), name="metrics", daemon=True
    )
    thread.start()
    try:
        yield f"tcp://{Address(host=address.host, port=server.server_port).target}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(http.server.ThreadingHTTPServer):
    """An HTTP server of few connections, so that nobody can fill it with threads."""

    daemon_threads = True
    request_queue_size = 64
    block_on_close = False  # a scraper that does not read must not hold the stop up

    def __init__(
        self,
        address: Address,
        registry: CollectorRegistry,
        status: Callable[[], Mapping[str, Any]] | None,
    ) -> None:
        self.registry = registry
        self.status = status
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # Not the parent's, which looks its own host name up.
        socketserver.TCPServer.server_bind(self)
        self.server_name = "authz-server"
        self.server_port = self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - untyped there
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        _log.debug("a scrape failed", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request a connection."""

    server: _Server
    timeout = _TIMEOUT_S
    server_version = "authz-server"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with metrics or status; any other path is not found."""
        path, status = self.path.partition("?")[0], self.server.status
        if path == _PATH:
            self._answer(_CONTENT_TYPE, generate_latest(self.server.registry))
        elif path == _STATUS_PATH and status is not None:
            body = json.dumps({"result": status()}).encode()
            self._answer("application/json", body)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        _log.debug(format, *args)
