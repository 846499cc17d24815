import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from checks import CAMERA
from cryptography.hazmat.primitives.asymmetric import ec
from https_endpoint import (
    SERVER_ID,
    HttpsEndpoint,
    answer,
    bundle_json,
    https_endpoint,
    server_svid,
)
from parts import eventually
from workload_agent import (
    JWT_BUNDLES,
    X509_BUNDLES,
    X509_SVID,
    Agent,
    authorities,
    jwk,
    jwks,
    jwt_bundles,
    workload_agent,
    x509_bundles,
    x509_svid,
    x509_svids,
)

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.demo.process import free_ports
from authz_server.errors import AuthzError, BundleError
from authz_server.fetch import web_context
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.certificate import read_leaf
from authz_server.identity.federation import Endpoint
from authz_server.identity.remote_bundles import FederatedBundles, WorkloadApiBundles
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust import TrustStore

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
F, S = f"spiffe://{FACTORY}", f"spiffe://{SUPPLIER}"
CA, NEXT = DevelopmentCa(FACTORY.name), DevelopmentCa(FACTORY.name)
OTHER, OTHER_NEXT = DevelopmentCa(SUPPLIER.name), DevelopmentCa(SUPPLIER.name)
ROBOT = "spiffe://supplier.example/ns/parts/sa/robot"
KEY = ec.generate_private_key(ec.SECP256R1())
MAX_AGE_S = 600.0
DENIED = grpc.StatusCode.PERMISSION_DENIED


@dataclasses.dataclass
class Trusting:
    """A store on a clock that a test moves."""

    expected: tuple[TrustDomain, ...] = ()
    now_s: float = dataclasses.field(default_factory=time.time)
    store: TrustStore = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.store = TrustStore(
            self.expected, max_age_s=MAX_AGE_S, clock=lambda: Instant(self.now_s, 0.0)
        )

    def clock(self) -> Instant:
        return Instant(self.now_s, 0.0)

    def believes(self, ca: DevelopmentCa, spiffe_id: str = CAMERA) -> bool:
        try:
            self.store.current.verify(
                read_leaf(ca.issue(spiffe_id).certificate_pem), self.now_s
            )
        except AuthzError:
            return False
        return True

    def age_s(self, name: TrustDomain = FACTORY) -> float:
        return self.store.standings()[name].age_s


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attempts follow one another at once."""
    monkeypatch.setattr("authz_server.identity.federation._SHORTEST_INTERVAL_S", 0.01)
    monkeypatch.setattr("authz_server.fetch._FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("authz_server.identity.workload_api.SHORTEST_WAIT_S", 0.01)
    monkeypatch.setattr("authz_server.identity.workload_api.LONGEST_WAIT_S", 0.05)


def supplier_json(*cas: DevelopmentCa, **members: Any) -> bytes:
    """Return a bundle that asks to be fetched again at once."""
    return bundle_json(*cas, spiffe_refresh_hint=0, **members)


@contextlib.contextmanager
def federated(
    trusting: Trusting, url: str, folder: Path, spiffe_id: str | None = None
) -> Iterator[FederatedBundles]:
    """Yield the supplier's bundle endpoint as a source, stopped in the end."""
    source = FederatedBundles(
        trusting.store,
        [Endpoint(SUPPLIER, url, SpiffeId.parse(spiffe_id) if spiffe_id else None)],
        web_tls=web_context(write_bundle(folder, CA)),
        clock=trusting.clock,
    )
    source.reload()
    source.start_watching(1.0)
    try:
        yield source
    finally:
        source.stop()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[HttpsEndpoint]:
    with https_endpoint(tmp_path, server_svid(CA)) as running:
        running.respond = answer(supplier_json(OTHER))
        yield running


def test_a_partners_bundle_comes_into_force_and_is_followed(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    trusting = Trusting((SUPPLIER,))
    assert trusting.store.error == "supplier.example has no bundle yet"
    with federated(trusting, endpoint.url, tmp_path) as source:
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        assert trusting.store.error is None
        endpoint.respond = answer(supplier_json(OTHER_NEXT))
        assert eventually(lambda: trusting.believes(OTHER_NEXT, ROBOT))
        assert not trusting.believes(OTHER, ROBOT)
        assert source.error is None
    assert trusting.believes(OTHER_NEXT, ROBOT)


def test_an_endpoint_that_is_gone_leaves_its_last_bundle_until_that_is_too_old(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    trusting = Trusting((SUPPLIER,))
    with federated(trusting, endpoint.url, tmp_path):
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        endpoint.respond = answer(b"", 503)
        assert eventually(lambda: "status 503" in str(trusting.store.error))
        trusting.now_s += MAX_AGE_S
        assert trusting.believes(OTHER, ROBOT)
        trusting.now_s += 1
        assert not trusting.believes(OTHER, ROBOT)
        assert "is too old" in str(trusting.store.error)
        endpoint.respond = answer(supplier_json(OTHER))
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        assert eventually(lambda: trusting.store.error is None)


def test_a_partner_that_cannot_be_reached_holds_up_nobody(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    trusting = Trusting((SUPPLIER,))
    with federated(trusting, f"https://localhost:{port}/", tmp_path):
        assert eventually(lambda: "refused" in str(trusting.store.error))
        assert trusting.age_s(SUPPLIER) == math.inf
        assert not trusting.believes(OTHER, ROBOT)


def test_a_partner_that_revokes_everything_is_believed_in_that_too(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    trusting = Trusting((SUPPLIER,))
    with federated(trusting, endpoint.url, tmp_path):
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        endpoint.respond = answer(supplier_json())
        assert eventually(lambda: not trusting.believes(OTHER, ROBOT))
        assert eventually(lambda: "is empty" in str(trusting.store.error))


def test_a_partner_that_goes_back_to_an_older_sequence_is_not_followed(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    trusting = Trusting((SUPPLIER,))
    endpoint.respond = answer(supplier_json(OTHER_NEXT, spiffe_sequence=5))
    with federated(trusting, endpoint.url, tmp_path):
        assert eventually(lambda: trusting.believes(OTHER_NEXT, ROBOT))
        endpoint.respond = answer(supplier_json(OTHER, spiffe_sequence=4))
        assert eventually(lambda: "older sequence" in str(trusting.store.error))
        assert trusting.believes(OTHER_NEXT, ROBOT)
        assert not trusting.believes(OTHER, ROBOT)


def test_a_partner_that_serves_our_authorities_makes_nobody_ours(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    trusting = Trusting((FACTORY, SUPPLIER))
    own = BundleFiles(trusting.store, {FACTORY: write_bundle(tmp_path, CA)})
    own.reload()
    endpoint.respond = answer(supplier_json(OTHER, CA))
    with federated(trusting, endpoint.url, tmp_path):
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        assert not trusting.believes(OTHER, CAMERA)
        assert trusting.believes(CA, CAMERA)


def test_the_authorities_that_a_partner_is_known_by_sign_none_of_its_ids(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    trusting = Trusting((SUPPLIER,))
    # The CA whose certificate the endpoint shows signs no IDs of the supplier.
    with federated(trusting, endpoint.url, tmp_path):
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        assert not trusting.believes(CA, ROBOT)


SUPPLIER_SERVER = "spiffe://supplier.example/bundle-server"


def test_a_file_is_what_an_endpoint_is_first_known_by_and_then_its_own_bundle(
    tmp_path: Path,
) -> None:
    trusting = Trusting((SUPPLIER,))
    path = write_bundle(tmp_path, OTHER)
    files = BundleFiles(trusting.store, {SUPPLIER: path})
    files.reload()
    trusting.now_s = path.stat().st_mtime + 1
    with https_endpoint(tmp_path, OTHER.issue(SUPPLIER_SERVER)) as first:
        first.respond = answer(supplier_json(OTHER, OTHER_NEXT))
        with federated(trusting, first.url, tmp_path, SUPPLIER_SERVER):
            assert eventually(lambda: trusting.believes(OTHER_NEXT, ROBOT))
    # By the file alone this one would not be known.
    with https_endpoint(tmp_path, OTHER_NEXT.issue(SUPPLIER_SERVER)) as then:
        then.respond = answer(supplier_json(OTHER_NEXT))
        with federated(trusting, then.url, tmp_path, SUPPLIER_SERVER):
            assert eventually(lambda: not trusting.believes(OTHER, ROBOT))
    # The file is older than what the endpoint said.
    files.reload()
    assert not trusting.believes(OTHER, ROBOT)
    assert trusting.believes(OTHER_NEXT, ROBOT)


def test_an_endpoint_is_not_known_by_a_bundle_that_is_too_old(tmp_path: Path) -> None:
    trusting = Trusting((SUPPLIER,))
    path = write_bundle(tmp_path, OTHER)
    BundleFiles(trusting.store, {SUPPLIER: path}).reload()
    trusting.now_s = path.stat().st_mtime + MAX_AGE_S + 1
    with https_endpoint(tmp_path, OTHER.issue(SUPPLIER_SERVER)) as endpoint:
        endpoint.respond = answer(supplier_json(OTHER))
        with federated(trusting, endpoint.url, tmp_path, SUPPLIER_SERVER):
            assert eventually(
                lambda: "give a first one as a file" in str(trusting.store.error)
            )
            assert endpoint.requests == []


def test_an_endpoint_is_not_known_by_the_authorities_of_another_trust_domain(
    tmp_path: Path,
) -> None:
    trusting = Trusting((FACTORY, SUPPLIER))
    path = write_bundle(tmp_path, CA)
    BundleFiles(trusting.store, {FACTORY: path}).reload()
    trusting.now_s = path.stat().st_mtime + 1
    with https_endpoint(tmp_path, OTHER.issue(SERVER_ID)) as forged:
        forged.respond = answer(supplier_json(OTHER))
        with federated(trusting, forged.url, tmp_path, SERVER_ID):
            assert eventually(lambda: "not trusted" in str(trusting.store.error))
            assert forged.requests == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_endpoints_that_an_error_of_ours_ended_are_told(
    endpoint: HttpsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("boom")

    trusting = Trusting((SUPPLIER,))
    monkeypatch.setattr(trusting.store, "put", fail)
    with federated(trusting, endpoint.url, tmp_path) as source:
        assert eventually(lambda: source.error is not None)
        assert (
            source.error == "bundle endpoints are no longer asked; restart the server"
        )


@contextlib.contextmanager
def following(
    trusting: Trusting, address: str, *, wants_svid: bool = False
) -> Iterator[WorkloadApiBundles]:
    """Yield an agent as a source, stopped in the end."""
    source = WorkloadApiBundles(
        trusting.store, address, wants_svid=wants_svid, clock=trusting.clock
    )
    source.reload()
    source.start_watching(1.0)
    try:
        yield source
    finally:
        source.stop()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with workload_agent(tmp_path / "agent.sock") as running:
        tell(running)
        yield running


def tell(agent: Agent, ca: DevelopmentCa = CA) -> None:
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(ca), S: authorities(OTHER)}))
    agent.push(JWT_BUNDLES, jwt_bundles({F: jwks(jwk(KEY, "k1"))}))


def has_keys(trusting: Trusting) -> bool:
    try:
        return "k1" in trusting.store.current.jwt_keys(FACTORY, trusting.now_s)
    except BundleError:
        return False


def is_settled(trusting: Trusting, source: WorkloadApiBundles) -> bool:
    """Return whether everything that the agent has is in force, and well."""
    return (
        source.error is None
        and trusting.believes(CA)
        and trusting.believes(OTHER, ROBOT)
        and has_keys(trusting)
        and trusting.age_s() == 0.0
    )


def test_what_the_agent_says_is_in_force_and_fresh_while_it_is_there(
    agent: Agent,
) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        anchor = trusting.store.current.anchors[FACTORY]
        assert anchor.good_until_s == math.inf
        assert source.is_live
        assert source.svid is None
        trusting.now_s += 1000
        assert trusting.believes(CA)


def test_a_bundle_that_the_agent_drops_is_denied_from_the_next_request_on(
    agent: Agent,
) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        agent.push(X509_BUNDLES, x509_bundles({F: authorities(CA)}))
        assert eventually(lambda: not trusting.believes(OTHER, ROBOT))
        assert trusting.believes(CA)
        assert SUPPLIER not in trusting.store.current.anchors


def test_a_ca_that_rotates_is_followed(agent: Agent) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        tell(agent, NEXT)
        assert eventually(lambda: trusting.believes(NEXT))
        assert not trusting.believes(CA)
        assert has_keys(trusting)


def test_jwt_authorities_and_x509_authorities_are_revoked_apart(agent: Agent) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        agent.push(JWT_BUNDLES, jwt_bundles({F: jwks()}))
        assert eventually(lambda: not has_keys(trusting))
        assert trusting.believes(CA)
        tell(agent)
        agent.push(X509_BUNDLES, x509_bundles({}))
        assert eventually(lambda: not trusting.believes(CA))
        assert eventually(lambda: has_keys(trusting))


def test_being_denied_revokes_everything_at_once_until_it_is_taken_back(
    agent: Agent,
) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        agent.refuse(X509_BUNDLES, DENIED)
        agent.refuse(JWT_BUNDLES, DENIED)
        assert eventually(lambda: trusting.store.current.anchors == {})
        assert not source.is_live
        assert eventually(lambda: str(source.error).count("register an entry") == 2)
        assert str(source.error).startswith(f"{agent.address}: ")
        tell(agent)
        assert eventually(lambda: is_settled(trusting, source))


def test_an_agent_that_is_gone_lets_its_bundles_age_from_then_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "agent.sock"
    trusting = Trusting()
    with workload_agent(path) as first:
        tell(first)
        running = following(trusting, first.address)
        source = running.__enter__()
        assert eventually(lambda: is_settled(trusting, source))
        trusting.now_s += 1000  # as fresh as ever
        gone_s = trusting.now_s
        before = trusting.store.current.revision
    try:
        assert eventually(lambda: str(source.error).count("Fetch") == 2)
        assert trusting.store.current.revision != before
        assert trusting.store.current.good_until_s(FACTORY) == gone_s + MAX_AGE_S
        trusting.now_s += MAX_AGE_S
        assert trusting.believes(CA)
        trusting.now_s += 1
        assert not trusting.believes(CA)
        assert not has_keys(trusting)
        assert trusting.age_s() == MAX_AGE_S + 1
        with workload_agent(path) as second:
            tell(second)
            assert eventually(lambda: is_settled(trusting, source))
            assert trusting.store.current.good_until_s(FACTORY) == math.inf
    finally:
        running.__exit__(None, None, None)


def test_an_agent_that_fails_for_long_is_as_old_as_its_first_failure(
    agent: Agent,
) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        began_s = trusting.now_s
        agent.refuse(X509_BUNDLES, grpc.StatusCode.UNAVAILABLE)
        assert eventually(lambda: source.error is not None)
        trusting.now_s += 100
        calls = len(agent.calls[X509_BUNDLES])
        assert eventually(lambda: len(agent.calls[X509_BUNDLES]) > calls + 2)
        assert trusting.store.current.good_until_s(FACTORY) == began_s + MAX_AGE_S


def test_bundles_are_as_old_as_the_stream_that_broke_and_not_as_one_that_came_back(
    agent: Agent,
) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        agent.refuse(X509_BUNDLES, grpc.StatusCode.UNAVAILABLE)
        assert eventually(lambda: X509_BUNDLES in str(source.error))
        trusting.now_s += 100
        agent.refuse(JWT_BUNDLES, grpc.StatusCode.UNAVAILABLE)
        assert eventually(lambda: JWT_BUNDLES in str(source.error))
        later_s = trusting.now_s
        # Both are broken: the one that broke first counts.
        assert trusting.age_s() == 100.0
        agent.push(X509_BUNDLES, x509_bundles({F: authorities(CA)}))
        assert eventually(lambda: X509_BUNDLES not in str(source.error))
        assert trusting.store.current.good_until_s(FACTORY) == later_s + MAX_AGE_S


@pytest.mark.parametrize("code", [DENIED, grpc.StatusCode.UNIMPLEMENTED])
def test_an_agent_without_jwt_bundles_leaves_x509_bundles_fresh(
    code: grpc.StatusCode, agent: Agent
) -> None:
    agent.refuse(JWT_BUNDLES, code)
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: trusting.believes(CA))
        assert eventually(lambda: JWT_BUNDLES in str(source.error))
        trusting.now_s += MAX_AGE_S + 1
        assert trusting.believes(CA)
        assert trusting.age_s() == 0.0


def test_trouble_with_our_own_svid_does_not_make_bundles_age(agent: Agent) -> None:
    agent.refuse(X509_SVID, DENIED)
    trusting = Trusting()
    with following(trusting, agent.address, wants_svid=True) as source:
        assert eventually(lambda: X509_SVID in str(source.error))
        assert eventually(lambda: trusting.believes(CA))
        trusting.now_s += MAX_AGE_S + 1
        assert trusting.believes(CA)


def test_our_own_svid_is_held_while_we_have_a_right_to_it(agent: Agent) -> None:
    agent.push(X509_SVID, x509_svids(x509_svid(CA.issue(CAMERA))))
    trusting = Trusting()
    with following(trusting, agent.address, wants_svid=True) as source:
        assert eventually(lambda: source.svid is not None)
        assert source.svid is not None
        assert str(source.svid.spiffe_id) == CAMERA
        agent.refuse(X509_SVID, DENIED)
        assert eventually(lambda: source.svid is None)


def test_a_trust_domain_with_a_file_of_its_own_is_not_the_agents(
    agent: Agent, tmp_path: Path
) -> None:
    trusting = Trusting((FACTORY,))
    path = write_bundle(tmp_path, NEXT)
    files = BundleFiles(trusting.store, {FACTORY: path})
    files.reload()
    trusting.now_s = path.stat().st_mtime
    with following(trusting, agent.address):
        assert eventually(lambda: trusting.believes(OTHER, ROBOT))
        assert trusting.believes(NEXT)
        assert not trusting.believes(CA)


def test_a_partners_bad_bundle_is_the_partners_trouble_alone(agent: Agent) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))
        bad = CA.issue(CAMERA).certificate_pem
        agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT), S: bad}))
        assert eventually(lambda: trusting.believes(NEXT))
        # Our own CA was rotated out, and that was not held up.
        assert not trusting.believes(CA)
        assert not trusting.believes(OTHER, ROBOT)
        assert "supplier.example is empty" in str(trusting.store.error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_streams_that_an_error_of_ours_ended_are_told_and_their_bundles_age(
    agent: Agent,
) -> None:
    trusting = Trusting()
    with following(trusting, agent.address) as source:
        assert eventually(lambda: is_settled(trusting, source))

        def fail(_: object) -> None:
            raise RuntimeError("boom")

        for stream in source._api._streams:
            stream._on_message = fail
        tell(agent)
        assert eventually(lambda: "no longer watched" in str(source.error))
        assert eventually(
            lambda: (
                trusting.store.current.good_until_s(FACTORY)
                == trusting.now_s + MAX_AGE_S
            )
        )


def test_an_agent_is_not_well_before_each_stream_has_answered(tmp_path: Path) -> None:
    trusting = Trusting()
    with (
        workload_agent(tmp_path / "agent.sock") as agent,
        following(trusting, agent.address) as source,
    ):
        both = (
            f"{agent.address}: FetchX509Bundles: no answer yet; "
            "FetchJWTBundles: no answer yet"
        )
        assert source.error == both
        agent.push(JWT_BUNDLES, jwt_bundles({F: jwks(jwk(KEY, "k1"))}))
        assert eventually(lambda: has_keys(trusting))
        only = f"{agent.address}: FetchX509Bundles: no answer yet"
        assert eventually(lambda: source.error == only)
        assert not source.is_live
        agent.push(X509_BUNDLES, x509_bundles({F: authorities(CA)}))
        assert eventually(lambda: source.error is None)
        assert source.is_live
        assert trusting.believes(CA)


def test_the_state_of_everything_changes_its_revision_with_the_agents(
    agent: Agent,
) -> None:
    trusting = Trusting()
    source = WorkloadApiBundles(
        trusting.store, agent.address, wants_svid=False, clock=trusting.clock
    )
    sources = IdentitySources(trusting.store, [source], workload_api=source)
    before = sources.current.revision
    sources.reload()
    sources.start_watching(1.0)
    try:
        assert eventually(lambda: is_settled(trusting, source))
        assert sources.current.revision != before
        assert sources.error is None
    finally:
        sources.stop()
    # What is in force stays.
    assert trusting.believes(CA)
