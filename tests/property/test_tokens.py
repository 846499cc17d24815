"""Whatever bytes come: a token or the one error, and no changed token verifies."""

import contextlib
import json

from callers import FACTORY, IDP, IDP_FORGE, SPIRE
from checks import CAMERA
from hypothesis import example, given
from hypothesis import strategies as st
from token_forge import ALGORITHMS, Forge, encode, jwk, key_of_kind, key_set, kind_for

from authz_server.errors import BundleError, TokenError
from authz_server.identity.base64url import decode_base64url
from authz_server.identity.jwk import digest, parse_jwt_authorities, parse_key_set
from authz_server.identity.jws import Token, check_signature, parse_token
from authz_server.identity.jwt_svid import read_jwt_svid
from authz_server.identity.user_token import read_user
from authz_server.strict_json import parse_json_object

AUDIENCE = frozenset({"authz"})

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
    ),
    max_leaves=6,
)


def members(*names: str) -> st.SearchStrategy[dict[str, object]]:
    """Return objects with some of `names`, and nearly right values among others."""
    value = JSON | st.sampled_from(
        [
            *("ES256", "RS256", "none", "JWT", "jwt-1", "EC", "RSA", "P-256", "sig"),
            *("jwt-svid", "AQAB", CAMERA, IDP, ["authz"], ["verify"], 2_000_000_000),
        ]
    )
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=3), value)


HEADERS = members("alg", "kid", "typ", "crit", "jku")
CLAIMS = members("iss", "sub", "aud", "exp", "nbf", "iat", "jti")
KEYS = members("kty", "kid", "use", "alg", "crv", "x", "y", "n", "e", "d", "key_ops")


def prove_nothing(token: Token) -> None:
    """Hold that only our errors come of a token that was parsed."""
    with contextlib.suppress(TokenError):
        read_jwt_svid(token, lambda _: SPIRE.keys, AUDIENCE)
        raise AssertionError(token)
    with contextlib.suppress(TokenError):
        read_user(token, IDP_FORGE.keys, IDP, AUDIENCE, ("sub",))
        raise AssertionError(token)


@given(
    st.binary(max_size=200)
    | st.lists(st.binary(max_size=40).map(encode), max_size=4).map(b".".join)
)
@example(b"")
@example(b"..")
@example(encode(b'{"alg":"ES256","kid":"a"}') + b".e30.AA")
def test_any_bytes_are_a_token_or_the_one_error(text: bytes) -> None:
    with contextlib.suppress(TokenError):
        prove_nothing(parse_token(text))


@given(HEADERS, CLAIMS, st.binary(min_size=1, max_size=70))
@example({"alg": "ES256", "kid": "jwt-1"}, {"sub": CAMERA}, b"\0" * 64)
@example({"alg": "ES256", "kid": "jwt-1", "typ": None}, {"sub": CAMERA}, b"\0" * 64)
def test_any_header_and_claims_without_a_signature_prove_nothing(
    header: dict[str, object], claims: dict[str, object], signature: bytes
) -> None:
    text = SPIRE.token(
        json.dumps(claims).encode(), json.dumps(header).encode(), signature=signature
    )
    with contextlib.suppress(TokenError):
        prove_nothing(parse_token(text))


@given(CLAIMS)
@example({"sub": CAMERA, "aud": ["authz"], "exp": 2_000_000_000})
@example({"sub": [], "iss": [], "aud": {}, "exp": {}, "nbf": "x"})
def test_any_claims_that_were_signed_are_an_identity_or_the_one_error(
    claims: dict[str, object],
) -> None:
    with contextlib.suppress(TokenError):
        token = parse_token(SPIRE.token(claims))
        svid = read_jwt_svid(token, lambda _: SPIRE.keys, AUDIENCE)
        assert str(svid.spiffe_id) == claims["sub"]
    with contextlib.suppress(TokenError):
        token = parse_token(IDP_FORGE.token(claims))
        user = read_user(token, IDP_FORGE.keys, IDP, AUDIENCE, ("sub",))
        assert user.claims == {"sub": claims["sub"]}
        assert user.issuer == claims["iss"] == IDP


FORGES = [
    Forge("x", algorithm=algorithm, key=key_of_kind(kind_for(algorithm)))
    for algorithm in ALGORITHMS
]
SIGNED = [(forge.keys, forge.token({"sub": "ada", "n": 1})) for forge in FORGES]


@given(st.sampled_from(SIGNED), st.data())
def test_a_token_of_which_a_byte_was_changed_does_not_verify(
    signed: tuple[object, bytes], data: st.DataObject
) -> None:
    keys, token = signed
    at = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255) | st.sampled_from(list(b"AZaz09-_.=+/\n, ")))
    text = token[:at] + bytes((byte,)) + token[at + 1 :]
    if text == token:
        check_signature(parse_token(text), keys)  # type: ignore[arg-type]
        return
    with contextlib.suppress(TokenError):
        check_signature(parse_token(text), keys)  # type: ignore[arg-type]
        raise AssertionError(text)


@given(st.sampled_from(SIGNED), st.data())
def test_a_token_that_was_cut_or_added_to_does_not_verify(
    signed: tuple[object, bytes], data: st.DataObject
) -> None:
    keys, token = signed
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, len(token)))
    added = data.draw(st.binary(max_size=3) | st.sampled_from([b"=", b"A", b"."]))
    text = token[:start] + added + token[end:]
    if text == token:
        return
    with contextlib.suppress(TokenError):
        check_signature(parse_token(text), keys)  # type: ignore[arg-type]
        raise AssertionError(text)


@given(
    st.binary(max_size=200)
    | st.lists(KEYS | JSON, max_size=3).map(lambda keys: json.dumps({"keys": keys}))
)
@example('{"keys": [{"kty": [], "kid": "a"}]}')
@example('{"keys": [{"kty": "EC", "kid": "a", "key_ops": 1}]}')
def test_any_bytes_are_a_key_set_or_the_one_error(data: bytes | str) -> None:
    with contextlib.suppress(BundleError):
        digest(parse_key_set(data.encode() if isinstance(data, str) else data))


@given(KEYS)
@example({"use": "jwt-svid", "kty": []})
@example({"use": "jwt-svid", "kty": "RSA", "kid": "a"})
def test_any_key_of_a_bundle_is_an_authority_or_not_or_the_one_error(
    key: dict[str, object],
) -> None:
    with contextlib.suppress(BundleError):
        assert len(parse_jwt_authorities([key])) <= 1


GOOD_KEYS = [jwk(key_of_kind(kind)) for kind in ("P-256", "P-521", "RSA-2048")]


@given(st.sampled_from(GOOD_KEYS), KEYS)
@example(GOOD_KEYS[0], {"kty": {}})
@example(GOOD_KEYS[0], {"key_ops": "verify"})
def test_a_good_key_with_anything_else_is_a_key_set_or_the_one_error(
    key: dict[str, object], changes: dict[str, object]
) -> None:
    with contextlib.suppress(BundleError):
        parse_key_set(key_set({**key, **changes}))


@given(st.binary(max_size=40))
def test_every_value_has_one_spelling(data: bytes) -> None:
    assert decode_base64url(encode(data)) == data


@given(st.text("AZaz09-_+/=\n", max_size=12).map(str.encode) | st.binary(max_size=12))
def test_no_value_has_a_second_spelling(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert encode(decode_base64url(text)) == text


@given(st.dictionaries(st.text(), JSON))
def test_an_object_is_read_as_it_was_written(document: dict[str, object]) -> None:
    try:
        expected = json.loads(json.dumps(document, allow_nan=False))
    except ValueError:
        return  # infinite
    assert parse_json_object(json.dumps(document).encode()) == expected


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_json_object(data), dict)


def test_what_the_properties_start_from_does_verify() -> None:
    svid = read_jwt_svid(
        parse_token(SPIRE.svid(CAMERA)), lambda _: SPIRE.keys, AUDIENCE
    )
    assert svid.spiffe_id.trust_domain == FACTORY
    for keys, token in SIGNED:
        check_signature(parse_token(token), keys)
