"""The compiled policy: its form, and when its revision changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import parse_policy

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"

POLICY = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: line}
spec:
  trustDomain: a.example
  upstreams:
    triton: {kind: triton, namespace: n, serviceAccount: s, hosts: [t.example]}
    data: {kind: dataset, datasets: {images: /i}}
    more: {kind: dataset, datasets: {films: /f}}
  groups:
    one: {spiffe: ["spiffe://a.example/ns/*/sa/cam", "spiffe://a.example/w"]}
    two: {spiffe: ["spiffe://a.example/*/x/**", "spiffe://a.example/w"]}
    people: {users: [{issuer: "https://i.example", claim: groups, value: ml}]}
  roles:
    b-use: [{actions: [inference, health], models: [m, "p-*"]}]
    a-use: [{actions: [inference], models: [m, "*"], versions: ["1"]}]
    both: [{actions: [health, dataset-read], datasets: [images]}]
  grants:
    - {role: b-use, to: [one], on: [triton]}
    - {role: a-use, to: [one, two], on: [triton]}
    - {role: both, to: [two], on: [triton, data]}
"""


def compiled(text: str) -> dict[str, Any]:
    access: dict[str, Any] = json.loads(
        compile_policy(parse_policy(text, "p.yaml")).data
    )["access"]
    return access


def revision(text: str, digest: bytes = b"") -> str:
    return compile_policy(parse_policy(text, "p.yaml"), digest).revision


def test_exact_ids_are_one_lookup() -> None:
    assert compiled(POLICY)["exact"] == {"spiffe://a.example/w": ["one", "two"]}


def test_wildcards_are_grouped_by_shape() -> None:
    assert compiled(POLICY)["patterns"] == {
        "a.example": {
            "fixed": [
                *([], [], [], []),
                [{"literals": [0, 2, 3], "groups": {"ns/sa/cam": ["one"]}}],
            ],
            "rest": [{"literals": [1], "segments": 2, "groups": {"x": ["two"]}}],
        }
    }


def test_patterns_of_one_shape_share_one_entry() -> None:
    patterns = ", ".join(f'"spiffe://a.example/ns/n{n}/sa/*"' for n in range(50))
    text = POLICY.replace('"spiffe://a.example/ns/*/sa/cam"', patterns)
    shapes = compiled(text)["patterns"]["a.example"]["fixed"][4]
    assert len(shapes) == 1
    assert len(shapes[0]["groups"]) == 50


def test_users_are_indexed_by_issuer_claim_and_value() -> None:
    assert compiled(POLICY)["users"] == {
        "https://i.example": {"groups": {"ml": ["people"]}}
    }


def test_grants_are_flattened_and_the_first_role_stays() -> None:
    grants = compiled(POLICY)["grants"]
    assert grants["one"]["triton"] == {
        "inference": {
            "server": "a-use",
            "all": {"only": {"1": "a-use"}},
            "exact": {"m": {"any": "b-use", "only": {"1": "a-use"}}},
            "prefix": {"p-": {"any": "b-use"}},
            "prefix_lengths": [2],
        },
        "health": {
            "server": "b-use",
            "exact": {"m": {"any": "b-use"}},
            "prefix": {"p-": {"any": "b-use"}},
            "prefix_lengths": [2],
        },
    }
    both = POLICY.replace("role: b-use, to: [one]", "role: b-use, to: [two]")
    assert compiled(both)["grants"]["two"]["triton"]["health"]["server"] == "b-use"


def test_an_action_is_compiled_only_for_upstreams_of_its_kind() -> None:
    two = compiled(POLICY)["grants"]["two"]
    assert two["data"] == {"dataset-read": {"datasets": {"images": "both"}}}
    assert "dataset-read" not in two["triton"]


def test_a_dataset_is_compiled_only_for_upstreams_that_have_it() -> None:
    text = POLICY.replace("datasets: [images]}]", "datasets: [images, films]}]")
    two = compiled(text.replace("[triton, data]", "[triton, data, more]"))["grants"][
        "two"
    ]
    assert two["data"]["dataset-read"] == {"datasets": {"images": "both"}}
    assert two["more"]["dataset-read"] == {"datasets": {"films": "both"}}


def test_a_permission_that_gives_nothing_leaves_no_trace() -> None:
    text = POLICY.replace(
        "    both: [{actions: [health, dataset-read], datasets: [images]}]",
        "    both: [{actions: [health, dataset-read], datasets: [films]}, "
        "{actions: [dataset-write], datasets: [images]}]",
    )
    assert compiled(text)["grants"]["two"]["data"] == {
        "dataset-write": {"datasets": {"images": "both"}}
    }


def test_equal_policies_give_equal_bytes() -> None:
    lines = POLICY.splitlines(keepends=True)
    groups = slice(lines.index("  groups:\n") + 1, lines.index("  roles:\n"))
    grants = slice(lines.index("  grants:\n") + 1, None)
    for part in (groups, grants):
        lines[part] = lines[part][::-1]
    assert "".join(lines) != POLICY
    assert compile_policy(parse_policy("".join(lines), "q.yaml")) == compile_policy(
        parse_policy(POLICY, "p.yaml")
    )


def test_the_data_is_canonical_json() -> None:
    data = compile_policy(parse_policy(POLICY.replace(": ml", ": é"), "p")).data
    assert "é".encode() in data
    assert (
        json.dumps(
            json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
        == data
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sa/cam", "sa/cat"),
        ('models: [m, "p-*"]', 'models: [k, "p-*"]'),
        ("t.example", "u.example"),
        ("images: /i", "images: /j"),
        ("namespace: n,", "namespace: o,"),
        ("serviceAccount: s,", "serviceAccount: t,"),
        ("trustDomain: a.example", "trustDomain: a.example\n  federatesWith: [b]"),
    ],
)
def test_the_revision_changes_with_all_that_a_decision_depends_on(
    old: str, new: str
) -> None:
    assert POLICY.count(old) == 1
    assert revision(POLICY.replace(old, new)) != revision(POLICY)


def test_the_revision_changes_with_the_rego() -> None:
    assert revision(POLICY, b"a") != revision(POLICY, b"b")


def test_the_revision_is_sixteen_hexadecimal_digits() -> None:
    text = revision(EXAMPLE.read_text(encoding="utf-8"))
    assert len(text) == 16
    assert int(text, 16) >= 0
