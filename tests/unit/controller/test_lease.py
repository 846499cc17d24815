from __future__ import annotations

import datetime as dt

from authz_server.controller.lease import (
    LEASE_S,
    may_take,
    new_lease,
    observe,
    released,
    taken,
)

AT = dt.datetime(2026, 11, 26, 12, 0, 0, 5, tzinfo=dt.UTC)
LATER = AT + dt.timedelta(seconds=9)


def test_a_new_lease_is_held_from_its_time_on() -> None:
    assert new_lease("n", "ns", "me", AT) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "n", "namespace": "ns"},
        "spec": {
            "holderIdentity": "me",
            "leaseDurationSeconds": LEASE_S,
            "acquireTime": "2026-11-26T12:00:00.000005Z",
            "renewTime": "2026-11-26T12:00:00.000005Z",
            "leaseTransitions": 0,
        },
    }


def test_a_renewed_lease_keeps_since_when_it_is_held() -> None:
    lease = new_lease("n", "ns", "me", AT)

    spec = taken(lease, "me", LATER)["spec"]

    assert spec["acquireTime"] == "2026-11-26T12:00:00.000005Z"
    assert spec["renewTime"] == "2026-11-26T12:00:09.000005Z"
    assert spec["leaseTransitions"] == 0


def test_a_lease_that_changes_hands_counts_it_and_keeps_its_version() -> None:
    lease = new_lease("n", "ns", "you", AT)
    lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": "7"}}

    mine = taken(lease, "me", LATER)

    assert mine["metadata"]["resourceVersion"] == "7"
    assert mine["spec"]["holderIdentity"] == "me"
    assert mine["spec"]["acquireTime"] == "2026-11-26T12:00:09.000005Z"
    assert mine["spec"]["leaseTransitions"] == 1


def test_another_holder_is_waited_for_as_long_as_its_lease_lasts() -> None:
    lease = new_lease("n", "ns", "you", AT)
    seen = observe(lease, None, 100.0)

    assert not may_take(seen, "me", 100.0 + LEASE_S - 0.1)
    assert may_take(seen, "me", 100.0 + LEASE_S)
    assert may_take(seen, "you", 100.0)


def test_a_renewal_begins_the_wait_anew_whatever_the_holders_clock_says() -> None:
    lease = new_lease("n", "ns", "you", AT)
    seen = observe(lease, None, 100.0)

    same = observe(dict(lease), seen, 105.0)
    renewed = observe(taken(lease, "you", AT - dt.timedelta(days=1)), seen, 110.0)

    assert same.seen_s == 100.0
    assert renewed.seen_s == 110.0
    assert not may_take(renewed, "me", 110.0 + LEASE_S - 0.1)


def test_a_lease_given_back_is_free_at_once() -> None:
    lease = new_lease("n", "ns", "you", AT)

    free = released(lease, "you")

    assert free is not None
    assert may_take(observe(free, None, 0.0), "me", 0.0)
    assert released(lease, "me") is None


def test_a_lease_that_nobody_ever_held_is_free() -> None:
    empty = {"metadata": {"name": "n", "namespace": "ns"}}

    assert may_take(observe(empty, None, 0.0), "me", 0.0)
    assert taken(empty, "me", AT)["spec"]["leaseTransitions"] == 1
