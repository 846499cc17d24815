import contextlib
import dataclasses
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from https_endpoint import (
    SERVER_ID,
    HttpsEndpoint,
    Respond,
    answer,
    bundle_json,
    https_endpoint,
    raw,
    server_svid,
)
from parts import eventually

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, Svid, write_bundle
from authz_server.demo.process import free_ports
from authz_server.fetch import web_context
from authz_server.identity.federation import (
    Authorities,
    Endpoint,
    FederationClient,
    interval_s,
)
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust_bundle import TrustBundle

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
CA, NEXT = DevelopmentCa(FACTORY.name), DevelopmentCa(FACTORY.name)
OTHER = DevelopmentCa(SUPPLIER.name)
INTERMEDIATE = DevelopmentCa(FACTORY.name, CA)

NOW_S = 1_900_000_000.0


@dataclasses.dataclass
class Partner:
    """A federation client, what it is told, and what it tells."""

    client: FederationClient
    authorities: dict[TrustDomain, Authorities]
    bundles: list[tuple[TrustBundle, float]]
    problems: list[str]

    def refreshed(self) -> TrustBundle:
        """Fetch once, and return the bundle that came of it."""
        before = len(self.bundles)
        self.client.refresh()
        assert len(self.bundles) == before + 1, self.problems
        return self.bundles[-1][0]

    def refused(self) -> str:
        """Fetch once, and return the problem that came of it."""
        before = len(self.problems), len(self.bundles)
        self.client.refresh()
        assert (len(self.problems), len(self.bundles)) == (before[0] + 1, before[1])
        return self.problems[-1]


@contextlib.contextmanager
def partner(
    url: str, spiffe_id: str | None = None, web_tls: ssl.SSLContext | None = None
) -> Iterator[Partner]:
    """Yield a client of the supplier's bundle endpoint, stopped in the end."""
    authorities: dict[TrustDomain, Authorities] = {FACTORY: (CA.certificate,)}
    bundles: list[tuple[TrustBundle, float]] = []
    problems: list[str] = []
    client = FederationClient(
        Endpoint(SUPPLIER, url, SpiffeId.parse(spiffe_id) if spiffe_id else None),
        on_bundle=lambda bundle, asked_s: bundles.append((bundle, asked_s)),
        on_problem=problems.append,
        authorities_of=lambda name: authorities.get(name, ()),
        web_tls=web_tls or web_context(None),
        clock=lambda: Instant(NOW_S, 0.0),
    )
    try:
        yield Partner(client, authorities, bundles, problems)
    finally:
        client.stop()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[HttpsEndpoint]:
    with https_endpoint(tmp_path, server_svid(CA)) as running:
        running.respond = answer(bundle_json(OTHER))
        yield running


@pytest.fixture
def web(endpoint: HttpsEndpoint, tmp_path: Path) -> Iterator[Partner]:
    tls = web_context(write_bundle(tmp_path, CA))
    with partner(endpoint.url, web_tls=tls) as made:
        yield made


@pytest.fixture
def spiffe(endpoint: HttpsEndpoint) -> Iterator[Partner]:
    with partner(endpoint.url, SERVER_ID) as made:
        yield made


def test_a_bundle_is_had_over_https_web(web: Partner) -> None:
    bundle = web.refreshed()
    assert bundle.x509_authorities == (OTHER.certificate,)
    assert web.bundles[0][1] == NOW_S


def test_a_bundle_is_of_the_trust_domain_that_is_configured(
    web: Partner, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(bundle_json(CA, trust_domain="factory.example"))
    assert web.refreshed().trust_domain == SUPPLIER


def test_https_web_believes_the_host_name_and_no_other(
    tmp_path: Path,
) -> None:
    tls = web_context(write_bundle(tmp_path, CA))
    with (
        https_endpoint(tmp_path, CA.issue(SERVER_ID)) as nameless,
        partner(nameless.url, web_tls=tls) as made,
    ):
        assert "certificate is not trusted" in made.refused()
        assert nameless.requests == []


def test_https_web_does_not_believe_the_authorities_of_a_bundle(
    endpoint: HttpsEndpoint,
) -> None:
    with partner(endpoint.url) as made:
        assert "certificate is not trusted" in made.refused()


def test_a_bundle_is_had_over_https_spiffe_whatever_the_host_is_called(
    tmp_path: Path,
) -> None:
    with (
        https_endpoint(tmp_path, CA.issue(SERVER_ID)) as nameless,
        partner(nameless.url, SERVER_ID) as made,
    ):
        nameless.respond = answer(bundle_json(OTHER))
        assert made.refreshed().x509_authorities == (OTHER.certificate,)


def test_an_endpoint_may_serve_the_bundle_that_it_is_known_by(
    tmp_path: Path,
) -> None:
    svid = OTHER.issue("spiffe://supplier.example/bundle-server")
    with (
        https_endpoint(tmp_path, svid) as own,
        partner(own.url, svid.spiffe_id) as made,
    ):
        own.respond = answer(bundle_json(OTHER))
        made.authorities[SUPPLIER] = (OTHER.certificate,)
        assert made.refreshed().x509_authorities == (OTHER.certificate,)


@pytest.mark.parametrize(
    "svid",
    [
        CA.issue("spiffe://factory.example/bundle-server/2", ["localhost"]),
        CA.issue("spiffe://factory.example/bundle", ["localhost"]),
        CA.issue("spiffe://supplier.example/bundle-server", ["localhost"]),
    ],
    ids=["below", "beside", "of-another-trust-domain"],
)
def test_an_endpoint_of_another_id_is_refused_before_it_is_asked(
    svid: Svid, tmp_path: Path
) -> None:
    with (
        https_endpoint(tmp_path, svid) as other,
        partner(other.url, SERVER_ID) as made,
    ):
        assert made.refused() == f"the endpoint is {svid.spiffe_id}, not {SERVER_ID}"
        assert other.requests == []


@pytest.mark.parametrize(
    "svid",
    [
        CA.issue(SERVER_ID, more_uris=["spiffe://factory.example/b"]),
        CA.issue("https://factory.example/bundle-server", ["localhost"]),
        CA.issue("spiffe://factory.example", ["localhost"]),
    ],
    ids=["two-ids", "no-spiffe-id", "no-path"],
)
def test_an_endpoint_whose_certificate_is_no_svid_is_refused(
    svid: Svid, tmp_path: Path
) -> None:
    with (
        https_endpoint(tmp_path, svid) as other,
        partner(other.url, SERVER_ID) as made,
    ):
        assert made.refused().startswith("the endpoint shows no X.509-SVID: ")
        assert other.requests == []


@pytest.mark.parametrize("ca", [OTHER, NEXT], ids=["another-domains", "of-this-name"])
def test_the_right_id_of_another_ca_is_refused(
    ca: DevelopmentCa, tmp_path: Path
) -> None:
    with (
        https_endpoint(tmp_path, server_svid(ca)) as forged,
        partner(forged.url, SERVER_ID) as made,
    ):
        # The supplier's authorities are known, but not for IDs of the factory.
        made.authorities[SUPPLIER] = (OTHER.certificate,)
        assert "certificate is not trusted" in made.refused()
        assert forged.requests == []


def test_an_expired_svid_is_refused(tmp_path: Path) -> None:
    with (
        https_endpoint(tmp_path, CA.issue_expired(SERVER_ID)) as old,
        partner(old.url, SERVER_ID) as made,
    ):
        assert "certificate has expired" in made.refused()


def test_the_authority_may_be_an_intermediate_ca_alone(tmp_path: Path) -> None:
    with (
        https_endpoint(tmp_path, INTERMEDIATE.issue(SERVER_ID)) as below,
        partner(below.url, SERVER_ID) as made,
    ):
        below.respond = answer(bundle_json(OTHER))
        made.authorities[FACTORY] = (INTERMEDIATE.certificate,)
        made.refreshed()


def test_the_authorities_in_force_now_count_at_each_refresh(
    spiffe: Partner,
) -> None:
    spiffe.refreshed()
    spiffe.authorities[FACTORY] = (NEXT.certificate,)
    assert "certificate is not trusted" in spiffe.refused()
    spiffe.authorities[FACTORY] = (NEXT.certificate, CA.certificate)
    spiffe.refreshed()
    del spiffe.authorities[FACTORY]
    assert "give a first one as a file" in spiffe.refused()


def test_authorities_that_tls_cannot_use_are_a_problem_and_no_crash(
    spiffe: Partner,
) -> None:
    class Broken:
        def public_bytes(self, _: object) -> bytes:
            return b"\x30\x03\x02\x01\x00"

    spiffe.authorities[FACTORY] = (Broken(),)  # type: ignore[assignment]
    assert "has a certificate that TLS cannot use" in spiffe.refused()


@pytest.mark.parametrize(
    ("respond", "problem"),
    [
        (answer(b"", 500), "status 500"),
        (answer(b"", 404), "status 404"),
        (answer(b"", 302, {"Location": "https://localhost/"}), "redirect"),
        (answer(b"x" * (4 * 1024 * 1024 + 1)), "longer than 4194304 bytes"),
        (answer(b"<html>"), "something else than a SPIFFE bundle"),
        (answer(b""), "something else than a SPIFFE bundle"),
        (answer(b"[]"), "something else than a SPIFFE bundle"),
        (answer(OTHER.bundle_pem), "something else than a SPIFFE bundle"),
        (answer(b"{"), "bundle is not JSON"),
        (answer(b"{}"), "bundle has no list of keys"),
        (answer(bundle_json(OTHER)[:-9]), "bundle is not JSON"),
        (raw(b"SSH-2.0-OpenSSH\r\n"), "no HTTP"),
    ],
    ids=[
        "error",
        "not-found",
        "redirect",
        "oversize",
        "html",
        "nothing",
        "list",
        "pem",
        "half",
        "no-keys",
        "cut-off",
        "not-http",
    ],
)
def test_what_is_no_bundle_is_a_problem_and_the_next_one_is_taken(
    respond: Respond, problem: str, web: Partner, endpoint: HttpsEndpoint
) -> None:
    good = endpoint.respond
    endpoint.respond = respond
    assert problem in web.refused()
    endpoint.respond = good
    web.refreshed()


def test_a_problem_names_the_endpoint(web: Partner, endpoint: HttpsEndpoint) -> None:
    endpoint.respond = answer(b"", 500)
    assert web.refused().startswith(f"{endpoint.url}: ")
    endpoint.respond = answer(b"no")
    assert "the endpoint of supplier.example" in web.refused()


def test_an_endpoint_that_drips_is_given_up(
    web: Partner, endpoint: HttpsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.federation.FETCH_TIMEOUT_S", 0.2)
    endpoint.respond = endpoint.drip()
    assert "no complete answer within" in web.refused()


def test_an_endpoint_that_is_not_there_is_a_problem_until_it_is(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    tls = web_context(write_bundle(tmp_path, CA))
    with partner(f"https://localhost:{port}/bundle", web_tls=tls) as made:
        assert "Connection refused" in made.refused()
        with https_endpoint(tmp_path, server_svid(CA), port) as endpoint:
            endpoint.respond = answer(bundle_json(OTHER))
            made.refreshed()


@pytest.mark.parametrize(
    ("hint_s", "interval"),
    [
        (None, 300),
        (0, 10),
        (9, 10),
        (11, 11),
        (3599, 3599),
        (3601, 3600),
        (10**30, 3600),
    ],
)
def test_the_hint_is_followed_within_reason(
    hint_s: int | None, interval: float
) -> None:
    assert interval_s(hint_s) == interval


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a hint of 0 s and the first retries come at once."""
    monkeypatch.setattr("authz_server.identity.federation._SHORTEST_INTERVAL_S", 0.01)
    monkeypatch.setattr("authz_server.fetch._FIRST_RETRY_S", 0.01)


@pytest.mark.usefixtures("fast")
def test_a_bundle_is_fetched_again_when_its_hint_says_so(
    web: Partner, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(bundle_json(OTHER, spiffe_refresh_hint=0))
    web.client.start()
    web.client.start()
    assert eventually(lambda: len(web.bundles) > 2)
    # One without a hint: the next is due in five minutes.
    endpoint.respond = answer(bundle_json(OTHER, spiffe_sequence=7))
    assert eventually(lambda: web.bundles[-1][0].sequence == 7)
    assert 270 <= web.client._delay_s() <= 300
    assert not web.client.has_died
    assert web.problems == []


@pytest.mark.usefixtures("fast")
def test_an_endpoint_that_failed_is_asked_again_sooner(
    web: Partner, endpoint: HttpsEndpoint
) -> None:
    good = endpoint.respond
    endpoint.respond = answer(b"", 503)
    web.client.start()
    assert eventually(lambda: len(web.problems) > 2)
    endpoint.respond = good
    assert eventually(lambda: len(web.bundles) == 1)


def test_failures_in_a_row_are_waited_for_ever_longer(
    web: Partner, endpoint: HttpsEndpoint
) -> None:
    good = endpoint.respond
    endpoint.respond = answer(b"", 503)
    for longest_s in (1, 2, 4, 8):
        web.refused()
        assert longest_s / 2 <= web.client._delay_s() <= longest_s
    endpoint.respond = good
    web.refreshed()
    assert web.client._delay_s() > 60


def test_a_stop_does_not_wait_for_a_fetch_that_hangs_and_never_hears_of_it(
    web: Partner, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = endpoint.hang()
    web.client.start()
    assert eventually(lambda: len(endpoint.requests) == 1)
    (thread,) = [
        item
        for item in threading.enumerate()
        if item.name == "federation-supplier.example"
    ]
    begin_s = time.monotonic()
    web.client.stop()
    assert time.monotonic() - begin_s < 5
    endpoint.stopping.set()  # the server lets go: the fetch ends
    thread.join(10)
    assert not thread.is_alive()
    assert (web.bundles, web.problems) == ([], [])


def test_a_stop_waits_for_a_callback_under_way(
    web: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.fetch._STOP_WAIT_S", 0.01)
    entered, leave, stopped = threading.Event(), threading.Event(), threading.Event()

    def on_bundle(bundle: TrustBundle, asked_s: float) -> None:
        entered.set()
        leave.wait(10)
        assert not stopped.is_set()
        web.bundles.append((bundle, asked_s))

    web.client._on_bundle = on_bundle
    web.client.start()
    assert entered.wait(10)

    def stop() -> None:
        web.client.stop()
        stopped.set()

    stopping = threading.Thread(target=stop)
    stopping.start()
    assert not stopped.wait(0.2)
    leave.set()
    stopping.join(10)
    assert stopped.is_set()
    assert len(web.bundles) == 1


def test_a_client_that_was_stopped_can_be_started_and_refreshed_again(
    web: Partner,
) -> None:
    web.client.start()
    assert eventually(lambda: len(web.bundles) == 1)
    web.client.stop()
    web.refreshed()
    web.client.start()
    assert eventually(lambda: len(web.bundles) == 3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_a_callback_is_not_mistaken_for_the_endpoints(
    web: Partner,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("boom")

    web.client._on_bundle = fail
    assert not web.client.has_died
    web.client.start()
    assert eventually(lambda: web.client.has_died)
    assert web.problems == []
