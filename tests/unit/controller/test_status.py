from __future__ import annotations

import datetime as dt
from typing import Any

from authz_server.controller.status import (
    MAX_MESSAGE,
    Outcome,
    State,
    event,
    has_changed,
    new_status,
)

AT = dt.datetime(2026, 11, 26, 12, 0, 0, tzinfo=dt.UTC)
LATER = AT + dt.timedelta(hours=1)
ITEM: dict[str, Any] = {
    "metadata": {
        "name": "plant-7",
        "namespace": "authz-system",
        "generation": 3,
        "uid": "u",
        "resourceVersion": "9",
    }
}
FINE = Outcome(State.APPLIED, "33 objects", 33, changed=2)


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["type"]: entry for entry in status["conditions"]}


def test_what_was_applied_is_ready() -> None:
    status = new_status(ITEM, FINE, AT)

    assert status["observedGeneration"] == 3
    assert status["objects"] == 33
    assert conditions(status)["Ready"] == {
        "type": "Ready",
        "status": "True",
        "reason": "Applied",
        "message": "33 objects",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-11-26T12:00:00Z",
    }
    assert conditions(status)["PodsFound"]["status"] == "True"


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    before = {**ITEM, "status": new_status(ITEM, FINE, AT)}

    same = new_status(before, FINE, LATER)
    worse = new_status(before, Outcome(State.INVALID, "bad"), LATER)

    assert not has_changed(before, same)
    assert has_changed(before, worse)
    assert conditions(worse)["Ready"]["lastTransitionTime"] == "2026-11-26T13:00:00Z"
    assert conditions(worse)["PodsFound"]["lastTransitionTime"] == (
        "2026-11-26T12:00:00Z"
    )
    # What it gave before is still there.
    assert worse["objects"] == 33


def test_how_many_objects_there_are_is_not_said_before_it_is_known() -> None:
    assert "objects" not in new_status(ITEM, Outcome(State.INVALID, "bad"), AT)


def test_what_is_amiss_with_pods_is_a_condition_of_its_own() -> None:
    found = Outcome(State.APPLIED, "ok", 1, findings=("no pod", "other account"))

    condition = conditions(new_status(ITEM, found, AT))["PodsFound"]

    assert condition["status"] == "False"
    assert condition["reason"] == "Missing"
    assert condition["message"] == "no pod; other account"


def test_long_messages_are_cut_to_what_an_event_may_hold() -> None:
    long = Outcome(State.INVALID, "x" * 5000)

    message = event(ITEM, long, AT)["message"]

    assert len(message) == MAX_MESSAGE
    assert message.endswith("…")
    assert conditions(new_status(ITEM, long, AT))["Ready"]["message"] == message


def test_an_event_names_what_it_is_about_and_warns_of_what_failed() -> None:
    good, bad = event(ITEM, FINE, AT), event(ITEM, Outcome(State.REFUSED, "no"), AT)

    assert good["involvedObject"] == {
        "apiVersion": "authz.edge/v1",
        "kind": "AccessPolicy",
        "name": "plant-7",
        "namespace": "authz-system",
        "uid": "u",
        "resourceVersion": "9",
    }
    assert (good["type"], good["reason"]) == ("Normal", "Applied")
    assert (bad["type"], bad["reason"]) == ("Warning", "Refused")
    assert good["metadata"]["name"] != bad["metadata"]["name"]


def test_the_same_thing_said_twice_at_a_time_is_one_event() -> None:
    assert event(ITEM, FINE, AT) == event(ITEM, FINE, AT)


def test_the_same_thing_said_of_a_later_version_is_another_event() -> None:
    later = {**ITEM, "metadata": {**ITEM["metadata"], "resourceVersion": "11"}}

    names = {event(item, FINE, AT)["metadata"]["name"] for item in (ITEM, later)}

    assert len(names) == 2
