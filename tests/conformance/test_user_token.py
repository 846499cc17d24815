import time
from typing import Any

import pytest
from checks import CAMERA
from token_forge import Forge

from authz_server.errors import Reason, TokenError
from authz_server.identity.jws import parse_token
from authz_server.identity.user_token import User, issuer_of, read_claims, read_user

IDP = "https://idp.factory.example"
FORGE = Forge(IDP)
AUDIENCE = frozenset({"authz"})


def read(text: bytes, claims: tuple[str, ...] = (), issuer: str = IDP) -> User:
    return read_user(parse_token(text), FORGE.keys, issuer, AUDIENCE, claims)


def refusal(text: bytes) -> Reason:
    with pytest.raises(TokenError) as caught:
        read(text, ("groups",))
    return caught.value.reason


def test_a_user_is_who_the_issuer_says_until_the_token_ends() -> None:
    now_s = int(time.time())
    token = FORGE.user("ada", exp=now_s + 100, nbf=now_s, jti="0b7c", groups=["ml"])
    user = read(token, ("groups", "email"))
    assert user.issuer == IDP
    assert user.subject == "ada"
    assert user.claims == {"groups": ["ml"]}
    assert user.token_id == "0b7c"
    assert user.valid_from_s == now_s
    assert now_s + 99.999 < user.valid_until_s < now_s + 100


def test_only_the_listed_claims_are_offered() -> None:
    claims = {"groups": ["ml"], "email": "ada@example.com", "none": None}
    assert read(FORGE.user(**claims)).claims == {}
    assert read(FORGE.user(**claims), ("email", "none", "x")).claims == {
        "email": "ada@example.com",
        "none": None,
    }


def test_what_a_user_claims_is_not_in_the_repr() -> None:
    assert "hush" not in repr(read(FORGE.user(groups=["hush"]), ("groups",)))


@pytest.mark.parametrize("kind", [..., "JWT", "JOSE", "at+jwt"], ids=repr)
def test_id_tokens_and_access_tokens_are_accepted(kind: object) -> None:
    token = FORGE.token(FORGE.user_claims(), FORGE.header(typ=kind))
    assert read(token).subject == "ada"


def test_a_token_that_the_issuer_did_not_sign_is_refused() -> None:
    other = Forge(IDP)
    assert refusal(other.user()) is Reason.TOKEN_UNTRUSTED
    assert refusal(Forge(IDP, "key-2").user()) is Reason.TOKEN_UNTRUSTED


@pytest.mark.parametrize(
    "issuer",
    [
        *(..., None, "", 1, [IDP], {}),
        *(IDP + "/", IDP.upper(), IDP + " ", IDP + "\n", "https://login.example"),
    ],
    ids=repr,
)
def test_a_token_of_another_issuer_is_refused(issuer: object) -> None:
    assert refusal(FORGE.user(iss=issuer)) is Reason.TOKEN_UNTRUSTED


@pytest.mark.parametrize(
    "subject", [..., None, "", 1, True, [], ["ada"], {}, "a" * 256], ids=repr
)
def test_a_subject_that_is_no_short_text_is_refused(subject: object) -> None:
    assert refusal(FORGE.user(sub=subject)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("subject", ["a", "a" * 255, "é", "auth0|123", "a\nb"])
def test_a_subject_may_be_any_other_text(subject: str) -> None:
    assert read(FORGE.user(subject)).subject == subject


@pytest.mark.parametrize("subject", [CAMERA, "spiffe://", "spiffe://x\n"])
def test_a_workload_is_no_user_whoever_signed_it(subject: str) -> None:
    assert refusal(FORGE.user(subject)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "other"}, Reason.TOKEN_AUDIENCE),
        ({"aud": ...}, Reason.TOKEN_MALFORMED),
        ({"aud": []}, Reason.TOKEN_MALFORMED),
        ({"exp": ...}, Reason.TOKEN_MALFORMED),
        ({"exp": "1"}, Reason.TOKEN_MALFORMED),
        ({"nbf": True}, Reason.TOKEN_MALFORMED),
        ({"iat": "x"}, Reason.TOKEN_MALFORMED),
        ({"jti": 1}, Reason.TOKEN_MALFORMED),
    ],
)
def test_the_rules_of_every_token_hold(claims: dict[str, Any], reason: Reason) -> None:
    assert refusal(FORGE.user(**claims)) is reason


def test_claims_that_somebody_else_verified_obey_the_same_rules() -> None:
    claims = FORGE.user_claims(groups=["ml"])
    user = read_claims(claims, IDP, AUDIENCE, ("groups",))
    assert user == read(FORGE.token(claims), ("groups",))
    with pytest.raises(TokenError):
        read_claims({**claims, "iss": "x"}, IDP, AUDIENCE, ())
    with pytest.raises(TokenError):
        read_claims({**claims, "aud": "x"}, IDP, AUDIENCE, ())


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [(IDP, IDP), ("", ""), (..., None), (None, None), (1, None), ([IDP], None)],
    ids=repr,
)
def test_who_claims_to_have_issued_a_token_is_told_if_it_is_text(
    issuer: object, expected: str | None
) -> None:
    assert issuer_of(parse_token(FORGE.user(iss=issuer))) == expected


@pytest.mark.parametrize(
    "claims",
    [{"sub": 7, "x": "hush"}, {"iss": "hush"}, {"aud": "hush"}, {"exp": "hush"}],
)
def test_no_claim_is_in_the_error_that_refuses_it(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenError) as caught:
        read(FORGE.user(**claims))
    assert "hush" not in str(caught.value)
