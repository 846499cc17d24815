"""Whole identities of workloads: certificates and JWT-SVIDs."""

import dataclasses

import pytest
from callers import (
    CA,
    CAMERA_SVID,
    FACTORY,
    NOW_S,
    ROBOT,
    ROBOT_SVID,
    SPIRE,
    SUPPLIER_CA,
    SUPPLIER_SPIRE,
    Desk,
    bearer,
    issue,
    spiffe_bundle,
)
from checks import CAMERA, DEPLOYER, envoy_certificate
from token_forge import Forge

from authz_server.errors import Reason
from authz_server.identity import inquiry
from authz_server.identity.revocation import token_entry
from authz_server.identity.rules import Rules

AUDIENCE = frozenset({"authz"})

PLAIN = Rules()
TOKENS = Rules(jwt_audience=AUDIENCE)
ALONE = Rules(jwt_audience=AUDIENCE, jwt_alone=True)

END_S = CAMERA_SVID.certificate.not_valid_after_utc.timestamp()
TOKEN_END_S = int(NOW_S) + 300


def svid_of(spiffe_id: str = CAMERA, **changes: object) -> bytes:
    return bearer(SPIRE.svid(spiffe_id, exp=TOKEN_END_S, **changes))


# A JWT-SVID beside a certificate


def test_a_certificate_alone_is_enough_where_tokens_are_read_too() -> None:
    identity = Desk(TOKENS).identify()
    assert str(identity.spiffe_id) == CAMERA
    assert identity.via is None
    assert identity.valid_until_s == END_S


def test_a_jwt_svid_beside_the_certificate_must_name_the_same_workload() -> None:
    desk = Desk(TOKENS)
    assert desk.name(authorization=svid_of()) == CAMERA
    assert desk.refusal(authorization=svid_of(DEPLOYER)) is Reason.TOKEN_MISMATCH
    robot = bearer(SUPPLIER_SPIRE.svid(ROBOT))
    assert desk.refusal(authorization=robot) is Reason.TOKEN_MISMATCH


def test_a_bad_jwt_svid_is_not_made_good_by_the_certificate() -> None:
    desk = Desk(TOKENS)
    forged = bearer(Forge(FACTORY.name, "jwt-1").svid(CAMERA))
    assert desk.refusal(authorization=forged) is Reason.TOKEN_UNTRUSTED
    assert desk.refusal(authorization=svid_of(aud="x")) is Reason.TOKEN_AUDIENCE


def test_a_jwt_svid_does_not_make_a_bad_certificate_good() -> None:
    desk = Desk(TOKENS)
    for svid, expected in (
        (issue(CA, CAMERA, -3600, -60), Reason.CERTIFICATE_EXPIRED),
        (issue(SUPPLIER_CA, CAMERA), Reason.CERTIFICATE_UNTRUSTED),
    ):
        assert desk.refusal(svid, authorization=svid_of()) is expected


def test_tokens_that_nobody_configured_are_not_read() -> None:
    assert Desk(PLAIN).name(authorization=b"Basic nonsense") == CAMERA


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic Y2FtZXJhOmh1c2g=",
        b"Digest x",
        b"bearer: x.y.z",
        b"Bearer\t" + svid_of()[7:],
        b"Bearer  " + svid_of()[7:],
        svid_of() + b" ",
        svid_of() + b"\n",
        svid_of()[7:],
        svid_of() + b"," + svid_of(),
        svid_of() + b", " + svid_of(),
        svid_of() + b",Basic x",
    ],
)
def test_a_header_that_is_not_one_bearer_token_is_refused(value: bytes) -> None:
    assert Desk(TOKENS).refusal(authorization=value) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_case_of_the_scheme_does_not_matter(scheme: bytes) -> None:
    assert Desk(TOKENS).name(authorization=scheme + svid_of()[6:]) == CAMERA


def test_a_header_that_comes_twice_is_refused_though_both_are_good() -> None:
    headers = [("authorization", svid_of()), ("authorization", svid_of())]
    assert Desk(TOKENS).refusal(headers=headers) is Reason.TOKEN_MALFORMED


def test_a_jwt_svid_may_have_a_header_of_its_own_without_a_scheme() -> None:
    desk = Desk(dataclasses.replace(ALONE, jwt_header="x-svid"))
    token = svid_of()[7:]
    assert desk.name(None, x_svid=token) == CAMERA
    assert desk.name(None, x_svid=token, authorization=b"Basic x") == CAMERA
    assert desk.refusal(None, x_svid=bearer(token)) is Reason.TOKEN_MALFORMED
    assert desk.refusal(None, authorization=bearer(token)) is Reason.PRINCIPAL_MISSING


# A JWT-SVID alone


def test_a_jwt_svid_alone_is_enough_only_where_that_is_said() -> None:
    assert Desk(TOKENS).refusal(None, authorization=svid_of()) is (
        Reason.PRINCIPAL_MISSING
    )
    assert Desk(ALONE).name(None, authorization=svid_of()) == CAMERA
    assert Desk(ALONE).refusal(None) is Reason.PRINCIPAL_MISSING


def test_each_trust_domain_signs_its_own_jwt_svids() -> None:
    desk = Desk(ALONE)
    robot = bearer(SUPPLIER_SPIRE.svid(ROBOT))
    assert desk.name(None, authorization=robot) == ROBOT
    forged = bearer(SUPPLIER_SPIRE.svid(CAMERA))
    assert desk.refusal(None, authorization=forged) is Reason.TOKEN_UNTRUSTED


def test_a_trust_domain_that_is_not_the_policys_is_refused_and_not_quoted() -> None:
    desk = Desk(ALONE)
    desk.trust_domains = frozenset({FACTORY})
    robot = bearer(SUPPLIER_SPIRE.svid(ROBOT))
    assert desk.refusal(None, authorization=robot) is Reason.TRUST_DOMAIN_UNKNOWN
    with pytest.raises(inquiry.TokenError) as caught:
        desk.identify(None, authorization=bearer(SPIRE.svid("spiffe://hush/a")))
    assert caught.value.reason is Reason.TRUST_DOMAIN_UNKNOWN
    assert "hush" not in str(caught.value)


def test_a_trust_domain_without_jwt_authorities_believes_no_token() -> None:
    desk = Desk(ALONE)
    desk.put(FACTORY, spiffe_bundle(CA))
    reason = desk.refusal(None, authorization=svid_of())
    assert reason is Reason.TRUST_BUNDLE_UNAVAILABLE
    assert desk.name(CAMERA_SVID) == CAMERA


# Dates of workloads


def test_an_identity_holds_for_the_narrowest_of_certificate_and_token() -> None:
    desk = Desk(TOKENS)
    identity = desk.identify(authorization=svid_of(nbf=int(NOW_S) - 2))
    assert identity.valid_from_s == int(NOW_S) - 2
    assert TOKEN_END_S - 0.001 < identity.valid_until_s < TOKEN_END_S
    identity = desk.identify(authorization=svid_of(nbf=int(NOW_S) - 9999))
    begin_s = CAMERA_SVID.certificate.not_valid_before_utc.timestamp()
    assert identity.valid_from_s == begin_s
    identity = desk.identify(authorization=bearer(SPIRE.svid(CAMERA, exp=END_S + 99)))
    assert identity.valid_until_s == END_S


def test_an_identity_holds_no_longer_than_the_bundle_is_fresh() -> None:
    desk, token = Desk(ALONE, max_bundle_age_s=60.0), svid_of()
    assert desk.identify(authorization=token).valid_until_s == NOW_S + 60
    assert desk.identify(None, authorization=token).valid_until_s == NOW_S + 60
    desk.now_s += 61
    assert desk.refusal() is Reason.TRUST_BUNDLE_UNAVAILABLE
    # Though it is remembered that its signature is right.
    reason = desk.refusal(None, authorization=token)
    assert reason is Reason.TRUST_BUNDLE_UNAVAILABLE


def test_a_jwt_svid_that_is_good_for_too_long_is_refused() -> None:
    desk = Desk(dataclasses.replace(ALONE, max_token_lifetime_s=200.0))
    assert desk.refusal(None, authorization=svid_of()) is Reason.TOKEN_MALFORMED


# Tokens that are remembered


def test_a_remembered_token_is_still_refused_when_it_has_expired() -> None:
    desk, token = Desk(ALONE), svid_of()
    assert desk.name(None, authorization=token) == CAMERA
    assert len(desk.identifier._memory.svids) == 1
    desk.now_s = TOKEN_END_S
    assert desk.refusal(None, authorization=token) is Reason.TOKEN_EXPIRED


def test_a_remembered_token_is_not_verified_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, token = Desk(ALONE), svid_of()
    calls = []
    read = inquiry.read_jwt_svid
    monkeypatch.setattr(
        inquiry, "read_jwt_svid", lambda *of: calls.append(of) or read(*of)
    )
    for _ in range(3):
        assert desk.name(None, authorization=token) == CAMERA
    assert len(calls) == 1


def test_a_remembered_token_is_refused_once_its_key_is_gone() -> None:
    desk, token = Desk(ALONE), svid_of()
    assert desk.name(None, authorization=token) == CAMERA
    desk.put(FACTORY, spiffe_bundle(CA, Forge(FACTORY.name, "jwt-1")))
    assert desk.refusal(None, authorization=token) is Reason.TOKEN_UNTRUSTED
    desk.put(FACTORY, spiffe_bundle(CA, Forge(FACTORY.name, "jwt-2")))
    assert desk.refusal(None, authorization=token) is Reason.TOKEN_UNTRUSTED
    desk.put(FACTORY, b'{"keys": []}')
    assert desk.refusal(None, authorization=token) is Reason.TRUST_BUNDLE_UNAVAILABLE


def test_a_remembered_token_is_refused_once_it_is_revoked() -> None:
    desk, token = Desk(ALONE), svid_of(jti="0b7c")
    assert desk.name(None, authorization=token) == CAMERA
    desk.revoked = token_entry("0b7c")
    assert desk.refusal(None, authorization=token) is Reason.TOKEN_REVOKED
    desk.revoked = f"spiffe-id {CAMERA}"
    assert desk.refusal(None, authorization=token) is Reason.PRINCIPAL_REVOKED
    desk.revoked = None
    assert desk.refusal(None, authorization=token) is Reason.REVOCATIONS_UNAVAILABLE


def test_a_token_is_remembered_by_all_of_its_bytes() -> None:
    desk, token = Desk(ALONE), svid_of()
    assert desk.name(None, authorization=token) == CAMERA
    other = Forge(FACTORY.name, "jwt-1").svid(CAMERA, exp=TOKEN_END_S)
    assert desk.refusal(None, authorization=bearer(other)) is Reason.TOKEN_UNTRUSTED


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "_REMEMBERED", 2)
    desk = Desk(ALONE)
    for number in range(5):
        assert desk.name(None, authorization=svid_of(jti=str(number))) == CAMERA
        assert 1 <= len(desk.identifier._memory.svids) <= 2


def test_principal_and_certificate_must_name_the_same_workload() -> None:
    other = envoy_certificate(ROBOT_SVID.certificate_pem)
    assert Desk(PLAIN).refusal(certificate=other) is Reason.CERTIFICATE_MISMATCH
