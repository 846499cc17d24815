import dataclasses
import datetime as dt
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from checks import CAMERA, check_request, envoy_certificate, is_allowed, reason_of
from cryptography.hazmat.primitives.asymmetric import ec
from parts import MemorySink, eventually, example_config, loaded_policies

from authz_server.assembly import build_pipeline, open_identities
from authz_server.clock import Instant
from authz_server.config import Identity
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import AuthzError, BundleError, Reason, SvidError
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.certificate import Leaf, parse_leaf
from authz_server.identity.chain import ChainVerifier
from authz_server.identity.jwk import VerificationKey
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import Standing, TrustStore
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
    verifier = ChainVerifier(FACTORY, bundle(*authorities).x509_authorities)
    return verifier.verify(leaf(svid), (), now_s())


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


def test_intermediates_that_the_peer_sent_lead_to_the_bundle_and_no_further() -> None:
    svid = INTERMEDIATE.issue(CAMERA)
    sent = (INTERMEDIATE.certificate,)
    verifier = ChainVerifier(FACTORY, bundle(CA).x509_authorities)
    assert verifier.verify(leaf(svid), sent, now_s())[1] == (
        svid.certificate.not_valid_after_utc.timestamp()
    )
    with pytest.raises(SvidError):
        verifier.verify(leaf(svid), (), now_s())
    stranger = ChainVerifier(FACTORY, bundle(NEXT).x509_authorities)
    with pytest.raises(SvidError):
        stranger.verify(leaf(svid), sent, now_s())


def test_an_empty_bundle_verifies_nothing() -> None:
    with pytest.raises(BundleError, match=r"no X\.509 authority"):
        ChainVerifier(FACTORY, ())


class Files:
    """Bundle files that a test rewrites, on a clock that it moves."""

    def __init__(self, folder: Path, max_age_s: float = math.inf) -> None:
        self.now_s = now_s()
        self.paths = {FACTORY: folder / "f.pem", SUPPLIER: folder / "s.pem"}
        self.paths[FACTORY].write_bytes(CA.bundle_pem)
        self.paths[SUPPLIER].write_bytes(OTHER.bundle_pem)
        self.store = TrustStore(
            self.paths, max_age_s=max_age_s, clock=lambda: Instant(self.now_s, 0.0)
        )
        self.files = BundleFiles(self.store, self.paths)
        self.files.reload()

    def write(self, data: bytes, name: TrustDomain = FACTORY) -> None:
        self.paths[name].write_bytes(data)
        self.files.reload()

    def believes(self, svid: Svid) -> bool:
        try:
            self.store.current.verify(leaf(svid), self.now_s)
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
    assert files.store.error is None


def test_a_trust_domain_without_a_bundle_is_not_believed(files: Files) -> None:
    svid = CA.issue("spiffe://stranger.example/a")
    with pytest.raises(BundleError) as caught:
        files.store.current.verify(leaf(svid), files.now_s)
    assert caught.value.reason is Reason.TRUST_BUNDLE_UNAVAILABLE


def test_a_chain_that_was_found_is_remembered_and_its_dates_still_count(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    svid = CA.issue(CAMERA)
    calls = []
    find = ChainVerifier._find
    monkeypatch.setattr(
        ChainVerifier,
        "_find",
        lambda self, *arguments: calls.append(1) or find(self, *arguments),
    )
    assert files.believes(svid)
    assert files.believes(svid)
    assert len(calls) == 1
    files.now_s += 3700
    assert not files.believes(svid)


def test_rotation_ends_the_old_ca_with_the_bundle_that_lacks_it(files: Files) -> None:
    old, new = CA.issue(CAMERA), NEXT.issue(CAMERA)
    revision = files.store.current.revision
    files.write(CA.bundle_pem + NEXT.bundle_pem)
    assert files.store.current.revision != revision
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
    assert "is empty" in str(files.store.error)


def test_a_bundle_that_goes_bad_leaves_the_last_good_one_and_says_so(
    files: Files,
) -> None:
    files.write(b"nonsense")
    assert files.believes(CA.issue(CAMERA))
    assert "f.pem" in str(files.store.error)
    files.paths[FACTORY].unlink()
    files.files.reload()
    assert files.believes(CA.issue(CAMERA))
    assert "cannot be read" in str(files.store.error)
    files.write(CA.bundle_pem)
    assert files.store.error is None


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
    assert "older sequence" in str(files.store.error)
    files.write(numbered(CA, 6))
    assert files.believes(CA.issue(CAMERA))


def test_a_bundle_that_is_too_old_denies_its_trust_domain(tmp_path: Path) -> None:
    files = Files(tmp_path, max_age_s=600.0)
    svid = CA.issue(CAMERA)
    written_s = files.paths[FACTORY].stat().st_mtime
    window = files.store.current.verify(leaf(svid), files.now_s)
    assert window[1] == written_s + 600.0
    files.now_s = written_s + 601.0
    assert not files.believes(svid)
    assert "too old" in str(files.store.error)
    os.utime(files.paths[FACTORY], (files.now_s, files.now_s))
    files.files.reload()
    assert files.believes(svid)


def test_a_changed_file_is_noticed(files: Files) -> None:
    files.files.start_watching(0.01)
    try:
        files.paths[FACTORY].write_bytes(NEXT.bundle_pem)
        assert eventually(lambda: files.believes(NEXT.issue(CAMERA)))
        assert not files.believes(CA.issue(CAMERA))
    finally:
        files.files.stop()


def test_what_is_remembered_is_bounded(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.chain._REMEMBERED", 2)
    for _ in range(5):
        assert files.believes(CA.issue(CAMERA))
    verifier = files.store.current.anchors[FACTORY].verifier
    assert verifier is not None
    assert len(verifier._seen) <= 2


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
    encoded = envoy_certificate(CA.issue(CAMERA).certificate_pem)
    raw = bytes(check_request(certificate=encoded))
    with loaded_policies(config) as policies:
        pipeline = build_pipeline(config, policies, MemorySink(), IdentitySources())
        assert reason_of(pipeline.check(raw)) == Reason.TRUST_BUNDLE_UNAVAILABLE


class Store:
    """A store that a test fills by hand, on a clock that it moves."""

    def __init__(self, *expected: TrustDomain, max_age_s: float = 600.0) -> None:
        self.now_s = now_s()
        self.store = TrustStore(
            expected, max_age_s=max_age_s, clock=lambda: Instant(self.now_s, 0.0)
        )

    def put(
        self,
        *authorities: DevelopmentCa,
        at_s: float | None = None,
        source: str = "file",
        sequence: int | None = None,
    ) -> None:
        numbered = dataclasses.replace(bundle(*authorities), sequence=sequence)
        self.store.put(numbered, self.now_s if at_s is None else at_s, source)

    def put_all(
        self,
        bundles: Mapping[TrustDomain, Sequence[DevelopmentCa]],
        at_s: float = math.inf,
    ) -> None:
        self.store.put_all(
            {
                name: TrustBundle(name, tuple(ca.certificate for ca in authorities))
                for name, authorities in bundles.items()
            },
            at_s,
            "agent",
        )

    @property
    def revision(self) -> str:
        return self.store.current.revision

    def believes(self, ca: DevelopmentCa, spiffe_id: str = CAMERA) -> bool:
        try:
            self.store.current.verify(leaf(ca.issue(spiffe_id)), self.now_s)
        except AuthzError:
            return False
        return True

    def problem(self, name: TrustDomain = FACTORY) -> str:
        return self.store.standings()[name].problem


def test_of_two_sources_the_one_that_said_so_last_is_believed() -> None:
    made = Store(FACTORY)
    made.put(CA, at_s=made.now_s - 5, source="file")
    made.put(NEXT, at_s=made.now_s, source="endpoint")
    made.put(CA, at_s=made.now_s - 5, source="file")
    assert made.believes(NEXT)
    assert not made.believes(CA)
    made.put(CA, at_s=made.now_s + 1, source="file")
    assert made.believes(CA)
    assert not made.believes(NEXT)


def test_a_source_may_always_correct_itself() -> None:
    made = Store(FACTORY)
    made.put(CA, at_s=made.now_s)
    made.put(NEXT, at_s=made.now_s - 100)
    assert made.believes(NEXT)
    assert not made.believes(CA)
    good_until_s = made.store.current.good_until_s(FACTORY)
    assert good_until_s == made.now_s + 500


def test_no_source_goes_back_to_an_older_sequence_however_fresh_it_is() -> None:
    made = Store(FACTORY)
    made.put(NEXT, sequence=5)
    for source in ("file", "endpoint"):
        made.put(CA, at_s=made.now_s + 100, source=source, sequence=4)
    assert made.believes(NEXT)
    assert not made.believes(CA)
    assert made.problem() == (
        "file: went back to an older sequence; endpoint: went back to an older sequence"
    )
    made.put(NEXT, at_s=made.now_s + 200, source="endpoint", sequence=5)
    assert made.problem() == "file: went back to an older sequence"


def test_a_bundle_without_a_sequence_is_as_new_as_its_source_says() -> None:
    made = Store(FACTORY)
    made.put(NEXT, sequence=5)
    made.put(CA, at_s=made.now_s + 1, source="endpoint")
    assert made.believes(CA)


def test_a_trust_domain_that_the_agent_no_longer_names_is_revoked_at_once() -> None:
    made = Store()
    made.put_all({FACTORY: [CA], SUPPLIER: [OTHER]})
    assert made.believes(OTHER, ROBOT)
    before = made.revision
    made.put_all({FACTORY: [CA]})
    assert not made.believes(OTHER, ROBOT)
    assert made.believes(CA)
    assert made.revision != before
    assert SUPPLIER not in made.store.standings()


def test_a_revocation_ends_what_was_decided_before_it_even_if_it_is_taken_back() -> (
    None
):
    made = Store()
    made.put_all({FACTORY: [CA]}, math.inf)
    before = made.revision
    made.put_all({}, math.inf)
    # Shorter than before: an old decision would outlive it.
    made.put_all({FACTORY: [CA]}, made.now_s)
    assert made.believes(CA)
    assert made.revision != before


def test_a_trust_domain_with_a_source_of_its_own_is_not_the_agents() -> None:
    made = Store(FACTORY)
    made.put(CA)
    made.put_all({FACTORY: [NEXT], SUPPLIER: [OTHER]})
    assert made.believes(CA)
    assert not made.believes(NEXT)
    assert made.believes(OTHER, ROBOT)
    made.put_all({})
    assert made.believes(CA)
    assert not made.believes(OTHER, ROBOT)


def test_an_expected_trust_domain_gets_no_bundle_from_the_agent_either() -> None:
    made = Store(FACTORY)
    made.put_all({FACTORY: [NEXT]})
    assert not made.believes(NEXT)
    assert made.problem() == "factory.example has no bundle yet"


def test_a_bundle_that_begins_to_age_ends_what_was_decided_while_it_did_not() -> None:
    made = Store()
    made.put_all({FACTORY: [CA]}, math.inf)
    verdict = made.store.current.verify(leaf(CA.issue(CAMERA)), made.now_s)
    before = made.revision
    made.put_all({FACTORY: [CA]}, made.now_s)
    assert made.revision != before
    aging = made.store.current.verify(leaf(CA.issue(CAMERA)), made.now_s)
    assert aging[1] == made.now_s + 600 < verdict[1]
    made.now_s += 601
    assert not made.believes(CA)
    assert made.problem() == "the bundle of factory.example is too old"


def test_a_bundle_that_lasts_longer_ends_nothing() -> None:
    made = Store()
    made.put_all({FACTORY: [CA]}, made.now_s)
    before = made.revision
    made.put_all({FACTORY: [CA]}, made.now_s + 5)
    made.put_all({FACTORY: [CA]}, math.inf)
    assert made.revision == before
    assert made.store.current.good_until_s(FACTORY) == math.inf


def test_no_revision_comes_back_when_a_bundle_ages_again() -> None:
    made = Store()
    seen = set()
    for _ in range(3):
        made.put_all({FACTORY: [CA]}, math.inf)
        made.put_all({FACTORY: [CA]}, made.now_s)
        seen.add(made.revision)
    assert len(seen) == 3


def test_a_decision_made_under_a_fresh_bundle_dies_when_it_begins_to_age() -> None:
    config = example_config(
        identity=Identity(workload_api="unix:///nowhere", require_certificate=True)
    )
    made = Store()
    made.put_all({FACTORY: [CA]}, math.inf)
    raw = bytes(
        check_request(certificate=envoy_certificate(CA.issue(CAMERA).certificate_pem))
    )
    with loaded_policies(config) as policies:
        pipeline = build_pipeline(
            config, policies, MemorySink(), IdentitySources(made.store)
        )
        assert is_allowed(pipeline.check(raw))
        made.put_all({FACTORY: [CA]}, made.now_s - 601)
        assert reason_of(pipeline.check(raw)) == Reason.TRUST_BUNDLE_UNAVAILABLE


def test_the_chains_that_were_found_are_kept_while_the_authorities_stay() -> None:
    made = Store(max_age_s=math.inf)
    made.put_all({FACTORY: [CA], SUPPLIER: [OTHER]})
    verifiers = {
        name: anchor.verifier for name, anchor in made.store.current.anchors.items()
    }
    made.put_all({FACTORY: [CA], SUPPLIER: [OTHER, CA]})
    anchors = made.store.current.anchors
    assert anchors[FACTORY].verifier is verifiers[FACTORY]
    assert anchors[SUPPLIER].verifier is not verifiers[SUPPLIER]


def test_a_bundle_of_jwt_authorities_alone_verifies_no_certificate() -> None:
    made = Store()
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = {"k1": VerificationKey("k1", key)}
    made.store.put(TrustBundle(FACTORY, (), keys), math.inf, "endpoint")
    trust = made.store.current
    with pytest.raises(BundleError, match=r"no X\.509 authority"):
        trust.verify(leaf(CA.issue(CAMERA)), made.now_s)
    assert trust.jwt_keys(FACTORY, made.now_s) == keys
    made.put(CA, at_s=math.inf, source="endpoint")
    assert made.believes(CA)
    with pytest.raises(BundleError, match="no JWT authority"):
        made.store.current.jwt_keys(FACTORY, made.now_s)


def test_jwt_keys_age_as_their_bundle_does() -> None:
    made = Store()
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = {"k1": VerificationKey("k1", key)}
    made.store.put(TrustBundle(FACTORY, (), keys), made.now_s, "endpoint")
    with pytest.raises(BundleError, match="too old"):
        made.store.current.jwt_keys(FACTORY, made.now_s + 601)
    with pytest.raises(BundleError, match="no usable bundle"):
        made.store.current.jwt_keys(SUPPLIER, made.now_s)


def test_the_standings_tell_the_age_of_each_bundle_and_what_is_wrong() -> None:
    made = Store(FACTORY)
    assert made.store.standings() == {
        FACTORY: Standing(math.inf, "factory.example has no bundle yet")
    }
    made.store.complain(FACTORY, "cannot be read", "f.pem")
    assert made.store.standings() == {
        FACTORY: Standing(math.inf, "f.pem: cannot be read")
    }
    made.put(CA, at_s=made.now_s - 30, source="f.pem")
    made.put_all({SUPPLIER: [OTHER]})
    assert made.store.standings() == {
        FACTORY: Standing(30.0, ""),
        SUPPLIER: Standing(0.0, ""),
    }
    assert made.store.error is None
    made.now_s += 571
    made.store.complain(FACTORY, "refused", "endpoint")
    assert made.store.standings()[FACTORY] == Standing(
        601.0, "endpoint: refused; the bundle of factory.example is too old"
    )


def test_a_file_from_the_future_is_no_younger_than_now() -> None:
    made = Store(FACTORY)
    made.put(CA, at_s=made.now_s + 1000)
    assert made.store.standings()[FACTORY].age_s == 0.0


def test_a_complaint_ends_with_the_next_bundle_of_the_same_source() -> None:
    made = Store(FACTORY)
    made.put(CA)
    made.store.complain(FACTORY, "refused", "endpoint")
    made.put(CA, source="file")
    assert made.problem() == "endpoint: refused"
    # Not in force, because the file is newer; but well.
    made.put(NEXT, at_s=made.now_s - 1, source="endpoint")
    assert made.problem() == ""
    assert made.believes(CA)


def test_a_complaint_of_an_unknown_trust_domain_is_told_and_no_more() -> None:
    made = Store()
    made.store.complain(SUPPLIER, "refused", "endpoint")
    assert made.store.error == "endpoint: refused"
    assert made.store.current.anchors == {}


def test_what_is_wrong_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = Store(FACTORY)
    for _ in range(3):
        made.store.complain(FACTORY, "refused", "endpoint")
        made.put_all({SUPPLIER: []})
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint: refused",
        "agent: the bundle of supplier.example is empty",
    ]


def test_an_empty_bundle_among_many_revokes_its_trust_domain_alone() -> None:
    made = Store()
    made.put_all({FACTORY: [CA], SUPPLIER: [OTHER]})
    made.put_all({FACTORY: [CA], SUPPLIER: []})
    assert made.believes(CA)
    assert not made.believes(OTHER, ROBOT)
    assert made.problem(SUPPLIER) == "agent: the bundle of supplier.example is empty"
    made.put_all({FACTORY: [CA]})
    assert made.store.error is None


def test_the_authorities_of_one_trust_domain_never_vouch_for_another() -> None:
    made = Store()
    # The factory's bundle as the supplier's CA would like to have it.
    made.put_all({FACTORY: [OTHER], SUPPLIER: [CA]})
    assert not made.believes(CA)
    assert not made.believes(OTHER, ROBOT)
    # Whoever is in a trust domain's bundle signs its IDs and no others.
    assert made.believes(OTHER, CAMERA)
    made.put_all({FACTORY: [OTHER]})
    assert not made.believes(OTHER, ROBOT)
