"""One certificate, or a chain of them, read from PEM."""

import base64

import pytest
from checks import CAMERA, envoy_certificate
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import Reason, SvidError
from authz_server.identity.certificate import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN,
    contents_of,
    load_certificates,
    parse_leaf,
    read_chain,
    read_leaf,
)

ROOT = DevelopmentCa("factory.example")
CA = DevelopmentCa("factory.example", ROOT)
SVID = CA.issue(CAMERA)
LEAF = SVID.certificate_pem


def chain(*pems: bytes) -> bytes:
    return envoy_certificate(b"".join(pems)).encode()


def test_a_leaf_is_the_same_percent_encoded_or_not() -> None:
    assert read_leaf(LEAF) == parse_leaf(envoy_certificate(LEAF).encode())


def test_a_leaf_says_its_name_and_dates() -> None:
    leaf = read_leaf(LEAF)
    assert str(leaf.spiffe_id) == CAMERA
    assert leaf.certificate == SVID.certificate
    assert leaf.valid_from_s == SVID.certificate.not_valid_before_utc.timestamp()
    assert leaf.valid_until_s == SVID.certificate.not_valid_after_utc.timestamp()


def test_a_leaf_seen_before_is_not_parsed_again() -> None:
    assert read_leaf(LEAF) is read_leaf(LEAF)


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "expected a PEM certificate"),
        (LEAF + LEAF, "exactly one"),
        (b"junk\n" + LEAF, "nothing beside"),
        (LEAF + b"junk", "nothing beside"),
        (LEAF.replace(b"-----END", b"----END"), "nothing beside"),
        (LEAF + SVID.key_pem, "nothing beside"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "cannot be parsed",
        ),
        (LEAF + b"\n" * MAX_CERTIFICATE_BYTES, "too large"),
    ],
    ids=[
        "empty",
        "two",
        "text before",
        "text after",
        "no end",
        "a key beside it",
        "no DER",
        "too large",
    ],
)
def test_what_is_not_exactly_one_certificate_is_no_leaf(pem: bytes, why: str) -> None:
    with pytest.raises(SvidError, match=why) as caught:
        read_leaf(pem)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


def test_a_message_never_quotes_what_was_sent() -> None:
    with pytest.raises(SvidError) as caught:
        read_leaf(LEAF + SVID.key_pem)
    assert "KEY" not in str(caught.value)


def test_a_chain_is_leaf_and_intermediates_in_order() -> None:
    leaf, intermediates = read_chain(chain(LEAF, CA.bundle_pem, ROOT.bundle_pem))
    assert leaf == read_leaf(LEAF)
    assert intermediates == (CA.certificate, ROOT.certificate)


def test_a_chain_may_be_the_leaf_alone() -> None:
    assert read_chain(chain(LEAF)) == (read_leaf(LEAF), ())


def test_a_chain_seen_before_is_not_parsed_again() -> None:
    assert read_chain(chain(LEAF)) is read_chain(chain(LEAF))


def test_a_chain_that_begins_with_a_ca_is_refused() -> None:
    with pytest.raises(SvidError, match="is a CA"):
        read_chain(chain(CA.bundle_pem, LEAF))


def test_a_chain_that_is_too_large_is_refused() -> None:
    with pytest.raises(SvidError, match="too large"):
        read_chain(b"%" * (MAX_CERTIFICATE_BYTES + 1))


def test_a_chain_may_have_so_many_certificates_and_no_more() -> None:
    longest = [LEAF, *[CA.bundle_pem] * (MAX_CHAIN - 1)]
    assert len(read_chain(chain(*longest))[1]) == MAX_CHAIN - 1
    with pytest.raises(SvidError, match="more than 8"):
        read_chain(chain(*longest, CA.bundle_pem))


def test_extensions_that_cannot_be_parsed_are_an_error_of_the_certificate() -> None:
    """A length that runs over the extension's end; the rest stays well-formed DER."""
    der = bytearray(SVID.certificate.public_bytes(Encoding.DER))
    at = der.index(bytes.fromhex("0603551d11"))  # the OID of the alternative names
    der[at + 8] ^= 0x7F
    with pytest.raises(SvidError, match="cannot be parsed"):
        contents_of(x509.load_der_x509_certificate(bytes(der)))


def test_certificates_are_loaded_whatever_they_say() -> None:
    assert load_certificates(CA.bundle_pem) == (CA.certificate,)


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    der = SVID.certificate.public_bytes(Encoding.DER)
    odd = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020105"), 1)
    body = base64.encodebytes(odd)
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % body
    with pytest.raises(SvidError, match="cannot be parsed"):
        read_leaf(pem)
