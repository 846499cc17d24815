"""Whatever an agent sends is a state or the parser's own error."""

import contextlib

from checks import CAMERA, len_field
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from workload_agent import (
    authorities,
    jwk,
    jwks,
    jwt_bundles,
    x509_bundles,
    x509_svid,
    x509_svids,
)

from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import BundleError, SvidError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.workload_messages import (
    decode_jwt_bundles,
    decode_svid,
    decode_x509_bundles,
)

FACTORY, SUPPLIER = "spiffe://factory.example", "spiffe://supplier.example"
CA, OTHER = DevelopmentCa("factory.example"), DevelopmentCa("supplier.example")
KEY = ec.generate_private_key(ec.SECP256R1())

BUNDLES = x509_bundles({FACTORY: authorities(CA), SUPPLIER: authorities(OTHER)})
KEYS = jwt_bundles({FACTORY: jwks(jwk(KEY, "k1")), SUPPLIER: jwks()})
SVID = x509_svids(x509_svid(CA.issue(CAMERA)))
MESSAGES = st.sampled_from([BUNDLES, KEYS, SVID])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a message in which a few bytes are others, gone or new."""
    data = draw(MESSAGES)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(start + 4, len(data))))
        data = data[:start] + draw(st.binary(max_size=4)) + data[end:]
    return data


ENTRIES = st.lists(
    st.builds(
        lambda number, name, value: len_field(
            number, len_field(1, name) + len_field(2, value)
        ),
        st.integers(1, 5),
        st.sampled_from([FACTORY.encode(), SUPPLIER.encode(), b"", b"\xff"]),
        st.binary(max_size=20) | st.sampled_from([authorities(CA), jwks()]),
    ),
    max_size=4,
).map(b"".join)

ANYTHING = st.binary(max_size=200) | ENTRIES | damaged()


@given(ANYTHING)
@example(BUNDLES)
def test_any_bytes_are_bundles_of_cas_or_the_one_error(raw: bytes) -> None:
    with contextlib.suppress(BundleError):
        for authorities in decode_x509_bundles(raw).values():
            for authority in authorities:
                assert authority.extensions


@given(ANYTHING)
@example(KEYS)
def test_any_bytes_are_keys_by_their_id_or_the_one_error(raw: bytes) -> None:
    with contextlib.suppress(BundleError):
        for keys in decode_jwt_bundles(raw).values():
            assert all(name == key.key_id for name, key in keys.items())


@given(ANYTHING)
@example(SVID)
def test_any_bytes_are_our_svid_or_the_one_error(raw: bytes) -> None:
    with contextlib.suppress(SvidError):
        own = decode_svid(raw)
        assert str(own.spiffe_id) == CAMERA


@given(st.binary(max_size=60))
def test_what_one_bundle_is_changes_nothing_for_another(value: bytes) -> None:
    raw = x509_bundles({SUPPLIER: value, FACTORY: authorities(CA)})
    bundles = decode_x509_bundles(raw)
    assert bundles[TrustDomain("factory.example")] == (CA.certificate,)
    assert bundles[TrustDomain("supplier.example")] == ()
