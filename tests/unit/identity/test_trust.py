import datetime as dt
import math
import os
from pathlib import Path

import pytest
from checks import CAMERA, check_request, envoy_certificate, is_allowed, reason_of
from parts import MemorySink, eventually, example_config, loaded_policies

from authz_server.assembly import build_pipeline, open_identities
from authz_server.clock import Instant
from authz_server.config import Identity
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import AuthzError, BundleError, Reason, SvidError
from authz_server.identity.certificate import Leaf, parse_leaf
from authz_server.identity.chain import ChainVerifier
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustFiles
from authz_server.identity.trust_bundle import TrustBundle, parse_bundle

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
CA, NEXT, OTHER = (
    DevelopmentCa(FACTORY.name),
    DevelopmentCa(FACTORY.name),
    DevelopmentCa(SUPPLIER.name),
)
INTERMEDIATE = DevelopmentCa(FACTORY.name, CA)
ROBOT = "spiffe://supplier.example/ns/parts/sa/robot"


def leaf(svid: Svid) -> Leaf:
    return parse_leaf(envoy_certificate(svid.certificate_pem).encode())


def now_s() -> float:
    return dt.datetime.now(dt.UTC).timestamp()


def bundle(*authorities: DevelopmentCa, name: TrustDomain = FACTORY) -> TrustBundle:
    return parse_bundle(b"".join(ca.bundle_pem for ca in authorities), name)


def verify(svid: Svid, *authorities: DevelopmentCa) -> tuple[float, float]:
    verifier = ChainVerifier(bundle(*authorities))
    return verifier.verify(svid.certificate, now_s())


def test_a_leaf_of_a_bundles_ca_is_believed_as_long_as_every_certificate_holds() -> (
    None
):
    svid = CA.issue(CAMERA)
    assert verify(svid, NEXT, CA) == (
        svid.certificate.not_valid_before_utc.timestamp(),
        svid.certificate.not_valid_after_utc.timestamp(),
    )


def test_a_leaf_that_outlives_its_ca_is_believed_until_the_ca_ends() -> None:
    svid = CA.issue(CAMERA, not_after=dt.datetime.now(dt.UTC) + dt.timedelta(days=300))
    end = CA.certificate.not_valid_after_utc.timestamp()
    assert verify(svid, CA)[1] == end


@pytest.mark.parametrize("omit", [[], ["aki"]])
def test_a_leaf_without_key_identifiers_is_believed_too(omit: list[str]) -> None:
    from cryptography import x509

    oids = [x509.AuthorityKeyIdentifier.oid, x509.SubjectKeyIdentifier.oid]
    verify(CA.issue(CAMERA, omit=oids if omit else []), CA)


def test_the_ca_of_another_trust_domain_cannot_mint_our_ids() -> None:
    with pytest.raises(SvidError) as caught:
        verify(OTHER.issue(CAMERA), CA)
    assert caught.value.reason is Reason.CERTIFICATE_UNTRUSTED


def test_a_ca_of_the_same_name_with_another_key_is_not_believed() -> None:
    with pytest.raises(SvidError):
        verify(NEXT.issue(CAMERA), CA)


def test_an_expired_leaf_has_no_chain() -> None:
    with pytest.raises(SvidError):
        verify(CA.issue_expired(CAMERA), CA)


def test_a_leaf_whose_issuer_is_not_in_the_bundle_is_told_the_cure() -> None:
    svid = INTERMEDIATE.issue(CAMERA)
    with pytest.raises(SvidError, match="put the CA that issued the leaf into it"):
        verify(svid, CA)
    verify(svid, INTERMEDIATE)
    verify(svid, CA, INTERMEDIATE)


def test_an_empty_bundle_verifies_nothing() -> None:
    with pytest.raises(BundleError, match="is empty"):
        ChainVerifier(TrustBundle(FACTORY, ()))


class Files:
    """Bundle files that a test rewrites, on a clock that it moves."""

    def __init__(self, folder: Path, max_age_s: float = math.inf) -> None:
        self.now_s = now_s()
        self.paths = {FACTORY: folder / "f.pem", SUPPLIER: folder / "s.pem"}
        self.paths[FACTORY].write_bytes(CA.bundle_pem)
        self.paths[SUPPLIER].write_bytes(OTHER.bundle_pem)
        self.trust = TrustFiles(
            self.paths, max_age_s=max_age_s, clock=lambda: Instant(self.now_s, 0.0)
        )
        self.trust.reload()

    def write(self, data: bytes, name: TrustDomain = FACTORY) -> None:
        self.paths[name].write_bytes(data)
        self.trust.reload()

    def believes(self, svid: Svid) -> bool:
        try:
            self.trust.current.verify(leaf(svid), self.now_s)
        except AuthzError:
            return False
        return True


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_each_trust_domain_is_verified_by_its_own_bundle(files: Files) -> None:
    assert files.believes(CA.issue(CAMERA))
    assert files.believes(OTHER.issue(ROBOT))
    assert not files.believes(OTHER.issue(CAMERA))
    assert not files.believes(CA.issue(ROBOT))
    assert files.trust.error is None


def test_a_trust_domain_without_a_bundle_is_not_believed(files: Files) -> None:
    svid = CA.issue("spiffe://stranger.example/a")
    with pytest.raises(BundleError) as caught:
        files.trust.current.verify(leaf(svid), files.now_s)
    assert caught.value.reason is Reason.TRUST_BUNDLE_UNAVAILABLE


def test_a_chain_that_was_found_is_remembered_and_its_dates_still_count(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    svid = CA.issue(CAMERA)
    calls = []
    verify = ChainVerifier.verify
    monkeypatch.setattr(
        ChainVerifier,
        "verify",
        lambda self, *arguments: calls.append(1) or verify(self, *arguments),
    )
    assert files.believes(svid)
    assert files.believes(svid)
    assert len(calls) == 1
    files.now_s += 3700
    assert not files.believes(svid)


def test_rotation_ends_the_old_ca_with_the_bundle_that_lacks_it(files: Files) -> None:
    old, new = CA.issue(CAMERA), NEXT.issue(CAMERA)
    revision = files.trust.current.revision
    files.write(CA.bundle_pem + NEXT.bundle_pem)
    assert files.trust.current.revision != revision
    assert files.believes(old)
    assert files.believes(new)
    files.write(NEXT.bundle_pem)
    assert not files.believes(old)
    assert files.believes(new)


def test_an_empty_bundle_revokes_its_trust_domain_alone_and_says_so(
    files: Files,
) -> None:
    files.write(b'{"keys": []}')
    assert not files.believes(CA.issue(CAMERA))
    assert files.believes(OTHER.issue(ROBOT))
    assert "is empty" in str(files.trust.error)


def test_a_bundle_that_goes_bad_leaves_the_last_good_one_and_says_so(
    files: Files,
) -> None:
    files.write(b"nonsense")
    assert files.believes(CA.issue(CAMERA))
    assert "f.pem" in str(files.trust.error)
    files.paths[FACTORY].unlink()
    files.trust.reload()
    assert files.believes(CA.issue(CAMERA))
    assert "cannot be read" in str(files.trust.error)
    files.write(CA.bundle_pem)
    assert files.trust.error is None


def test_an_older_sequence_does_not_replace_a_newer_one(files: Files) -> None:
    import base64
    import json

    from cryptography.hazmat.primitives.serialization import Encoding

    def numbered(ca: DevelopmentCa, sequence: int) -> bytes:
        der = base64.b64encode(ca.certificate.public_bytes(Encoding.DER)).decode()
        key = {"use": "x509-svid", "kty": "EC", "x5c": [der]}
        return json.dumps({"keys": [key], "spiffe_sequence": sequence}).encode()

    files.write(numbered(NEXT, 5))
    files.write(numbered(CA, 4))
    assert files.believes(NEXT.issue(CAMERA))
    assert not files.believes(CA.issue(CAMERA))
    assert "older sequence" in str(files.trust.error)
    files.write(numbered(CA, 6))
    assert files.believes(CA.issue(CAMERA))


def test_a_bundle_that_is_too_old_denies_its_trust_domain(tmp_path: Path) -> None:
    files = Files(tmp_path, max_age_s=600.0)
    svid = CA.issue(CAMERA)
    written_s = files.paths[FACTORY].stat().st_mtime
    window = files.trust.current.verify(leaf(svid), files.now_s)
    assert window[1] == written_s + 600.0
    files.now_s = written_s + 601.0
    assert not files.believes(svid)
    assert "too old" in str(files.trust.error)
    os.utime(files.paths[FACTORY], (files.now_s, files.now_s))
    files.trust.reload()
    assert files.believes(svid)


def test_a_changed_file_is_noticed(files: Files) -> None:
    files.trust.start_watching(0.01)
    try:
        files.paths[FACTORY].write_bytes(NEXT.bundle_pem)
        assert eventually(lambda: files.believes(NEXT.issue(CAMERA)))
        assert not files.believes(CA.issue(CAMERA))
    finally:
        files.trust.stop()


def test_what_is_remembered_is_bounded(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.trust._REMEMBERED", 2)
    for _ in range(5):
        assert files.believes(CA.issue(CAMERA))
    assert len(files.trust.current._seen) <= 2


def test_a_remembered_decision_dies_with_the_bundle_that_it_was_made_under(
    tmp_path: Path,
) -> None:
    path = tmp_path / "f.pem"
    path.write_bytes(CA.bundle_pem)
    config = example_config(identity=Identity(bundles={FACTORY.name: str(path)}))
    trust = open_identities(config)
    trust.reload()
    encoded = envoy_certificate(CA.issue(CAMERA).certificate_pem)
    raw = bytes(check_request(certificate=encoded))
    sink = MemorySink()
    with loaded_policies(config) as policies:
        pipeline = build_pipeline(config, policies, sink, trust)
        assert is_allowed(pipeline.check(raw))
        assert is_allowed(pipeline.check(raw))
        assert b'"cache_hit":true' in sink.events[-1]
        path.write_bytes(NEXT.bundle_pem)
        trust.reload()
        assert reason_of(pipeline.check(raw)) == Reason.CERTIFICATE_UNTRUSTED
        path.write_bytes(b'{"keys": []}')
        trust.reload()
        assert reason_of(pipeline.check(raw)) == Reason.TRUST_BUNDLE_UNAVAILABLE


def test_forgetting_the_bundles_does_not_mean_to_trust_the_proxy() -> None:
    config = example_config(identity=Identity(bundles={FACTORY.name: "f.pem"}))
    with loaded_policies(config) as policies, pytest.raises(ValueError, match="chain"):
        build_pipeline(config, policies, MemorySink(), IdentitySources())
