from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_stand_in import Answer, Asked, StandIn, failure
from controllers import LEASE, OWN

from authz_server.cluster.client import Cluster, connect
from authz_server.controller import election
from authz_server.controller.election import Election
from authz_server.controller.lease import new_lease, taken
from authz_server.controller.running import LEASE_NAME

AT = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)


@pytest.fixture
def cluster(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(election, "RETRY_S", 0.02)
    with connect(None, kubeconfig) as found:
        yield found


def candidate(cluster: Cluster, stop: threading.Event) -> Election:
    """Return one that ends as soon as it has won."""
    return Election(cluster, OWN, LEASE_NAME, "first", stop.set)


def others_lease(stand_in: StandIn, holder: str = "second") -> None:
    lease = new_lease(LEASE_NAME, OWN, holder, AT)
    there = stand_in.objects.get(LEASE)
    stand_in.put(LEASE, lease if there is None else taken(there, holder, AT))


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_who_was_quicker_leads(
    cluster: Cluster, stand_in: StandIn, method: str
) -> None:
    """Between the look at the lease and the request for it, another one takes it."""
    stop = threading.Event()
    wanted: list[Asked] = []
    if method == "PUT":
        others_lease(stand_in, "")

    def be_quicker(asked: Asked) -> Answer | None:
        if asked.method == method:
            wanted.append(asked)
            others_lease(stand_in)
        elif wanted:  # it looks again
            stop.set()
        return None

    stand_in.odd = be_quicker
    slow = candidate(cluster, stop)
    slow.run(stop)
    assert len(wanted) == 1
    assert not slow.is_leading
    assert stand_in.objects[LEASE]["spec"]["holderIdentity"] == "second"


@pytest.mark.parametrize("answer", [failure(404, "gone"), failure(503, "away")])
def test_a_lease_that_cannot_be_given_back_keeps_nobody_from_ending(
    cluster: Cluster, stand_in: StandIn, answer: Answer
) -> None:
    stop = threading.Event()
    stand_in.odd = lambda _: answer if stop.is_set() else None
    winner = candidate(cluster, stop)
    winner.run(stop)
    assert not winner.is_leading
    assert stand_in.objects[LEASE]["spec"]["holderIdentity"] == "first"


def test_what_another_holds_by_now_is_not_given_back(
    cluster: Cluster, stand_in: StandIn
) -> None:
    stop = threading.Event()

    def take(_: Asked) -> Answer | None:
        if stop.is_set():
            stand_in.odd = lambda _: None
            others_lease(stand_in)
        return None

    stand_in.odd = take
    candidate(cluster, stop).run(stop)
    assert stand_in.objects[LEASE]["spec"]["holderIdentity"] == "second"


def test_a_candidate_waits_for_a_server_that_is_away(
    cluster: Cluster, stand_in: StandIn
) -> None:
    stop = threading.Event()

    def be_away(_: Asked) -> Answer | None:
        return failure(503, "away") if len(stand_in.asked) < 5 else None

    stand_in.odd = be_away
    candidate(cluster, stop).run(stop)
    assert stand_in.objects[LEASE]["spec"]["leaseTransitions"] == 0
