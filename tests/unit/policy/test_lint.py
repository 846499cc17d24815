"""What is valid in a policy and hardly meant: each rule, its place, and its like."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import load_policy, parse_policy
from authz_server.policy.engine import Engine
from authz_server.policy.lint import Finding, lint
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import Map, Node, Place, Problems, Sequence
from authz_server.policy.parts import unite
from authz_server.policy.yaml_nodes import compose

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"
NOW_S = 1_800_000_000.0  # 2027-01-15

CLEAN = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: line}
spec:
  trustDomain: a.example
  federatesWith: [b.example]
  upstreams:
    triton: {kind: triton, namespace: inference, serviceAccount: triton}
    chat: {kind: openai}
    data:
      kind: dataset
      datasets:
        images: /d/images
        logs: /d/logs
  groups:
    cameras:
      spiffe: ["spiffe://a.example/ns/l1/sa/cam"]
      workloads: [{namespace: l1}]
    robots:
      spiffe:
        - "spiffe://a.example/ns/l2/sa/*"
        - "spiffe://a.example/ns/l3/**"
    tritons: {spiffe: ["spiffe://a.example/ns/inference/sa/triton"]}
    guests: {spiffe: ["spiffe://b.example/x"]}
    people: {users: [{issuer: "https://idp.a.example", claim: groups, value: ml}]}
    floor: {groups: [cameras, robots]}
  roles:
    use:
      - {actions: [inference, health], models: [m, "p-*"]}
    old:
      - {actions: [inference], models: [n], versions: ["1", "2"]}
    read:
      - {actions: [dataset-read], datasets: [images, logs]}
    load:
      - {actions: [model-repository, trace], models: [m]}
  grants:
    - {role: use, to: [floor, guests], on: [triton, chat]}
    - {role: old, to: [robots], on: [triton], when: {until: "2028-01-01T00:00:00Z"}}
    - {role: read, to: [people], on: [data], when: {users: [people]}}
    - {role: read, to: [tritons], on: [data], when: {upstreams: [triton]}}
    - {role: load, to: [cameras], on: [triton]}
    - {role: old, to: [cameras], on: [triton], when: {namespaces: [l1]}}
  denials:
    - {role: old, to: [guests], on: [triton]}
"""


def findings(text: str, now_s: float | None = NOW_S) -> tuple[Finding, ...]:
    root = compose(text, "p.yaml", Problems())
    assert root is not None
    return lint(parse_policy(text, "p.yaml"), root, now_s)


def changed(changes: list[tuple[str, str]]) -> str:
    text = CLEAN
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def grant(line: str) -> tuple[str, str]:
    """Return the change that puts `line` behind all other grants."""
    return ("  denials:\n", f"    {line}\n  denials:\n")


def denial(line: str) -> tuple[str, str]:
    return (
        "    - {role: old, to: [guests]",
        f"    {line}\n    - {{role: old, to: [guests]",
    )


# A rule's code, what has it, and what is near to that and has it not. `§` is in front
# of the place.
RULES: list[tuple[str, list[tuple[str, str]], list[tuple[str, str]]]] = [
    (
        "unused-role",
        [("    load:\n", "    §spare: [{actions: [health]}]\n    load:\n")],
        [
            ("    load:\n", "    spare: [{actions: [health]}]\n    load:\n"),
            denial("- {role: spare, to: [guests], on: [triton]}"),
        ],
    ),
    (
        "unused-group",
        [("    floor:", '    §idle: {spiffe: ["spiffe://a.example/i"]}\n    floor:')],
        [
            ("    floor:", '    idle: {spiffe: ["spiffe://a.example/i"]}\n    floor:'),
            ("[cameras, robots]", "[cameras, robots, idle]"),
        ],
    ),
    (
        "unused-group",
        [
            (", when: {users: [people]}", ""),
            ("to: [people]", "to: [tritons]"),
            ("    people:", "    §people:"),
        ],
        [(", when: {users: [people]}", "")],
    ),
    (
        "unused-group",
        [("    floor:", '    §idle: {spiffe: ["spiffe://a.example/i"]}\n    floor:')],
        [
            ("    floor:", '    idle: {spiffe: ["spiffe://a.example/i"]}\n    floor:'),
            ("  denials:\n", "  admins: [{to: [idle], change: [roles]}]\n  denials:\n"),
        ],
    ),
    (
        "unused-upstream",
        [("    chat:", "    §spare: {kind: triton}\n    chat:")],
        [
            ("    chat:", "    spare: {kind: triton}\n    chat:"),
            ("on: [triton, chat]", "on: [triton, chat, spare]"),
        ],
    ),
    (
        "unused-dataset",
        [("[images, logs]", "[images]"), ("        logs:", "        §logs:")],
        [("[images, logs]", "[logs, images]")],
    ),
    (
        "unused-dataset",
        [
            (
                "datasets: [images, logs]}",
                (
                    "datasets: [images]}\n      - {actions: "
                    "[dataset-read, health], datasets: [logs], upstreams: [triton]}"
                ),
            ),
            ("        logs:", "        §logs:"),
        ],
        [
            (
                "datasets: [images, logs]}",
                (
                    "datasets: [images]}\n      - {actions: "
                    "[dataset-read, health], datasets: [logs], upstreams: [data]}"
                ),
            )
        ],
    ),
    (
        "redundant-pattern",
        [
            (
                '        - "spiffe://a.example/ns/l3/**"',
                (
                    '        - "spiffe://a.example/ns/l3/**"\n'
                    '        - §"spiffe://a.example/ns/l3/x"'
                ),
            )
        ],
        [
            (
                '        - "spiffe://a.example/ns/l3/**"',
                (
                    '        - "spiffe://a.example/ns/l3/**"\n'
                    '        - "spiffe://a.example/ns/l3"'
                ),
            )
        ],
    ),
    (
        "redundant-pattern",
        [('- "spiffe://a.example/ns/l2/sa/*"', '- §"spiffe://a.example/ns/l3/*/**"')],
        [
            ('- "spiffe://a.example/ns/l2/sa/*"', '- "spiffe://a.example/ns/*/**"'),
            ("ns/l3/**", "ns/l3"),
        ],
    ),
    (
        "redundant-pattern",
        [
            (
                "{groups: [cameras, robots]}",
                '{groups: [cameras, robots], spiffe: [§"spiffe://a.example/ns/l1/sa/cam"]}',
            )
        ],
        [
            (
                "{groups: [cameras, robots]}",
                '{groups: [cameras, robots], spiffe: ["spiffe://a.example/ns/l1/sa/car"]}',
            )
        ],
    ),
    (
        "redundant-pattern",
        [
            (
                "{groups: [cameras, robots]}",
                '{groups: [cameras, robots], spiffe: [§"spiffe://a.example/ns/l2/sa/r"]}',
            )
        ],
        [
            (
                "{groups: [cameras, robots]}",
                (
                    "{groups: [cameras, robots], workloads: [{namespace: l2}], "
                    'spiffe: ["spiffe://a.example/ns/l2/sa/r"]}'
                ),
            )
        ],
    ),
    (
        "idle-nested-group",
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots, §lines]}\n"
                    '    lines: {spiffe: ["spiffe://a.example/ns/l3/sa/a"]}'
                ),
            )
        ],
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots, lines]}\n"
                    '    lines: {spiffe: ["spiffe://a.example/ns/l3/sa/a"], '
                    "workloads: [{namespace: l3}]}"
                ),
            )
        ],
    ),
    (
        "idle-nested-group",
        [
            (
                "[cameras, robots]}",
                (
                    "[§cameras, robots], spiffe: "
                    '["spiffe://a.example/ns/*/sa/cam"], workloads: [{namespace: l1}]}'
                ),
            )
        ],
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots], spiffe: "
                    '["spiffe://a.example/ns/*/sa/cam"], workloads: [{namespace: l2}]}'
                ),
            )
        ],
    ),
    (
        "idle-nested-group",
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots, people, §staff]}\n    staff: {users: [{"
                    'issuer: "https://idp.a.example", claim: groups, value: ml}]}'
                ),
            )
        ],
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots, people, staff]}\n    staff: {users: [{"
                    'issuer: "https://idp.a.example", claim: groups, value: mL}]}'
                ),
            )
        ],
    ),
    (
        "redundant-grant",
        [grant("- §{role: use, to: [robots], on: [chat]}")],
        [grant("- {role: use, to: [tritons], on: [chat]}")],
    ),
    (
        "redundant-grant",
        [grant("- §{role: use, to: [robots], on: [chat], when: {namespaces: [l2]}}")],
        [grant("- {role: read, to: [people], on: [data], when: {namespaces: [l8]}}")],
    ),
    (
        # On the same condition, and on another.
        "redundant-grant",
        [grant("- §{role: read, to: [people], on: [data], when: {users: [people]}}")],
        [
            ("[cameras, robots]}", "[cameras, robots, people]}"),
            grant("- {role: read, to: [people], on: [data], when: {users: [floor]}}"),
        ],
    ),
    (
        "redundant-grant",
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots]}\n    one: "
                    '{spiffe: ["spiffe://a.example/ns/l2/sa/x"]}'
                ),
            ),
            grant("- §{role: use, to: [one], on: [triton]}"),
        ],
        [
            (
                "[cameras, robots]}",
                (
                    "[cameras, robots]}\n    one: "
                    '{spiffe: ["spiffe://a.example/ns/*/sa/x"]}'
                ),
            ),
            grant("- {role: use, to: [one], on: [triton]}"),
        ],
    ),
    (
        # Two groups together, each by a grant of its own.
        "redundant-grant",
        [
            (
                "- {role: load, to: [cameras]",
                (
                    "- {role: load, to: [robots], on: [triton]}\n"
                    "    - {role: load, to: [cameras]"
                ),
            ),
            grant("- §{role: load, to: [floor], on: [triton]}"),
        ],
        [grant("- {role: load, to: [robots], on: [triton]}")],
    ),
    (
        # A narrower role.
        "redundant-grant",
        [
            (
                "    load:\n",
                (
                    '    part: [{actions: [inference], models: [p-1, "p-a*"], '
                    'versions: ["1"]}, {actions: [health]}]\n    load:\n'
                ),
            ),
            grant("- §{role: part, to: [robots], on: [triton]}"),
        ],
        [
            (
                "    load:\n",
                (
                    '    part: [{actions: [inference], models: [p-1, "p*"], '
                    'versions: ["1"]}, {actions: [health]}]\n    load:\n'
                ),
            ),
            grant("- {role: part, to: [robots], on: [triton]}"),
        ],
    ),
    (
        # What there isn't on an upstream is nothing to give there.
        "redundant-grant",
        [
            (
                "    load:\n",
                ("    part: [{actions: [inference, trace], models: [m]}]\n    load:\n"),
            ),
            grant("- §{role: part, to: [robots], on: [chat]}"),
        ],
        [
            (
                "    load:\n",
                (
                    "    part: [{actions: [inference, metadata], models: [m]}]\n"
                    "    load:\n"
                ),
            ),
            grant("- {role: part, to: [robots], on: [chat]}"),
        ],
    ),
    (
        "denied-grant",
        [
            ("- {role: load, to: [cameras]", "- §{role: load, to: [cameras]"),
            denial("- {role: load, to: [floor], on: [triton]}"),
        ],
        [denial("- {role: load, to: [robots], on: [triton]}")],
    ),
    (
        "denied-grant",
        [
            ("- {role: load, to: [cameras]", "- §{role: load, to: [cameras]"),
            denial("- {role: load, to: [floor], on: [triton]}"),
        ],
        [denial("- {role: load, to: [floor], on: [triton], when: {namespaces: [l1]}}")],
    ),
    (
        # The server's own health is not that of a model.
        "denied-grant",
        [
            ("[inference, health], models", "[inference], models"),
            grant("- §{role: use, to: [tritons], on: [triton]}"),
            denial("- {role: use, to: [tritons], on: [triton]}"),
        ],
        [
            grant("- {role: use, to: [tritons], on: [triton]}"),
            denial("- {role: use, to: [tritons], on: [triton]}"),
        ],
    ),
    (
        "never-holds",
        [
            grant(
                "- {role: use, to: [robots], on: [triton], "
                "when: {namespaces: §[l4, l1]}}"
            )
        ],
        [grant("- {role: use, to: [robots], on: [triton], when: {namespaces: [l3]}}")],
    ),
    (
        "never-holds",
        [
            denial(
                "- {role: use, to: [guests], on: [triton], when: {namespaces: §[l4]}}"
            )
        ],
        [
            denial(
                "- {role: use, to: [guests, people], on: [triton], "
                "when: {namespaces: [l4]}}"
            )
        ],
    ),
    (
        "never-holds",
        [
            grant(
                "- {role: read, to: [floor], on: [data], when: {upstreams: §[triton]}}"
            )
        ],
        [
            ("ns/l3/**", "ns/*/**"),
            grant(
                "- {role: read, to: [floor], on: [data], when: {upstreams: [triton]}}"
            ),
        ],
    ),
    (
        "never-holds",
        [
            (
                "when: {upstreams: [triton]}",
                "when: {upstreams: §[triton], namespaces: [l1]}",
            ),
            ("inference/sa/triton", "*/sa/triton"),
        ],
        [
            (
                "when: {upstreams: [triton]}",
                "when: {upstreams: [triton], namespaces: [inference]}",
            )
        ],
    ),
    (
        "dead-condition",
        [("when: {namespaces: [l1]", "when: {namespaces: [l1, §l2]")],
        [
            ("when: {namespaces: [l1]", "when: {namespaces: [l1, l2]"),
            ("ns/l1/sa/cam", "ns/*/sa/cam"),
        ],
    ),
    (
        "expired",
        [('"2028-01-01T00:00:00Z"', '§"2026-01-01T00:00:00Z"')],
        [('"2028-01-01T00:00:00Z"', '"2027-02-01T00:00:00Z"')],
    ),
    (
        "expired",
        [
            denial(
                "- {role: use, to: [guests], on: [triton], "
                'when: {until: §"2027-01-15T08:00:00Z"}}'
            )
        ],
        [
            denial(
                "- {role: use, to: [guests], on: [triton], "
                'when: {until: "2027-01-15T08:00:01Z"}}'
            )
        ],
    ),
    (
        "dangerous-wildcard",
        [
            (
                "[model-repository, trace], models: [m]",
                '[trace, health], models: [m, §"*"]',
            )
        ],
        [
            (
                "[model-repository, trace], models: [m]",
                '[metrics, health], models: [m, "*"]',
            )
        ],
    ),
    (
        "dangerous-wildcard",
        [("[model-repository, trace], models: [m]", '[logging], models: [§"*"]')],
        [
            (
                "    load:\n",
                ('    nobody: [{actions: [logging], models: ["*"]}]\n    load:\n'),
            ),
            denial("- {role: nobody, to: [guests], on: [triton]}"),
        ],
    ),
    (
        "load-override",
        [
            (
                "[model-repository, trace], models: [m]",
                '[trace, §model-load-override], models: ["m-*"]',
            )
        ],
        [
            (
                "[model-repository, trace], models: [m]",
                "[trace, model-load-override], models: [m-1]",
            )
        ],
    ),
    (
        "dangerous-group",
        [
            ("ns/l1/sa/cam", "**"),
            ("{role: load, to: [cameras]", "{role: load, to: [§cameras]"),
        ],
        [
            ("ns/l1/sa/cam", "ns/**"),
            ("[model-repository, trace]", "[metadata, metrics]"),
        ],
    ),
    (
        "dangerous-group",
        [
            ("ns/l1/sa/cam", "ns/*/sa/*"),
            ("{role: load, to: [cameras]", "{role: load, to: [§cameras]"),
        ],
        [("ns/l1/sa/cam", "ns/*/sa/cam")],
    ),
    (
        "dangerous-group",
        [
            ("ns/l1/sa/cam", "ns/**"),
            ("{role: load, to: [cameras]", "{role: load, to: [§cameras]"),
        ],
        [
            ("ns/l1/sa/cam", "ns/**"),
            (
                "to: [cameras], on: [triton]}",
                "to: [cameras], on: [triton], when: {namespaces: [l1]}}",
            ),
        ],
    ),
    (
        "dangerous-federation",
        [grant("- {role: load, to: [cameras, §guests], on: [triton]}")],
        [
            ("[model-repository, trace]", "[metadata, metrics]"),
            grant("- {role: load, to: [cameras, guests], on: [triton]}"),
        ],
    ),
    (
        "stream-needs-gate",
        [("[inference, health], models", "[§inference-stream, health], models")],
        [
            (
                '[inference, health], models: [m, "p-*"]',
                '[inference-stream, health], models: ["*"]',
            )
        ],
    ),
    (
        "stream-needs-gate",
        [
            (
                '[inference, health], models: [m, "p-*"]',
                '[§inference-stream, health], models: ["*"], versions: ["1"]',
            )
        ],
        [
            ("[inference, health], models", "[inference-stream, health], models"),
            ("on: [triton, chat]", "on: [chat]"),
        ],
    ),
]


def test_a_clean_policy_has_no_finding() -> None:
    assert findings(CLEAN) == ()


@pytest.mark.parametrize(("code", "has", "has_not"), RULES)
def test_each_rule_finds_its_own_and_not_what_is_near(
    code: str, has: list[tuple[str, str]], has_not: list[tuple[str, str]]
) -> None:
    marked = changed(has)
    before, mark, after = marked.partition("§")
    assert mark
    found = [finding for finding in findings(before + after) if finding.code == code]
    place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
    assert [(each.problem.line, each.problem.column) for each in found] == [place]
    assert found[0].problem.source == "p.yaml"
    assert found[0].problem.message
    assert found[0].problem.mend
    assert code not in {finding.code for finding in findings(changed(has_not))}


def test_a_finding_reads_like_a_problem_with_its_code() -> None:
    text = changed([("    load:\n", "    spare: [{actions: [health]}]\n    load:\n")])
    (found,) = findings(text)
    line = text[: text.index("spare")].count("\n") + 1
    assert str(found) == (
        f"p.yaml:{line}:5: no grant and no denial uses role 'spare'; grant it, or take "
        "it out [unused-role]"
    )


def test_findings_come_in_the_order_of_the_file() -> None:
    text = changed(
        [
            ("    chat:", "    spare: {kind: triton}\n    chat:"),
            ("    load:\n", "    spare: [{actions: [health]}]\n    load:\n"),
            grant("- {role: use, to: [robots], on: [chat]}"),
        ]
    )
    assert [finding.code for finding in findings(text)] == [
        "unused-upstream",
        "unused-role",
        "redundant-grant",
    ]


def test_without_a_time_nothing_is_over() -> None:
    text = changed([('"2028-01-01T00:00:00Z"', '"2001-01-01T00:00:00Z"')])
    assert findings(text, None) == ()
    assert len(findings(text)) == 1


def test_of_two_alike_the_first_stays() -> None:
    text = changed(
        [
            grant("- {role: load, to: [cameras], on: [triton]}"),
            (
                "[cameras, robots]}",
                (
                    '[cameras, robots, twin]}\n    twin: {spiffe: ["spiffe://a.example/'
                    'ns/l1/sa/cam"], workloads: [{namespace: l1}]}'
                ),
            ),
        ]
    )
    grants = text[: text.index("  denials:")].count("\n")
    groups = text[: text.index("twin]")].count("\n") + 1
    found = [(each.code, each.problem.line) for each in findings(text)]
    assert found == [("idle-nested-group", groups), ("redundant-grant", grants)]


def test_what_a_grant_shares_its_place_with_is_named() -> None:
    text = changed([grant("- {role: use, to: [floor], on: [chat]}")])
    (found,) = findings(text)
    line = text[: text.index("- {role: use")].count("\n") + 1
    assert f"is given already, at line {line};" in str(found)


def test_a_policy_of_parts_has_its_places_in_them(tmp_path: Path) -> None:
    head, _, spec = CLEAN.partition("spec:\n")
    at = spec.index("  roles:")
    parts = {
        "a.yaml": head + "spec:\n" + spec[:at],
        "b.yaml": head + "spec:\n" + spec[at:],
        "c.yaml": head + "spec:\n  grants:\n"
        "    - {role: load, to: [cameras], on: [triton]}\n",
    }
    problems = Problems()
    roots = []
    for name, text in parts.items():
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        root = compose(text, str(file), problems)
        assert root is not None
        roots.append(root)
    (found,) = lint(load_policy(tmp_path), unite(problems, roots))
    assert found.problem.source == str(tmp_path / "c.yaml")
    assert (found.problem.line, found.problem.column) == (6, 7)
    assert str(tmp_path / "b.yaml") in found.problem.message


def test_the_example_has_what_it_deserves() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    (found,) = findings(text)
    assert found.code == "dangerous-wildcard"
    # Its deployer loads every model, as the demo needs.
    assert "'deployer'" in found.problem.message


# What is found may go, and no answer changes.

CODES = ("redundant-grant", "denied-grant", "never-holds")
CODES += ("redundant-pattern", "idle-nested-group", "dead-condition")
SEEDS = 60
QUESTIONS = 150
NAMESPACES = ("a", "b", "c")
MODELS = ("m", "mm", "m-1", "k")
MODEL_ACTIONS = ("inference", "health", "metadata", "trace")
USER = {"issuer": "https://i.example", "claim": "groups", "value": "v"}


def make_document(rng: random.Random) -> dict[str, Any]:
    def some(values: tuple[str, ...], most: int) -> list[str]:
        return rng.sample(values, rng.randint(1, min(most, len(values))))

    def pattern() -> str:
        path = rng.choice(
            (
                f"ns/{rng.choice(NAMESPACES)}/sa/{rng.choice('xy')}",
                f"ns/{rng.choice(NAMESPACES)}/sa/*",
                f"ns/*/sa/{rng.choice('xy')}",
                f"ns/{rng.choice(NAMESPACES)}/**",
                "*/*/**",
                "**",
            )
        )
        return f"spiffe://{rng.choice(('one', 'one', 'two'))}/{path}"

    def permission() -> dict[str, Any]:
        if rng.random() < 0.2:
            return {"actions": ["health"]}
        models = ("m", "m*", "m-*", "k", "*")
        found: dict[str, Any] = {
            "actions": some(MODEL_ACTIONS, 3),
            "models": some(models, 2),
        }
        if rng.random() < 0.4:
            found["versions"] = some(("1", "2"), 2)
        if rng.random() < 0.2:
            found["upstreams"] = ["t1"]
        return found

    def grants(count: int) -> list[dict[str, Any]]:
        whens: tuple[dict[str, Any], ...] = (
            {"namespaces": some(NAMESPACES, 2)},
            {"upstreams": ["t1"]},
            {"upstreams": ["t1", "t2"], "namespaces": some(NAMESPACES, 2)},
            {"users": ["people"]},
        )
        return [
            {
                "role": rng.choice(tuple(roles)),
                "to": some(tuple(groups), 2),
                "on": some(("t1", "t2"), 2),
                **({"when": rng.choice(whens)} if rng.random() < 0.5 else {}),
            }
            for _ in range(count)
        ]

    groups: dict[str, Any] = {
        name: {"spiffe": sorted({pattern() for _ in range(rng.randint(1, 4))})}
        for name in ("g1", "g2", "g3")
    }
    groups["people"] = {"users": [USER]}
    groups["both"] = {"groups": some(("g1", "g2", "people"), 2)}
    groups["all"] = {"groups": some(("g1", "both", "g3"), 3)}
    if rng.random() < 0.5:
        groups["all"]["spiffe"] = [pattern()]
    roles = {
        name: [{"actions": ["statistics"], "models": ["s"]}, permission()]
        for name in ("r1", "r2", "r3")
    }
    return {
        "apiVersion": "authz.edge/v1",
        "kind": "AccessPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "trustDomain": "one",
            "federatesWith": ["two"],
            "upstreams": {
                "t1": {"kind": "triton", "namespace": "a", "serviceAccount": "x"},
                "t2": {"kind": "triton", "namespace": "b", "serviceAccount": "z"},
            },
            "groups": groups,
            "roles": roles,
            "grants": grants(6),
            "denials": grants(2),
        },
    }


def make_question(rng: random.Random) -> dict[str, Any]:
    domain = rng.choice(("one", "one", "two"))
    path = ["ns", rng.choice(NAMESPACES), "sa", rng.choice("xyz")]
    path = rng.choice((path, path, path, path[:3], path[:1], [*path, "w"]))
    scope = rng.choice(("model", "model", "every-model", "server"))
    claims = {"groups": rng.choice(("v", "w"))}
    return {
        "principal": {
            "id": "/".join(["spiffe:/", domain, *path]),
            "trust_domain": domain,
            "path": path,
        },
        "user": rng.choice(
            (None, {"issuer": "https://i.example", "subject": "s", "claims": claims})
        ),
        "operation": {
            # Of other actions the beginning of a gated call has this scope; what it
            # then gives is judged message by message.
            "action": rng.choice(
                ("health", "metadata")
                if scope == "server"
                else (*MODEL_ACTIONS, "statistics")
            ),
            "scope": scope,
            "model": rng.choice((*MODELS, "s")) if scope == "model" else "",
            "version": rng.choice(("", "1", "2", "3")) if scope == "model" else "",
            "adapter": "",
            "upstream": rng.choice(("t1", "t2")),
            "dataset": "",
        },
        "http": {"method": "GET", "path": "/", "host": "", "headers": {}},
        "time": {"open": []},
    }


def paths(node: Node, path: tuple[Any, ...] = ()) -> dict[Place, tuple[Any, ...]]:
    """Return where each value of a document is in it, by its place in the text."""
    found = {node.place: path}
    if isinstance(node, Map):
        for key, value in node.entries:
            found |= paths(value, (*path, key.text))
    if isinstance(node, Sequence):
        for number, item in enumerate(node.items):
            found |= paths(item, (*path, number))
    return found


def without(document: dict[str, Any], text: str, code: str) -> dict[str, Any] | None:
    """Return `document` less what has findings of `code`; None if nothing has."""
    root = compose(text, "p", Problems())
    assert root is not None
    by_place = paths(root)
    removed = {
        by_place[Place(each.problem.line, each.problem.column, "p")]
        for each in lint(parse_policy(text, "p"), root)
        if each.code == code
    }
    if code == "never-holds":
        removed = {path[:3] for path in removed}
    for path in sorted(removed, reverse=True):
        holder: Any = document
        for step in path[:-1]:
            holder = holder[step]
        del holder[path[-1]]
    for group in document["spec"]["groups"].values():
        for key in [key for key, value in group.items() if not value]:
            del group[key]
    return document if removed else None


def answers(policy: AccessPolicy, asked: list[dict[str, Any]]) -> list[bool]:
    engine = Engine(
        shipped_wasm(), compile_policy(policy).data, timeout_s=10.0, instances=1
    )
    try:
        return [engine.evaluate(json.dumps(each).encode()).allow for each in asked]
    finally:
        engine.close()


@pytest.mark.parametrize("code", CODES)
def test_what_is_found_may_go(code: str) -> None:
    removals = allowed = 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        # One value a line, so that each has a place of its own.
        text = json.dumps(make_document(rng), indent=1)
        smaller = without(json.loads(text), text, code)
        if smaller is None:
            continue
        removals += 1
        if removals > 12:
            break
        asked = [make_question(rng) for _ in range(QUESTIONS)]
        before = answers(parse_policy(text, "p"), asked)
        assert answers(parse_policy(json.dumps(smaller), "p"), asked) == before
        allowed += sum(before)
    assert removals >= 5
    assert allowed > QUESTIONS // 4


# Size.

MANY = 30_000
EXACT = "ns/line-{}/sa/camera"
WILD = "ns/line-{}/sa/*"


@pytest.mark.parametrize("form", [EXACT, WILD])
def test_a_very_large_group_takes_no_long_time(form: str) -> None:
    listed = "\n".join(
        f'        - "spiffe://a.example/{form.format(number)}"'
        for number in range(MANY)
    )
    text = changed(
        [('        - "spiffe://a.example/ns/l2/sa/*"\n', listed + "\n")]
    ).replace("ns/l3/**", "ns/line-7/**")
    root = compose(text, "p.yaml", Problems())
    assert root is not None
    policy = parse_policy(text, "p.yaml")
    begin = time.process_time()
    found = lint(policy, root, NOW_S)
    assert [finding.code for finding in found] == ["redundant-pattern"]
    # It takes a second or so. Comparing each with each would take many minutes.
    assert time.process_time() - begin < 10
