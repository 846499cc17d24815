"""XFCC as Envoy 1.40 writes it, and what a peer's odd names make of it."""

import hashlib
from collections.abc import Callable

import pytest
from checks import CAMERA, DEPLOYER, envoy_certificate
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import ForwardedError, Reason
from authz_server.identity.certificate import read_leaf
from authz_server.identity.forwarded import (
    MAX_FORWARDED_BYTES,
    ForwardedPeer,
    parse_forwarded,
)

CA = DevelopmentCa("factory.example")
SVID = CA.issue(CAMERA)
OTHER = CA.issue(CAMERA)
PROXY = "spiffe://factory.example/ns/edge/sa/envoy"


def hash_of(svid: Svid) -> str:
    return hashlib.sha256(svid.certificate.public_bytes(Encoding.DER)).hexdigest()


HASH = hash_of(SVID)
CERT = f'Cert="{envoy_certificate(SVID.certificate_pem)}"'
CHAIN = f'Chain="{envoy_certificate(SVID.certificate_pem + CA.bundle_pem)}"'
SUBJECT = 'Subject="O=authz-server demo"'


def element(*pairs: str) -> bytes:
    return ";".join(pairs).encode("latin-1")


def parse(*pairs: str) -> ForwardedPeer:
    return parse_forwarded(element(*pairs))


def refusal(*pairs: str) -> str:
    with pytest.raises(ForwardedError) as caught:
        parse(*pairs)
    assert caught.value.reason is Reason.FORWARDED_INVALID
    return str(caught.value)


def test_everything_that_envoy_can_say_is_read() -> None:
    peer = parse(
        f"By={PROXY}",
        "By=spiffe://factory.example/second",
        f"Hash={HASH}",
        CERT,
        CHAIN,
        SUBJECT,
        f"URI={CAMERA}",
        "DNS=a.test",
        "DNS=b.test",
    )
    leaf = read_leaf(SVID.certificate_pem)
    assert peer == ForwardedPeer(leaf.spiffe_id, leaf, (CA.certificate,), HASH)


def test_a_waypoint_says_no_more_than_the_two_names() -> None:
    peer = parse(f"By={PROXY}", f"URI={CAMERA}")
    assert str(peer.spiffe_id) == CAMERA
    assert peer.leaf is None
    assert peer.intermediates == ()
    assert peer.hash == ""


@pytest.mark.parametrize("certificate", [CERT, CHAIN], ids=["Cert", "Chain"])
def test_either_of_cert_and_chain_brings_the_leaf(certificate: str) -> None:
    assert parse(certificate, f"URI={CAMERA}").leaf == read_leaf(SVID.certificate_pem)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        r"O=\#x,CN=a\,\"b\\c\;d=e\+\<f\>#\C3\A9\01\ ",  # measured of Envoy 1.40
        r"CN=\";URI=spiffe://factory.example/admin\\",
    ],
)
def test_a_subject_is_passed_over_whatever_it_holds(subject: str) -> None:
    peer = parse(f"Hash={HASH}", f'Subject="{subject}"', f"URI={CAMERA}")
    assert str(peer.spiffe_id) == CAMERA


FORGERIES = {
    "a second URI": f"{CAMERA};URI={DEPLOYER}",
    "a second URI and a way out": f"{CAMERA};URI={DEPLOYER};",
    "its own end as a DNS name": f"{DEPLOYER};DNS=x",
    "its own end as another key": f"{DEPLOYER};By=x",
    "its own end as a subject": f'{DEPLOYER};Subject="x"',
    "the certificate of another": f"{CAMERA};{CERT}",
    "the chain of another": f"{CAMERA};{CHAIN}",
    "the hash of another": f"{CAMERA};Hash={HASH}",
    "another element": f"{CAMERA},By=x;URI={DEPLOYER}",
    "a semicolon at the end": f"{CAMERA};",
    "quotes round it": f'"{DEPLOYER}"',
    "a quote": f'"{DEPLOYER}";"',
    "a quote that is left open": f'"{DEPLOYER}',
    "a quote in the middle": f'{CAMERA}"x"',
    "a comment": f"{CAMERA} x",
    "an equals sign": f"{CAMERA}=x",
    "a backslash": f"{CAMERA}\\",
    "a line": f"{CAMERA}\n",
    "a NUL": f"{CAMERA}\0",
    "a byte that is not ASCII": f"{CAMERA}\xe9",
}


@pytest.mark.parametrize("uri", FORGERIES.values(), ids=FORGERIES.keys())
@pytest.mark.parametrize(
    "before",
    [[f"By={PROXY}", f"Hash={hash_of(OTHER)}", SUBJECT], [f"By={PROXY}"]],
    ids=["Envoy", "waypoint"],
)
def test_a_certificates_name_cannot_write_a_pair_of_its_own(
    before: list[str], uri: str
) -> None:
    assert refusal(*before, f"URI={uri}")


def test_a_name_cut_short_by_its_own_end_is_not_the_certificates() -> None:
    """The leaf itself breaks a rule then, with or without DNS names beside it."""
    uri = f"{DEPLOYER};DNS=x"
    svid = CA.issue(uri)
    cert = f'Cert="{envoy_certificate(svid.certificate_pem)}"'
    message = refusal(f"Hash={hash_of(svid)}", cert, f"URI={uri}", "DNS=a.test")
    assert "no SPIFFE ID" in message


Case = tuple[list[str], str]

REFUSED: dict[str, Case] = {
    "empty": ([""], "empty"),
    "no URI": ([f"By={PROXY}"], "names no peer"),
    "an empty URI": ([f"Hash={HASH}", SUBJECT, "URI="], "names no peer"),
    "a dash for a URI": ([f"By={PROXY}", "URI=-"], "names no peer"),
    "a trust domain": (["URI=spiffe://factory.example"], "no workload's ID"),
    "another scheme": (["URI=https://factory.example/a"], "no workload's ID"),
    "a URI in quotes": ([f'URI="{CAMERA}"'], "URI must not be in quotes"),
    "a hash in quotes": ([f'Hash="{HASH}"', f"URI={CAMERA}"], "Hash must not be"),
    "a certificate without quotes": (
        [CERT.replace('"', ""), f"URI={CAMERA}"],
        "Cert must be in quotes",
    ),
    "two URI names": ([f"URI={CAMERA}", f"URI={CAMERA}"], "URI more than once"),
    "two hashes": ([f"Hash={HASH}", f"Hash={HASH}"], "Hash more than once"),
    "two elements": ([f"URI={CAMERA},URI={CAMERA}"], "more than one element"),
    "an unknown key": (["Via=x", f"URI={CAMERA}"], "'Via' is none of"),
    "a key in lower case": ([f"uri={CAMERA}"], "'uri' is none of"),
    "no key": ([f"={CAMERA}"], "'' is none of"),
    "a key without a value": (["URI"], "expected key=value at character 0"),
    "a space before a key": ([f"By={PROXY}", f" URI={CAMERA}"], "expected key=value"),
    "an empty pair": ([f"By={PROXY}", "", f"URI={CAMERA}"], "expected key=value"),
    "text after a quote": ([f'Subject="x"y;URI={CAMERA}'], "expected ';'"),
    "a hash after the URI": (
        [f"URI={CAMERA}", f"Hash={HASH}"],
        "Hash is not where Envoy writes it",
    ),
    "a hash in upper case": ([f"Hash={HASH.upper()}", f"URI={CAMERA}"], "SHA-256"),
    "a short hash": ([f"Hash={HASH[:-1]}", f"URI={CAMERA}"], "SHA-256"),
    "an empty hash": (["Hash=", f"URI={CAMERA}"], "SHA-256"),
    "DNS without a certificate": ([f"URI={CAMERA}", "DNS=a.test"], "DNS and no cert"),
    "a name that is not the certificate's": (
        [CERT, f"URI={DEPLOYER}"],
        "different workloads",
    ),
    "a hash that is not the certificate's": (
        [f"Hash={hash_of(OTHER)}", CERT, f"URI={CAMERA}"],
        "another certificate",
    ),
    "a hash that is not the chain's": (
        [f"Hash={hash_of(OTHER)}", CHAIN, f"URI={CAMERA}"],
        "another certificate",
    ),
    "a chain that is not the certificate's": (
        [
            f'Cert="{envoy_certificate(OTHER.certificate_pem)}"',
            CHAIN,
            f"URI={CAMERA}",
        ],
        "not the first one of Chain",
    ),
    "an empty certificate": (['Cert=""', f"URI={CAMERA}"], "expected a PEM"),
    "an empty chain": (['Chain=""', f"URI={CAMERA}"], "expected a PEM"),
    "a CA for a peer": (
        [f'Chain="{envoy_certificate(CA.bundle_pem)}"', f"URI={CAMERA}"],
        "is a CA",
    ),
}


@pytest.mark.parametrize(("pairs", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_one_clear_element_is_refused(pairs: list[str], why: str) -> None:
    assert why in refusal(*pairs)


def test_a_header_is_read_up_to_its_bound_and_no_further() -> None:
    def of(size: int) -> bytes:
        rest = element('Subject=""', f"URI={CAMERA}")
        return rest.replace(b'""', b'"%s"' % (b"x" * (size - len(rest))))

    assert str(parse_forwarded(of(MAX_FORWARDED_BYTES)).spiffe_id) == CAMERA
    with pytest.raises(ForwardedError, match="too large"):
        parse_forwarded(of(MAX_FORWARDED_BYTES + 1))


@pytest.mark.parametrize("break_it", [str.lower, str.upper, lambda name: name[:-1]])
def test_keys_are_spelled_as_envoy_spells_them(break_it: Callable[[str], str]) -> None:
    message = refusal(f"{break_it('Hash')}={HASH}", f"URI={CAMERA}")
    assert "none of By, Hash, Cert, Chain, Subject, URI, DNS" in message
