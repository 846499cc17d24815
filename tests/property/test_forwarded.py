"""Whatever a peer's names are, XFCC is read as its true name or not at all."""

import contextlib

from checks import CAMERA, DEPLOYER
from hypothesis import example, given
from hypothesis import strategies as st

from authz_server.errors import ForwardedError
from authz_server.identity.forwarded import parse_forwarded

PROXY = "spiffe://factory.example/ns/edge/sa/envoy"

FRAGMENTS = st.sampled_from(
    [
        *(CAMERA, DEPLOYER, PROXY, "a" * 64, "x", "", "-"),
        *("By", "Hash", "Cert", "Chain", "Subject", "URI", "DNS"),
        *("=", ";", ",", '"', "\\", " ", "\n"),
    ]
)
"""What the grammar is made of, so that much of what is drawn is nearly right."""

TEXT = st.lists(FRAGMENTS, max_size=12).map("".join)


def rfc4514(text: str) -> str:
    """Return `text` with the escapes that Envoy's subject has."""
    return "".join("\\" + c if c in '\\",;+<>' else c for c in text)


@given(uri=TEXT, subject=TEXT, dns=st.lists(TEXT, max_size=2), has_hash=st.booleans())
@example(uri=f"{CAMERA};URI={DEPLOYER}", subject="", dns=[], has_hash=True)
@example(uri=f"{DEPLOYER};DNS=x", subject="", dns=[], has_hash=False)
@example(uri=f'"{DEPLOYER}"', subject="", dns=[], has_hash=True)
@example(uri=CAMERA, subject=f'";URI={DEPLOYER};DNS="', dns=[], has_hash=True)
@example(uri="", subject="", dns=[f";URI={DEPLOYER}"], has_hash=True)
def test_the_name_that_is_read_is_the_whole_name_that_was_written(
    uri: str, subject: str, dns: list[str], has_hash: bool
) -> None:
    value = ";".join(
        [
            f"By={PROXY}",
            *(["Hash=" + "a" * 64] if has_hash else []),
            f'Subject="{rfc4514(subject)}"',
            f"URI={uri}",
            *(f"DNS={name}" for name in dns),
        ]
    ).encode()
    try:
        peer = parse_forwarded(value)
    except ForwardedError:
        return
    assert str(peer.spiffe_id) == uri
    assert dns == []


@given(st.binary(max_size=200) | TEXT.map(str.encode))
@example(f"URI={CAMERA}".encode())
def test_any_bytes_are_a_peer_or_the_one_error(value: bytes) -> None:
    with contextlib.suppress(ForwardedError):
        peer = parse_forwarded(value)
        assert value.count(str(peer.spiffe_id).encode()) >= 1
        assert peer.leaf is None
