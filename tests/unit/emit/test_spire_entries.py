"""Boxes without Kubernetes: their entries, as objects and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from authz_server.emit.manifest import Manifest
from authz_server.emit.spire import emit_spire
from authz_server.emit.spire_entries import Entry, box_entries
from authz_server.emit.spire_entries_json import entries_json, parse_entries
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.model import AccessPolicy, Grant, Group
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Federation,
    Site,
    Spire,
)

Comment = Callable[[Sequence[Manifest], str], str]
FACTORY = TrustDomain("factory.example")
SPIRE = Spire(address="spire.factory.example:8081")
STATIC = "static-entries.yaml"


def workload(path: str, *selectors: str) -> BoxWorkload:
    return BoxWorkload(SpiffeId(FACTORY, tuple(path.split("/"))), selectors)


def node(name: str, *selectors: str) -> Box:
    some = workload("some", "unix:user:some")
    return Box(name, Attestor.X509POP, selectors, workloads=(some,))


PRESS = Box("press", Attestor.X509POP, ("x509pop:subject:cn:press",), ("triton",))
GATE = Box(
    "gate", Attestor.JOIN_TOKEN, workloads=(workload("box/7", "unix:user:camera"),)
)


def site_of(*boxes: Box) -> Site:
    return Site(spire=SPIRE, boxes=boxes)


def entries_of(policy: AccessPolicy, *boxes: Box) -> list[tuple[str, str, list[str]]]:
    prefix = "spiffe://factory.example/"
    return [
        (
            str(entry.spiffe_id).removeprefix(prefix),
            str(entry.parent_id).removeprefix(prefix),
            list(entry.selectors),
        )
        for entry in box_entries(policy, site_of(*boxes), SPIRE)
    ]


def test_a_box_that_serves_has_an_alias_and_below_it_envoy_and_the_server(
    policy: AccessPolicy,
) -> None:
    assert entries_of(policy, PRESS) == [
        ("box/press", "spire/server", ["x509pop:subject:cn:press"]),
        ("box/press/authz-server", "box/press", ["unix:user:authz-server"]),
        ("box/press/envoy", "box/press", ["unix:user:envoy"]),
    ]


def test_a_join_token_carries_the_alias_so_there_is_no_entry_for_it(
    policy: AccessPolicy, comment: Comment
) -> None:
    assert entries_of(policy, GATE) == [("box/7", "box/gate", ["unix:user:camera"])]
    said = comment(emit_spire(policy, site_of(GATE)), STATIC)
    assert (
        "spire-server token generate -spiffeID spiffe://factory.example/box/NAME, with "
        "for NAME: gate."
    ) in said


def test_a_box_with_certificates_in_files_has_entries_of_its_callers_alone(
    policy: AccessPolicy, comment: Comment
) -> None:
    both = replace(GATE, serves=("triton",), uses_spire=False)

    assert entries_of(policy, both) == entries_of(policy, GATE)
    said = comment(emit_spire(policy, site_of(both)), STATIC)
    assert "have certificates from files, and no entries: gate." in said


def test_a_box_that_needs_no_spire_is_not_there(policy: AccessPolicy) -> None:
    alone = replace(PRESS, uses_spire=False)

    names = [item.name for item in emit_spire(policy, site_of(alone))]

    assert names == ["cluster-spiffe-ids.yaml", "kustomization.yaml"]


def test_what_serves_foreign_callers_gets_their_bundle(
    policy: AccessPolicy, group: Callable[..., Group]
) -> None:
    robots = group("robots", ["spiffe://supplier.example/ns/robots/sa/arm"])
    granted = replace(
        policy,
        groups={**policy.groups, "robots": robots},
        grants=(*policy.grants, Grant("inspector", ("robots",), ("triton",))),
    )
    federation = Federation(TrustDomain("supplier.example"), "https://s.example")
    boxes = (PRESS, replace(GATE, name="aisle"), replace(PRESS, name="q", serves=()))
    site = replace(site_of(*boxes), federation=(federation,))

    with_bundle = {
        entry.spiffe_id.path
        for entry in box_entries(granted, site, SPIRE)
        if entry.federates_with
    }

    assert with_bundle == {
        ("box", "press", "envoy"),
        ("box", "press", "authz-server"),
    }


def test_the_objects_say_the_same_as_the_json(policy: AccessPolicy) -> None:
    spire = replace(SPIRE, class_name="edge", x509_ttl_s=600, jwt_ttl_s=60)
    files = emit_spire(policy, replace(site_of(PRESS, GATE), spire=spire))

    objects, text = (
        next(item for item in files if item.name == name)
        for name in (STATIC, "entries.json")
    )
    specs = {item["metadata"]["name"]: item["spec"] for item in objects.objects}
    for entry in parse_entries(text.text, "entries.json"):
        spec = specs.pop(entry.name)
        assert spec == {
            "spiffeID": str(entry.spiffe_id),
            "parentID": str(entry.parent_id),
            "selectors": list(entry.selectors),
            **({} if entry.is_alias else {"x509SVIDTTL": "600s", "jwtSVIDTTL": "60s"}),
            # What callers that know no SPIFFE check the box's Envoy by.
            **(
                {"dnsNames": ["triton.factory.example"]}
                if entry.spiffe_id.path[-1] == "envoy"
                else {}
            ),
            "className": "edge",
        }
        assert tuple(spec.get("dnsNames", ())) == entry.dns_names
    assert not specs


def test_the_json_has_the_keys_of_spires_own_and_splits_selectors() -> None:
    entry = Entry(
        "p.gate.camera",
        SpiffeId(FACTORY, ("camera",)),
        SpiffeId(FACTORY, ("box", "gate")),
        ("unix:path:/opt/a:b",),
        3600,
        300,
        frozenset({"z.example", "a.example"}),
    )

    assert json.loads(entries_json([entry])) == {
        "entries": [
            {
                "entry_id": "p.gate.camera",
                "parent_id": "spiffe://factory.example/box/gate",
                "spiffe_id": "spiffe://factory.example/camera",
                "selectors": [{"type": "unix", "value": "path:/opt/a:b"}],
                "x509_svid_ttl": 3600,
                "jwt_svid_ttl": 300,
                "federates_with": ["spiffe://a.example", "spiffe://z.example"],
                "dns_names": [],
            }
        ]
    }
    assert parse_entries(entries_json([entry]), "x") == (entry,)


# Two identities for one.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("x509pop:a:1",), ("x509pop:a:1",)),
        (("x509pop:a:1",), ("x509pop:a:1", "x509pop:b:2")),
        (("x509pop:a:1", "x509pop:b:2"), ("x509pop:b:2",)),
    ],
)
def test_a_node_that_would_be_two_boxes_is_refused(
    policy: AccessPolicy, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    boxes = node("b1", *one), node("b0", *other), node("b2", "x509pop:c:3")

    with pytest.raises(
        PolicyError, match=r"spec\.boxes\.b0 and spec\.boxes\.b1 of the site: a node"
    ):
        entries_of(policy, *boxes)


def test_nodes_that_share_some_selectors_are_two_boxes(policy: AccessPolicy) -> None:
    boxes = (
        node("b0", "x509pop:a:1", "x509pop:b:1"),
        node("b1", "x509pop:a:1", "x509pop:b:2"),
    )

    assert [item[0] for item in entries_of(policy, *boxes) if item[1] != "some"] == [
        "box/b0",
        "some",
        "box/b1",
        "some",
    ]


def test_a_process_that_would_get_two_ids_is_refused_with_both(
    policy: AccessPolicy,
) -> None:
    box = replace(
        GATE,
        workloads=(
            workload("a", "unix:user:x"),
            workload("b", "unix:path:/x", "unix:user:x"),
        ),
    )

    with pytest.raises(
        PolicyError,
        match=r"spec\.boxes\.gate of the site: a process with unix:path:/x and "
        r"unix:user:x would get both spiffe://factory\.example/a and "
        r"spiffe://factory\.example/b;",
    ):
        entries_of(policy, box)


def test_a_workload_that_would_be_envoy_too_is_refused(policy: AccessPolicy) -> None:
    box = replace(PRESS, workloads=(workload("a", "unix:user:envoy"),))

    with pytest.raises(PolicyError, match=r"would get both .*/a and .*/press/envoy"):
        entries_of(policy, box)


def test_one_id_may_be_had_in_two_ways_and_said_twice(policy: AccessPolicy) -> None:
    box = replace(
        GATE,
        workloads=(
            workload("a", "unix:user:x"),
            workload("a", "unix:user:x"),
            workload("a", "unix:path:/x", "unix:user:x"),
        ),
    )

    assert [item[2] for item in entries_of(policy, box)] == [
        ["unix:path:/x", "unix:user:x"],
        ["unix:user:x"],
    ]


def test_a_workload_can_not_have_its_boxs_own_id(policy: AccessPolicy) -> None:
    box = replace(GATE, workloads=(workload("box/gate", "unix:user:x"),))

    with pytest.raises(PolicyError, match="is the box's own ID; give the workload"):
        entries_of(policy, box)


def test_an_entry_without_selectors_can_not_be() -> None:
    with pytest.raises(PolicyError, match="has no selectors"):
        Entry("n", SpiffeId(FACTORY, ("a",)), SpiffeId(FACTORY, ("b",)), ())


def test_selectors_that_do_not_exclude_each_other_are_named(
    policy: AccessPolicy, comment: Comment
) -> None:
    box = replace(
        GATE,
        workloads=(
            workload("a", "unix:user:x"),
            workload("b", "unix:user:y"),
            workload("c", "unix:path:/z"),
            workload("c", "unix:gid:7"),
        ),
    )

    said = comment(emit_spire(policy, site_of(box, PRESS)), STATIC)

    names = said.partition("gets both IDs: ")[2].partition("#")[0]
    assert names.count("spiffe://") == 4
    for one in "ab":
        pair = f"spiffe://factory.example/{one} and spiffe://factory.example/c"
        other = f"spiffe://factory.example/c and spiffe://factory.example/{one}"
        assert pair in names or other in names


def test_an_id_that_no_group_knows_is_named(
    policy: AccessPolicy, comment: Comment
) -> None:
    box = replace(
        GATE,
        workloads=(
            workload("box/7", "unix:user:x"),
            workload("unheard-of", "unix:user:y"),
        ),
    )

    said = comment(emit_spire(policy, site_of(box)), STATIC)

    assert (
        "no pattern of any group matches them: spiffe://factory.example/unheard-of."
        in said
    )


# What SPIRE would let pass.


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ttl": 5}, "entry 1: SPIRE would ignore 'ttl'"),
        ({"x509_svid_ttl": "1h"}, "x509_svid_ttl is no whole number"),
        ({"x509_svid_ttl": True}, "x509_svid_ttl is no whole number"),
        ({"selectors": [{"type": "unix"}]}, "selectors has no 'value'"),
        ({"selectors": ["unix:uid:0"]}, "selectors is no object"),
        ({"selectors": []}, "entry 1: .* has no selectors"),
        ({"parent_id": "factory"}, "entry 1: SPIFFE ID does not start"),
        ({"federates_with": ["a.example"]}, "'a.example' in federates_with is no"),
        ({"federates_with": [7]}, "7 in federates_with is no trust domain"),
        ({"entry_id": None}, "entry_id is no string"),
    ],
)
def test_json_that_spire_would_not_take_as_it_is_meant_is_refused(
    policy: AccessPolicy, change: dict[str, Any], problem: str
) -> None:
    [entry] = box_entries(policy, site_of(GATE), SPIRE)
    document = json.loads(entries_json([entry]))
    document["entries"][0].update(change)

    with pytest.raises(PolicyError, match=problem):
        parse_entries(json.dumps(document), "e.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "e.json is no JSON"),
        ("[]", "e.json is no object"),
        ("{}", "e.json has no 'entries'"),
        ('{"entries": [{}]}', "entry 1 has no 'entry_id'"),
    ],
)
def test_what_holds_no_entries_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PolicyError, match=problem):
        parse_entries(text, "e.json")
