"""io.jwt.*: tokens, right ones and wrong ones made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from token_forge import ALGORITHMS, encode, jwk, key_of_kind, key_set, kind_for, sign

from authz_server.policy.builtins.keys import read_keys
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.builtins.tokens import decode, decode_verify
from authz_server.policy.builtins.values import (
    RefusedError,
    UndefinedError,
    parse_value,
)

SECRET = "a secret that nobody knows"
NOW_NS = 1_700_000_000_000_000_000
NOW_S = 1_700_000_000
UNVERIFIED = [False, {}, {}]


def now() -> int:
    return NOW_NS


def forge(
    claims: Any = None,
    *,
    algorithm: str = "HS256",
    key: Any = None,
    payload: bytes | None = None,
    **header: Any,
) -> str:
    head = encode(json.dumps({"alg": algorithm, **header}).encode())
    if payload is None:
        payload = json.dumps({} if claims is None else claims).encode()
    content = head + b"." + encode(payload)
    signature = sign(key or SECRET.encode(), algorithm, content)
    return (content + b"." + encode(signature)).decode()


def verified(token: str, **constraints: Any) -> list[Any]:
    return decode_verify(now, token, {"secret": SECRET, **constraints})


def call(name: str, *arguments: Any) -> Any:
    return HOST_FUNCTIONS[name](*arguments)  # type: ignore[operator]


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "EdDSA"])
def test_a_signature_verifies_by_its_own_key_and_algorithm_only(algorithm: str) -> None:
    kind = "Ed25519" if algorithm == "EdDSA" else kind_for(algorithm)
    key, other = key_of_kind(kind), key_of_kind(kind, 2)
    token = forge({"sub": "s"}, algorithm=algorithm, key=key)
    name = f"io.jwt.verify_{algorithm.lower()}"
    keys = key_set(jwk(key)).decode()
    assert call(name, token, keys) is True
    assert call(name, token, key_set(jwk(other)).decode()) is False
    assert call(name, token, key_set(jwk(key_of_kind("P-256", 3))).decode()) is False
    assert call(name, token, key_set(jwk(key, alg=algorithm)).decode())
    assert call(name, token, key_set(jwk(other, "a"), jwk(key, "b")).decode()) is True
    assert call(name, token[:-8] + "AAAAAAAA", keys) is False
    changed = forge({"sub": "t"}, algorithm=algorithm, key=other)
    assert call(name, changed, keys) is False
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert call(name, token, pem.decode()) is True
    # As `cert` of the full verification, too; and never as a secret.
    constraints = {"cert": keys, "time": 0}
    assert decode_verify(now, token, constraints)[0] is True
    assert decode_verify(now, token, {"secret": keys, "time": 0}) == UNVERIFIED
    confused = forge({}, key=keys.encode())
    assert decode_verify(now, confused, constraints) == UNVERIFIED
    confused = forge({}, key=pem)
    assert decode_verify(now, confused, {"cert": pem.decode()}) == UNVERIFIED


@pytest.mark.parametrize("size", ["256", "384", "512"])
def test_a_secret_verifies(size: str) -> None:
    token = forge({"a": 1}, algorithm=f"HS{size}")
    assert call(f"io.jwt.verify_hs{size}", token, SECRET) is True
    assert call(f"io.jwt.verify_hs{size}", token, "another") is False
    assert verified(token) == [True, {"alg": f"HS{size}"}, {"a": 1}]
    oct_key = json.dumps({"kty": "oct", "k": encode(SECRET.encode()).decode()})
    assert decode_verify(now, token, {"cert": oct_key})[0] is True


def test_the_named_key_decides_alone() -> None:
    key, other = key_of_kind("P-256"), key_of_kind("P-256", 2)
    token = forge({}, algorithm="ES256", key=key, kid="one")
    both = key_set(jwk(other, "one"), jwk(key, "two")).decode()
    assert call("io.jwt.verify_es256", token, both) is False
    assert decode_verify(now, token, {"cert": both}) == UNVERIFIED
    unnamed = forge({}, algorithm="ES256", key=key, kid="three")
    assert call("io.jwt.verify_es256", unnamed, both) is True
    for_rsa = key_set(jwk(key, "two", alg="RS256")).decode()
    assert call("io.jwt.verify_es256", unnamed, for_rsa) is False


def test_decoding_verifies_nothing() -> None:
    token = forge({"n": 1.50, "s": "é"}, typ="JWT")
    header, payload, signature = decode(token)
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert payload == {"n": parse_value("1.5"), "s": "é"}
    assert len(signature) == 64
    nested = forge(payload=f'"{token}"'.encode(), cty="JWT")
    assert decode(nested)[1] == payload
    assert decode(token.rsplit(".", 1)[0] + ".")[2] == ""


@pytest.mark.parametrize(
    "token",
    [
        *(1, "", "a", "a.b", "a.b.c.d", "..", "é.é.é"),
        forge(payload=b"[]"),
        forge(payload=b"{"),
        forge(payload=b'{"a": NaN}'),
        forge(enc="A128GCM"),
        forge().replace(".", "=.", 1),
        forge() + "==",
        forge() + "A*",
        ".".join([encode(b"[1]").decode(), *forge().split(".")[1:]]),
    ],
    ids=range(15),
)
def test_what_is_no_token_leaves_it_undefined(token: Any) -> None:
    with pytest.raises(UndefinedError):
        decode(token)
    if token != forge(payload=b"[]"):
        with pytest.raises(UndefinedError):
            verified(token)


@pytest.mark.parametrize(
    ("claims", "constraints", "is_valid"),
    [
        ({"exp": NOW_S + 1}, {}, True),
        ({"exp": NOW_S}, {}, False),
        ({"exp": NOW_S - 1}, {"time": 0}, True),
        ({"exp": 1.5}, {"time": 1_400_000_000}, True),
        ({"exp": 1.5}, {"time": 1_500_000_000}, False),
        ({"nbf": NOW_S}, {}, True),
        ({"nbf": NOW_S + 1}, {}, False),
        ({"nbf": 2}, {"time": parse_value("1.9e9")}, False),
        ({"iss": "i"}, {"iss": "i"}, True),
        ({"iss": "j"}, {"iss": "i"}, False),
        ({}, {"iss": "i"}, False),
        ({"iss": "j"}, {}, True),
        ({"aud": "a"}, {"aud": "a"}, True),
        ({"aud": ["b", "a", 1]}, {"aud": "a"}, True),
        ({"aud": "a"}, {"aud": "b"}, False),
        ({"aud": "a"}, {}, False),
        ({"aud": 1}, {"aud": "a"}, False),
        ({"aud": []}, {}, False),
        ({}, {"aud": "a"}, False),
        ({}, {"alg": "HS256"}, True),
        ({}, {"alg": "HS512"}, False),
        ({}, {"secret": "another"}, False),
    ],
)
def test_every_constraint_counts(
    claims: dict[str, Any], constraints: dict[str, Any], *, is_valid: bool
) -> None:
    found = verified(forge(claims), **constraints)
    assert found[0] is is_valid
    if not is_valid:
        assert found == UNVERIFIED


@pytest.mark.parametrize(
    "constraints",
    [
        *({}, {"alg": "HS256"}, {"secret": ""}, {"secret": SECRET, "x": 1}, "x"),
        *(
            {"secret": 1},
            {"secret": SECRET, "time": -1},
            {"secret": SECRET, "time": "1"},
        ),
        {"secret": SECRET, "time": True},
        {"secret": SECRET, "time": 10**400},
        {"secret": SECRET, "cert": '{"keys": []}'},
        {"cert": "x"},
    ],
    ids=range(12),
)
def test_constraints_that_are_none_leave_it_undefined(constraints: Any) -> None:
    with pytest.raises(UndefinedError):
        decode_verify(now, forge(), constraints)


def test_a_header_must_be_understood() -> None:
    assert verified(forge(crit=["x"], x=1)) == UNVERIFIED
    assert verified(forge(crit=["x"]))[0] is True
    assert verified(forge(crit=["alg", 1, "y"], y=1))[0] is True
    for header in ({"crit": []}, {"crit": "x"}, {"crit": [1]}, {"kid": 1}, {"cty": 1}):
        with pytest.raises(UndefinedError):
            verified(forge(**header))
    head, rest = encode(b'{"typ": "JWT"}').decode(), forge().split(".", 1)[1]
    assert verified(f"{head}.{rest}") == UNVERIFIED
    none = encode(b'{"alg": "none"}').decode()
    assert verified(f"{none}.{encode(b'{}').decode()}.") == UNVERIFIED


def test_a_token_in_a_token_is_verified_at_each_level() -> None:
    inner = forge({"a": 1})
    assert verified(forge(payload=inner.encode(), cty="jwt"))[2] == {"a": 1}
    wrong = forge({"a": 1}, key=b"another")
    assert verified(forge(payload=wrong.encode(), cty="JWT")) == UNVERIFIED
    for _ in range(10):
        inner = forge(payload=inner.encode(), cty="JWT")
    for function in (verified, decode):
        with pytest.raises(RefusedError):
            function(inner)  # type: ignore[operator]


def test_times_that_are_no_numbers_leave_it_undefined() -> None:
    for claims in ({"exp": "1"}, {"exp": None}, {"nbf": True}):
        with pytest.raises(UndefinedError):
            verified(forge(claims))


def test_what_opa_would_stumble_over_is_refused() -> None:
    for token in (forge({"iss": 1}), forge(payload=b'{"a": "\xff"}')):
        with pytest.raises(RefusedError):
            verified(token, iss="i")
    with pytest.raises(RefusedError):
        decode(forge(cty=1))
    with pytest.raises(RefusedError):
        decode("a" * 300_000)
    with pytest.raises(RefusedError):
        decode_verify(now, forge(), parse_value("{1: 2}"))


def test_the_clock_is_read_only_without_a_time() -> None:
    def fail() -> int:
        raise AssertionError

    assert decode_verify(fail, forge(), {"secret": SECRET, "time": 1})[0] is True
    with pytest.raises(AssertionError):
        decode_verify(fail, forge(), {"secret": SECRET})


P256 = jwk(key_of_kind("P-256"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "[]", "1", '{"keys": {}}', '{"keys": [1]}', "{}", '{"kty": "RSA"}'),
        *(
            '{"kty": "oct"}',
            '{"kty": "oct", "k": "*"}',
            '{"kty": "OKP", "crv": "X25519"}',
        ),
        '{"kty": "OKP", "crv": "Ed25519", "x": "AA"}',
        json.dumps({**P256, "crv": "secp256k1"}),
        json.dumps({**P256, "x": P256["y"]}),
        json.dumps({**P256, "kid": 1}),
        json.dumps({**P256, "alg": "XY256"}),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\nmore",
    ],
    ids=range(19),
)
def test_what_is_no_key_leaves_it_undefined(text: str) -> None:
    with pytest.raises(UndefinedError):
        read_keys(text)


def test_keys_for_something_else_are_passed_over() -> None:
    text = key_set(jwk(key_of_kind("P-256"), alg="ECDH-ES"), P256).decode()
    assert [key.kid for key in read_keys(text)] == ["key-1"]


def test_keys_that_are_too_much_or_private_are_refused() -> None:
    large = encode((1 << 20_000).to_bytes(2501)).decode()
    for text in (
        json.dumps({**P256, "d": "AA"}),
        json.dumps({"kty": "RSA", "e": "AQAB", "n": large}),
        key_set(*[P256] * 101).decode(),
        " " * 300_000,
    ):
        with pytest.raises((RefusedError, UndefinedError)):
            read_keys(text)


def test_an_rsa_key_that_go_finds_too_short_verifies_nothing() -> None:
    short = jwk(key_of_kind("RSA-2048"))
    short = {**short, "n": encode((1 << 767 | 1).to_bytes(96)).decode()}
    token = forge({}, algorithm="RS256", key=key_of_kind("RSA-2048"))
    try:
        assert call("io.jwt.verify_rs256", token, json.dumps(short)) is False
    except UndefinedError:
        """The library does not even read it."""
