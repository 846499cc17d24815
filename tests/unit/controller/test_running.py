"""What the controller does when the API server, or another controller, is odd.

`tests/integration/test_controller.py` has the real API server.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from api_stand_in import Answer, Asked, StandIn, failure
from controllers import (
    CAMERAS,
    FENCES,
    LEASE,
    OWN,
    POLICY,
    Start,
    access_policy,
    pod,
    starter,
)
from parts import eventually

from authz_server.controller import reconciling
from authz_server.controller.election import Election
from authz_server.errors import SetupError

FENCE = FENCES.format("inference", "default-deny")


@pytest.fixture
def start(
    stand_in: StandIn, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> Start:
    return starter(stand_in, kubeconfig, monkeypatch)


def changes(asked: Asked) -> bool:
    return (
        asked.method == "PATCH"
        and not asked.path.endswith("/status")
        and ("dryRun" not in asked.query)
    )


def pause(stand_in: StandIn, seconds: float) -> None:
    """Keep one waiting for its answer, while others are answered."""
    stand_in.lock.release()
    time.sleep(seconds)
    stand_in.lock.acquire()


def test_a_policy_is_applied_and_said_to_be_once(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
        assert FENCE in stand_in.objects
        assert running.holder == "first"
    assert running.events() == ["Applied"]
    # Given back, for the next one to begin at once.
    assert running.holder == ""
    assert not running.error


def test_a_kind_that_is_installed_later_is_found(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.without = {"authz.edge"}
    with start() as running:
        assert eventually(lambda: running.holder == "first")
        stand_in.without = set()
        stand_in.put(POLICY, access_policy())
        assert running.becomes("Applied")


def test_an_api_server_that_is_away_for_a_while_is_waited_for(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.odd = lambda _: failure(503, "not yet")
    with start() as running:
        assert eventually(lambda: len(stand_in.asked) > 5)
        stand_in.put(POLICY, access_policy())
        stand_in.odd = lambda _: None
        assert running.becomes("Applied")


PARTIAL = '{"type": "ADDED", "obj'


@pytest.mark.parametrize(
    "answer",
    [
        (200, json.dumps({"type": "ERROR", "object": {"code": 410, "message": "old"}})),
        (410, json.dumps({"code": 410, "message": "old"})),
        (200, PARTIAL),
    ],
)
def test_a_watch_that_ends_oddly_misses_nothing(
    start: Start, stand_in: StandIn, answer: Answer
) -> None:
    old: set[tuple[str, str]] = set()  # kinds and versions

    def break_watch(asked: Asked) -> Answer | None:
        if "watch" not in asked.query:
            return None
        watch = (asked.path, asked.query["resourceVersion"])
        if answer[1] == PARTIAL and watch in old:
            return None
        if any(path == asked.path for path, _ in old) and watch not in old:
            return None
        old.add(watch)  # and never served
        return answer

    def is_of_policies(watch: tuple[str, str]) -> bool:
        return watch[0].endswith("accesspolicies")

    with start() as running:
        stand_in.put(POLICY, access_policy())
        assert running.becomes("Applied")
        stand_in.odd = break_watch
        assert eventually(lambda: any(map(is_of_policies, old)))
        stand_in.put(POLICY, access_policy(2))
        assert running.becomes("Applied", 2)
    assert not running.error


def test_a_broken_watch_goes_on_where_it_was(start: Start, stand_in: StandIn) -> None:
    seen: list[str] = []

    def note(asked: Asked) -> Answer | None:
        if "watch" in asked.query and "accesspolicies" in asked.path:
            seen.append(asked.query["resourceVersion"])
            if len(seen) == 2:
                return 200, "{"
        return None

    stand_in.odd = note
    with start() as running:
        stand_in.put(POLICY, access_policy())
        assert running.becomes("Applied")
        version = stand_in.objects[POLICY]["metadata"]["resourceVersion"]
        assert eventually(lambda: len(seen) >= 3)
    lists = [
        item
        for item in stand_in.asked
        if item.path.endswith("/accesspolicies") and "watch" not in item.query
    ]
    assert len(lists) == 1
    # Not from the start of the watch that broke: it would see old policies again.
    assert seen[2] == seen[1] == version


def test_another_policy_of_the_same_name_is_another_policy(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
        stand_in.put(POLICY, None)
        stand_in.put(POLICY, access_policy(1, "u2", upstreams=("triton", "other")))
        assert running.becomes("Applied")
        assert FENCES.format("inference", "other-from-floor") in stand_in.objects


def test_a_status_that_cannot_be_written_is_written_later(
    start: Start, stand_in: StandIn
) -> None:
    refused: list[Asked] = []

    def refuse(asked: Asked) -> Answer | None:
        if asked.path.endswith("/status") and len(refused) < 2:
            refused.append(asked)
            return failure(500, "no")
        return None

    stand_in.odd = refuse
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
    assert len(refused) == 2
    assert running.events() == ["Applied"]


def test_nothing_is_said_of_a_policy_that_is_another_by_now(
    start: Start, stand_in: StandIn
) -> None:
    """Between the look at a policy and the request that tells of it lies time."""

    def replace(asked: Asked) -> Answer | None:
        if asked.path.endswith("/status") and "u2" not in str(stand_in.objects[POLICY]):
            stand_in.put(POLICY, access_policy(1, "u2"))
        return None

    stand_in.odd = replace
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
        assert stand_in.objects[POLICY]["metadata"]["uid"] == "u2"
    # One that came too late, and one for the new policy.
    told = [item for item in stand_in.asked if item.path.endswith("/status")]
    assert len(told) == 2


def test_it_ends_between_two_steps_and_gives_the_lease_back_after_them(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.put(POLICY, access_policy())
    with start() as running:

        def end(asked: Asked) -> Answer | None:
            if changes(asked):
                running.controller.stop()
                pause(stand_in, 0.3)  # long enough for a lease to be given back
            return None

        stand_in.odd = end
        assert eventually(lambda: any(map(changes, stand_in.asked)))
        assert eventually(lambda: not running.holder)
    steps = [item for item in stand_in.asked if changes(item)]
    assert len(steps) == 1
    given_back = [
        item
        for item in stand_in.asked
        if item.method == "PUT" and not item.body["spec"]["holderIdentity"]
    ]
    assert len(given_back) == 1
    assert stand_in.asked.index(given_back[0]) > stand_in.asked.index(steps[0])
    assert not running.condition()
    assert not running.error


def test_it_ends_before_the_first_step_too(start: Start, stand_in: StandIn) -> None:
    with start() as running:

        def end(asked: Asked) -> Answer | None:
            if "dryRun" in asked.query:
                running.controller.stop()
            return None

        stand_in.odd = end
        stand_in.put(POLICY, access_policy())
        assert eventually(
            lambda: any("dryRun" in item.query for item in stand_in.asked)
        )
        assert eventually(lambda: not running.holder)
    assert not any(map(changes, stand_in.asked))


def test_one_that_lost_the_lease_stops_and_goes_on_when_it_leads_again(
    start: Start, stand_in: StandIn
) -> None:
    taken = threading.Event()

    def take(asked: Asked) -> Answer | None:
        if changes(asked) and not taken.is_set():
            taken.set()
            lease = stand_in.objects[LEASE]
            spec = {**lease["spec"], "holderIdentity": "second"}
            stand_in.put(LEASE, {**lease, "spec": spec})
            pause(stand_in, 0.5)
        return None

    stand_in.odd = take
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert taken.wait(20)
        time.sleep(1.0)
        assert len([item for item in stand_in.asked if changes(item)]) == 1
        lease = stand_in.objects[LEASE]
        free = {**lease["spec"], "holderIdentity": ""}
        stand_in.put(LEASE, {**lease, "spec": free})
        assert running.becomes("Applied")
    assert len([item for item in stand_in.asked if changes(item)]) > 3


def test_a_lease_that_was_over_for_a_moment_leaves_nothing_undone(
    start: Start, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran out amid a policy, and was renewed: nobody else ever led."""
    over: list[Asked] = []

    def is_leading(election: Election) -> bool:
        # The candidate itself does not see it.
        is_candidate = threading.current_thread() is election_thread[0]
        if not is_candidate and over:
            over.pop()
            return False
        return bool(real.fget(election))

    def note_thread(election: Election, ended: threading.Event) -> None:
        election_thread.append(threading.current_thread())
        run(election, ended)

    def end_lease(asked: Asked) -> Answer | None:
        if changes(asked):
            over.extend([asked, asked])
            stand_in.odd = lambda _: None
        return None

    election_thread: list[threading.Thread] = []
    run, real = Election.run, Election.is_leading
    monkeypatch.setattr(Election, "run", note_thread)
    monkeypatch.setattr(Election, "is_leading", property(is_leading))
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
        stand_in.odd = end_lease
        stand_in.put(POLICY, access_policy(2, upstreams=("triton", "other")))
        assert running.becomes("Applied", 2)
        assert not over


def test_only_the_holder_acts_and_a_dead_one_is_given_up(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.put(POLICY, access_policy())
    stand_in.put(
        LEASE,
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "authz-server-controller", "namespace": OWN},
            "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 1},
        },
    )
    with start() as running:
        time.sleep(0.5)
        assert running.holder == "dead"
        assert not stand_in.changes()
        assert running.becomes("Applied")
        assert running.holder == "first"
    lease = stand_in.objects[LEASE]
    assert lease["spec"]["leaseTransitions"] == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_does_not_go_on_with_a_watch_that_died(
    start: Start, stand_in: StandIn
) -> None:
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
        # Nothing that an API server would answer.
        stand_in.put(CAMERAS, {"metadata": {"namespace": "line1"}})
        assert eventually(lambda: bool(running.error))
    (error,) = running.error
    assert isinstance(error, SetupError)
    assert "start again" in str(error)
    assert running.holder == ""


def test_an_error_of_its_own_ends_it_and_frees_the_lease(
    start: Start, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reconciling, "emit", fail)
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert eventually(lambda: bool(running.error))
    assert isinstance(running.error[0], ZeroDivisionError)
    assert running.holder == ""


def test_pods_come_and_go(start: Start, stand_in: StandIn) -> None:
    stand_in.put(POLICY, access_policy())
    place = "/api/v1/namespaces/inference/pods/triton-0"
    stand_in.put(place, pod("triton-0", "inference", "triton", app="triton"))
    with start() as running:
        assert running.becomes("Missing", name="PodsFound")
        assert running.condition("PodsFound")["message"] == (
            "group floor: in namespace line1 no pod matches app=camera"
        )
        stand_in.put(CAMERAS, pod("camera-0", "line1", app="camera"))
        assert running.becomes("AllFound", name="PodsFound")
        before = len(stand_in.asked)
        for number in range(5):  # of which nothing is to be said
            name = f"other-{number}"
            stand_in.put(CAMERAS.replace("camera-0", name), pod(name, "line1"))
        stand_in.put(CAMERAS, None)
        assert running.becomes("Missing", name="PodsFound")
        told = [item for item in stand_in.asked[before:] if item.path == POLICY]
        assert len(told) == 1
    assert running.events() == ["Applied"] * 3


def test_what_is_refused_is_tried_again_and_drift_is_mended(
    start: Start, stand_in: StandIn
) -> None:
    del stand_in.objects["/api/v1/namespaces/line1"]
    stand_in.put(POLICY, access_policy())
    with start(resync_s=0.5) as running:
        assert running.becomes("Refused")
        assert "kubectl create namespace line1" in running.condition()["message"]
        stand_in.namespaces("line1")
        assert running.becomes("Applied")
        stand_in.put(FENCE, None)
        assert eventually(lambda: FENCE in stand_in.objects)


def test_an_invalid_policy_changes_nothing(start: Start, stand_in: StandIn) -> None:
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Applied")
        before = stand_in.changes()
        wrong = access_policy(2)
        wrong["spec"]["grants"][0]["role"] = "nobody"
        stand_in.put(POLICY, wrong)
        assert running.becomes("Invalid", 2)
        assert "nobody" in running.condition()["message"]
        stand_in.put(POLICY, None)
        stand_in.put(CAMERAS, pod("camera-0", "line1", app="camera"))
        time.sleep(0.5)
    more = stand_in.changes()[len(before) :]
    assert {item.split()[1] for item in more} <= {
        "status",
        "events",
        "authz-server-controller",
    }
    assert FENCE in stand_in.objects
    assert running.events() == ["Applied", "Invalid"]


def test_what_others_have_set_is_not_taken_over(
    start: Start, stand_in: StandIn
) -> None:
    def refuse(asked: Asked) -> Answer | None:
        if asked.path == FENCE and asked.query.get("force") == "false":
            cause = {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "kubectl"',
                "field": ".spec.podSelector",
            }
            return 409, {"message": "conflict", "details": {"causes": [cause]}}
        return None

    theirs = {"metadata": {"name": "default-deny", "uid": "1"}, "spec": {}}
    stand_in.put(FENCE, theirs)
    stand_in.odd = refuse
    stand_in.put(POLICY, access_policy())
    with start() as running:
        assert running.becomes("Conflict")
        assert "NetworkPolicy inference/default-deny" in running.condition()["message"]
    assert not [item for item in stand_in.asked if changes(item)]
