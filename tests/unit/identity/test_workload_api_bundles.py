import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from checks import CAMERA
from cryptography.hazmat.primitives.asymmetric import ec
from parts import eventually
from trusting import CA, FACTORY, MAX_AGE_S, OTHER, ROBOT, SUPPLIER, Trusting
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

from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.errors import BundleError
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.remote_bundles import WorkloadApiBundles
from authz_server.identity.sources import IdentitySources

F, S = f"spiffe://{FACTORY}", f"spiffe://{SUPPLIER}"
NEXT = DevelopmentCa(FACTORY.name)
KEY = ec.generate_private_key(ec.SECP256R1())
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attempts follow one another at once."""
    monkeypatch.setattr("authz_server.identity.workload_api.SHORTEST_WAIT_S", 0.01)
    monkeypatch.setattr("authz_server.identity.workload_api.LONGEST_WAIT_S", 0.05)


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
