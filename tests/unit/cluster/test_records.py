from __future__ import annotations

import json
from typing import Any

import pytest

from authz_server.cluster.instructions import instructions
from authz_server.cluster.records import (
    RecordKey,
    RecordStep,
    against_live,
    compare,
    live_entries,
    read_records,
)
from authz_server.errors import SetupError

PARENT = "spiffe://factory.example/box/gate-1"


def entry(name: str, user: str = "camera", **changes: Any) -> dict[str, Any]:
    return {
        "entry_id": name,
        "spiffe_id": "spiffe://factory.example/camera",
        "parent_id": PARENT,
        "selectors": [{"type": "unix", "value": f"user:{user}"}],
        "x509_svid_ttl": 3600,
        **changes,
    }


def entries(*items: dict[str, Any]) -> dict[str, str]:
    return {"spire/entries.json": json.dumps({"entries": items})}


def between(old: dict[str, str], new: dict[str, str]) -> tuple[RecordStep, ...]:
    return compare(read_records(old), read_records(new))


def run(step: RecordStep) -> list[str]:
    return list(instructions(step))


def shown(*items: dict[str, Any]) -> str:
    """What the server prints (seen of SPIRE 1.15.3)."""
    return json.dumps({"entries": items, "next_page_token": ""})


def live(name: str, user: str = "camera", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "spiffe_id": {"trust_domain": "factory.example", "path": "/camera"},
        "parent_id": {"trust_domain": "factory.example", "path": "/box/gate-1"},
        "selectors": [{"type": "unix", "value": f"user:{user}"}],
        "x509_svid_ttl": 3600,
        "jwt_svid_ttl": 0,
        "federates_with": [],
        "dns_names": [],
        "expires_at": "0",
        **changes,
    }


def test_what_is_as_it_was_gives_no_step() -> None:
    assert not between(entries(entry("a")), entries(entry("a")))


def test_a_new_entry_is_created_with_all_that_it_says() -> None:
    added = entry(
        "plant.gate-1.a b",
        federates_with=["spiffe://supplier.example"],
        dns_names=["camera.example"],
        hint="h",
        admin=True,
        downstream=False,
    )

    [step] = between(entries(), entries(added))

    assert step.action == "create"
    assert run(step) == [
        (
            "spire-server entry create -entryID 'plant.gate-1.a b' "
            f"-spiffeID spiffe://factory.example/camera -parentID {PARENT} "
            "-selector unix:user:camera -x509SVIDTTL 3600 -hint h "
            "-federatesWith spiffe://supplier.example -dns camera.example -admin"
        )
    ]


def test_a_changed_entry_is_updated_by_its_id() -> None:
    [step] = between(entries(entry("a")), entries(entry("a", user="cam")))

    assert step.action == "change"
    assert [item.path for item in step.differences] == ["selectors[0].value"]
    assert run(step) == [
        (
            "spire-server entry update -entryID a "
            f"-spiffeID spiffe://factory.example/camera -parentID {PARENT} "
            "-selector unix:user:cam -x509SVIDTTL 3600"
        )
    ]


def test_an_entry_that_is_gone_is_deleted_after_all_else() -> None:
    steps = between(entries(entry("a"), entry("b")), entries(entry("c")))

    assert [(step.action, step.key.name) for step in steps] == [
        ("create", "c"),
        ("delete", "b"),
        ("delete", "a"),
    ]
    assert run(steps[1]) == ["spire-server entry delete -entryID b"]


def test_an_entry_without_an_id_is_known_by_what_the_server_tells_it_by() -> None:
    old, new = entry("", x509_svid_ttl=60), entry("")

    [change] = between(entries(old), entries(new))
    [gone] = between(entries(old), entries())

    assert change.key.name == (
        f"spiffe://factory.example/camera under {PARENT} by unix:user:camera"
    )
    assert run(gone) == [
        (
            "spire-server entry show -spiffeID spiffe://factory.example/camera "
            f"-parentID {PARENT} -selector unix:user:camera  # tells the ID"
        ),
        "spire-server entry delete -entryID ID",
    ]


def test_items_of_an_import_are_known_by_list_and_name() -> None:
    old = {
        "openziti/import.yaml": "services: [{name: triton}]\n"
        'identities: [{name: "a \\"b\\"", x: 1}, {name: c}]\n'
    }
    new = {
        "openziti/import.yaml": "services: []\n"
        'identities: [{name: "a \\"b\\"", x: 2}]\n'
        "configs: [{name: host}]\n"
    }

    steps = between(old, new)

    assert [(step.action, str(step.key)) for step in steps] == [
        ("create", "openziti: configs host"),
        ("change", 'openziti: identities a "b"'),
        ("delete", "openziti: services triton"),
        ("delete", "openziti: identities c"),
    ]
    assert run(steps[0]) == []
    assert run(steps[1]) == [
        'GET /edge/management/v1/identities?filter=name="a \\"b\\""  # tells the ID',
        (
            "PUT /edge/management/v1/identities/ID"
            "  # the new record, IDs in place of @names"
        ),
    ]
    assert run(steps[2])[1] == "DELETE /edge/management/v1/services/ID"


def test_objects_are_known_by_kind_namespace_and_name() -> None:
    text = (
        "# comment\napiVersion: v1\nkind: Service\nmetadata: {namespace: n, name: s}\n"
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n---\n"
    )

    assert list(read_records({"kubernetes/a.yaml": text})) == [
        RecordKey("kubernetes", "Service", "n/s"),
        RecordKey("kubernetes", "Namespace", "n"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("box/envoy.service", "[Unit]\n"),
        ("box/list.json", "[1]"),
        ("box/envoy.yaml", "node: {id: a}\nlists: [{name: x}]\n"),
        ("box/numbers.json", '{"list": [1]}'),
        ("box/nameless.json", '{"list": [{"id": 1}]}'),
        ("box/entries.json", '{"entries": [{"id": 1}]}'),
        ("box/empty.json", "{}"),
    ],
)
def test_any_other_file_is_one_record(name: str, text: str) -> None:
    assert list(read_records({name: text})) == [
        RecordKey("box", "file", name.removeprefix("box/"))
    ]
    [step] = between({name: text}, {})
    assert step.action == "delete"
    assert not run(step)


@pytest.mark.parametrize(
    ("name", "text"), [("t/a.json", "{"), ("t/a.yaml", "a: [1"), ("t/a.yml", "\t")]
)
def test_a_broken_file_is_named(name: str, text: str) -> None:
    with pytest.raises(SetupError, match=rf"{name}: can't be read: .*emit it again"):
        read_records({name: text})


def test_a_record_that_is_there_twice_is_refused() -> None:
    with pytest.raises(SetupError, match=r"entries\.json: entries a is there twice"):
        read_records(entries(entry("a"), entry("a")))


def test_a_step_is_about_something() -> None:
    with pytest.raises(ValueError, match="about something"):
        RecordStep(RecordKey("t", "s", "n"), None, None)


def test_what_the_server_has_counts_more_than_what_was_emitted() -> None:
    old = read_records(entries(entry("gone"), entry("gone-already", user="x")))
    new = read_records(
        {
            **entries(
                entry("same", user="same", expires_at=0),
                entry("drifted", user="drifted"),
                entry("missing", user="missing"),
            ),
            "spire/other.txt": "x",
        }
    )
    there = live_entries(
        shown(
            live("same", user="same"),
            live("drifted", user="drifted", x509_svid_ttl=60),
            live("by-hand"),
            live("gone", user="another"),
        ),
        "live.json",
    )

    steps = against_live(compare(old, new), new, there)

    assert [(step.action, step.key.name) for step in steps] == [
        ("change", "drifted"),
        ("create", "missing"),
        ("create", "other.txt"),
        ("delete", "gone"),
    ]
    assert [str(d.path) for d in steps[0].differences] == ["x509_svid_ttl"]


def test_an_entry_under_an_id_of_its_own_is_found_by_its_parts() -> None:
    new = read_records(entries(entry("ours", x509_svid_ttl=60, federates_with=[])))
    there = live_entries(shown(live("by-hand")), "live.json")

    [step] = against_live(compare({}, new), new, there)

    assert step.action == "change"
    assert "-entryID by-hand " in run(step)[0]


def test_sets_are_compared_without_their_order() -> None:
    domains = ["spiffe://b.example", "spiffe://a.example"]
    new = read_records(entries(entry("a", federates_with=domains)))
    there = live_entries(
        shown(live("a", federates_with=["a.example", "b.example"])), ""
    )

    assert not against_live(compare({}, new), new, there)


@pytest.mark.parametrize("text", ["", "[]", '{"entries": [{}]}', '{"entries": 1}'])
def test_anything_else_than_the_servers_entries_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"live\.json: is not what 'spire-server"):
        live_entries(text, "live.json")
