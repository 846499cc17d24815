"""Signatures of tokens: nine algorithms, and every wrong key."""

import pytest
from token_forge import (
    ALGORITHMS,
    Forge,
    encode,
    jwk,
    key_of_kind,
    key_set,
    kind_for,
    sign,
)

from authz_server.errors import Reason, TokenError
from authz_server.identity.jwk import KeySet, parse_key_set
from authz_server.identity.jws import check_signature, parse_token

FORGE = Forge("https://idp.factory.example")
CLAIMS = {"sub": "ada"}
TOKEN = FORGE.token(CLAIMS)
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(b".")
KINDS = ("P-256", "P-384", "P-521", "RSA-2048")


def verify(text: bytes, keys: KeySet = FORGE.keys) -> None:
    check_signature(parse_token(text), keys)


def distrust(text: bytes, keys: KeySet = FORGE.keys) -> str:
    with pytest.raises(TokenError) as caught:
        verify(text, keys)
    assert caught.value.reason is Reason.TOKEN_UNTRUSTED
    return str(caught.value)


def keys_of(kind: str, **changes: object) -> KeySet:
    return parse_key_set(key_set(jwk(key_of_kind(kind), **changes)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_of_the_nine_algorithms_verifies(algorithm: str) -> None:
    kind = kind_for(algorithm)
    forge = Forge("x", algorithm=algorithm, key=key_of_kind(kind))
    token = forge.token(CLAIMS)
    verify(token, keys_of(kind))
    verify(token, keys_of(kind, alg=algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_of_the_right_kind_does_not_verify(algorithm: str) -> None:
    forge = Forge("x", algorithm=algorithm, key=key_of_kind(kind_for(algorithm), 2))
    assert "signature" in distrust(forge.token(CLAIMS), keys_of(kind_for(algorithm)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_kind_or_curve_does_not_verify(
    algorithm: str, kind: str
) -> None:
    if kind == kind_for(algorithm):
        kind = "RSA-2048" if algorithm.startswith("ES") else "P-256"
    forge = Forge("x", algorithm=algorithm, key=key_of_kind(kind))
    # Signed by that very key, in the way that it can.
    assert "another kind" in distrust(forge.token(CLAIMS), keys_of(kind))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("claimed", ALGORITHMS)
def test_a_token_that_claims_another_algorithm_does_not_verify(
    algorithm: str, claimed: str
) -> None:
    forge = Forge("x", algorithm=algorithm, key=key_of_kind(kind_for(algorithm)))
    header = forge.header(alg=claimed)
    data = forge.token(CLAIMS, header, signature=b"x").rpartition(b".")[0]
    token = data + b"." + encode(sign(forge.key, algorithm, data))
    if claimed == algorithm:
        verify(token, keys_of(kind_for(algorithm)))
    else:
        distrust(token, keys_of(kind_for(algorithm)))


@pytest.mark.parametrize("algorithm", ["RS512", "PS256", "ES256", "HS256", "none", "x"])
def test_a_key_that_is_for_another_algorithm_does_not_verify(algorithm: str) -> None:
    forge = Forge("x", algorithm="RS256", key=key_of_kind("RSA-2048"))
    keys = keys_of("RSA-2048", alg=algorithm)
    assert "another algorithm" in distrust(forge.token(CLAIMS), keys)


def test_a_key_that_nobody_knows_does_not_verify() -> None:
    for key_id in ("key-2", "KEY-1", "key-1 ", "key-1\0"):
        token = FORGE.token(CLAIMS, FORGE.header(kid=key_id))
        assert "key ID" in distrust(token)
    assert "key ID" in distrust(TOKEN, {})


def test_the_key_that_is_named_must_have_signed_and_no_other_will_do() -> None:
    other = Forge("x", "key-2")
    keys = parse_key_set(key_set(FORGE.jwk(), other.jwk()))
    verify(other.token(CLAIMS), keys)
    distrust(FORGE.token(CLAIMS, FORGE.header(kid="key-2")), keys)
    distrust(other.token(CLAIMS, other.header(kid="key-1")), keys)


def test_a_signature_of_another_token_does_not_verify() -> None:
    other = FORGE.token({"sub": "bob"})
    distrust(b".".join((HEADER, other.split(b".")[1], SIGNATURE)))
    distrust(b".".join((HEADER, PAYLOAD, other.split(b".")[2])))


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
def test_a_signature_of_numbers_that_are_no_signature_does_not_verify(
    algorithm: str,
) -> None:
    kind = kind_for(algorithm)
    forge = Forge("x", algorithm=algorithm, key=key_of_kind(kind))
    length = {"P-256": 32, "P-384": 48, "P-521": 66}[kind]
    for number in (0, 1, 2 ** (8 * length) - 1):
        # CVE-2022-21449: r and s of nothing but zeros.
        signature = number.to_bytes(length, "big") * 2
        distrust(forge.token(CLAIMS, signature=signature), keys_of(kind))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signature_of_another_length_does_not_verify(algorithm: str) -> None:
    kind = kind_for(algorithm)
    forge = Forge("x", algorithm=algorithm, key=key_of_kind(kind))
    data = forge.token(CLAIMS, signature=b"x").rpartition(b".")[0]
    signature = sign(forge.key, algorithm, data)
    for other in (
        signature[:-1],
        signature[1:],
        b"\0" + signature,
        signature + b"\0",
        signature * 2,
        b"\0",
        # The same two numbers, one of them in more bytes than it needs.
        signature[: len(signature) // 2] + b"\0" + signature[len(signature) // 2 :],
    ):
        distrust(forge.token(CLAIMS, signature=other), keys_of(kind))


def test_a_signature_in_der_does_not_verify() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = key_of_kind("P-256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    forge = Forge("x", key=key)
    data = forge.token(CLAIMS).rpartition(b".")[0]
    signature = key.sign(data, ec.ECDSA(hashes.SHA256()))
    distrust(forge.token(CLAIMS, signature=signature), keys_of("P-256"))


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 222])
def test_a_salt_that_is_not_as_long_as_the_hash_does_not_verify(salt: int) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = key_of_kind("RSA-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    forge = Forge("x", algorithm="PS256", key=key)
    data = forge.token(CLAIMS).rpartition(b".")[0]
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    signature = key.sign(data, scheme, hashes.SHA256())
    distrust(forge.token(CLAIMS, signature=signature), keys_of("RSA-2048"))
