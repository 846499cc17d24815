"""OpenZiti: who may dial what, as an import and as REST calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from openziti_schemas import BODIES, CONFIG_DATA
from random_policies import make_policy

from authz_server.demo.pki import DevelopmentCa
from authz_server.emit.manifest import Manifest
from authz_server.emit.openziti import emit_openziti
from authz_server.emit.reach import reaches
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy, Grant, Group
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Mesh,
    OpenZiti,
    Ports,
    Site,
)

BASE = "/edge/management/v1/"
CA = DevelopmentCa("factory.example")
WITH_CA = Site(openziti=OpenZiti(CA.bundle_pem.decode()))
CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
TRITON = "spiffe://factory.example/ns/inference/sa/triton"

Comment = Callable[[Sequence[Manifest], str], str]
MakeGroup = Callable[..., Group]
WithGroups = Callable[..., AccessPolicy]


def emit(policy: AccessPolicy, site: Site) -> dict[str, dict[str, dict[str, Any]]]:
    """The import's entities by section and name."""
    [imported, _] = emit_openziti(policy, site)
    sections = yaml.safe_load(imported.text)
    assert sum(map(len, sections.values())) == len(
        {(kind, item["name"]) for kind, items in sections.items() for item in items}
    )
    return {
        kind: {item["name"]: item for item in items} for kind, items in sections.items()
    }


def calls(policy: AccessPolicy, site: Site) -> list[dict[str, Any]]:
    [_, rest] = emit_openziti(policy, site)
    document = json.loads(rest.text)
    assert document.keys() == {"about", "calls"}
    found: list[dict[str, Any]] = document["calls"]
    return found


def resolved(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The bodies by kind, as they would be sent: with IDs of what was made before."""
    ids = {
        (f"{BASE}config-types", name): f"id of {name}"
        for name in ("intercept.v1", "host.v1")
    }

    def find(reference: Mapping[str, str]) -> str:
        assert reference.keys() == {"in", "name"}
        return ids[reference["in"], reference["name"]]

    bodies: dict[str, list[dict[str, Any]]] = {}
    for step in steps:
        assert step.keys() <= {"post", "body", "refs"}
        body = dict(step["body"])
        for field, references in step.get("refs", {}).items():
            assert field not in body
            body[field] = (
                [find(item) for item in references]
                if isinstance(references, list)
                else find(references)
            )
        key = (step["post"], body["name"])
        assert key not in ids, "two of one name"
        ids[key] = f"id {len(ids)}"
        bodies.setdefault(step["post"].removeprefix(BASE), []).append(body)
    return bodies


def dials(sections: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Which ID may dial which service, by the controller's own rule for AnyOf."""

    def chosen(kind: str, roles: Sequence[str]) -> set[str]:
        return {
            name
            for name, item in sections.get(kind, {}).items()
            if {f"#{attribute}" for attribute in item["roleAttributes"]} & set(roles)
        }

    return {
        (identity, service)
        for policy in sections["servicePolicies"].values()
        if policy["type"] == "Dial"
        for identity in chosen("identities", policy["identityRoles"])
        for service in chosen("services", policy["serviceRoles"])
    }


def problems(schema: Mapping[str, Any], value: object) -> list[ValidationError]:
    return list(Draft202012Validator(schema).iter_errors(value))


@pytest.mark.parametrize("site", [Site(), WITH_CA], ids=["without", "with authority"])
def test_the_api_takes_every_call_in_its_order(
    policy: AccessPolicy, site: Site
) -> None:
    bodies = resolved(calls(policy, site))

    assert bodies.keys() >= BODIES.keys() - {"cas"}
    for kind, found in bodies.items():
        for body in found:
            assert problems(BODIES[kind], body) == []


@pytest.mark.parametrize("seed", range(8))
def test_the_api_takes_what_random_policies_give(seed: int) -> None:
    policy = make_policy(random.Random(seed))

    for kind, found in resolved(calls(policy, WITH_CA)).items():
        for body in found:
            assert problems(BODIES[kind], body) == []


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("service-policies", "type", "dial"),
        ("service-policies", "semantic", None),
        ("service-policies", "identityRoles", ["@plant.group.cameras"]),
        ("identities", "type", "device"),
        ("identities", "isAdmin", None),
        ("identities", "authPolicy", "@Default"),
        ("services", "encryptionRequired", None),
        ("configs", "configTypeId", None),
        ("cas", "isAuthEnabled", None),
        ("cas", "certPem", "PASTE IT HERE"),
        ("edge-router-policies", "semantic", None),
    ],
)
def test_the_schemas_find_what_the_api_refuses(
    policy: AccessPolicy, kind: str, field: str, value: object
) -> None:
    body = resolved(calls(policy, WITH_CA))[kind][0]

    changed = {key: item for key, item in body.items() if key != field}
    if value is not None:
        changed[field] = value

    assert problems(BODIES[kind], changed)


def test_configs_are_what_their_types_demand(policy: AccessPolicy) -> None:
    for step in calls(policy, Site()):
        if step["post"] == f"{BASE}configs":
            schema = CONFIG_DATA[step["refs"]["configTypeId"]["name"]]
            assert problems(schema, step["body"]["data"]) == []


def test_the_import_refers_only_to_what_is_in_it(policy: AccessPolicy) -> None:
    sections = emit(policy, Site())

    for config in sections["configs"].values():
        assert config["configType"] in {"@intercept.v1", "@host.v1"}
    for service in sections["services"].values():
        for name in service["configs"]:
            assert name.removeprefix("@") in sections["configs"]
    for identity in sections["identities"].values():
        # Without it the import panics.
        assert identity["authPolicy"] == "@Default"
    for kind in ("servicePolicies", "edgeRouterPolicies", "serviceEdgeRouterPolicies"):
        for item in sections[kind].values():
            roles = [value for key, value in item.items() if key.endswith("Roles")]
            assert all(role.startswith("#") for found in roles for role in found)


def test_import_and_calls_say_the_same(policy: AccessPolicy) -> None:
    sections = emit(policy, WITH_CA)
    bodies = resolved(calls(policy, WITH_CA))

    def bare(item: Mapping[str, Any]) -> dict[str, Any]:
        references = {"authPolicy", "configType", "configTypeId", "configs"}
        return {key: value for key, value in item.items() if key not in references}

    assert [bare(item) for items in bodies.values() for item in items] == [
        bare(item) for items in sections.values() for item in items.values()
    ]


def test_an_svid_logs_in_by_its_one_uri(policy: AccessPolicy) -> None:
    [authority] = emit(policy, WITH_CA)["certificateAuthorities"].values()

    assert authority["externalIdClaim"] == {
        "location": "SAN_URI",
        "matcher": "SCHEME",
        "matcherCriteria": "spiffe",
        "parser": "NONE",
        "parserCriteria": "",
        "index": 0,
    }
    assert authority["isAuthEnabled"] is True
    assert authority["isAutoCaEnrollmentEnabled"] is False
    assert authority["isOttCaEnrollmentEnabled"] is False
    assert authority["certPem"] == WITH_CA.openziti.certificate_authority


def test_without_an_authority_in_the_site_there_is_none_and_the_file_says_so(
    policy: AccessPolicy, comment: Comment
) -> None:
    assert "certificateAuthorities" not in emit(policy, Site())
    said = comment(emit_openziti(policy, Site()), "import.yaml")
    assert "no SVID logs in until the controller knows the root" in said
    said = comment(emit_openziti(policy, WITH_CA), "import.yaml")
    assert "counts only when it is verified" in said
    assert "ziti edge verify ca plant.spiffe" in said
    assert "Without a certificate authority" not in said


def test_an_identity_is_bound_to_a_spiffe_id(policy: AccessPolicy) -> None:
    assert emit(policy, Site())["identities"][CAMERA] == {
        "name": CAMERA,
        "type": "Default",
        "isAdmin": False,
        "externalId": CAMERA,
        "authPolicy": "@Default",
        "roleAttributes": ["plant", "plant.group.cameras"],
        "tags": {"managedBy": "authz-server", "partOf": "plant"},
    }


def test_only_who_has_a_grant_may_dial(policy: AccessPolicy) -> None:
    sections = emit(policy, Site())

    assert dials(sections) == {(CAMERA, "plant.triton")}
    assert "spiffe://factory.example/ns/spare/sa/idle" not in sections["identities"]
    assert "spiffe://factory.example/box/7" not in sections["identities"]


@pytest.mark.parametrize("seed", range(8))
def test_of_random_policies_too_exactly_who_reaches_an_upstream_may_dial(
    seed: int,
) -> None:
    policy = make_policy(random.Random(seed))
    site = Site(
        boxes=(
            Box(
                "b",
                Attestor.JOIN_TOKEN,
                workloads=tuple(
                    BoxWorkload(SpiffeId(policy.trust_domain, path), ("unix:uid:1",))
                    for path in (("a",), ("ns", "a", "sa", "b"), ("b", "a"))
                ),
            ),
        )
    )
    sections = emit(policy, site)
    ids = [SpiffeId.parse(item) for item in sections.get("identities", {})]
    ids += [item.spiffe_id for box in site.boxes for item in box.workloads]

    assert dials(sections) == {
        (str(spiffe_id), f"p.{upstream.name}")
        for upstream in policy.upstreams.values()
        for reach in reaches(policy, upstream, site)
        for spiffe_id in ids
        if any(pattern.matches(spiffe_id) for pattern in reach.group.spiffe)
    }
    assert all(item.trust_domain == policy.trust_domain for item in ids)


def test_a_denial_takes_nothing_away_here_and_a_second_grant_adds_a_policy(
    policy: AccessPolicy,
) -> None:
    before = emit(policy, Site())["servicePolicies"]
    more = replace(
        policy,
        grants=(*policy.grants, Grant("inspector", ("boxes",), ("triton",))),
        denials=(Grant("inspector", ("cameras",), ("triton",)),),
    )

    after = emit(more, Site())["servicePolicies"]

    # What is there stays as it is: an import would not change it.
    assert after.keys() - before.keys() == {"plant.triton.dial.boxes"}
    assert all(after[name] == item for name, item in before.items())


def test_two_groups_of_one_id_are_one_identity(
    group: MakeGroup, with_groups: WithGroups
) -> None:
    policy = with_groups(group("a", [CAMERA]), group("b", [CAMERA, TRITON]))

    identities = emit(policy, Site())["identities"]

    assert identities[CAMERA]["roleAttributes"] == [
        "plant",
        "plant.group.a",
        "plant.group.b",
    ]
    # An upstream that calls another one hosts and dials.
    assert identities[TRITON]["roleAttributes"] == [
        "plant",
        "plant.group.b",
        "plant.host.triton",
    ]


def test_of_a_wildcard_what_is_named_in_full_has_an_identity_and_the_file_says_so(
    group: MakeGroup, with_groups: WithGroups, comment: Comment
) -> None:
    policy = with_groups(
        group(
            "floor",
            [
                "spiffe://factory.example/ns/line2/sa/*",
                "spiffe://factory.example/box/**",
                "spiffe://factory.example/robot/*",
            ],
            [
                ("line2", {"app": "vision"}, "vision"),
                ("line2", {"app": "nameless"}, ""),
                ("line3", {"app": "other"}, "other"),
            ],
        )
    )
    box_id = SpiffeId(policy.trust_domain, ("box", "7"))
    site = Site(
        boxes=(
            Box(
                "box-7",
                Attestor.JOIN_TOKEN,
                workloads=(BoxWorkload(box_id, ("unix:uid:1",)),),
            ),
        )
    )

    vision = "spiffe://factory.example/ns/line2/sa/vision"
    assert dials(emit(policy, site)) == {
        (vision, "plant.triton"),
        (str(box_id), "plant.triton"),
    }
    said = comment(emit_openziti(policy, site), "import.yaml")
    assert f"ns/line2/sa/* only what policy or site name in full: {vision}." in said
    assert f"box/** only what policy or site name in full: {box_id}." in said
    assert "robot/* only what policy or site name in full: nothing." in said


def test_callers_of_other_trust_domains_are_left_out_with_the_reason(
    group: MakeGroup, with_groups: WithGroups, comment: Comment
) -> None:
    policy = with_groups(group("partner", ["spiffe://supplier.example/tester"]))

    assert dials(emit(policy, Site())) == set()
    said = comment(emit_openziti(policy, Site()), "import.yaml")
    assert "spiffe://supplier.example/tester is of another trust domain" in said


def test_users_are_said_to_have_no_identity(
    policy: AccessPolicy, comment: Comment
) -> None:
    said = comment(emit_openziti(policy, Site()), "import.yaml")

    assert "Group users: its users have no identity" in said


def test_only_an_upstreams_own_workload_hosts_it(policy: AccessPolicy) -> None:
    sections = emit(policy, Site())

    bind = sections["servicePolicies"]["plant.triton.bind"]
    assert bind["type"] == "Bind"
    assert bind["serviceRoles"] == ["#plant.upstream.triton"]
    [role] = bind["identityRoles"]
    hosts = [
        name
        for name, item in sections["identities"].items()
        if role.removeprefix("#") in item["roleAttributes"]
    ]
    assert hosts == [TRITON]


@pytest.mark.parametrize("mesh", Mesh)
def test_a_tunneler_hands_over_to_envoy_and_never_past_it(
    policy: AccessPolicy, mesh: Mesh, comment: Comment
) -> None:
    site = Site(mesh=mesh, ports=Ports(envoy=9443))

    configs = emit(policy, site)["configs"]

    assert configs["plant.triton.host"]["data"] == {
        "protocol": "tcp",
        "address": "127.0.0.1",
        "port": 9443,
    }
    assert configs["plant.triton.intercept"]["data"] == {
        "protocols": ["tcp"],
        "addresses": ["triton.factory.example"],
        "portRanges": [{"low": 9443, "high": 9443}],
    }
    said = comment(emit_openziti(policy, site), "import.yaml")
    assert ("Behind an Istio sidecar" in said) is (mesh is Mesh.SIDECAR)


def test_an_upstream_without_hosts_or_id_is_said_to_lack_something(
    policy: AccessPolicy, comment: Comment
) -> None:
    bare = replace(
        policy.upstreams["triton"], hosts=(), namespace="", service_account=""
    )
    policy = replace(policy, upstreams={**policy.upstreams, "triton": bare})

    sections = emit(policy, Site())

    assert sections["services"]["plant.triton"]["configs"] == ["@plant.triton.host"]
    assert TRITON not in sections["identities"]
    said = comment(emit_openziti(policy, Site()), "import.yaml")
    assert "Upstream triton has no hosts, so no tunneler" in said
    assert "give its tunneler's attribute plant.host.triton." in said
    assert "Upstream images" not in said


def test_what_import_does_not_do_is_said(
    policy: AccessPolicy, comment: Comment
) -> None:
    said = comment(emit_openziti(policy, Site()), "import.yaml")

    assert "changes or deletes nothing" in said
    assert "tagged partOf plant." in said
    assert "Models share that one port" in said


def test_identities_and_services_have_a_path_over_every_router(
    policy: AccessPolicy,
) -> None:
    sections = emit(policy, Site())

    [edge] = sections["edgeRouterPolicies"].values()
    [service_edge] = sections["serviceEdgeRouterPolicies"].values()
    assert edge["edgeRouterRoles"] == service_edge["edgeRouterRoles"] == ["#all"]
    # Of this policy alone: others' identities are not ours to give a path.
    assert edge["identityRoles"] == service_edge["serviceRoles"] == ["#plant"]
    for item in (*sections["identities"].values(), *sections["services"].values()):
        assert "plant" in item["roleAttributes"]


def test_the_order_in_which_things_are_written_changes_nothing(
    policy: AccessPolicy,
) -> None:
    turned = replace(
        policy,
        groups=dict(reversed(policy.groups.items())),
        upstreams=dict(reversed(policy.upstreams.items())),
        grants=tuple(reversed(policy.grants)),
    )

    assert emit_openziti(turned, WITH_CA) == emit_openziti(policy, WITH_CA)


def test_a_policy_without_grants_gives_services_that_nobody_dials(
    policy: AccessPolicy,
) -> None:
    sections = emit(replace(policy, grants=()), Site())

    assert dials(sections) == set()
    assert sections["identities"].keys() == {
        TRITON,
        "spiffe://factory.example/ns/data/sa/minio",
    }
