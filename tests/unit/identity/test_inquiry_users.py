"""Users beside workloads: their tokens, and what Envoy says that it verified."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from callers import (
    CAMERA_SVID,
    GATEWAY,
    GATEWAY_SVID,
    IDP,
    IDP_FORGE,
    NOW_S,
    SPIRE,
    SSO,
    SSO_FORGE,
    Desk,
    bearer,
    xfcc,
)
from checks import CAMERA
from token_forge import Forge

from authz_server.clock import system_clock
from authz_server.errors import AuthzError, Reason
from authz_server.fetch import web_context
from authz_server.identity import inquiry
from authz_server.identity.issuers import HeldKeys, Issuers
from authz_server.identity.revocation import token_entry
from authz_server.identity.rules import Rules, UserRules, Xfcc
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import SpiffeId

AUDIENCE = frozenset({"authz"})
TOKEN_END_S = int(NOW_S) + 300

USERS = UserRules(AUDIENCE, frozenset({IDP}), claims=("groups",))
RULES = Rules(users=USERS)
SHARED = Rules(jwt_audience=AUDIENCE, users=USERS)
ALONE = dataclasses.replace(SHARED, jwt_alone=True)
TWO_HEADERS = dataclasses.replace(
    ALONE, users=dataclasses.replace(USERS, header="x-user-token")
)
BY_PROXY = Rules(
    users=dataclasses.replace(USERS, proxy_verified=frozenset({SSO})),
)
BY_PROXY_ALONE = Rules(
    users=UserRules(
        AUDIENCE, header="", claims=("groups",), proxy_verified=frozenset({SSO})
    )
)


def user_of(subject: str = "ada", **changes: object) -> bytes:
    return bearer(IDP_FORGE.user(subject, **{"exp": TOKEN_END_S, **changes}))


def svid_of(spiffe_id: str = CAMERA, **changes: object) -> bytes:
    return bearer(SPIRE.svid(spiffe_id, **{"exp": TOKEN_END_S, **changes}))


# A user beside a workload


def test_a_user_stands_beside_the_workload() -> None:
    identity = Desk(RULES).identify(authorization=user_of(groups=["ml"], email="x"))
    assert str(identity.spiffe_id) == CAMERA
    assert identity.user is not None
    assert identity.user.issuer == IDP
    assert identity.user.subject == "ada"
    assert identity.user.claims == {"groups": ["ml"]}


def test_a_workload_needs_no_user() -> None:
    assert Desk(RULES).user() is None
    assert Desk(SHARED).user() is None
    assert Desk(Rules()).user(authorization=user_of()) is None


def test_a_bad_token_of_a_user_is_refused_and_not_overlooked() -> None:
    desk = Desk(RULES)
    forged = bearer(Forge(IDP, "idp-1").user())
    assert desk.refusal(authorization=forged) is Reason.TOKEN_UNTRUSTED
    assert desk.refusal(authorization=b"Basic x") is Reason.TOKEN_MALFORMED
    assert desk.refusal(authorization=b"Bearer x") is Reason.TOKEN_MALFORMED
    assert desk.refusal(authorization=user_of(aud="x")) is Reason.TOKEN_AUDIENCE
    assert desk.refusal(authorization=user_of(iss="x")) is Reason.TOKEN_UNTRUSTED
    assert desk.refusal(authorization=user_of(iss=...)) is Reason.TOKEN_MALFORMED
    assert desk.refusal(authorization=user_of(iss=[IDP])) is Reason.TOKEN_MALFORMED


def test_two_tokens_of_users_are_refused_however_they_come() -> None:
    desk = Desk(RULES)
    twice = [("authorization", user_of()), ("authorization", user_of())]
    assert desk.refusal(headers=twice) is Reason.TOKEN_MALFORMED
    joined = user_of() + b"," + user_of("bob")
    assert desk.refusal(authorization=joined) is Reason.TOKEN_MALFORMED


def test_an_issuer_signs_for_itself_only() -> None:
    partner = Forge("https://login.supplier.example", "idp-1")
    desk = Desk(RULES)
    desk.keys[partner.name] = HeldKeys(partner.keys, NOW_S + 999)
    assert desk.user(authorization=bearer(partner.user("bob"))) == "bob"
    forged = bearer(partner.user("ada", iss=IDP))
    assert desk.refusal(authorization=forged) is Reason.TOKEN_UNTRUSTED


# Neither takes the other's place


def test_a_user_token_never_makes_a_workload() -> None:
    for rules in (RULES, ALONE):
        reason = Desk(rules).refusal(None, authorization=user_of())
        assert reason is Reason.PRINCIPAL_MISSING
    named = bearer(IDP_FORGE.user(CAMERA, exp=TOKEN_END_S))
    assert Desk(ALONE).refusal(None, authorization=named) is Reason.PRINCIPAL_MISSING
    # Nor one that names no issuer, or the trust domain as its issuer.
    for issuer in (..., "factory.example", "spiffe://factory.example"):
        token = bearer(IDP_FORGE.user(CAMERA, exp=TOKEN_END_S, iss=issuer))
        reason = Desk(ALONE).refusal(None, authorization=token)
        assert reason is Reason.TOKEN_UNTRUSTED


def test_a_user_token_in_the_header_of_jwt_svids_makes_no_workload() -> None:
    desk = Desk(TWO_HEADERS)
    reason = desk.refusal(None, authorization=user_of())
    assert reason is Reason.TOKEN_MALFORMED
    named = bearer(IDP_FORGE.user(CAMERA, exp=TOKEN_END_S))
    assert desk.refusal(None, authorization=named) is Reason.TOKEN_UNTRUSTED


def test_a_jwt_svid_never_makes_a_user() -> None:
    desk = Desk(RULES)
    assert desk.refusal(authorization=svid_of()) is Reason.TOKEN_MALFORMED
    # Though it claims to be of an issuer of users.
    assert desk.refusal(authorization=svid_of(iss=IDP)) is Reason.TOKEN_UNTRUSTED
    assert Desk(SHARED).user(authorization=svid_of()) is None
    named = svid_of(iss=IDP)
    assert Desk(SHARED).refusal(authorization=named) is Reason.TOKEN_UNTRUSTED


def test_a_jwt_svid_makes_no_user_though_its_keys_are_those_of_an_issuer() -> None:
    desk = Desk(RULES)
    # As when SPIRE's own OpenID Connect issuer is configured for users.
    desk.keys[IDP] = HeldKeys(SPIRE.keys, NOW_S + 999)
    assert desk.refusal(authorization=svid_of(iss=IDP)) is Reason.TOKEN_MALFORMED


def test_a_user_makes_no_hop_say_for_whom_it_calls() -> None:
    hops = frozenset({SpiffeId.parse(GATEWAY)})
    desk = Desk(dataclasses.replace(SHARED, hops=hops))
    reason = desk.refusal(GATEWAY_SVID, authorization=user_of())
    assert reason is Reason.FORWARDED_INVALID
    desk = Desk(dataclasses.replace(RULES, hops=hops, xfcc=Xfcc.HOP))
    request = {"xfcc": xfcc(CAMERA_SVID), "authorization": user_of()}
    identity = desk.identify(GATEWAY_SVID, **request)
    assert str(identity.spiffe_id) == CAMERA
    assert str(identity.via) == GATEWAY
    assert identity.user is not None


# Both kinds of token


def test_one_header_for_both_kinds_tells_them_apart_by_the_issuer() -> None:
    desk = Desk(ALONE)
    assert desk.user(authorization=user_of()) == "ada"
    identity = desk.identify(None, authorization=svid_of(iss="https://spire.example"))
    assert str(identity.spiffe_id) == CAMERA
    assert identity.user is None
    stranger = bearer(SSO_FORGE.user())
    assert desk.refusal(authorization=stranger) is Reason.TOKEN_MALFORMED


def test_both_kinds_may_come_in_headers_of_their_own() -> None:
    desk = Desk(TWO_HEADERS)
    token = user_of()[7:]
    identity = desk.identify(None, authorization=svid_of(), x_user_token=token)
    assert str(identity.spiffe_id) == CAMERA
    assert identity.user is not None
    reason = desk.refusal(authorization=svid_of(), x_user_token=svid_of()[7:])
    assert reason is Reason.TOKEN_MALFORMED
    reason = desk.refusal(x_user_token=user_of())
    assert reason is Reason.TOKEN_MALFORMED
    twice = [("x-user-token", token), ("x-user-token", token)]
    assert desk.refusal(headers=twice) is Reason.TOKEN_MALFORMED


# Dates


def test_an_identity_holds_no_longer_than_the_users_token() -> None:
    identity = Desk(RULES).identify(authorization=user_of(nbf=int(NOW_S) - 1))
    assert identity.valid_from_s == int(NOW_S) - 1
    assert TOKEN_END_S - 0.001 < identity.valid_until_s < TOKEN_END_S


def test_an_identity_holds_no_longer_than_the_issuers_keys() -> None:
    desk = Desk(RULES, key_age_s=60.0)
    token = user_of()
    assert desk.identify(authorization=token).valid_until_s == NOW_S + 60
    desk.now_s += 61
    assert desk.refusal(authorization=token) is Reason.TOKEN_KEYS_UNAVAILABLE
    assert desk.user() is None


def test_a_token_that_is_good_for_too_long_is_refused_however_old_the_keys() -> None:
    rules = dataclasses.replace(RULES, max_token_lifetime_s=200.0)
    for key_age_s in (60.0, 10_000.0):
        desk = Desk(rules, key_age_s=key_age_s)
        assert desk.refusal(authorization=user_of()) is Reason.TOKEN_MALFORMED
        assert desk.user(authorization=user_of(exp=int(NOW_S) + 199)) == "ada"


def test_a_users_dates_count_on_every_request() -> None:
    desk, token = Desk(RULES), user_of()
    assert desk.user(authorization=token) == "ada"
    assert len(desk.identifier._memory.users) == 1
    desk.now_s = TOKEN_END_S
    assert desk.refusal(authorization=token) is Reason.TOKEN_EXPIRED
    late = user_of(nbf=TOKEN_END_S + 100, exp=TOKEN_END_S + 200)
    assert desk.refusal(authorization=late) is Reason.TOKEN_NOT_YET_VALID


# Keys and revocation


def test_a_remembered_token_is_not_verified_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, token = Desk(RULES), user_of()
    calls = []
    read = inquiry.read_user
    monkeypatch.setattr(inquiry, "read_user", lambda *of: calls.append(of) or read(*of))
    for _ in range(3):
        assert desk.user(authorization=token) == "ada"
    assert len(calls) == 1


def test_a_remembered_token_is_refused_once_its_key_is_gone() -> None:
    desk, token = Desk(RULES), user_of()
    assert desk.user(authorization=token) == "ada"
    for keys in (Forge(IDP, "idp-1").keys, Forge(IDP, "idp-2").keys, {}):
        desk.keys[IDP] = HeldKeys(keys, NOW_S + 999)
        assert desk.refusal(authorization=token) is Reason.TOKEN_UNTRUSTED
    desk.keys[IDP] = None
    assert desk.refusal(authorization=token) is Reason.TOKEN_KEYS_UNAVAILABLE
    del desk.keys[IDP]
    assert desk.refusal(authorization=token) is Reason.TOKEN_UNTRUSTED


def test_a_remembered_token_is_refused_once_it_is_revoked() -> None:
    desk, token = Desk(RULES), user_of(jti="0b7c")
    assert desk.user(authorization=token) == "ada"
    desk.revoked = token_entry("0b7c")
    assert desk.refusal(authorization=token) is Reason.TOKEN_REVOKED
    assert desk.user(authorization=user_of(jti="other")) == "ada"
    assert desk.user(authorization=user_of()) == "ada"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "_REMEMBERED", 2)
    desk = Desk(RULES)
    for number in range(5):
        assert desk.user(authorization=user_of(jti=str(number))) == "ada"
        assert 1 <= len(desk.identifier._memory.users) <= 2


def test_an_unknown_key_makes_the_sources_ask_the_issuer_again(tmp_path: Path) -> None:
    issuers = Issuers(
        {IDP: str(tmp_path / "keys")},
        web_tls=web_context(None),
        clock=system_clock,
        max_age_s=999.0,
    )
    desk = Desk(RULES, sources=IdentitySources(issuers=issuers))
    wanted = issuers._sources[IDP].wanted
    assert desk.user(authorization=user_of()) == "ada"
    forged = bearer(Forge(IDP, "idp-1").user())
    assert desk.refusal(authorization=forged) is Reason.TOKEN_UNTRUSTED
    assert not wanted.is_set()
    rotated = bearer(Forge(IDP, "idp-2").user())
    assert desk.refusal(authorization=rotated) is Reason.TOKEN_UNTRUSTED
    assert wanted.is_set()


def test_an_unknown_key_is_refused_where_there_is_nobody_to_ask() -> None:
    rotated = bearer(Forge(IDP, "idp-2").user())
    assert Desk(RULES).refusal(authorization=rotated) is Reason.TOKEN_UNTRUSTED


# What Envoy's jwt_authn verified


def claims_of(subject: str = "ada", **changes: object) -> dict[str, Any]:
    return SSO_FORGE.user_claims(subject, **changes)


@pytest.mark.parametrize("rules", [BY_PROXY, BY_PROXY_ALONE])
def test_claims_that_envoy_verified_make_a_user(rules: Rules) -> None:
    identity = Desk(rules).identify(
        claims=claims_of(groups=["ml"], email="x", exp=TOKEN_END_S)
    )
    assert identity.user is not None
    assert identity.user.issuer == SSO
    assert identity.user.claims == {"groups": ["ml"]}
    assert identity.valid_until_s < TOKEN_END_S


@pytest.mark.parametrize("issuer", [..., None, "", 1, [SSO], {}, IDP, "x"], ids=repr)
def test_claims_of_an_issuer_that_envoy_does_not_verify_are_refused(
    issuer: object,
) -> None:
    reason = Desk(BY_PROXY).refusal(claims=claims_of(iss=issuer))
    assert reason is Reason.TOKEN_UNTRUSTED


def test_claims_are_refused_where_no_issuer_is_envoys() -> None:
    assert Desk(RULES).refusal(claims=claims_of()) is Reason.TOKEN_UNTRUSTED


def test_claims_are_not_read_where_users_are_not() -> None:
    assert Desk(Rules()).user(claims=claims_of()) is None


def test_claims_obey_the_rules_of_every_token() -> None:
    desk = Desk(BY_PROXY)
    for changes, reason in (
        ({"aud": "x"}, Reason.TOKEN_AUDIENCE),
        ({"exp": ...}, Reason.TOKEN_MALFORMED),
        ({"exp": int(NOW_S) - 1}, Reason.TOKEN_EXPIRED),
        ({"exp": int(NOW_S) + 10**6}, Reason.TOKEN_MALFORMED),
        ({"nbf": int(NOW_S) + 99}, Reason.TOKEN_NOT_YET_VALID),
        ({"sub": ...}, Reason.TOKEN_MALFORMED),
        ({"sub": CAMERA}, Reason.TOKEN_MALFORMED),
    ):
        assert desk.refusal(claims=claims_of(**changes)) is reason
    desk.revoked = token_entry("0b7c")
    assert desk.refusal(claims=claims_of(jti="0b7c")) is Reason.TOKEN_REVOKED


def test_a_token_of_an_issuer_that_envoy_verifies_is_nothing_by_itself() -> None:
    token = bearer(SSO_FORGE.user())
    desk = Desk(BY_PROXY)
    assert desk.user(authorization=token) is None
    assert desk.user(authorization=token, claims=claims_of("bob")) == "bob"
    # Nor is it a JWT-SVID where one header is for both.
    shared = Desk(dataclasses.replace(BY_PROXY, jwt_audience=AUDIENCE, jwt_alone=True))
    assert shared.user(authorization=token) is None
    assert shared.refusal(None, authorization=token) is Reason.PRINCIPAL_MISSING


def test_claims_beside_a_token_that_is_ours_to_verify_are_refused() -> None:
    reason = Desk(BY_PROXY).refusal(authorization=user_of(), claims=claims_of())
    assert reason is Reason.TOKEN_MISMATCH


def test_claims_make_no_workload() -> None:
    reason = Desk(BY_PROXY).refusal(None, claims=claims_of())
    assert reason is Reason.PRINCIPAL_MISSING


def test_a_jwt_svid_and_claims_are_a_workload_and_its_user() -> None:
    desk = Desk(dataclasses.replace(BY_PROXY, jwt_audience=AUDIENCE, jwt_alone=True))
    assert desk.user(None, authorization=svid_of(), claims=claims_of()) == "ada"


# What is told


def test_no_part_of_a_token_is_in_any_error() -> None:
    desk = Desk(SHARED)
    hush = {"hush": "hush", "jti": "hush"}
    for token in (
        Forge(IDP, "hush").user(**hush),
        IDP_FORGE.user(iss="hush", **hush),
        IDP_FORGE.user(aud="hush", **hush),
        IDP_FORGE.user(exp="hush", **hush),
        IDP_FORGE.token(IDP_FORGE.user_claims(), IDP_FORGE.header(hush="hush")),
        SPIRE.svid("spiffe://hush/hush", **hush),
        SPIRE.svid("hush", **hush),
        b"hush",
        IDP_FORGE.user(**hush) + b"hush",
    ):
        with pytest.raises(AuthzError) as caught:
            desk.identify(authorization=bearer(token))
        assert "hush" not in str(caught.value)
