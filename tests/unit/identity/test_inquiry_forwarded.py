"""Whole identities of workloads that a proxy in front speaks for."""

import dataclasses

import pytest
from callers import (
    CA,
    CAMERA_SVID,
    FACTORY,
    GATEWAY,
    GATEWAY_SVID,
    INTERMEDIATE,
    NESTED_SVID,
    NOW_S,
    OTHER_SVID,
    ROBOT,
    ROBOT_SVID,
    SPIRE,
    SUPPLIER,
    SUPPLIER_CA,
    Desk,
    bearer,
    issue,
    xfcc,
)
from checks import CAMERA, DEPLOYER

from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import Reason
from authz_server.identity.revocation import certificate_entry, token_entry
from authz_server.identity.rules import Rules, Xfcc
from authz_server.identity.spiffe_id import SpiffeId

AUDIENCE = frozenset({"authz"})
GATEWAYS = frozenset({SpiffeId.parse(GATEWAY)})
GARBAGE = b'By=;;URI="x",,'

PLAIN = Rules()
PROXY = Rules(xfcc=Xfcc.PROXY)
HOP = Rules(xfcc=Xfcc.HOP, hops=GATEWAYS)
HOP_AND_TOKENS = dataclasses.replace(HOP, jwt_audience=AUDIENCE)
HOP_BY_TOKENS = Rules(hops=GATEWAYS, jwt_audience=AUDIENCE)
WAYPOINT = Rules(verify_chain=False, require_certificate=False, xfcc=Xfcc.WAYPOINT)

END_S = CAMERA_SVID.certificate.not_valid_after_utc.timestamp()
TOKEN_END_S = int(NOW_S) + 300


def svid_of(spiffe_id: str = CAMERA, **changes: object) -> bytes:
    return bearer(SPIRE.svid(spiffe_id, exp=TOKEN_END_S, **changes))


# Behind a hop


def test_a_hop_calls_for_whom_its_xfcc_names() -> None:
    identity = Desk(HOP).identify(GATEWAY_SVID, xfcc=xfcc(CAMERA_SVID))
    assert str(identity.spiffe_id) == CAMERA
    assert str(identity.via) == GATEWAY
    assert identity.valid_until_s == END_S


def test_a_hop_calls_for_whom_its_jwt_svid_names() -> None:
    identity = Desk(HOP_BY_TOKENS).identify(GATEWAY_SVID, authorization=svid_of())
    assert str(identity.spiffe_id) == CAMERA
    assert str(identity.via) == GATEWAY
    assert TOKEN_END_S - 0.001 < identity.valid_until_s < TOKEN_END_S


def test_xfcc_and_jwt_svid_behind_a_hop_must_agree() -> None:
    desk = Desk(HOP_AND_TOKENS)
    described = xfcc(CAMERA_SVID)
    both = desk.identify(GATEWAY_SVID, xfcc=described, authorization=svid_of())
    assert str(both.spiffe_id) == CAMERA
    assert both.valid_until_s < TOKEN_END_S
    reason = desk.refusal(GATEWAY_SVID, xfcc=described, authorization=svid_of(DEPLOYER))
    assert reason is Reason.TOKEN_MISMATCH


def test_a_jwt_svid_does_not_stand_in_for_an_xfcc_that_is_missing() -> None:
    reason = Desk(HOP_AND_TOKENS).refusal(GATEWAY_SVID, authorization=svid_of())
    assert reason is Reason.FORWARDED_INVALID


@pytest.mark.parametrize("rules", [HOP, HOP_BY_TOKENS, HOP_AND_TOKENS])
def test_a_hop_that_does_not_say_for_whom_it_calls_is_refused(rules: Rules) -> None:
    assert Desk(rules).refusal(GATEWAY_SVID) is Reason.FORWARDED_INVALID


def test_a_hop_never_calls_for_itself_or_for_another_hop() -> None:
    own = bearer(SPIRE.svid(GATEWAY))
    for desk, header in (
        (Desk(HOP), {"xfcc": xfcc(GATEWAY_SVID)}),
        (Desk(HOP_BY_TOKENS), {"authorization": own}),
    ):
        assert desk.refusal(GATEWAY_SVID, **header) is Reason.FORWARDED_INVALID
    alone = Desk(dataclasses.replace(HOP_BY_TOKENS, jwt_alone=True))
    assert alone.refusal(None, authorization=own) is Reason.FORWARDED_INVALID


@pytest.mark.parametrize(
    "value",
    [
        GARBAGE,
        b"",
        xfcc(CAMERA_SVID) + b"," + xfcc(OTHER_SVID),
        xfcc(CAMERA_SVID, uri=DEPLOYER),
        xfcc(CAMERA_SVID, uri="-"),
        xfcc(CAMERA_SVID, URI=DEPLOYER),
    ],
)
def test_a_hop_whose_xfcc_is_not_one_clear_element_is_refused(value: bytes) -> None:
    assert Desk(HOP).refusal(GATEWAY_SVID, xfcc=value) is Reason.FORWARDED_INVALID


def test_an_xfcc_that_comes_twice_is_refused() -> None:
    headers = [("x-forwarded-client-cert", xfcc(CAMERA_SVID))] * 2
    reason = Desk(HOP).refusal(GATEWAY_SVID, headers=headers)
    assert reason is Reason.FORWARDED_INVALID


@pytest.mark.parametrize("value", [GARBAGE, b"", xfcc(GATEWAY_SVID), xfcc(ROBOT_SVID)])
def test_the_xfcc_of_a_peer_that_is_no_hop_is_ignored(value: bytes) -> None:
    identity = Desk(HOP).identify(CAMERA_SVID, xfcc=value)
    assert str(identity.spiffe_id) == CAMERA
    assert identity.via is None
    twice = [("x-forwarded-client-cert", value)] * 2
    assert Desk(HOP).name(CAMERA_SVID, headers=twice) == CAMERA


def test_xfcc_is_ignored_where_nobody_writes_it() -> None:
    assert Desk(PLAIN).name(CAMERA_SVID, xfcc=xfcc(ROBOT_SVID)) == CAMERA


def test_the_certificate_in_a_hops_xfcc_must_lead_to_its_own_bundle() -> None:
    desk = Desk(HOP)
    assert desk.name(GATEWAY_SVID, xfcc=xfcc(ROBOT_SVID)) == ROBOT
    forged = issue(SUPPLIER_CA, CAMERA)
    reason = desk.refusal(GATEWAY_SVID, xfcc=xfcc(forged))
    assert reason is Reason.CERTIFICATE_UNTRUSTED
    expired = issue(CA, CAMERA, -3600, -60)
    reason = desk.refusal(GATEWAY_SVID, xfcc=xfcc(expired))
    assert reason is Reason.CERTIFICATE_EXPIRED
    bare = xfcc(CAMERA_SVID, cert=False)
    assert desk.refusal(GATEWAY_SVID, xfcc=bare) is Reason.CERTIFICATE_MISSING


def test_the_chain_in_a_hops_xfcc_leads_to_the_bundle() -> None:
    desk = Desk(HOP)
    chain = xfcc(NESTED_SVID, chain=[INTERMEDIATE.certificate])
    assert desk.name(GATEWAY_SVID, xfcc=chain) == CAMERA
    reason = desk.refusal(GATEWAY_SVID, xfcc=xfcc(NESTED_SVID))
    assert reason is Reason.CERTIFICATE_UNTRUSTED


def test_who_is_behind_a_hop_must_be_of_the_policys_trust_domains() -> None:
    desk = Desk(HOP)
    desk.trust_domains = frozenset({FACTORY})
    reason = desk.refusal(GATEWAY_SVID, xfcc=xfcc(ROBOT_SVID))
    assert reason is Reason.TRUST_DOMAIN_UNKNOWN
    desk.trust_domains = frozenset({SUPPLIER})
    reason = desk.refusal(GATEWAY_SVID, xfcc=xfcc(ROBOT_SVID))
    assert reason is Reason.TRUST_DOMAIN_UNKNOWN


def test_what_holds_of_a_hop_bounds_what_holds_of_its_caller() -> None:
    gateway = issue(CA, GATEWAY, end_s=99)
    identity = Desk(HOP).identify(gateway, xfcc=xfcc(CAMERA_SVID))
    assert identity.valid_until_s == int(NOW_S) + 99


# Revocation


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (f"spiffe-id {GATEWAY}", Reason.PRINCIPAL_REVOKED),
        (f"spiffe-id {CAMERA}", Reason.PRINCIPAL_REVOKED),
        ("subtree spiffe://factory.example/ns/line1", Reason.PRINCIPAL_REVOKED),
        ("trust-domain factory.example", Reason.PRINCIPAL_REVOKED),
        (certificate_entry(GATEWAY_SVID.certificate), Reason.CERTIFICATE_REVOKED),
        (certificate_entry(CAMERA_SVID.certificate), Reason.CERTIFICATE_REVOKED),
        (token_entry("0b7c"), Reason.TOKEN_REVOKED),
    ],
)
def test_whatever_is_revoked_of_a_hop_or_its_caller_is_refused(
    entry: str, reason: Reason
) -> None:
    desk = Desk(HOP_AND_TOKENS)
    request = {"xfcc": xfcc(CAMERA_SVID), "authorization": svid_of(jti="0b7c")}
    assert desk.name(GATEWAY_SVID, **request) == CAMERA
    desk.revoked = entry
    assert desk.refusal(GATEWAY_SVID, **request) is reason


def test_what_is_revoked_of_others_does_not_matter() -> None:
    desk = Desk(HOP_AND_TOKENS)
    desk.revoked = "\n".join(
        (f"spiffe-id {DEPLOYER}", certificate_entry(OTHER_SVID.certificate), "jwt-id x")
    )
    request = {"xfcc": xfcc(CAMERA_SVID), "authorization": svid_of(jti="0b7c")}
    assert desk.name(GATEWAY_SVID, **request) == CAMERA


# The proxy's own word about its own peer


def test_the_proxy_adds_the_chain_to_what_envoy_reports() -> None:
    desk = Desk(PROXY)
    chain = xfcc(NESTED_SVID, chain=[INTERMEDIATE.certificate])
    assert desk.name(NESTED_SVID, xfcc=chain) == CAMERA
    assert desk.refusal(NESTED_SVID) is Reason.CERTIFICATE_UNTRUSTED
    # Also where Envoy does not report the certificate itself.
    assert desk.name(NESTED_SVID, certificate="", xfcc=chain) == CAMERA
    assert desk.name(CAMERA_SVID) == CAMERA
    bare = xfcc(CAMERA_SVID, cert=False)
    assert desk.name(CAMERA_SVID, xfcc=bare) == CAMERA


@pytest.mark.parametrize(
    "value",
    [
        xfcc(ROBOT_SVID),
        xfcc(OTHER_SVID),
        xfcc(OTHER_SVID, chain=[]),
        xfcc(CAMERA_SVID, uri=DEPLOYER),
        xfcc(CAMERA_SVID, cert=False, uri=DEPLOYER),
        xfcc(CAMERA_SVID, uri="-"),
        xfcc(CAMERA_SVID) + b"," + xfcc(CAMERA_SVID),
        GARBAGE,
        b"",
    ],
)
def test_the_proxy_can_say_nothing_else_of_its_peer(value: bytes) -> None:
    assert Desk(PROXY).refusal(xfcc=value) is Reason.FORWARDED_INVALID


def test_the_chain_that_the_proxy_adds_is_no_anchor() -> None:
    stranger = DevelopmentCa(FACTORY.name)
    svid = issue(stranger, CAMERA)
    reason = Desk(PROXY).refusal(svid, xfcc=xfcc(svid, chain=[stranger.certificate]))
    assert reason is Reason.CERTIFICATE_UNTRUSTED


def test_the_certificate_of_the_proxys_xfcc_is_judged_like_any_other() -> None:
    desk = Desk(PROXY)
    described = xfcc(CAMERA_SVID)
    assert desk.name(certificate="", xfcc=described) == CAMERA
    desk.revoked = certificate_entry(CAMERA_SVID.certificate)
    reason = desk.refusal(certificate="", xfcc=described)
    assert reason is Reason.CERTIFICATE_REVOKED


def test_without_a_certificate_from_anywhere_the_name_is_not_believed() -> None:
    desk = Desk(PROXY)
    assert desk.refusal(certificate="") is Reason.CERTIFICATE_MISSING
    bare = xfcc(CAMERA_SVID, cert=False)
    assert desk.refusal(certificate="", xfcc=bare) is Reason.CERTIFICATE_MISSING


def test_xfcc_of_the_proxy_makes_no_peer_where_there_is_none() -> None:
    reason = Desk(PROXY).refusal(None, xfcc=xfcc(CAMERA_SVID))
    assert reason is Reason.PRINCIPAL_MISSING


# A waypoint, which names no principal


def test_a_waypoint_names_its_peer_in_xfcc() -> None:
    value = f"By=spiffe://factory.example/ns/w;URI={CAMERA}".encode()
    identity = Desk(WAYPOINT).identify(None, xfcc=value)
    assert str(identity.spiffe_id) == CAMERA
    assert identity.via is None


@pytest.mark.parametrize(
    "uri",
    [
        "-",
        "",
        "spiffe://factory.example",
        f"{CAMERA};URI={DEPLOYER}",
        f"{CAMERA},URI=x",
    ],
)
def test_a_waypoint_that_names_nobody_clearly_is_refused(uri: str) -> None:
    value = f"By=spiffe://factory.example/ns/w;URI={uri}".encode()
    assert Desk(WAYPOINT).refusal(None, xfcc=value) is Reason.FORWARDED_INVALID


def test_a_waypoint_that_says_nothing_is_refused() -> None:
    assert Desk(WAYPOINT).refusal(None) is Reason.FORWARDED_INVALID


def test_a_name_from_a_waypoint_obeys_policy_and_revocations() -> None:
    desk = Desk(WAYPOINT)
    stranger = b"By=spiffe://factory.example/ns/w;URI=spiffe://x.example/a"
    assert desk.refusal(None, xfcc=stranger) is Reason.TRUST_DOMAIN_UNKNOWN
    desk.revoked = f"spiffe-id {CAMERA}"
    value = f"By=spiffe://factory.example/ns/w;URI={CAMERA}".encode()
    assert desk.refusal(None, xfcc=value) is Reason.PRINCIPAL_REVOKED


def test_a_jwt_svid_beside_a_waypoints_name_must_agree() -> None:
    desk = Desk(dataclasses.replace(WAYPOINT, jwt_audience=AUDIENCE, jwt_alone=True))
    value = f"By=spiffe://factory.example/ns/w;URI={CAMERA}".encode()
    assert desk.name(None, xfcc=value, authorization=svid_of()) == CAMERA
    reason = desk.refusal(None, xfcc=value, authorization=svid_of(DEPLOYER))
    assert reason is Reason.TOKEN_MISMATCH
    nobody = b"By=spiffe://factory.example/ns/w;URI=-"
    reason = desk.refusal(None, xfcc=nobody, authorization=svid_of())
    assert reason is Reason.FORWARDED_INVALID


def test_a_peer_that_has_a_name_needs_no_waypoint() -> None:
    desk = Desk(WAYPOINT)
    value = f"By=spiffe://factory.example/ns/w;URI={DEPLOYER}".encode()
    assert desk.name(CAMERA_SVID, xfcc=value) == CAMERA
