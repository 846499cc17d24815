"""The form of tokens, and the claims that every token has."""

import math
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from token_forge import (
    Forge,
    encode,
    jwk,
    key_of_kind,
    key_set,
    sign,
)

from authz_server.errors import Reason, TokenError
from authz_server.identity.jwk import KeySet, parse_key_set
from authz_server.identity.jws import (
    LEEWAY_S,
    MAX_TOKEN_BYTES,
    check_audience,
    check_dates,
    check_signature,
    parse_token,
    read_token_id,
    read_window,
)

FORGE = Forge("https://idp.factory.example")
CLAIMS = {"sub": "ada"}
TOKEN = FORGE.token(CLAIMS)
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(b".")
KINDS = ("P-256", "P-384", "P-521", "RSA-2048")


def refusal(text: bytes, reason: Reason = Reason.TOKEN_MALFORMED) -> str:
    with pytest.raises(TokenError) as caught:
        parse_token(text)
    assert caught.value.reason is reason
    return str(caught.value)


def verify(text: bytes, keys: KeySet = FORGE.keys) -> None:
    check_signature(parse_token(text), keys)


def distrust(text: bytes, keys: KeySet = FORGE.keys) -> str:
    with pytest.raises(TokenError) as caught:
        verify(text, keys)
    assert caught.value.reason is Reason.TOKEN_UNTRUSTED
    return str(caught.value)


def keys_of(kind: str, **changes: object) -> KeySet:
    return parse_key_set(key_set(jwk(key_of_kind(kind), **changes)))


# The form (RFC 7515 §7.1, JWT-SVID §2)


def test_a_token_is_read_as_what_it_says() -> None:
    token = parse_token(TOKEN)
    assert token.algorithm == "ES256"
    assert token.key_id == "key-1"
    assert token.type == "JWT"
    assert token.claims == CLAIMS
    assert token.signing_input == HEADER + b"." + PAYLOAD
    assert encode(token.signature) == SIGNATURE


def test_nothing_of_a_token_is_in_its_repr_but_the_header() -> None:
    text = repr(parse_token(FORGE.token({"sub": "ada", "secret": "hush"})))
    assert "ada" not in text
    assert "hush" not in text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b".",
        b"..",
        HEADER,
        HEADER + b"." + PAYLOAD,
        HEADER + b"." + PAYLOAD + b".",
        b"." + PAYLOAD + b"." + SIGNATURE,
        HEADER + b".." + SIGNATURE,
        TOKEN + b".",
        TOKEN + b"." + SIGNATURE,
        b"." + TOKEN,
        b".".join((HEADER, b"", b"", b"", SIGNATURE)),  # RFC 7516: encrypted
    ],
)
def test_a_token_of_other_than_three_parts_is_refused(text: bytes) -> None:
    assert "three parts" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        TOKEN + b"\n",
        TOKEN + b"\r\n",
        TOKEN + b" ",
        TOKEN + b"\0",
        b" " + TOKEN,
        b"\n" + TOKEN,
        TOKEN + b"==",
        HEADER + b"=." + PAYLOAD + b"." + SIGNATURE,
        HEADER + b"." + PAYLOAD + b"==." + SIGNATURE,
        HEADER + b"." + PAYLOAD + b"." + SIGNATURE.replace(b"_", b"/") + b"+A",
        TOKEN + b",Bearer",
        b"\xef\xbb\xbf" + TOKEN,
        b'"' + TOKEN + b'"',
    ],
)
def test_a_token_with_padding_or_any_other_byte_is_refused(text: bytes) -> None:
    assert "not base64url" in refusal(text)


def test_a_second_spelling_of_the_last_digit_is_refused() -> None:
    # 64 bytes leave four bits in the last of 86 digits, which stand for nothing.
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = digits.index(SIGNATURE[-1:])
    verify(TOKEN)
    for other in range(last + 1, last + 16):
        text = TOKEN[:-1] + digits[other : other + 1]
        assert "signature is not base64url" in refusal(text)


def test_two_tokens_joined_by_a_comma_are_refused() -> None:
    refusal(TOKEN + b"," + TOKEN)
    refusal(TOKEN + b",Bearer " + TOKEN)


def test_a_token_may_be_as_long_as_the_limit_and_no_longer() -> None:
    def padded(count: int) -> bytes:
        return FORGE.token(b'{"a":"' + b"x" * count + b'"}')

    base = len(padded(0))
    count = (MAX_TOKEN_BYTES - base) * 3 // 4
    while len(padded(count)) <= MAX_TOKEN_BYTES:
        count += 1
    verify(padded(count - 1))
    assert "too long" in refusal(padded(count))
    assert "too long" in refusal(b"a" * 10_000_000)


@pytest.mark.parametrize(
    "document",
    [
        *(b"x", b"[]", b"null", b'"JWT"', b"1", b"\xff", b"{} {}"),
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"\xef\xbb\xbf{}",
        rb'{"a": "\ud800"}',
        b'{"a":' * 2000,
    ],
)
def test_a_header_or_payload_that_is_no_strict_json_object_is_refused(
    document: bytes,
) -> None:
    assert "header is no strict JSON" in refusal(FORGE.token(CLAIMS, document))
    assert "payload is no strict JSON" in refusal(FORGE.token(document))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub": "ada", "sub": "bob"}',
        b'{"exp": 1, "exp": 9999999999}',
        rb'{"aud": "authz", "\u0061ud": "other"}',
        b'{"a": {"b": 1, "b": 1}}',
    ],
)
def test_duplicate_claims_are_refused(payload: bytes) -> None:
    assert "payload is no strict JSON" in refusal(FORGE.token(payload))


def test_duplicate_header_parameters_are_refused() -> None:
    header = b'{"alg": "none", "alg": "ES256", "kid": "key-1"}'
    assert "header is no strict JSON" in refusal(FORGE.token(CLAIMS, header))


def test_no_part_of_a_token_is_in_the_error_that_refuses_it() -> None:
    token = FORGE.token(b'{"sub": "hush", "sub": "hush"}', FORGE.header(kid="quiet"))
    message = refusal(token)
    assert "hush" not in message
    assert "quiet" not in message


# The header


@pytest.mark.parametrize(
    "algorithm",
    [
        *("none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "EdDSA"),
        *("Ed25519", "ES256K", "es256", "RS1", "RS256 ", "RSA-OAEP", "A256GCM", "dir"),
        *(None, 1, True, ["ES256"], {"ES256": 1}),
    ],
    ids=repr,
)
def test_an_algorithm_that_is_none_of_the_nine_is_refused(algorithm: object) -> None:
    token = FORGE.token(CLAIMS, FORGE.header(alg=algorithm), signature=b"x")
    assert "alg" in refusal(token, Reason.TOKEN_UNTRUSTED)


def test_a_token_without_an_algorithm_is_refused() -> None:
    token = FORGE.token(CLAIMS, FORGE.header(alg=...))
    assert "alg" in refusal(token, Reason.TOKEN_UNTRUSTED)


def test_an_unsigned_token_is_refused() -> None:
    header = FORGE.header(alg="none")
    refusal(FORGE.token(CLAIMS, header, signature=b""))
    refusal(FORGE.token(CLAIMS, header), Reason.TOKEN_UNTRUSTED)


def test_the_algorithm_is_judged_before_anything_else() -> None:
    header = FORGE.header(alg="none", crit=["x"], typ=1, kid=...)
    token = FORGE.token(b"no JSON", header, signature=b"x")
    assert "alg" in refusal(token, Reason.TOKEN_UNTRUSTED)


@pytest.mark.parametrize("form", ["PEM", "DER", "modulus"])
def test_a_public_key_is_no_shared_secret(form: str) -> None:
    key = key_of_kind("RSA-2048")
    public = key.public_key()
    secret = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "modulus": jwk(key)["n"].encode(),
    }[form]
    header = FORGE.header(alg="HS256")
    refusal(FORGE.token(CLAIMS, header, key=secret), Reason.TOKEN_UNTRUSTED)
    # Nor if the header names what the key is for.
    signature = sign(secret, "HS256", TOKEN)
    token = FORGE.token(CLAIMS, FORGE.header(alg="RS256"), signature=signature)
    distrust(token, keys_of("RSA-2048"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://evil.example/keys"),
        ("x5u", "https://evil.example/chain.pem"),
        ("jwk", jwk(key_of_kind("P-256", 2))),
        ("x5c", ["MIIB"]),
        ("x5t", "AAAA"),
        ("x5t#S256", "AAAA"),
        ("crit", ["exp"]),
        ("crit", []),
        ("b64", False),
        ("b64", True),
        ("zip", "DEF"),
        ("enc", "A256GCM"),
        ("cty", "JWT"),
        ("iss", "x"),
        ("Alg", "none"),
        ("ALG", "none"),
        ("", ""),
        ("nonce", None),
    ],
)
def test_any_other_header_parameter_is_refused(name: str, value: object) -> None:
    token = FORGE.token(CLAIMS, FORGE.header(**{name: value}))
    assert "beside alg, kid and typ" in refusal(token)


@pytest.mark.parametrize("key_id", [..., "", None, 1, True, ["key-1"], {}], ids=repr)
def test_a_token_that_names_no_key_is_refused(key_id: object) -> None:
    assert "kid" in refusal(FORGE.token(CLAIMS, FORGE.header(kid=key_id)))


@pytest.mark.parametrize("kind", ["JWT", "JOSE", "at+jwt"])
def test_a_type_that_a_token_of_ours_may_have_is_read(kind: str) -> None:
    token = FORGE.token(CLAIMS, FORGE.header(typ=kind))
    assert parse_token(token).type == kind


def test_the_type_may_be_left_out() -> None:
    assert parse_token(FORGE.token(CLAIMS, FORGE.header(typ=...))).type == ""


@pytest.mark.parametrize(
    "kind",
    [
        *("", "jwt", "Jwt", "JWT ", "AT+JWT", "wit-svid", "wit+jwt", "secevent+jwt"),
        *("dpop+jwt", "logout+jwt", "JOSE+JSON", None, 1, False, ["JWT"], {}),
    ],
    ids=repr,
)
def test_any_other_type_is_refused(kind: object) -> None:
    assert "typ" in refusal(FORGE.token(CLAIMS, FORGE.header(typ=kind)))


# Dates (RFC 7519 §4.1.4 to §4.1.6)

NOW_S = float(int(time.time()))


def window(**claims: object) -> tuple[float, float]:
    return read_window({"exp": NOW_S + 300, **claims})


def judge(now_s: float = NOW_S, **claims: object) -> Reason | None:
    try:
        check_dates(*window(**claims), now_s, max_lifetime_s=3600.0)
    except TokenError as error:
        return error.reason
    return None


def test_a_token_without_an_end_is_refused() -> None:
    with pytest.raises(TokenError, match="no end"):
        read_window({})


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "1", str(2**31), True, False, [], [1], {}, -1, -0.5),
        *(1e20, 10**30, 253_402_300_800, math.inf, -math.inf, math.nan),
    ],
    ids=repr,
)
def test_a_date_that_is_no_number_that_could_be_one_is_refused(
    name: str, value: object
) -> None:
    with pytest.raises(TokenError, match=f"token's {name} is no date") as caught:
        window(**{name: value})
    assert caught.value.reason is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_an_end_that_is_no_json_number_is_refused(text: str) -> None:
    refusal(FORGE.token(b'{"exp": %s}' % text.encode()))


def test_a_date_may_be_a_fraction() -> None:
    assert window(nbf=NOW_S + 0.5)[0] == NOW_S + 0.5


def test_a_token_without_a_beginning_was_always_good() -> None:
    assert window()[0] == -math.inf


def test_a_token_is_good_until_its_end_and_not_at_it() -> None:
    end_s = NOW_S + 300
    assert judge(end_s - 0.001) is None
    assert judge(end_s) is Reason.TOKEN_EXPIRED
    assert judge(end_s + 0.001) is Reason.TOKEN_EXPIRED
    assert NOW_S + 299.999 < window()[1] < end_s


def test_an_end_gets_no_leeway_and_a_beginning_does() -> None:
    assert judge(exp=NOW_S - 1) is Reason.TOKEN_EXPIRED
    assert judge(nbf=NOW_S + LEEWAY_S) is None
    assert judge(nbf=NOW_S + LEEWAY_S + 1) is Reason.TOKEN_NOT_YET_VALID


def test_the_time_of_issue_decides_nothing() -> None:
    assert judge(iat=NOW_S + 1000) is None
    assert judge(iat=0) is None


def test_a_token_that_is_good_for_too_long_is_refused() -> None:
    assert judge(exp=NOW_S + 3600) is None
    assert judge(exp=NOW_S + 3601) is Reason.TOKEN_MALFORMED


def test_a_token_that_ends_before_it_begins_is_never_good() -> None:
    claims = {"nbf": NOW_S + 200, "exp": NOW_S + 100}
    for now_s in (NOW_S, NOW_S + 100, NOW_S + 150, NOW_S + 200):
        assert judge(now_s, **claims) is not None


# Audience (RFC 7519 §4.1.3, JWT-SVID §3.2)

OURS = frozenset({"authz", "spiffe://factory.example/authz"})


@pytest.mark.parametrize(
    "audience",
    [
        "authz",
        ["authz"],
        ["other", "authz"],
        ["spiffe://factory.example/authz", "authz"],
        ["authz", "authz"],
    ],
)
def test_a_token_that_names_us_among_others_is_for_us(audience: object) -> None:
    check_audience({"aud": audience}, OURS)


@pytest.mark.parametrize(
    "audience",
    ["other", ["other"], "authz ", "AUTHZ", "aut", "authz\n", ["auth", "z"], " "],
)
def test_a_token_that_does_not_name_us_is_for_somebody_else(audience: object) -> None:
    with pytest.raises(TokenError) as caught:
        check_audience({"aud": audience}, OURS)
    assert caught.value.reason is Reason.TOKEN_AUDIENCE


@pytest.mark.parametrize(
    "claims",
    [
        {},
        *({"aud": value} for value in (None, "", [], [""], 1, True, {}, {"authz": 1})),
        *({"aud": value} for value in (["authz", ""], ["authz", 1], [["authz"]])),
        {"audience": "authz"},
    ],
)
def test_a_token_that_does_not_say_whom_it_is_for_is_refused(
    claims: dict[str, Any],
) -> None:
    with pytest.raises(TokenError) as caught:
        check_audience(claims, OURS)
    assert caught.value.reason is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("ours", [frozenset(), {""}, {"authz", ""}])
def test_an_audience_of_ours_that_is_empty_matches_nothing(ours: set[str]) -> None:
    for audience in ("", [""], "authz"):
        with pytest.raises(ValueError, match="must be named"):
            check_audience({"aud": audience}, frozenset(ours))


# The token's own ID


def test_the_id_of_a_token_is_read() -> None:
    assert read_token_id({"jti": "0b7c"}) == "0b7c"
    assert read_token_id({}) == ""


@pytest.mark.parametrize("token_id", [None, 1, True, [], ["0b7c"], {}])
def test_an_id_that_is_no_text_is_refused(token_id: object) -> None:
    with pytest.raises(TokenError, match="jti"):
        read_token_id({"jti": token_id})
