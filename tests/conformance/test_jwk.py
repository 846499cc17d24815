import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from token_forge import encode, encode_number, jwk, key_of_kind, key_set, sign

from authz_server.errors import BundleError, Reason, TokenError
from authz_server.identity.jwk import (
    MAX_KEY_SET_BYTES,
    MAX_KEYS,
    digest,
    parse_jwt_authorities,
    parse_key_set,
)
from authz_server.identity.jws import Token, check_signature

EC, OTHER_EC = key_of_kind("P-256"), key_of_kind("P-256", 2)
RSA = key_of_kind("RSA-2048")


def refusal(*keys: dict[str, Any]) -> str:
    with pytest.raises(BundleError) as caught:
        parse_key_set(key_set(*keys))
    return str(caught.value)


# Whole sets


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048", "RSA-3072"])
def test_a_key_is_read_as_what_it_is(kind: str) -> None:
    key = key_of_kind(kind)
    found = parse_key_set(key_set(jwk(key, "k", use="sig", alg="X")))["k"]
    assert found.key_id == "k"
    assert found.algorithm == "X"
    assert found.public_key == key.public_key()


def test_a_set_of_several_keys_is_read_by_their_ids() -> None:
    keys = parse_key_set(key_set(jwk(EC, "a"), jwk(OTHER_EC, "b"), jwk(RSA, "c")))
    assert set(keys) == {"a", "b", "c"}
    assert keys["a"].public_key == EC.public_key()
    assert keys["a"].algorithm == ""


def test_a_set_that_was_read_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        parse_key_set(key_set(jwk(EC)))["other"] = None  # type: ignore[index]


def test_an_empty_set_is_one() -> None:
    assert parse_key_set(b'{"keys": []}') == {}


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"{}", b'{"keys": null}', b'{"keys": {}}', b'{"keys": [1]}'),
        *(b'{"Keys": []}', b'{"keys": [[]]}', b'{"keys": [], "keys": []}', b"\xff"),
        b'{"keys": ["' + encode(b"x") + b'"]}',
    ],
)
def test_what_is_no_set_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        parse_key_set(data)
    assert caught.value.reason is Reason.TRUST_BUNDLE_UNAVAILABLE


def test_members_of_a_set_that_nobody_knows_are_ignored() -> None:
    data = json.dumps({"keys": [jwk(EC, extra=1)], "spiffe_sequence": 4}).encode()
    assert set(parse_key_set(data)) == {"key-1"}


def test_a_set_may_be_as_large_as_the_limit_and_no_larger() -> None:
    data = key_set(jwk(EC))
    padded = data + b" " * (MAX_KEY_SET_BYTES - len(data))
    assert set(parse_key_set(padded)) == {"key-1"}
    with pytest.raises(BundleError, match="too large"):
        parse_key_set(padded + b" ")


def test_a_set_may_have_a_thousand_keys_and_no_more() -> None:
    # Of the same key: what is counted is entries.
    keys = [jwk(EC, str(number)) for number in range(MAX_KEYS)]
    assert len(parse_key_set(key_set(*keys))) == MAX_KEYS
    assert "more than 1000 keys" in refusal(*keys, jwk(EC, "one more"))


def test_two_keys_of_one_id_are_refused() -> None:
    assert "two keys of one ID" in refusal(jwk(EC, "a"), jwk(RSA, "a"))


# Keys that are for somebody else


@pytest.mark.parametrize(
    "other",
    [
        jwk(key_of_kind("Ed25519"), "other"),
        {"kty": "oct", "kid": "other", "k": "AAAA"},
        {"kty": "ec", "kid": "other"},
        {"kty": "rsa", "kid": "other"},
        {"kty": "", "kid": "other"},
        {"kty": None, "kid": "other"},
        {"kty": ["EC"], "kid": "other"},
        {"kty": {}, "kid": "other"},
        {"kid": "other"},
        {},
        jwk(OTHER_EC, "other", use="enc"),
        jwk(OTHER_EC, "other", use="SIG"),
        jwk(OTHER_EC, "other", use=""),
        jwk(OTHER_EC, "other", use=None),
        jwk(OTHER_EC, "other", use=["sig"]),
        jwk(OTHER_EC, "other", use="jwt-svid"),
        jwk(OTHER_EC, "other", key_ops=["sign", "encrypt"]),
        jwk(OTHER_EC, "other", key_ops=[]),
        jwk(OTHER_EC, "other", key_ops=[["verify"]]),
        jwk(OTHER_EC, "other", kid=...),
        jwk(key_of_kind("Ed25519"), "other", key_ops=1),
        jwk(OTHER_EC, "other", use="enc", key_ops="encrypt"),
    ],
)
def test_a_key_that_is_not_for_our_signatures_is_ignored(other: dict[str, Any]) -> None:
    assert set(parse_key_set(key_set(other, jwk(EC)))) == {"key-1"}


@pytest.mark.parametrize(
    "key",
    [
        jwk(EC, use="sig"),
        jwk(EC, key_ops=["verify"]),
        jwk(EC, key_ops=["verify", "sign"]),
        jwk(EC, key_ops=None),
        jwk(EC, x5c=["nonsense"], x5t="x"),
    ],
)
def test_a_key_for_signatures_is_taken(key: dict[str, Any]) -> None:
    assert set(parse_key_set(key_set(key))) == {"key-1"}


@pytest.mark.parametrize(
    "operations", ["verify", "sign verify", 1, True, {"verify": 1}]
)
def test_operations_that_are_no_list_are_refused(operations: object) -> None:
    assert "key_ops is no list" in refusal(jwk(EC, key_ops=operations))


# Keys that claim to be ours and cannot be read


@pytest.mark.parametrize("key_id", ["", None, 1, True, [], {}, "x" * 1025])
def test_a_key_id_that_is_no_short_text_is_refused(key_id: object) -> None:
    assert "without an ID" in refusal(jwk(EC, kid=key_id))


def test_a_key_id_may_be_as_long_as_the_limit() -> None:
    assert set(parse_key_set(key_set(jwk(EC, "x" * 1024)))) == {"x" * 1024}


@pytest.mark.parametrize("algorithm", [None, 1, [], ["ES256"]])
def test_an_algorithm_that_is_no_text_is_refused(algorithm: object) -> None:
    assert "alg is no text" in refusal(jwk(EC, alg=algorithm))


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth"])
@pytest.mark.parametrize("key", [EC, RSA], ids=["EC", "RSA"])
def test_a_private_key_is_refused(key: Any, member: str) -> None:
    message = refusal(jwk(key, **{member: "c2VjcmV0"}))
    assert "private key" in message
    assert "c2VjcmV0" not in message


P256 = jwk(EC)
_POINT = EC.public_key().public_numbers()  # type: ignore[union-attr]
_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"crv": ...},
        {"crv": None},
        {"crv": ["P-256"]},
        {"crv": "P-384"},
        {"x": ...},
        {"y": None},
        {"y": 1},
        {"x": ""},
        {"x": "="},
        {"x": P256["x"] + "="},
        {"x": P256["x"] + "\n"},
        {"x": P256["x"][:-1]},
        {"x": "K" + P256["x"][1:]},  # the Kelvin sign
        {"x": "A" + P256["x"]},
        {"x": encode_number(_POINT.x, 33)},
        {"x": encode_number(_POINT.y, 32)},
        {"x": encode_number(0, 32), "y": encode_number(0, 32)},
        {"y": encode_number(_POINT.y ^ 1, 32)},
        {"x": encode_number(_PRIME, 32)},
        {"x": encode_number(2**256 - 1, 32), "y": encode_number(2**256 - 1, 32)},
    ],
)
def test_a_point_that_is_none_of_its_curve_is_refused(changes: dict[str, Any]) -> None:
    assert "cannot be read" in refusal(jwk(EC, **changes))


@pytest.mark.parametrize(
    "other",
    [jwk(key_of_kind("secp256k1")), jwk(EC, crv="p-256"), jwk(EC, crv="Ed25519")],
    ids=["secp256k1", "curve in lower case", "Ed25519"],
)
def test_a_curve_that_no_algorithm_of_ours_uses_is_somebody_elses(
    other: dict[str, Any],
) -> None:
    assert set(parse_key_set(key_set(other, jwk(EC, "ours")))) == {"ours"}


def test_a_coordinate_with_its_leading_zeros_is_read_and_without_is_not() -> None:
    while True:
        key = ec.generate_private_key(ec.SECP521R1())
        point = key.public_key().public_numbers()
        # The first byte of 66 has one bit only: every other key starts with a zero.
        if point.x.bit_length() <= 520:
            break
    assert parse_key_set(key_set(jwk(key)))
    assert "as long as its curve" in refusal(jwk(key, x=encode_number(point.x)))


def _rsa_of(modulus_bits: int, exponent: int = 65537) -> dict[str, Any]:
    modulus = (1 << (modulus_bits - 1)) | 1
    n, e = encode_number(modulus), encode_number(exponent)
    return {"kty": "RSA", "kid": "key-1", "n": n, "e": e}


@pytest.mark.parametrize("bits", [512, 1024, 2047, 8193, 16384])
def test_an_rsa_key_that_is_too_short_or_too_long_verifies_nothing(bits: int) -> None:
    assert set(parse_key_set(key_set(_rsa_of(bits), jwk(EC, "ours")))) == {"ours"}


@pytest.mark.parametrize("bits", [2048, 8192])
def test_an_rsa_key_may_be_as_short_and_as_long_as_the_limits(bits: int) -> None:
    assert parse_key_set(key_set(_rsa_of(bits)))


@pytest.mark.parametrize("exponent", [1, 2, 65536, 2**65 + 1, 2**2047 + 1])
def test_a_strange_exponent_is_refused(exponent: int) -> None:
    assert "exponent" in refusal(_rsa_of(2048, exponent))


@pytest.mark.parametrize("exponent", [3, 17, 65537, 2**64 - 1])
def test_an_exponent_that_is_an_odd_number_is_read(exponent: int) -> None:
    assert parse_key_set(key_set(_rsa_of(2048, exponent)))


@pytest.mark.parametrize(
    "changes",
    [
        {"n": ...},
        {"e": ...},
        {"e": 65537},
        {"e": ""},
        {"n": ""},
        {"e": "AA"},
        {"e": "AAEAAQ"},
        {"e": "AQAB="},
        {"e": "AQAC\n"},
        {"n": "AA" + jwk(RSA)["n"]},
        {"n": encode(b"\0" * 256).decode()},
    ],
)
def test_a_number_that_is_not_in_as_few_bytes_as_it_needs_is_refused(
    changes: dict[str, Any],
) -> None:
    assert "cannot be read" in refusal(jwk(RSA, **changes))


def test_an_even_modulus_verifies_nothing() -> None:
    numbers = RSA.public_key().public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    data = key_set(jwk(RSA, n=encode_number(numbers.n - 1)))
    token = Token("RS256", "key-1", "", {}, b"x", sign(RSA, "RS256", b"x"))
    with pytest.raises((BundleError, TokenError)):
        check_signature(token, parse_key_set(data))


def test_one_bad_key_makes_the_whole_set_unusable() -> None:
    assert "cannot be read" in refusal(jwk(EC, "good"), jwk(OTHER_EC, "bad", x="A"))


def test_what_is_wrong_with_a_key_is_told_without_the_key() -> None:
    message = refusal(jwk(EC, "the-id", x="c2VjcmV0"))
    assert "c2VjcmV0" not in message


# The JWT authorities of a SPIFFE bundle


def authority(key_id: str = "a", **changes: object) -> dict[str, Any]:
    return jwk(EC, key_id, **{"use": "jwt-svid", **changes})


def test_only_the_jwt_authorities_of_a_bundle_are_taken() -> None:
    keys = [
        authority(),
        authority("x509", use="x509-svid"),
        authority("wit", use="wit-svid"),
        authority("case", use="JWT-SVID"),
        authority("sig", use="sig"),
        authority("none", use=...),
        authority("list", use=["jwt-svid"]),
        authority("oct", kty="oct"),
        authority("lower", kty="ec"),
        authority("kinds", kty=["EC"]),
        authority("nothing", kty=...),
    ]
    assert set(parse_jwt_authorities(keys)) == {"a"}


def test_the_operations_of_a_jwt_authority_do_not_matter() -> None:
    assert set(parse_jwt_authorities([authority(key_ops=["sign"])])) == {"a"}


@pytest.mark.parametrize("key_id", [..., "", None, 7])
def test_a_jwt_authority_without_an_id_makes_the_bundle_unusable(
    key_id: object,
) -> None:
    with pytest.raises(BundleError, match="without an ID"):
        parse_jwt_authorities([authority(kid=key_id)])


def test_a_jwt_authority_that_cannot_be_read_makes_the_bundle_unusable() -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        parse_jwt_authorities([authority(), authority("b", y="A")])


# What changes when a key does


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [jwk(OTHER_EC, "a")],
        [jwk(EC, "b")],
        [jwk(EC, "a", alg="ES256")],
        [jwk(EC, "a"), jwk(EC, "b")],
    ],
)
def test_the_digest_changes_when_a_key_does(keys: list[dict[str, Any]]) -> None:
    assert digest(parse_key_set(key_set(*keys))) != digest(
        parse_key_set(key_set(jwk(EC, "a")))
    )


def test_the_digest_stays_when_only_the_spelling_changes() -> None:
    one = key_set(jwk(EC, "a"), jwk(RSA, "b"))
    other = json.dumps(
        {"x": 1, "keys": [jwk(RSA, "b", use="sig"), jwk(EC, "a", x5t="x")]}, indent=1
    ).encode()
    assert digest(parse_key_set(one)) == digest(parse_key_set(other))


def test_the_digest_is_that_of_ids_with_any_text() -> None:
    names = ["', 'x')", "\x00", "é", "\U0001f600", "\\", "a\n"]
    digests = {digest(parse_key_set(key_set(jwk(EC, name)))) for name in names}
    assert len(digests) == len(names)
