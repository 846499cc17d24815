"""The policy file: what is accepted, and where each problem is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_server.errors import Reason
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.actions import Action
from authz_server.policy import nodes, yaml_nodes
from authz_server.policy.document import PolicyDocumentError, load_policy, parse_policy
from authz_server.policy.model import AccessPolicy, Grant, UpstreamKind
from authz_server.policy.writing import group_document

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"

VALID = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: line}
spec:
  trustDomain: a.example
  federatesWith: [b.example]
  upstreams:
    triton: {kind: triton, namespace: inference, serviceAccount: triton}
    data: {kind: dataset, hosts: [data.a.example], datasets: {images: /d/images}}
  groups:
    floor:
      spiffe: ["spiffe://a.example/ns/l1/sa/cam", "spiffe://b.example/x/**"]
      workloads: [{namespace: l1, podSelector: {app: cam}, serviceAccount: cam}]
    people:
      users: [{issuer: "https://idp.a.example", claim: groups, value: ml}]
  roles:
    use: [{actions: [inference, health], models: [m, "p-*"], versions: ["1"]}]
    list: [{actions: [logging], models: ["*"]}]
    read: [{actions: [dataset-read], datasets: [images]}]
  grants:
    - {role: use, to: [floor], on: [triton]}
    - {role: list, to: [floor, people], on: [triton]}
    - {role: read, to: [people], on: [data]}
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(text, "p.yaml")
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


def place_of(text: str, wanted: str) -> str:
    before = text[: text.index(wanted)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_the_example_is_valid() -> None:
    policy = load_policy(EXAMPLE)
    assert policy.name == "plant-7"
    assert len(policy.grants) == 4


def test_every_part_is_read() -> None:
    policy = parse_policy(VALID, "p.yaml")
    assert [td.name for td in policy.federates_with] == ["b.example"]
    assert policy.upstreams["data"].kind is UpstreamKind.DATASET
    assert policy.upstreams["data"].datasets == {"images": "/d/images"}
    assert policy.upstreams["data"].hosts == ("data.a.example",)
    assert policy.upstreams["triton"].namespace == "inference"
    floor = policy.groups["floor"]
    assert floor.spiffe[1] == SpiffePattern.parse("spiffe://b.example/x/**")
    assert floor.workloads[0].pod_selector == {"app": "cam"}
    assert policy.groups["people"].users[0].value == "ml"
    use = policy.roles["use"].permissions[0]
    assert use.actions == (Action.INFERENCE, Action.HEALTH)
    assert use.models == ("m", "p-*")
    assert use.versions == ("1",)
    assert policy.grants[1] == Grant("list", ("floor", "people"), ("triton",))


def test_pods_may_be_on_the_hosts_network() -> None:
    text = changed("serviceAccount: cam}]", "serviceAccount: cam, hostNetwork: true}]")

    policy = parse_policy(text, "p.yaml")

    assert policy.groups["floor"].workloads[0].host_network
    [workload] = group_document(policy.groups["floor"])["workloads"]
    assert workload["hostNetwork"] is True
    assert not parse_policy(VALID, "p.yaml").groups["floor"].workloads[0].host_network


def test_a_policy_may_grant_nothing() -> None:
    text = VALID[: VALID.index("  grants:")] + "  grants: []\n"
    assert parse_policy(text, "p.yaml").grants == ()


def test_a_problem_says_file_place_fault_and_mend() -> None:
    text = changed("federatesWith", "federateswith")
    pattern = place_of(text, '"spiffe://b.example/x')
    assert problems_of(text) == [
        (
            f"p.yaml:{place_of(text, 'federateswith')}: unknown key 'federateswith' in "
            "spec; did you mean 'federatesWith'?"
        ),
        (
            f"p.yaml:{pattern}: trust domain b.example is neither trustDomain nor in "
            "federatesWith; did you mean 'a.example'?"
        ),
    ]


def test_all_problems_are_reported_in_the_order_of_the_file() -> None:
    text = (
        changed("[inference, health]", "[infer, health]")
        .replace("kind: AccessPolicy", "kind: Policy")
        .replace("to: [people]", "to: [poeple]")
    )
    found = problems_of(text)
    assert len(found) == 3
    assert [int(problem.split(":")[1]) for problem in found] == sorted(
        int(problem.split(":")[1]) for problem in found
    )
    assert "did you mean 'people'?" in found[2]


def test_an_error_carries_the_reason_of_a_policy_error() -> None:
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy("", "p.yaml")
    assert caught.value.reason is Reason.POLICY_ERROR
    assert str(caught.value) == (
        "p.yaml:1:1: the document is empty; write an access policy"
    )


# Each: what to replace, by what, and what the one problem must say.
FAULTS = [
    # Form.
    ("kind: AccessPolicy", "kind: AccessPolicy\nkind: AccessPolicy", "is twice"),
    ("metadata: {name: line}\n", "", "the policy has no 'metadata'; add 'metadata:'"),
    ("{name: line}", "{name: 7}", 'reads 7 as an integer; quote it: "7"'),
    ("{name: line}", "{name: yes}", 'reads yes as true/false; quote it: "yes"'),
    ("{name: line}", "{name: 1.5}", "as a number"),
    ("{name: line}", "{name: 2026-01-01}", "as a timestamp"),
    ("{name: line}", "{name: }", "metadata.name has no value"),
    ("{name: line}", "{name: ''}", "metadata.name is empty"),
    ("{name: line}", "{name: [a]}", "must be a string, not a list"),
    ("{name: line}", "{name: Line}", "'Line' is not a name"),
    ("{name: line}", "{name: " + "n" * 64 + "}", "at most 63 characters"),
    ("{name: line}", "[name]", "metadata must be a mapping, not a list"),
    ("{name: line}", "{name: &a line}", "anchor '&a' is not allowed"),
    ("{name: line}", "{name: !!str line}", "tag '!!str' is not allowed"),
    ("{name: line}", "!!map {name: line}", "tag '!!map' is not allowed"),
    ("{name: line}", "{name: line, [a]: b}", "a key must be a string, not a list"),
    ("{name: line}", "{name: line, <<: {a: b}}", "unknown key '<<'"),
    ("authz.edge/v1", "authz.edge/v2", "write authz.edge/v1"),
    # Trust domains.
    ("trustDomain: a.example", "trustDomain: a.example:8080", "may hold only"),
    ("[b.example]", "[b.example, b.example]", "'b.example' is twice"),
    ("[b.example]", "[b.example, a.example]", "the trustDomain itself"),
    ("[b.example]", "[b.example, B]", "may hold only"),
    # Upstreams.
    ("kind: triton", "kind: tritn", "did you mean 'triton'?"),
    ("kind: triton, ", "", "upstream 'triton' has no 'kind'"),
    ("namespace: inference, ", "", "serviceAccount in no namespace"),
    ("serviceAccount: triton}", "podSelector: {}}", "podSelector is empty"),
    ("serviceAccount: triton}", "podSelector: {a: 1}}", 'quote it: "1"'),
    ("serviceAccount: triton}", "podSelector: {a: -x}}", "not a label value"),
    ("serviceAccount: triton}", "podSelector: {-a: x}}", "not a label key"),
    ("serviceAccount: triton}", "podSelector: {A_/a: x}}", "not a label key"),
    ("serviceAccount: triton}", "hosts: []}", "is empty; leave the key out"),
    ("serviceAccount: triton}", "datasets: {i: /i}}", "which has no datasets"),
    ("[data.a.example]", "[Data.a.example]", "is not a host"),
    ("[data.a.example]", "['data.a.example:443']", "without scheme, port"),
    ("[data.a.example]", "[data.a.example.]", "is not a host"),
    ("{images: /d/images}", "{images: d/images}", "is not a dataset's path"),
    ("{images: /d/images}", "{images: /d/../images}", "is not a dataset's path"),
    ("{images: /d/images}", "{images: /d/images/}", "is not a dataset's path"),
    ("{images: /d/images}", "{images: /d/im%61ges}", "is not a dataset's path"),
    ("{images: /d/images}", "{images: /d/images, sub: /d/images/s}", "overlap"),
    ("{images: /d/images}", "{images: /d/images, up: /d}", "overlap"),
    ("{images: /d/images}", "{images: /d/images, 7: /s}", 'quote it: "7"'),
    ("{images: /d/images}", "{images: /d/images, more: 7}", 'quote it: "7"'),
    # Groups.
    ('sa/cam"', 'sa/c*m"', "path segment 'c*m'"),
    ("spiffe://b.example/x/**", "spiffe://c.example/x", "did you mean"),
    ("spiffe://b.example/x/**", "spiffe://b.example/" + "x" * 2048, "longer than any"),
    ("serviceAccount: cam}]", "serviceAccount: cat}]", "/ns/l1/sa/cat, which no"),
    ("serviceAccount: cam}]", "hostNetwork: 1}]", "hostNetwork must be true or false"),
    ("users: [", "workloads: [{namespace: n}]\n      users: [", "no SPIFFE IDs"),
    ('"https://idp.a.example"', "idp.a.example", "is not an https URL"),
    ('"https://idp.a.example"', '"https://idp.a.example?x"', "is not an https URL"),
    (", value: ml", "", "a user of group 'people' has no 'value'"),
    # Roles.
    ("[inference, health]", "[inference, healt]", "did you mean 'health'?"),
    ("[inference, health]", "[]", "is empty; name at least one"),
    ('["1"]', "[1]", 'quote it: "1"'),
    ('["1"]', '["01"]', "is not a model version"),
    ('["1"]', "[]", "is empty; leave the key out"),
    ('["1"]', '["1", "1"]', "'1' is twice"),
    ('[m, "p-*"]', '["p*-*"]', "is not a model name or prefix"),
    ('[m, "p-*"]', '["**"]', "is not a model name or prefix"),
    ('[m, "p-*"]', "[../m]", "is not a model name or prefix"),
    (', models: ["*"]', "", "gives logging on no model; add 'models:'"),
    ('models: ["*"]', "models: [m]", "logging concerns every model"),
    ('models: ["*"]', 'models: ["*"], versions: ["1"]', "concerns every model"),
    (", datasets: [images]", "", "gives dataset-read on no dataset"),
    ("datasets: [images]", "datasets: [image]", "did you mean 'images'?"),
    ("datasets: [images]", "datasets: [images], models: [m]", "no model action"),
    ('["*"]}]', '["*"], datasets: [images]}]', "has datasets but no dataset action"),
    ('list: [{actions: [logging], models: ["*"]}]', "list: {}", "must be a list"),
    # Grants.
    ("role: use,", "role: user,", "did you mean 'use'?"),
    ("on: [data]", "on: [dta]", "did you mean 'data'?"),
    ("to: [people]", "to: [people, people]", "'people' is twice"),
    ("to: [people]", "to: []", "is empty; name a group"),
    ("to: [people]", "to: people", "must be a list, not a string"),
    ("on: [data]", "on: [triton]", "role 'read' gives nothing on upstream 'triton'"),
    ("to: [floor], on: [triton]}", "to: [floor], on: [data]}",
     "role 'use' gives nothing on upstream 'data'"),
    ("    list: [{", "    use: [{actions: [health]}]\n    list: [{",
     "key 'use' is twice in roles"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said"),
    FAULTS,
    ids=[f"{number}-{fault[2][:30]}" for number, fault in enumerate(FAULTS)],
)
def test_a_fault_is_the_one_problem_reported(old: str, new: str, said: str) -> None:
    found = problems_of(changed(old, new))
    assert len(found) == 1
    assert said in found[0]


# Faults on which others follow: the first must be said.
FOLLOWED_FAULTS = [
    ("[]", "the policy must be a mapping, not a list"),
    ("kind: AccessPolicy", "the policy has no 'spec'"),
    (VALID.replace("[inference, health]", "*x"), "alias '*x' is not allowed"),
    (VALID + "---\na: b\n", "a second YAML document begins; keep one"),
    (VALID.replace("{name: line}", "{name: line"), "not YAML"),
    (VALID + "\t- x", "not YAML"),
    ("a: \x07", "not YAML"),
    ("[" * 20 + "]" * 20, "nested deeper than 16 levels"),
    ("# nothing", "the document is empty"),
    (VALID.replace("  trustDomain: a.example\n", ""), "spec has no 'trustDomain'"),
    (VALID[: VALID.index("  upstreams")] + "  upstreams: {}\n", "are empty"),
    (VALID.replace("{images: /d/images}", "{}"), "datasets of upstream 'data' are"),
    (VALID.replace(", datasets: {images: /d/images}", ""), "has no 'datasets'"),
    (VALID.replace("    people:\n", "    peop&le:\n"), "'peop&le' is not a name"),
    (re.sub(r"      users: .*", "      {}", VALID), "group 'people' has no members"),
    (VALID.replace(', models: ["*"]', ', versions: ["1"]'), "versions of no model"),
    (re.sub(r"  grants:\n(.*\n)*", "  grants: 7\n", VALID), "must be a list"),
    (re.sub(r"  roles:\n(    .*\n)*", "  roles: []\n", VALID), "not a list"),
    (
        VALID.replace("serviceAccount: cam}", "serviceAccount: C/}"),
        "'C/' is not a name",
    ),
]


@pytest.mark.parametrize(
    ("text", "said"),
    FOLLOWED_FAULTS,
    ids=[f"{number}-{fault[1][:30]}" for number, fault in enumerate(FOLLOWED_FAULTS)],
)
def test_a_fault_that_others_follow_from_is_reported(text: str, said: str) -> None:
    assert any(said in problem for problem in problems_of(text))


def test_a_name_far_from_every_other_gets_the_list_of_names() -> None:
    text = changed("role: use,", "role: zzzzz,")
    assert problems_of(text)[0].endswith("use one of: list, read, use")


def test_a_name_where_none_is_defined_is_told_so() -> None:
    text = re.sub(r"  roles:\n(    .*\n)*", "  roles: {}\n", VALID)
    assert all(problem.endswith("none is defined") for problem in problems_of(text))


def test_names_are_not_compared_where_there_are_very_many() -> None:
    names = [f"n{number}" for number in range(3000)]
    assert nodes.suggest("n2999x", names).endswith(", ...")


def test_health_without_models_is_the_servers_own() -> None:
    text = changed('{actions: [inference, health], models: [m, "p-*"], versions: '
                   '["1"]}', "{actions: [health, metadata]}")  # fmt: skip
    assert parse_policy(text, "p.yaml").roles["use"].permissions[0].models == ()


def test_a_workload_under_another_naming_scheme_is_no_contradiction() -> None:
    text = changed("spiffe://a.example/ns/l1/sa/cam", "spiffe://a.example/cam/7")
    assert len(parse_policy(text, "p.yaml").groups["floor"].workloads) == 1


@pytest.mark.parametrize("pattern", ["/ns/**", "/ns/*/sa/cam", "/**"])
def test_a_workload_may_be_covered_by_a_wildcard(pattern: str) -> None:
    text = changed("spiffe://a.example/ns/l1/sa/cam", f"spiffe://a.example{pattern}")
    assert len(parse_policy(text, "p.yaml").groups["floor"].workloads) == 1


def test_a_key_that_yaml_reads_as_a_boolean_is_taken_by_its_text() -> None:
    assert yaml.safe_load("{on: 1}") == {True: 1}
    assert parse_policy(VALID, "p.yaml").grants[0].on == ("triton",)


def test_a_document_over_the_size_limit_is_refused_unread() -> None:
    found = problems_of("#" * (yaml_nodes.MAX_DOCUMENT_BYTES + 1))
    assert len(found) == 1
    assert "more than 16777216" in found[0]


def test_many_problems_are_all_kept_and_the_message_stays_short() -> None:
    text = VALID.replace("[b.example]", str([f"B{n}" for n in range(80)]))
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(text, "p.yaml")
    assert len(caught.value.problems) == 81
    assert str(caught.value).endswith("... and 31 more")


def test_a_lone_surrogate_is_refused() -> None:
    assert "surrogates not allowed" in problems_of("a: '\ud800'")[0]


def test_without_libyaml_the_answers_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yaml_nodes, "_LOADER", yaml.SafeLoader)
    assert isinstance(parse_policy(VALID, "p.yaml"), AccessPolicy)
    # Only this parser lets the escape by.
    found = problems_of(VALID + 'a: "\\ud800"')
    assert "half of a surrogate pair" in found[1]
    assert "not YAML" in problems_of("a: \x07")[0]
    assert "not YAML" in problems_of("a: [")[0]


def test_a_missing_file_is_a_problem_of_the_document(tmp_path: Path) -> None:
    with pytest.raises(PolicyDocumentError, match="No such file or directory; check"):
        load_policy(tmp_path / "none.yaml")


def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"kind: x\nname: \xff\n")
    with pytest.raises(PolicyDocumentError, match=r"p\.yaml:2:7: not UTF-8"):
        load_policy(file)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_any_text_is_a_policy_or_a_document_error(text: str) -> None:
    try:
        parse_policy(text, "p.yaml")
    except PolicyDocumentError as error:
        assert error.problems  # noqa: PT017 -- either outcome is right


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_to_a_policy_is_a_policy_or_a_document_error(
    data: st.DataObject,
) -> None:
    text = VALID
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        piece = data.draw(st.sampled_from(
            ["", " ", "\n", "[", "]", "{", "}", ":", "- ", "&a", "*a", "!!x", "7", '"',
             "~", "#", "---\n", "\ud800", "\x00", "é", "<<: ", "? ", "|\n", "'"]
        ))  # fmt: skip
        text = text[:start] + piece + text[end:]
    try:
        parse_policy(text, "p.yaml")
    except PolicyDocumentError as error:
        assert error.problems  # noqa: PT017 -- either outcome is right


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('a: "b\nc: d\n', "1:4"),
        ("a: b\nc: 'x\n\nd: e\n", "2:4"),
        ("a: b\nc: \x01\n", "2:4"),
        ("a: ü\nb: ü\x07\n", "2:5"),
    ],
)
def test_bad_syntax_is_reported_where_it_begins(text: str, place: str) -> None:
    assert problems_of(text)[0].startswith(f"p.yaml:{place}: not YAML")


def test_a_bad_account_of_a_workload_is_one_problem() -> None:
    (problem,) = problems_of(changed("serviceAccount: cam}", "serviceAccount: A_b}"))
    assert "'A_b' is not a name" in problem
