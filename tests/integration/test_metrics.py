"""What a scrape gets, parsed as Prometheus would."""

import http.client
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest
from parts import eventually
from prometheus_client.parser import text_string_to_metric_families

from authz_server.address import Address
from authz_server.errors import ConfigError, Reason
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import Standing
from authz_server.policy.shadow import Answer
from authz_server.transport.metrics import BUCKETS_S, Metrics, serve_metrics

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
LOOPBACK = Address(host="127.0.0.1")


@dataclass
class World:
    """What the metrics ask about, for a test to change."""

    is_current: bool = True
    standings: dict[TrustDomain, Standing] = field(default_factory=dict)

    def metrics(self) -> Metrics:
        return Metrics(
            is_current=lambda: self.is_current, standings=lambda: self.standings
        )


def observe(
    metrics: Metrics, reason: Reason, latency_s: float, *, cached: bool
) -> None:
    metrics.observe(reason, cached, latency_s)


@contextmanager
def scraped(metrics: Metrics, address: Address = LOOPBACK) -> Iterator[Address]:
    with serve_metrics(address, metrics) as bound:
        yield Address.parse(bound)


def get(
    address: Address, path: str = "/metrics", method: str = "GET"
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def value(text: str, name: str, **labels: str) -> float | None:
    """Return the one sample of that name and those labels; None if there is none."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def checks(text: str, reason: Reason, cached: str = "false") -> float | None:
    decision = "allow" if reason is Reason.GRANTED else "deny"
    return value(
        text,
        "authz_server_checks_total",
        decision=decision,
        reason=reason,
        cached=cached,
    )


def test_decisions_are_counted_by_reason_and_by_whether_they_were_remembered() -> None:
    metrics = World().metrics()
    observe(metrics, Reason.GRANTED, 0.001, cached=False)
    observe(metrics, Reason.GRANTED, 0.0001, cached=True)
    observe(metrics, Reason.GRANTED, 0.0001, cached=True)
    observe(metrics, Reason.NOT_GRANTED, 0.001, cached=False)
    with scraped(metrics) as address:
        _, text = get(address)
    assert checks(text, Reason.GRANTED) == 1
    assert checks(text, Reason.GRANTED, "true") == 2
    assert checks(text, Reason.NOT_GRANTED) == 1


def test_every_reason_is_there_from_the_start_so_that_its_first_increase_shows() -> (
    None
):
    with scraped(World().metrics()) as address:
        _, text = get(address)
    assert {checks(text, reason) for reason in Reason} == {0.0}


def test_the_histogram_has_each_decision_in_the_buckets_above_it() -> None:
    metrics = World().metrics()
    for latency_s in (0.000_05, 0.000_06, 0.02, 7.0):
        observe(metrics, Reason.GRANTED, latency_s, cached=False)
    with scraped(metrics) as address:
        _, text = get(address)
    name = "authz_server_decision_seconds"
    bounds = [*map(repr, BUCKETS_S), "+Inf"]
    counts = {bound: value(text, f"{name}_bucket", le=bound) for bound in bounds}
    assert counts["5e-05"] == 1
    assert counts["0.0001"] == 2
    assert counts["0.01"] == 2
    assert counts["0.025"] == 3
    assert counts["1.0"] == 3
    assert counts["+Inf"] == 4
    assert value(text, f"{name}_count") == 4
    assert value(text, f"{name}_sum") == pytest.approx(7.02011)


def test_policy_and_bundles_are_told_as_they_are_at_the_scrape() -> None:
    world = World()
    with scraped(world.metrics()) as address:
        _, text = get(address)
        assert value(text, "authz_server_policy_current") == 1
        world.is_current = False
        world.standings = {
            FACTORY: Standing(3.5, ""),
            SUPPLIER: Standing(math.inf, "supplier.example has no bundle yet"),
        }
        _, text = get(address)
    assert value(text, "authz_server_policy_current") == 0
    good, age = (
        f"authz_server_trust_bundle_{what}" for what in ("good", "age_seconds")
    )
    assert value(text, good, trust_domain="factory.example") == 1
    assert value(text, age, trust_domain="factory.example") == 3.5
    assert value(text, good, trust_domain="supplier.example") == 0
    assert value(text, age, trust_domain="supplier.example") == math.inf


def test_a_candidates_answers_are_counted() -> None:
    counts = {answer: number for number, answer in enumerate(Answer)}
    metrics = Metrics(is_current=lambda: True, standings=dict, shadow=lambda: counts)
    with scraped(metrics) as address:
        _, text = get(address)
    name = "authz_server_shadow_decisions_total"
    assert {answer: value(text, name, answer=answer) for answer in Answer} == counts


def test_no_count_is_lost_between_threads() -> None:
    metrics = World().metrics()

    def count() -> None:
        for _ in range(5000):
            observe(metrics, Reason.GRANTED, 0.0001, cached=True)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with scraped(metrics) as address:
        _, text = get(address)
    assert checks(text, Reason.GRANTED, "true") == 20_000
    assert value(text, "authz_server_decision_seconds_count") == 20_000


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/metrics?x=1", "GET", 200),
        ("/", "GET", 404),
        ("/metrics/", "GET", 404),
        ("/metrics", "POST", 501),
    ],
)
def test_only_get_of_metrics_is_answered(path: str, method: str, status: int) -> None:
    with scraped(World().metrics()) as address:
        assert get(address, path, method)[0] == status


def test_ipv6_is_served_too() -> None:
    with scraped(World().metrics(), Address(host="::1")) as address:
        assert get(address)[0] == 200


def test_nothing_answers_after_the_stop() -> None:
    with scraped(World().metrics()) as address:
        pass
    with pytest.raises(ConnectionRefusedError):
        get(address)


def test_a_port_that_is_taken_is_an_error() -> None:
    with (
        scraped(World().metrics()) as address,
        pytest.raises(ConfigError, match=r"listen\.metrics: cannot listen on 127"),
        scraped(World().metrics(), address),
    ):
        pass


def test_connections_that_say_nothing_do_not_pile_up_and_free_their_place() -> None:
    with scraped(World().metrics()) as address:
        silent = [
            socket.create_connection((address.host, address.port)) for _ in range(20)
        ]
        for connection in silent:
            connection.settimeout(5)
        # Beyond the limit they are closed unanswered.
        assert all(connection.recv(1) == b"" for connection in silent[8:])
        for connection in silent:
            connection.close()
        assert eventually(lambda: _is_answered(address), 5)


def _is_answered(address: Address) -> bool:
    try:
        return get(address)[0] == 200
    except (ConnectionError, http.client.HTTPException):
        return False


def test_a_failing_source_fails_the_scrape_and_not_the_server() -> None:
    world = World()
    with scraped(world.metrics()) as address:
        world.standings = None  # type: ignore[assignment]
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(address)
        world.standings = {}
        assert get(address)[0] == 200
