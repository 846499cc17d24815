"""Conditions, denials and nested groups: what is accepted, and what is not."""

from __future__ import annotations

import pytest

from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.policy.document import PolicyDocumentError, parse_policy
from authz_server.policy.model import ALWAYS, Condition
from authz_server.policy.time_limit import TimeLimit, TimeWindow

VALID = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: line}
spec:
  trustDomain: a.example
  upstreams:
    triton: {kind: triton, namespace: inference, serviceAccount: triton}
    spare: {kind: triton}
    data: {kind: dataset, datasets: {images: /d/images}}
  groups:
    cameras: {spiffe: ["spiffe://a.example/ns/l1/sa/cam"]}
    robots: {spiffe: ["spiffe://a.example/ns/l2/sa/*"]}
    people: {users: [{issuer: "https://idp.a.example", claim: groups, value: ml}]}
    floor: {spiffe: ["spiffe://a.example/gate"], groups: [cameras, robots]}
    all: {groups: [floor, people, cameras]}
  roles:
    use:
      - {actions: [inference], models: [m], upstreams: [triton]}
      - {actions: [metadata], models: [m]}
    read: [{actions: [dataset-read], datasets: [images]}]
  grants:
    - {role: use, to: [all], on: [triton, spare]}
    - role: use
      to: [floor]
      on: [triton]
      when:
        users: [people]
        namespaces: [l1, l2]
        times: [{days: [mon, fri], from: "22:00", to: "06:00", zone: Europe/Berlin}]
        since: "2026-01-01T00:00:00Z"
        until: "2027-01-01T00:00:00+01:00"
    - {role: read, to: [all], on: [data], when: {upstreams: [triton]}}
  denials:
    - {role: use, to: [robots], on: [spare]}
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(text, "p.yaml")
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


def test_conditions_and_denials_are_read() -> None:
    policy = parse_policy(VALID, "p.yaml")
    assert [grant.when == ALWAYS for grant in policy.grants] == [True, False, False]
    assert policy.grants[1].when == Condition(
        users=("people",),
        namespaces=("l1", "l2"),
        time=TimeLimit(
            windows=(TimeWindow(frozenset({0, 4}), 1320, 360, "Europe/Berlin"),),
            since_s=1767225600.0,
            until_s=1798758000.0,
        ),
    )
    assert policy.grants[2].when == Condition(upstreams=("triton",))
    assert [(denial.role, denial.to) for denial in policy.denials] == [
        ("use", ("robots",))
    ]
    assert policy.time_limits == {policy.grants[1].when.time}


def test_a_group_has_the_members_of_the_groups_in_it() -> None:
    policy = parse_policy(VALID, "p.yaml")
    gate, camera, robots = map(
        SpiffePattern.parse,
        (
            "spiffe://a.example/gate",
            "spiffe://a.example/ns/l1/sa/cam",
            "spiffe://a.example/ns/l2/sa/*",
        ),
    )
    assert policy.groups["floor"].spiffe == (gate, camera, robots)
    assert policy.groups["all"].spiffe == (gate, camera, robots)
    assert policy.groups["all"].users == policy.groups["people"].users
    assert policy.groups["cameras"].spiffe == (camera,)


def test_a_permission_holds_on_its_own_upstreams() -> None:
    use = parse_policy(VALID, "p.yaml").roles["use"].permissions
    assert [part.holds_on("spare") for part in use] == [False, True]
    assert [part.holds_on("triton") for part in use] == [True, True]


TIMES = 'times: [{days: [mon, fri], from: "22:00", to: "06:00", zone: Europe/Berlin}]'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[cameras, robots]", "[cameras, robot]", "did you mean 'robots'?"),
        (
            'robots: {spiffe: ["spiffe://a.example/ns/l2/sa/*"]}',
            "robots: {groups: [floor]}",
            "contains itself; take it out",
        ),
        ("[cameras, robots]", "[cameras, floor]", "'floor' contains itself"),
        ("users: [people]", "users: [peeple]", "did you mean 'people'?"),
        ("users: [people]", "users: [robots]", "group 'robots' has no users"),
        ("namespaces: [l1, l2]", "namespaces: [L1]", "is not a name"),
        ("namespaces: [l1, l2]", "namespaces: []", "is empty"),
        ("{upstreams: [triton]}", "{upstreams: [spare]}", "has no SPIFFE ID to call"),
        ("{upstreams: [triton]}", "{upstreams: [tritn]}", "did you mean 'triton'?"),
        ("{upstreams: [triton]}", "{upstream: [triton]}", "unknown key 'upstream'"),
        ("{upstreams: [triton]}", "{}", "is empty; leave the key out"),
        ("[mon, fri]", "[mon, fre]", "day 'fre' is not defined; did you mean 'fri'?"),
        ('from: "22:00"', "from: 22:00", 'quote it: "22:00"'),
        ('from: "22:00"', 'from: "24:00"', 'write "00:00"'),
        ('to: "06:00"', 'to: "6:00"', "'6:00' is no time of day"),
        ('to: "06:00"', 'to: "25:00"', "'25:00' is no time of day"),
        ("Europe/Berlin", "Europe/Berln", "is no time zone"),
        ("Europe/Berlin", "../etc/passwd", "is no time zone"),
        (", zone: Europe/Berlin", "", "has no 'zone'"),
        (TIMES, "times: []", "is empty"),
        ('"2026-01-01T00:00:00Z"', '"2026-01-01"', "is no date with time"),
        ('"2026-01-01T00:00:00Z"', '"2026-01-01T00:00:00"', "is no date with time"),
        ('"2026-01-01T00:00:00Z"', '"soon"', "is no date with time"),
        ('"2026-01-01T00:00:00Z"', "2026-01-01T00:00:00Z", "quote it"),
        ('"2026-01-01T00:00:00Z"', '"2028-01-01T00:00:00Z"', "ends before it begins"),
        ("[m], upstreams: [triton]", "[m], upstreams: [tritn]", "did you mean 'tri"),
        ("to: [robots], on: [spare]}", "to: [robot], on: [spare]}", "did you mean"),
        ("to: [robots], on: [spare]}", "to: [robots], on: [data]}", "gives nothing on"),
        ("denials:", "denial:", "unknown key 'denial' in spec"),
    ],
)  # fmt: skip
def test_a_fault_is_reported_where_it_is(old: str, new: str, said: str) -> None:
    text = changed(old, new)
    found = problems_of(text)
    assert len(found) == 1, found
    assert said in found[0]


def test_a_long_chain_of_nested_groups_is_no_trouble() -> None:
    groups = "".join(
        f"    g{number}: {{groups: [g{number + 1}]}}\n" for number in range(3000)
    )
    text = changed("    floor:", groups + "    g3000: {groups: [people]}\n    floor:")
    assert parse_policy(text, "p.yaml").groups["g0"].users
