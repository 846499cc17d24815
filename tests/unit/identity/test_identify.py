import dataclasses
import datetime as dt
import math

import pytest
from checks import CAMERA, envoy_certificate
from cryptography import x509

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import AuthzError, Reason
from authz_server.facts import Body, BodyState, Facts
from authz_server.identity.certificate import MAX_CERTIFICATE_BYTES, parse_leaf
from authz_server.identity.identify import Identifier, Identity
from authz_server.identity.revocation import Revocations
from authz_server.identity.rules import Rules
from authz_server.identity.sources import IdentitySources, IdentityState
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.identity.trust_bundle import TrustBundle

CA = DevelopmentCa("factory.example")
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
NOON = Instant(START.timestamp() + 43_200, 0.0)
TRUST_DOMAINS = frozenset({TrustDomain("factory.example")})


NOTHING_REVOKED = Revocations()


def svid(spiffe_id: str = CAMERA, **changes: object) -> Svid:
    arguments: dict[str, object] = {"not_before": START, "not_after": END, **changes}
    return CA.issue(spiffe_id, **arguments)  # type: ignore[arg-type]


def facts(principal: str, certificate: str) -> Facts:
    return Facts(
        principal=principal.encode(),
        certificate=certificate.encode(),
        destination=b"",
        upstream=b"",
        method=b"",
        path=b"",
        host=b"",
        is_grpc=False,
        headers=(),
        body=Body(BodyState.UNREAD),
    )


def who(
    principal: str = CAMERA,
    certificate: str | None = None,
    *,
    now: Instant = NOON,
    require_certificate: bool = True,
    revocations: Revocations | None = NOTHING_REVOKED,
) -> Identity:
    if certificate is None:
        certificate = envoy_certificate(svid().certificate_pem)
    rules = Rules(verify_chain=False, require_certificate=require_certificate)
    return Identifier(rules, IdentitySources()).identify(
        facts(principal, certificate),
        TRUST_DOMAINS,
        now,
        IdentityState(revocations=revocations),
    )


def refusal(*arguments: str, **options: object) -> Reason:
    with pytest.raises(AuthzError) as caught:
        who(*arguments, **options)  # type: ignore[arg-type]
    return caught.value.reason


def test_a_caller_is_who_principal_and_certificate_both_name() -> None:
    identity = who()
    assert str(identity.spiffe_id) == CAMERA
    assert identity.valid_from_s == START.timestamp()
    assert identity.valid_until_s == END.timestamp()


def test_a_dns_name_beside_the_one_uri_is_allowed() -> None:
    pem = svid(dns_names=["camera.factory.example"]).certificate_pem
    assert str(who(CAMERA, envoy_certificate(pem)).spiffe_id) == CAMERA


@pytest.mark.parametrize(
    "principal",
    [
        "CN=camera",
        "camera.factory.example",
        "https://factory.example/camera",
        "spiffe://factory.example",
        "spiffe://factory.example/ns/line1/sa/camera\n",
        "spiffe://factory.example/ns/line1/sa/camera\x00",
        "spiffe://factory.example/x;URI=spiffe://factory.example/admin;",
        "spiffe://factory.example/caf\u00e9",
    ],
)
def test_a_peer_whose_name_is_no_workloads_id_is_refused(principal: str) -> None:
    assert refusal(principal) is Reason.PRINCIPAL_INVALID


def test_a_peer_without_a_name_is_refused() -> None:
    assert refusal("") is Reason.PRINCIPAL_MISSING


def test_another_trust_domain_is_refused() -> None:
    reason = refusal("spiffe://factory.example.evil/ns/line1/sa/camera")
    assert reason is Reason.TRUST_DOMAIN_UNKNOWN


def test_a_missing_certificate_is_refused_where_one_is_required() -> None:
    assert refusal(CAMERA, "") is Reason.CERTIFICATE_MISSING


def test_without_a_required_certificate_the_principal_holds_for_ever() -> None:
    identity = who(CAMERA, "", require_certificate=False)
    assert identity.valid_from_s == -math.inf
    assert identity.valid_until_s == math.inf


def test_a_certificate_that_came_is_checked_though_none_is_required() -> None:
    other = envoy_certificate(
        svid("spiffe://factory.example/ns/line1/sa/robot").certificate_pem
    )
    reason = refusal(CAMERA, other, require_certificate=False)
    assert reason is Reason.CERTIFICATE_MISMATCH


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (END.timestamp() + 1, Reason.CERTIFICATE_EXPIRED),
        (START.timestamp() - 1, Reason.CERTIFICATE_NOT_YET_VALID),
    ],
)
def test_dates_are_checked_against_the_request_not_the_handshake(
    at: float, reason: Reason
) -> None:
    assert refusal(now=Instant(at, 0.0)) is reason


@pytest.mark.parametrize("at", [START.timestamp(), END.timestamp()])
def test_the_dates_are_inclusive(at: float) -> None:
    assert str(who(now=Instant(at, 0.0)).spiffe_id) == CAMERA


def _extension(value: x509.ExtensionType) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical=True, value=value)


BAD_LEAVES = {
    "two URI names, principal first": svid(
        more_uris=["spiffe://factory.example/ns/release/sa/deployer"]
    ),
    "URI of another scheme": svid("https://factory.example/ns/line1/sa/camera"),
    "trust domain only": svid("spiffe://factory.example"),
    "no names at all": svid(omit=[x509.SubjectAlternativeName.oid]),
    "DNS name only": svid(
        replace=[_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]))]
    ),
}


@pytest.mark.parametrize("bad", BAD_LEAVES.values(), ids=BAD_LEAVES.keys())
def test_a_certificate_that_is_no_leaf_of_one_workload_is_refused(bad: Svid) -> None:
    reason = refusal(CAMERA, envoy_certificate(bad.certificate_pem))
    assert reason is Reason.CERTIFICATE_INVALID


GOOD = envoy_certificate(svid().certificate_pem)


@pytest.mark.parametrize(
    "encoded",
    [
        "x",
        GOOD[:-200],
        GOOD + GOOD,
        "junk" + GOOD,
        GOOD.replace("%2B", "+").replace("%0A", "%0"),
        envoy_certificate(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
        ),
        "x" * (MAX_CERTIFICATE_BYTES + 1),
    ],
    ids=[
        "no PEM",
        "cut off",
        "two",
        "junk before",
        "bad escapes",
        "no DER",
        "too large",
    ],
)
def test_what_is_not_exactly_one_certificate_is_refused(encoded: str) -> None:
    assert refusal(CAMERA, encoded) is Reason.CERTIFICATE_INVALID


def test_a_certificate_seen_before_is_not_parsed_again() -> None:
    encoded = envoy_certificate(svid().certificate_pem).encode()
    assert parse_leaf(encoded) is parse_leaf(encoded)


class Desk:
    """One identifier, which remembers whom it has seen."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.identifier = Identifier(
            rules or Rules(verify_chain=False), IdentitySources()
        )
        self.state = IdentityState()
        self.trust_domains = TRUST_DOMAINS
        self.now = NOON

    def who(self, value: Facts) -> Identity:
        return self.identifier.identify(value, self.trust_domains, self.now, self.state)

    def refusal(self, value: Facts) -> Reason:
        with pytest.raises(AuthzError) as caught:
            self.who(value)
        return caught.value.reason


KNOWN = facts(CAMERA, GOOD)


def test_a_peer_that_is_known_is_who_it_was() -> None:
    desk = Desk()
    assert desk.who(KNOWN) is desk.who(facts(CAMERA, GOOD))
    assert desk.who(KNOWN) == who()


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (END.timestamp() + 1, Reason.CERTIFICATE_EXPIRED),
        (START.timestamp() - 1, Reason.CERTIFICATE_NOT_YET_VALID),
    ],
)
def test_dates_count_on_every_request_of_a_peer_that_is_known(
    at: float, reason: Reason
) -> None:
    desk = Desk()
    desk.who(KNOWN)
    desk.now = Instant(at, 0.0)
    assert desk.refusal(KNOWN) is reason
    desk.now = NOON
    assert desk.who(KNOWN).name == CAMERA


def test_a_peer_that_is_known_is_not_so_under_another_list_of_revocations() -> None:
    desk = Desk()
    before, caller = desk.state, desk.who(KNOWN)
    revoked = Revocations(ids=frozenset({caller.spiffe_id}))
    desk.state = IdentityState(revocations=revoked)
    assert desk.refusal(KNOWN) is Reason.PRINCIPAL_REVOKED
    desk.state = IdentityState(revocations=None)
    assert desk.refusal(KNOWN) is Reason.REVOCATIONS_UNAVAILABLE
    desk.state = before
    assert desk.who(KNOWN) == caller


def test_a_peer_that_is_known_is_not_so_in_other_trust_domains() -> None:
    desk = Desk()
    desk.who(KNOWN)
    desk.trust_domains = frozenset({TrustDomain("elsewhere.example")})
    assert desk.refusal(KNOWN) is Reason.TRUST_DOMAIN_UNKNOWN


def test_a_known_name_with_another_certificate_is_no_known_peer() -> None:
    desk = Desk()
    desk.who(KNOWN)
    other = svid("spiffe://factory.example/ns/line1/sa/robot")
    encoded = envoy_certificate(other.certificate_pem)
    assert desk.refusal(facts(CAMERA, encoded)) is Reason.CERTIFICATE_MISMATCH
    assert desk.refusal(facts(CAMERA, "")) is Reason.CERTIFICATE_MISSING
    assert desk.refusal(facts("", GOOD)) is Reason.PRINCIPAL_MISSING


def test_what_a_known_peer_shows_beside_its_certificate_is_looked_at() -> None:
    desk = Desk(Rules(verify_chain=False, jwt_audience=frozenset({"triton"})))
    desk.who(KNOWN)
    for value in (b"Basic eDp5", b"Bearer x"):
        token = (("authorization", (value,)),)
        shown = dataclasses.replace(KNOWN, credentials=token)
        assert desk.refusal(shown) is Reason.TOKEN_MALFORMED


def test_no_more_peers_are_remembered_than_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("authz_server.identity.identify._REMEMBERED", 2)
    desk = Desk(Rules(verify_chain=False, require_certificate=False))
    names = [f"spiffe://factory.example/{number}" for number in range(5)]
    for name in names * 2:
        assert desk.who(facts(name, "")).name == name
    assert len(desk.identifier._peers.known) <= 2


def test_the_state_is_one_object_until_a_part_of_it_changes() -> None:
    store = TrustStore(max_age_s=math.inf, clock=lambda: NOON)
    sources = IdentitySources(store)
    before = sources.current
    assert sources.current is before
    bundle = TrustBundle(TrustDomain("factory.example"))
    store.put(bundle, NOON.wall_s, "test")
    assert sources.current is not before
    assert sources.current.revision != before.revision
    assert sources.current is sources.current
