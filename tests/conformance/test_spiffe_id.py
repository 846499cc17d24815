import pytest

from authz_server.errors import Reason, SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain

TRUST_DOMAIN_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789.-_")
PATH_BYTES = TRUST_DOMAIN_BYTES | frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")

ACCEPTED = [
    "spiffe://td",
    "spiffe://td/a",
    "spiffe://td/a/b/c",
    "spiffe://td./a",
    "spiffe://.td/a",
    "spiffe://a..b/a",
    "spiffe://10.0.0.1/a",
    "spiffe://td/.a",
    "spiffe://td/..a",
    "spiffe://td/...",
    "spiffe://td/A/a",
]

REJECTED = {
    "empty": "",
    "no scheme": "td/a",
    "other scheme": "https://td/a",
    "scheme in upper case": "SPIFFE://td/a",
    "scheme without slashes": "spiffe:td/a",
    "one slash": "spiffe:/td/a",
    "three slashes, so no trust domain": "spiffe:///a",
    "no trust domain": "spiffe://",
    "trust domain in upper case": "spiffe://TD/a",
    "query": "spiffe://td/a?x=1",
    "query without path": "spiffe://td?x",
    "fragment": "spiffe://td/a#f",
    "fragment without path": "spiffe://td#f",
    "user information": "spiffe://u@td/a",
    "port": "spiffe://td:80/a",
    "IPv6 address": "spiffe://[::1]/a",
    "percent-encoded trust domain": "spiffe://t%64/a",
    "percent-encoded path": "spiffe://td/%61",
    "root path": "spiffe://td/",
    "trailing slash": "spiffe://td/a/",
    "empty segment": "spiffe://td//a",
    "two slashes only": "spiffe://td//",
    "dot segment": "spiffe://td/./a",
    "dot segment at the end": "spiffe://td/a/.",
    "dot-dot segment": "spiffe://td/../a",
    "dot-dot segment at the end": "spiffe://td/a/..",
    "newline after the path": "spiffe://td/admin\n",
    "newline in the trust domain": "spiffe://td\n/x",
    "NUL": "spiffe://td/a\x00",
    "space before": " spiffe://td/a",
    "space after": "spiffe://td/a ",
    "Kelvin sign, which lower-cases to k": "spiffe://\u212a.test/a",
    "letter beyond ASCII in the path": "spiffe://td/\u00e9",
    "digit beyond ASCII": "spiffe://td/\u0661",
    "backslash": "spiffe://td/a\\b",
    "semicolon": "spiffe://td/a;b",
    "comma": "spiffe://td/a,b",
    "asterisk": "spiffe://td/*",
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_spiffe_id_is_accepted_and_printed_unchanged(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize("text", REJECTED.values(), ids=REJECTED.keys())
def test_anything_else_is_rejected(text: str) -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert caught.value.reason is Reason.PRINCIPAL_INVALID


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_is_judged_in_a_trust_domain(byte: int) -> None:
    text = f"spiffe://a{chr(byte)}b/x"
    if byte in TRUST_DOMAIN_BYTES:
        assert str(SpiffeId.parse(text)) == text
    elif byte == ord("/"):  # ends the trust domain
        assert SpiffeId.parse(text).path == ("b", "x")
    else:
        with pytest.raises(SpiffeIdError):
            SpiffeId.parse(text)


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_is_judged_in_a_path(byte: int) -> None:
    text = f"spiffe://td/a{chr(byte)}b"
    if byte in PATH_BYTES or byte == ord("/"):
        assert str(SpiffeId.parse(text)) == text
    else:
        with pytest.raises(SpiffeIdError):
            SpiffeId.parse(text)


def test_2048_bytes_are_accepted_and_2049_are_not() -> None:
    text = "spiffe://td/" + "a" * (2048 - len("spiffe://td/"))
    assert str(SpiffeId.parse(text)) == text
    with pytest.raises(SpiffeIdError):
        SpiffeId.parse(text + "a")


def test_an_id_built_from_parts_cannot_be_too_long_either() -> None:
    with pytest.raises(SpiffeIdError):
        SpiffeId(TrustDomain("td"), ("a" * 2048,))


def test_a_trust_domain_of_255_bytes_is_accepted_and_of_256_is_not() -> None:
    assert TrustDomain("a" * 255).name == "a" * 255
    with pytest.raises(SpiffeIdError):
        TrustDomain("a" * 256)


def test_an_id_built_from_parts_cannot_hold_an_invalid_segment() -> None:
    for segment in ("", ".", "..", "a/b", "a\n", "*"):
        with pytest.raises(SpiffeIdError):
            SpiffeId(TrustDomain("td"), (segment,))


def test_a_workload_has_a_path() -> None:
    assert SpiffeId.parse_workload("spiffe://td/a").path == ("a",)
    with pytest.raises(SpiffeIdError, match="not a workload"):
        SpiffeId.parse_workload("spiffe://td")


def test_ids_are_equal_exactly_when_their_bytes_are() -> None:
    assert SpiffeId.parse("spiffe://td/a") == SpiffeId.parse("spiffe://td/a")
    assert SpiffeId.parse("spiffe://td/a") != SpiffeId.parse("spiffe://td/A")
    assert SpiffeId.parse("spiffe://td/a") != SpiffeId.parse("spiffe://td./a")
    assert SpiffeId.parse("spiffe://td/a") != "spiffe://td/a"
    assert str(TrustDomain("td")) == "td"
