import pytest

from authz_server.identity.base64url import decode_base64url


@pytest.mark.parametrize(
    ("text", "data"),
    [
        # RFC 7515 appendix C
        (b"A-z_4ME", b"\x03\xec\xff\xe0\xc1"),
        (b"", b""),
        (b"Zg", b"f"),
        (b"Zm8", b"fo"),
        (b"Zm9v", b"foo"),
        (b"-_-_", b"\xfb\xff\xbf"),
    ],
)
def test_what_rfc_7515_spells_is_read(text: bytes, data: bytes) -> None:
    assert decode_base64url(text) == data


@pytest.mark.parametrize(
    "text",
    [b"Zg==", b"Zm8=", b"Zm9v=", b"=", b"Zg=", b"Z", b"Zm9vZ"],
)
def test_padding_and_cut_off_text_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not base64url"):
        decode_base64url(text)


@pytest.mark.parametrize(
    "text",
    [
        *(b"Zm9v\n", b"\nZm9v", b" Zm9v", b"Zm9v ", b"Zm\n9v", b"Zm9v\0", b"Zm9v\r\n"),
        *(b"Zm+v", b"Zm/v", b"Zm.v", b"Zm,v", b"Zm\xe9v", b"\xef\xbb\xbfZm9v"),
    ],
)
def test_any_byte_beside_the_digits_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not base64url"):
        decode_base64url(text)


@pytest.mark.parametrize("text", [b"Zh", b"Zv", b"Zm9", b"Zm-", b"AB"])
def test_a_last_digit_with_bits_left_over_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="one spelling"):
        decode_base64url(text)
