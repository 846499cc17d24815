import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import CAMERA
from https_endpoint import (
    SERVER_ID,
    HttpsEndpoint,
    answer,
    bundle_json,
    https_endpoint,
    server_svid,
)
from parts import eventually
from trusting import CA, FACTORY, MAX_AGE_S, OTHER, ROBOT, SUPPLIER, Trusting

from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.demo.process import free_ports
from authz_server.fetch import web_context
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.federation import Endpoint
from authz_server.identity.remote_bundles import FederatedBundles
from authz_server.identity.spiffe_id import SpiffeId

OTHER_NEXT = DevelopmentCa(SUPPLIER.name)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attempts follow one another at once."""
    monkeypatch.setattr("authz_server.identity.federation._SHORTEST_INTERVAL_S", 0.01)
    monkeypatch.setattr("authz_server.fetch._FIRST_RETRY_S", 0.01)


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
