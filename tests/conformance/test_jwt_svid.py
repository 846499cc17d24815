"""JWT-SVID, rule by rule; among them what go-spiffe's own tests accept and refuse."""

import time
from typing import Any

import pytest
from checks import CAMERA
from token_forge import ALGORITHMS, Forge, encode, key_of_kind, kind_for

from authz_server.errors import AuthzError, BundleError, Reason, TokenError
from authz_server.identity.jwk import KeySet, parse_jwt_authorities
from authz_server.identity.jws import check_dates, parse_token
from authz_server.identity.jwt_svid import JwtSvid, read_jwt_svid
from authz_server.identity.spiffe_id import TrustDomain

FACTORY = Forge("factory.example", "authority1", "ES384", key_of_kind("P-384"))
SECOND = Forge("factory.example", "authority2", "RS256", key_of_kind("RSA-2048"))
SUPPLIER = Forge("supplier.example", "authority1", "ES384", key_of_kind("P-384", 2))
AUDIENCE = frozenset({"authz", "spiffe://factory.example/authz"})
NOW_S = time.time()


def authorities(*forges: Forge) -> KeySet:
    return parse_jwt_authorities([forge.jwk(use="jwt-svid") for forge in forges])


BUNDLES = {
    TrustDomain("factory.example"): authorities(FACTORY, SECOND),
    TrustDomain("supplier.example"): authorities(SUPPLIER),
}


def keys_of(trust_domain: TrustDomain) -> KeySet:
    if trust_domain not in BUNDLES:
        raise BundleError("no bundle")
    return BUNDLES[trust_domain]


def read(text: bytes, audience: frozenset[str] = AUDIENCE) -> JwtSvid:
    svid = read_jwt_svid(parse_token(text), keys_of, audience)
    check_dates(svid.valid_from_s, svid.valid_until_s, NOW_S, max_lifetime_s=3600.0)
    return svid


def refusal(text: bytes) -> Reason:
    with pytest.raises(AuthzError) as caught:
        read(text)
    return caught.value.reason


def changed(**claims: object) -> bytes:
    return FACTORY.svid(CAMERA, **claims)


def with_header(**changes: object) -> bytes:
    return FACTORY.token(FACTORY.svid_claims(CAMERA), FACTORY.header(**changes))


def test_a_jwt_svid_proves_its_workload_until_its_end() -> None:
    end_s = int(NOW_S) + 200
    svid = read(changed(exp=end_s, nbf=int(NOW_S) - 5, jti="0b7c"))
    assert str(svid.spiffe_id) == CAMERA
    assert svid.valid_from_s == int(NOW_S) - 5
    assert end_s - 0.001 < svid.valid_until_s < end_s
    assert svid.token_id == "0b7c"


# What go-spiffe's svid/jwtsvid/svid_test.go accepts and refuses

GO_SPIFFE: dict[str, tuple[bytes, Reason | None]] = {
    "success": (changed(iss="issuer", aud=["authz"]), None),
    "success with an RSA key": (SECOND.svid(CAMERA, iss="issuer"), None),
    "malformed": (b"invalid token", Reason.TOKEN_MALFORMED),
    "unsupported algorithm": (
        FACTORY.token(
            {"sub": "1234567890"}, {"alg": "HS256", "typ": "JWT"}, key=b"secret"
        ),
        Reason.TOKEN_UNTRUSTED,
    ),
    "missing subject": (changed(sub=...), Reason.TOKEN_MALFORMED),
    "missing expiration claim": (changed(exp=...), Reason.TOKEN_MALFORMED),
    "expired": (changed(exp=int(NOW_S) - 60), Reason.TOKEN_EXPIRED),
    "unexpected audience": (changed(aud=["another"]), Reason.TOKEN_AUDIENCE),
    "invalid subject claim": (changed(sub="invalid subject"), Reason.TOKEN_MALFORMED),
    "missing key": (with_header(kid=...), Reason.TOKEN_MALFORMED),
    "no bundle for trust domain": (
        FACTORY.svid("spiffe://another.domain/host"),
        Reason.TRUST_BUNDLE_UNAVAILABLE,
    ),
    "no bundle for authority": (with_header(kid="noKey"), Reason.TOKEN_UNTRUSTED),
    "mismatched JWT authority": (
        SECOND.token(SECOND.svid_claims(CAMERA), SECOND.header(kid="authority1")),
        Reason.TOKEN_UNTRUSTED,
    ),
    "invalid typ": (with_header(typ="invalid"), Reason.TOKEN_MALFORMED),
}


@pytest.mark.parametrize(
    ("text", "reason"), GO_SPIFFE.values(), ids=list(GO_SPIFFE.keys())
)
def test_what_go_spiffe_accepts_is_accepted_and_what_it_refuses_refused(
    text: bytes, reason: Reason | None
) -> None:
    if reason is None:
        assert str(read(text).spiffe_id) == CAMERA
    else:
        assert refusal(text) is reason


# Algorithm, type and header


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_of_the_nine_algorithms_is_accepted(algorithm: str) -> None:
    key = key_of_kind(kind_for(algorithm))
    forge = Forge("factory.example", "k", algorithm, key)
    keys = authorities(forge)
    svid = read_jwt_svid(
        parse_token(forge.svid(CAMERA)), lambda _: keys, frozenset({"authz"})
    )
    assert str(svid.spiffe_id) == CAMERA


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "HS512", "EdDSA"])
def test_any_other_algorithm_is_refused(algorithm: str) -> None:
    token = FACTORY.token(
        FACTORY.svid_claims(CAMERA), FACTORY.header(alg=algorithm), signature=b"x"
    )
    assert refusal(token) is Reason.TOKEN_UNTRUSTED


@pytest.mark.parametrize("kind", [..., "JWT", "JOSE"], ids=repr)
def test_a_type_may_be_left_out_or_jwt_or_jose(kind: object) -> None:
    assert str(read(with_header(typ=kind)).spiffe_id) == CAMERA


@pytest.mark.parametrize(
    "kind",
    ["", "jwt", "jose", "at+jwt", "wit-svid", "wit+jwt", "JWT\n", None, ["JWT"]],
    ids=repr,
)
def test_any_other_type_is_refused(kind: object) -> None:
    assert refusal(with_header(typ=kind)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "name", ["jku", "x5u", "jwk", "x5c", "x5t", "crit", "b64", "cty", "zip"]
)
def test_any_other_header_parameter_is_refused(name: str) -> None:
    assert refusal(with_header(**{name: "x"})) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("key_id", [..., "", None, 1], ids=repr)
def test_a_token_that_names_no_key_is_refused(key_id: object) -> None:
    assert refusal(with_header(kid=key_id)) is Reason.TOKEN_MALFORMED


def test_a_token_that_names_an_unknown_key_or_anothers_is_refused() -> None:
    assert refusal(with_header(kid="authority3")) is Reason.TOKEN_UNTRUSTED
    assert refusal(with_header(kid="authority2")) is Reason.TOKEN_UNTRUSTED


# Subject


@pytest.mark.parametrize(
    "subject",
    [
        *(..., None, "", 1, True, {}, [CAMERA], {"id": CAMERA}),
        CAMERA + "\n",
        "\n" + CAMERA,
        CAMERA + " ",
        CAMERA + "/",
        CAMERA + "\x00",
        CAMERA + "?x",
        CAMERA + "#x",
        CAMERA.replace("camera", "%63amera"),
        CAMERA.replace("/camera", "/../camera"),
        CAMERA.replace("camera", "\N{KELVIN SIGN}amera"),
        CAMERA.replace("factory", "\N{KELVIN SIGN}factory"),
        CAMERA.replace("factory", "FACTORY"),
        CAMERA.replace("spiffe", "SPIFFE"),
        CAMERA.replace("spiffe://", "https://"),
        CAMERA.replace("spiffe://", "spiffe:"),
        CAMERA.replace("factory.example", "factory.example:443"),
        CAMERA.replace("factory.example", "u@factory.example"),
        "spiffe://factory.example",
        "spiffe://factory.example/",
        "spiffe:///ns/line1",
        CAMERA + "/" + "a" * 2048,
        "ada",
    ],
    ids=lambda value: ascii(value)[:70],
)
def test_a_subject_that_is_no_workloads_id_is_refused(subject: object) -> None:
    assert refusal(changed(sub=subject)) is Reason.TOKEN_MALFORMED


def test_a_subject_is_told_apart_by_case() -> None:
    other = CAMERA.replace("camera", "Camera")
    assert str(read(changed(sub=other)).spiffe_id) == other


# Trust domain


def test_each_trust_domain_signs_for_its_own_workloads() -> None:
    robot = "spiffe://supplier.example/ns/parts/sa/robot"
    assert str(read(SUPPLIER.svid(robot)).spiffe_id) == robot


def test_the_key_of_another_trust_domain_cannot_sign_for_ours() -> None:
    # Both have a key of this ID.
    assert refusal(SUPPLIER.svid(CAMERA)) is Reason.TOKEN_UNTRUSTED


@pytest.mark.parametrize(
    "name", ["factory.example.evil", "example", "factory.exampl", "factoryxexample"]
)
def test_a_trust_domain_is_its_whole_name(name: str) -> None:
    reason = refusal(FACTORY.svid(f"spiffe://{name}/ns/line1/sa/camera"))
    assert reason is Reason.TRUST_BUNDLE_UNAVAILABLE


def test_the_issuer_chooses_no_keys() -> None:
    token = FACTORY.svid(CAMERA, iss="spiffe://supplier.example")
    assert str(read(token).spiffe_id) == CAMERA
    assert refusal(SUPPLIER.svid(CAMERA, iss="factory.example")) is (
        Reason.TOKEN_UNTRUSTED
    )


def test_a_trust_domain_without_keys_believes_nothing() -> None:
    with pytest.raises(TokenError) as caught:
        read_jwt_svid(parse_token(changed()), lambda _: {}, AUDIENCE)
    assert caught.value.reason is Reason.TOKEN_UNTRUSTED


def test_the_signature_is_checked_before_audience_and_dates() -> None:
    token = SUPPLIER.svid(CAMERA, aud="another", exp=1)
    assert refusal(token) is Reason.TOKEN_UNTRUSTED


# Audience


@pytest.mark.parametrize("audience", ["authz", ["authz"], ["other", "authz"]])
def test_a_token_for_us_among_others_is_accepted(audience: object) -> None:
    assert str(read(changed(aud=audience)).spiffe_id) == CAMERA


@pytest.mark.parametrize(
    "audience", [..., None, "", [], [""], 1, {}, ["authz", ""]], ids=repr
)
def test_a_token_for_nobody_is_refused(audience: object) -> None:
    assert refusal(changed(aud=audience)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("audience", ["other", ["other", "another"], "authz/", "AUTHZ"])
def test_a_token_for_somebody_else_is_refused(audience: object) -> None:
    assert refusal(changed(aud=audience)) is Reason.TOKEN_AUDIENCE


@pytest.mark.parametrize("ours", [frozenset(), frozenset({""})], ids=["none", "empty"])
def test_an_expected_audience_that_is_empty_accepts_nothing(
    ours: frozenset[str],
) -> None:
    for audience in ("authz", [""], ""):
        with pytest.raises(ValueError, match="must be named"):
            read(changed(aud=audience), ours)


# Dates


@pytest.mark.parametrize(
    "end",
    [
        *(..., None, True, False, "", str(int(NOW_S) + 300), [], {}, -1, 1e20, 1e300),
        int(NOW_S) * 1000,  # milliseconds
    ],
    ids=repr,
)
def test_an_end_that_is_missing_or_no_date_is_refused(end: object) -> None:
    assert refusal(changed(exp=end)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_an_end_that_is_no_json_is_refused(number: str) -> None:
    payload = f'{{"sub": "{CAMERA}", "aud": "authz", "exp": {number}}}'
    assert refusal(FACTORY.token(payload.encode())) is Reason.TOKEN_MALFORMED


def test_a_token_that_has_ended_is_refused() -> None:
    assert refusal(changed(exp=int(NOW_S))) is Reason.TOKEN_EXPIRED
    assert refusal(changed(exp=0)) is Reason.TOKEN_EXPIRED


def test_a_token_that_is_good_for_too_long_is_refused() -> None:
    assert refusal(changed(exp=int(NOW_S) + 3700)) is Reason.TOKEN_MALFORMED


def test_a_token_whose_time_has_not_come_is_refused() -> None:
    reason = refusal(changed(nbf=int(NOW_S) + 120, exp=int(NOW_S) + 300))
    assert reason is Reason.TOKEN_NOT_YET_VALID


def test_the_time_of_issue_decides_nothing() -> None:
    read(changed(iat=int(NOW_S) + 1000))
    read(changed(iat=...))
    assert refusal(changed(iat="yesterday")) is Reason.TOKEN_MALFORMED


# Encoding


def _mangled() -> dict[str, bytes]:
    token = changed()
    header, payload, signature = token.split(b".")
    duplicate = f'{{"sub": "{CAMERA}", "sub": "{CAMERA}", "aud": "authz", "exp": 1}}'
    return {
        "a line at the end": token + b"\n",
        "a space before it": b" " + token,
        "padding": token + b"==",
        "padding of the payload": b".".join((header, payload + b"=", signature)),
        "two parts": header + b"." + payload,
        "four parts": token + b"." + signature,
        "no signature": header + b"." + payload + b".",
        "twice": token + b"," + token,
        "ordinary Base64": token.replace(b"-", b"+").replace(b"_", b"/") + b"+",
        "duplicate claims": FACTORY.token(duplicate.encode()),
        "a payload that is a list": FACTORY.token(b"[]"),
        "a payload in UTF-16": FACTORY.token('{"sub": "x"}'.encode("utf-16")),
        "huge": token + b"A" * 20_000,
        "JSON serialization": b'{"payload":"' + encode(b"{}") + b'","signatures":[]}',
    }


@pytest.mark.parametrize("text", _mangled().values(), ids=list(_mangled().keys()))
def test_any_other_spelling_is_refused(text: bytes) -> None:
    assert refusal(text) is Reason.TOKEN_MALFORMED


# What is told


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "hush"},
        {"sub": ["hush"]},
        {"aud": "hush"},
        {"aud": {"hush": 1}},
        {"exp": "hush"},
        {"nbf": "hush"},
        {"jti": ["hush"]},
    ],
)
def test_no_claim_is_in_the_error_that_refuses_it(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenError) as caught:
        read(changed(**claims))
    assert "hush" not in str(caught.value)


def test_an_id_of_the_token_that_is_no_text_is_refused() -> None:
    assert refusal(changed(jti=7)) is Reason.TOKEN_MALFORMED
