import json
import math
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from https_endpoint import HttpsEndpoint, answer, https_endpoint, server_svid
from parts import eventually

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.errors import Reason, TokenError
from authz_server.fetch import web_context
from authz_server.identity.issuers import Issuers
from authz_server.identity.jwk import MAX_KEY_SET_BYTES

CA = DevelopmentCa("factory.example")

IDP, PARTNER = "https://idp.factory.example", "https://login.supplier.example"

KEYS = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(2)]


def key_set(**keys: ec.EllipticCurvePublicKey) -> bytes:
    """Return a JWK Set of the keys by their ID."""

    def coordinate(value: int) -> str:
        return urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()

    members = [
        {
            "kid": key_id,
            "kty": "EC",
            "crv": "P-256",
            "use": "sig",
            "x": coordinate(key.public_numbers().x),
            "y": coordinate(key.public_numbers().y),
        }
        for key_id, key in keys.items()
    ]
    return json.dumps({"keys": members}).encode()


OLD, NEW = key_set(old=KEYS[0]), key_set(old=KEYS[0], new=KEYS[1])


class Plant:
    """Issuers on a clock that a test moves."""

    def __init__(
        self,
        locations: Mapping[str, str],
        tls: ssl.SSLContext,
        *,
        max_age_s: float = 3600.0,
    ) -> None:
        self.now_s = 1_900_000_000.0
        self.issuers = Issuers(
            locations, web_tls=tls, clock=self.clock, max_age_s=max_age_s
        )

    def clock(self) -> Instant:
        return Instant(self.now_s, self.now_s - 1_000_000)

    def key_ids(self, issuer: str = IDP) -> set[str]:
        return set(self.issuers.current.keys_of(issuer, self.now_s))

    def refusal(self, issuer: str = IDP) -> Reason:
        with pytest.raises(TokenError) as caught:
            self.key_ids(issuer)
        return caught.value.reason

    def look(self, after_s: float = 0.0) -> None:
        """Move the clock, and do what the watching does."""
        self.now_s += after_s
        for source in self.issuers._sources.values():
            assert source.look(0.5) == 0.5


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return web_context(write_bundle(tmp_path, CA))


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[HttpsEndpoint]:
    with https_endpoint(tmp_path, server_svid(CA)) as running:
        running.respond = answer(OLD)
        yield running


@pytest.fixture
def web(endpoint: HttpsEndpoint, tls: ssl.SSLContext) -> Plant:
    """An issuer whose keys come over HTTPS, loaded."""
    plant = Plant({IDP: endpoint.url}, tls)
    plant.issuers.reload()
    return plant


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def local(file: Path, tls: ssl.SSLContext) -> Plant:
    """An issuer whose keys come from a file, loaded."""
    plant = Plant({IDP: str(file)}, tls)
    plant.issuers.reload()
    return plant


def test_keys_come_over_https(web: Plant) -> None:
    assert web.key_ids() == {"old"}
    assert web.issuers.error is None


def test_keys_come_from_a_file(local: Plant) -> None:
    assert local.key_ids() == {"old"}
    assert local.issuers.error is None


def test_an_issuer_that_is_not_configured_is_not_trusted(web: Plant) -> None:
    assert web.refusal(PARTNER) is Reason.TOKEN_UNTRUSTED
    assert web.refusal(IDP + "/") is Reason.TOKEN_UNTRUSTED


def test_a_message_does_not_quote_an_issuer_that_a_stranger_made_up(
    web: Plant,
) -> None:
    with pytest.raises(TokenError) as caught:
        web.key_ids("https://made-up.example")
    assert "made-up" not in str(caught.value)


def test_without_issuers_no_token_is_trusted(tls: ssl.SSLContext) -> None:
    plant = Plant({}, tls)
    plant.issuers.reload()
    plant.look()
    assert plant.refusal() is Reason.TOKEN_UNTRUSTED
    assert plant.issuers.error is None


def test_keys_that_were_never_had_are_unavailable(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = answer(b"", 500)
    plant = Plant({IDP: endpoint.url}, tls)
    assert "not asked for yet" in str(plant.issuers.error)
    assert plant.refusal() is Reason.TOKEN_KEYS_UNAVAILABLE
    plant.issuers.reload()
    assert plant.refusal() is Reason.TOKEN_KEYS_UNAVAILABLE
    assert plant.issuers.error == (
        f"the keys of {IDP}: {endpoint.url}: answers with status 500 instead of 200"
    )
    assert plant.issuers.current.good_until_s(IDP) == -math.inf


def test_each_issuer_has_its_own_keys(
    endpoint: HttpsEndpoint, tmp_path: Path, tls: ssl.SSLContext
) -> None:
    path = tmp_path / "partner.json"
    path.write_bytes(key_set(theirs=KEYS[1]))
    plant = Plant({IDP: endpoint.url, PARTNER: str(path)}, tls)
    plant.issuers.reload()
    assert plant.key_ids(IDP) == {"old"}
    assert plant.key_ids(PARTNER) == {"theirs"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "JSON"),
        (b"{}", "keys"),
        (b"x" * (MAX_KEY_SET_BYTES + 1), f"longer than {MAX_KEY_SET_BYTES} bytes"),
    ],
    ids=["nothing", "no-keys", "oversize"],
)
def test_what_is_no_key_set_leaves_the_last_good_keys(
    data: bytes, problem: str, web: Plant, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(data)
    web.issuers.reload()
    assert problem in str(web.issuers.error)
    assert web.key_ids() == {"old"}
    endpoint.respond = answer(NEW)
    web.issuers.reload()
    assert web.issuers.error is None
    assert web.key_ids() == {"old", "new"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"{", "JSON"),
        (b"x" * (MAX_KEY_SET_BYTES + 1), f"longer than {MAX_KEY_SET_BYTES} bytes"),
    ],
    ids=["gone", "half", "oversize"],
)
def test_a_file_that_is_no_key_set_leaves_the_last_good_keys(
    data: bytes | None, problem: str, local: Plant, file: Path
) -> None:
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    local.look()
    assert f"the keys of {IDP}: {file}: " in str(local.issuers.error)
    assert problem in str(local.issuers.error)
    assert local.key_ids() == {"old"}


def test_the_last_good_keys_hold_until_they_are_too_old(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    had_s = web.now_s
    endpoint.respond = answer(b"", 500)
    web.look(3600)
    assert web.key_ids() == {"old"}
    assert web.issuers.current.good_until_s(IDP) == had_s + 3600
    web.look(1)
    assert web.refusal() is Reason.TOKEN_KEYS_UNAVAILABLE
    assert "too old" in str(web.issuers.error)
    endpoint.respond = answer(OLD)
    web.look(60)
    assert web.key_ids() == {"old"}
    assert web.issuers.error is None


def test_keys_without_a_limit_never_get_too_old(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    plant = Plant({IDP: endpoint.url}, tls, max_age_s=math.inf)
    plant.issuers.reload()
    endpoint.respond = answer(b"", 500)
    plant.look(10**9)
    assert plant.key_ids() == {"old"}


def test_a_file_that_can_be_read_does_not_get_too_old(local: Plant) -> None:
    for _ in range(30):
        local.look(300)
        assert local.key_ids() == {"old"}
    assert local.issuers.error is None


def test_a_key_set_without_a_key_that_can_be_used_ends_the_belief(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(key_set())
    web.look(300)
    assert web.key_ids() == set()
    assert "no key in it can be used" in str(web.issuers.error)


def test_keys_are_asked_for_again_when_it_is_time_and_not_before(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(NEW)
    web.look(269)
    assert web.key_ids() == {"old"}
    web.look(31)
    assert web.key_ids() == {"old", "new"}
    assert len(endpoint.requests) == 2


def test_keys_that_could_not_be_had_are_asked_for_again_sooner(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(b"", 500)
    web.look(300)
    endpoint.respond = answer(NEW)
    web.look(1)
    assert web.key_ids() == {"old", "new"}


def test_a_file_is_read_when_it_changes_and_not_before(
    local: Plant, file: Path
) -> None:
    local.look()
    replacement = file.with_name("next")
    replacement.write_bytes(NEW)
    local.look()
    assert local.key_ids() == {"old"}
    replacement.replace(file)
    local.look()
    assert local.key_ids() == {"old", "new"}


def test_a_token_with_an_unknown_key_makes_us_ask_but_only_every_half_minute(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    endpoint.respond = answer(NEW)
    web.issuers.ask_again(IDP)
    web.look(29)
    assert web.key_ids() == {"old"}
    web.look(1)
    assert web.key_ids() == {"old", "new"}
    for _ in range(60):
        web.issuers.ask_again(IDP)
        web.look(1)
    assert len(endpoint.requests) == 4  # the first, the rotation, and two in a minute


def test_an_unknown_key_that_was_asked_for_is_not_asked_for_again(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    web.issuers.ask_again(IDP)
    web.look(30)
    web.look(30)
    assert len(endpoint.requests) == 2


def test_a_stranger_cannot_make_us_ask(web: Plant, endpoint: HttpsEndpoint) -> None:
    web.issuers.ask_again(PARTNER)
    web.look(60)
    assert len(endpoint.requests) == 1


def test_the_revision_changes_exactly_when_a_key_does(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    first = web.issuers.current.revision
    web.look(300)
    assert web.issuers.current.revision == first
    revisions = {first}
    for data in (NEW, key_set(old=KEYS[1]), key_set(other=KEYS[0]), key_set()):
        endpoint.respond = answer(data)
        web.look(300)
        revisions.add(web.issuers.current.revision)
    assert len(revisions) == 5
    endpoint.respond = answer(OLD)
    web.look(300)
    assert web.issuers.current.revision == first


def test_the_revision_tells_whose_keys_they_are(
    file: Path, tls: ssl.SSLContext
) -> None:
    revisions = set()
    for locations in ({IDP: str(file)}, {PARTNER: str(file)}):
        plant = Plant(locations, tls)
        revisions.add(plant.issuers.current.revision)
        plant.issuers.reload()
        revisions.add(plant.issuers.current.revision)
    assert len(revisions) == 4


def test_a_state_that_was_taken_does_not_change(
    web: Plant, endpoint: HttpsEndpoint
) -> None:
    before = web.issuers.current
    endpoint.respond = answer(NEW)
    web.issuers.reload()
    assert set(before.keys_of(IDP, web.now_s)) == {"old"}


def test_a_problem_is_logged_once_while_it_stays_the_same(
    web: Plant, endpoint: HttpsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.respond = answer(b"", 500)
    web.issuers.reload()
    web.issuers.reload()
    assert len(caplog.records) == 1
    endpoint.respond = answer(b"", 503)
    web.issuers.reload()
    assert len(caplog.records) == 2


def test_a_location_that_is_no_https_url_is_a_problem(tls: ssl.SSLContext) -> None:
    plant = Plant({IDP: "http://localhost/keys"}, tls)
    plant.issuers.reload()
    assert "https://" in str(plant.issuers.error)


def test_keys_are_watched_until_the_watching_is_stopped(
    local: Plant, file: Path
) -> None:
    local.issuers.start_watching(0.005)
    local.issuers.start_watching(0.005)
    try:
        file.write_bytes(NEW)
        assert eventually(lambda: local.key_ids() == {"old", "new"})
    finally:
        local.issuers.stop()
    assert not any(
        thread.name == "issuer-keys-watch" for thread in threading.enumerate()
    )
    assert local.key_ids() == {"old", "new"}
    assert local.issuers.error is None


def test_an_issuer_that_hangs_holds_up_no_other_and_no_stop(
    endpoint: HttpsEndpoint,
    file: Path,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("authz_server.fetch._STOP_WAIT_S", 0.05)
    endpoint.respond = endpoint.hang()
    plant = Plant({IDP: endpoint.url, PARTNER: str(file)}, tls)
    plant.issuers.start_watching(0.005)
    try:
        assert eventually(lambda: plant.issuers.current.held[PARTNER] is not None)
        assert plant.refusal(IDP) is Reason.TOKEN_KEYS_UNAVAILABLE
    finally:
        plant.issuers.stop()
    assert plant.key_ids(PARTNER) == {"old"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_died_is_told(
    local: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("authz_server.identity.issuers.fingerprint", fail)
    local.issuers.start_watching(0.005)
    assert eventually(lambda: local.issuers.error is not None)
    assert "no longer watched" in str(local.issuers.error)
    local.issuers.stop()
