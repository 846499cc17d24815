"""Bad policies by the hundred: each is refused, at the line where the fault is.

They are made from good ones by one change each, the same at every run. A change that
leaves a valid policy is not counted as bad; then nobody may get more by it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import PolicyDocumentError, load_policy, parse_policy
from authz_server.policy.yaml_nodes import MAX_DOCUMENT_BYTES

LONG = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata:
  name: plant-7
spec:
  trustDomain: factory.example
  federatesWith:
    - supplier.example
    - depot.example
  upstreams:
    triton:
      kind: triton
      namespace: inference
      podSelector:
        app: triton
        edge.example/tier: serving
      serviceAccount: triton
      hosts:
        - triton.factory.example
        - triton
    chat:
      kind: openai
      hosts:
        - chat.factory.example
      loraSeparator: ":"
    store:
      kind: dataset
      namespace: data
      hosts:
        - data.factory.example
        - "*.data.factory.example"
      datasets:
        images: /datasets/images
        logs: /logs
  groups:
    cameras:
      spiffe:
        - "spiffe://factory.example/ns/line1/sa/camera"
        - "spiffe://factory.example/ns/line2/sa/*"
      workloads:
        - namespace: line1
          podSelector:
            app: camera
          serviceAccount: camera
        - namespace: line2
    guests:
      spiffe:
        - "spiffe://supplier.example/robots/**"
    engineers:
      users:
        - issuer: https://idp.factory.example
          claim: groups
          value: ml
    floor:
      groups:
        - cameras
        - guests
    everyone:
      spiffe:
        - "spiffe://factory.example/gate"
      groups:
        - floor
        - engineers
  roles:
    inspector:
      - actions: [inference, inference-stream]
        models: [defects, "line-*"]
        versions: ["1", "2"]
        upstreams: [triton]
      - actions: [health, metadata]
    talker:
      - actions: [inference]
        models: [llama]
        adapters: [sql, law]
    operator:
      - actions: [logging, shared-memory, model-repository]
        models: ["*"]
    reader:
      - actions: [dataset-read, dataset-write]
        datasets: [images]
  grants:
    - role: inspector
      to: [floor]
      on: [triton]
    - role: talker
      to: [engineers, floor]
      on: [chat]
      when:
        users: [engineers]
        namespaces: [line1, line2]
        upstreams: [triton]
        times:
          - days: [mon, fri]
            from: "22:00"
            to: "06:00"
            zone: Europe/Berlin
        since: "2026-01-01T00:00:00Z"
        until: "2027-01-01T00:00:00+01:00"
    - role: reader
      to: [everyone]
      on: [store]
  denials:
    - role: operator
      to: [guests]
      on: [triton]
      when:
        namespaces: [line2]
"""

SHORT = """\
{apiVersion: authz.edge/v1, kind: AccessPolicy, metadata: {name: p},
 spec: {
  trustDomain: a.example,
  upstreams: {
   triton: {kind: triton, namespace: i, serviceAccount: t, hosts: [t.a.example]},
   data: {kind: dataset, datasets: {images: /d/images, logs: /d/logs}}},
  groups: {
   cams: {spiffe: ["spiffe://a.example/ns/l1/sa/c"], workloads: [{namespace: l1}]},
   staff: {users: [{issuer: "https://i.a.example", claim: role, value: "2"}]},
   all: {groups: [cams, staff]}},
  roles: {
   use: [{actions: [inference], models: [m, "p*"], versions: ["3"]}],
   read: [{actions: [dataset-read], datasets: [logs], upstreams: [data]}]},
  grants: [
   {role: use, to: [cams], on: [triton],
    when: {users: [staff], until: "2030-01-01T00:00:00Z"}},
   {role: read, to: [all], on: [data]}],
  denials: [
   {role: use, to: [staff], on: [triton], when: {
    times: [{from: "00:00", to: "24:00", zone: UTC, days: [sun]}]}}]}}
"""

EXAMPLE = (Path(__file__).parents[3] / "examples" / "plant-7.yaml").read_text("utf-8")

BASES = {"long": LONG, "short": SHORT, "example": EXAMPLE}


@dataclass(frozen=True)
class Bad:
    """A changed policy file.

    Attributes:
        lines: where the first problem may be: where the fault is, or begins.
    """

    name: str
    text: str
    lines: tuple[int, ...]


# What to change is found in the tree of another reader, which knows where values end.

REQUIRED = {
    *("apiVersion", "kind", "metadata", "spec", "trustDomain", "upstreams", "groups"),
    *("roles", "grants", "name", "namespace", "role", "to", "on", "actions", "issuer"),
    *("claim", "value", "from", "zone"),
}
REFERENCES = ("role", "to", "on", "users", "upstreams", "groups", "datasets")


@dataclass(frozen=True)
class Spot:
    """A value of a document.

    Attributes:
        path: keys and numbers that lead to it.
        key: what is in front of it, in a mapping.
        holder: the mapping or list that it is in.
    """

    path: tuple[Any, ...]
    key: yaml.Node | None
    node: yaml.Node
    holder: yaml.Node

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def is_named_by_author(self) -> bool:
        """Whether the key is a name, and not one of a fixed set."""
        *_, above, _ = ("", "", *self.path)
        if above in {"datasets", "podSelector"}:
            return True
        return len(self.path) == 3 and above in {"upstreams", "groups", "roles"}


def spots(base: str) -> list[Spot]:
    root = yaml.compose(base, yaml.SafeLoader)
    assert root is not None
    return list(_spots(root, ()))


def _spots(node: yaml.Node, path: tuple[Any, ...]) -> Iterator[Spot]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield Spot((*path, key.value), key, value, node)
            yield from _spots(value, (*path, key.value))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield Spot((*path, number), None, item, node)
            yield from _spots(item, (*path, number))


def span(base: str, node: yaml.Node) -> tuple[int, int]:
    """Return where `node` begins and ends; a block's end is that of its last value."""
    start = node.start_mark.index
    return start, start + len(base[start : node.end_mark.index].rstrip())


def line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def lines_of(spot: Spot) -> tuple[int, ...]:
    """Return where a bad value of `spot` may be told of first."""
    if spot.path[-1] == "serviceAccount" and "workloads" in spot.path:
        # An ID that no pattern matches is the whole workload's fault.
        return line_of(spot.holder), line_of(spot.node)
    return (line_of(spot.node),)


def put(base: str, node: yaml.Node, new: str) -> str:
    start, end = span(base, node)
    return base[:start] + new + base[end:]


def _of_values(spot: Spot) -> Iterator[tuple[str, str]]:
    """Yield bad values in place of a good one."""
    if isinstance(spot.node, yaml.ScalarNode):
        yield "nothing", "~"
        yield "a number", "7"
        yield "a truth", "yes"
        yield "a list", "[x]"
        yield "a mapping", "{x: y}"
        yield "an empty string", '""'
        yield "an alias", "*x"
        yield "an anchor", "&x y"
        yield "a tag", "!!str y"
        yield "a sign", '"\\u00e9 \\t"'
    else:
        yield "nothing", "~"
        yield "a string", "x"
        yield "a number", "1.5"
        if isinstance(spot.node, yaml.SequenceNode):
            yield "a mapping", "{x: y}"
            if spot.path[-1] not in {"grants", "denials"}:
                yield "an empty list", "[]"
            yield "a nested list", f"[{'[' * 20}{']' * 20}]"
        else:
            yield "a list", "[x]"
            if spot.path[1:] not in {("groups",), ("roles",)}:
                yield "an empty mapping", "{}"


def other_values(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if spot.path[-1] in {"claim", "value"} and spot.path[-3:-2] == ("users",):
            values = [each for each in _of_values(spot) if each[0] != "a sign"]
        else:
            values = list(_of_values(spot))
        for what, value in values:
            yield Bad(
                f"{spot.name} is {what}", put(base, spot.node, value), lines_of(spot)
            )


def misspelt_keys(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if spot.key is None or spot.is_named_by_author:
            continue
        key = str(spot.key.value)
        for new in (key + "s", key.upper(), key[1:]):
            # What is missing is told of where the mapping begins.
            lines = (line_of(spot.key), line_of(spot.holder))
            yield Bad(f"{spot.name} is {new!r}", put(base, spot.key, new), lines)


def missing_keys(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if (
            spot.key is None
            or spot.is_named_by_author
            or not _is_required(spot)
            or len(spot.holder.value) == 1
        ):
            continue
        start, (_, end) = span(base, spot.key)[0], span(base, spot.node)
        if spot.holder.flow_style:
            # The comma behind it goes too, or the one in front of the last.
            rest = base[end:].lstrip()
            if rest.startswith(","):
                end = base.index(",", end) + 1
                end += len(base[end:]) - len(base[end:].lstrip(" "))
            else:
                start = base.rindex(",", 0, start)
        elif spot.holder.value[0][0] is spot.key:
            end = base.index(spot.holder.value[1][0].value, end)
        else:
            start = base.rindex("\n", 0, start)
        text = base[:start] + base[end:]
        lines = {line_of(spot.holder)}
        if spot.path[-1] == "namespace":
            # Told of where a key is that needs it.
            lost = base.count("\n") - text.count("\n")
            lines |= {
                line_of(value) - lost
                for key, value in spot.holder.value
                if key.value in {"podSelector", "serviceAccount"}
            }
        yield Bad(f"{spot.name} is missing", text, tuple(lines))


def _is_required(spot: Spot) -> bool:
    """Whether its mapping needs it; `upstreams` and so on are also other keys."""
    key, depth = spot.path[-1], len(spot.path)
    if key in {"upstreams", "groups", "roles"}:
        return depth == 2
    if key == "namespace":
        # A selector or an account needs it, in an upstream.
        keys = {key.value for key, _ in spot.holder.value}
        return spot.path[1] == "groups" or bool(
            keys & {"podSelector", "serviceAccount"}
        )
    return key in REQUIRED


def doubled_keys(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if spot.key is None:
            continue
        start, (_, end) = span(base, spot.key)[0], span(base, spot.node)
        entry = base[start:end]
        gap = ", "
        if not spot.holder.flow_style:
            gap = "\n" + " " * spot.key.start_mark.column
        text = base[:end] + gap + entry + base[end:]
        line = base.count("\n", 0, end) + gap.count("\n") + 1
        yield Bad(f"{spot.name} is twice", text, (line,))


def doubled_items(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if spot.key is not None or not isinstance(spot.node, yaml.ScalarNode):
            continue
        start, end = span(base, spot.node)
        gap = ", "
        if not spot.holder.flow_style:
            gap = "\n" + " " * spot.holder.start_mark.column + "- "
        text = base[:end] + gap + base[start:end] + base[end:]
        yield Bad(
            f"{spot.name} is twice", text, (line_of(spot.node) + gap.count("\n"),)
        )


def misspelt_references(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        named = [part for part in spot.path if isinstance(part, str)]
        if named[:1] != ["spec"] or not isinstance(spot.node, yaml.ScalarNode):
            continue
        if (
            (named[1] in {"grants", "denials"} and named[-1] in REFERENCES)
            or (named[1] == "roles" and named[-1] in {"datasets", "upstreams"})
            or (named[1] == "groups" and named[-1] == "groups" and len(named) > 3)
        ):
            name = spot.node.value
            for new in (name + "x", name[:-1] + "-0", "nobody"):
                yield Bad(
                    f"{spot.name} is {new!r}",
                    put(base, spot.node, new),
                    (line_of(spot.node),),
                )


# What is bad as what. A path's last word that is a key says which.
BAD_TEXTS: dict[str, tuple[str, ...]] = {
    "apiVersion": ("authz.edge/v2", "v1", "AUTHZ.EDGE/V1"),
    "kind": ("Accesspolicy", "Policy", "tritn"),
    "name": ("Plant", "plant_7", "-p", "p-", "p.q", "x" * 64, "plant 7"),
    "trustDomain": ("Factory.example", "a:8443", "a/b", "*", "a" * 256, "*.example"),
    "federatesWith": ("B.example", "*", "spiffe://b.example", "factory.example"),
    "namespace": ("Line1", "*", "line/1", "-"),
    "serviceAccount": ("A_b", "*", "a@b"),
    "hosts": ("A.example", "a.example:8000", "https://a", "a..b", "a.", "*", "a.*"),
    "loraSeparator": ("a", "/", "-", "::::::::::", "%"),
    "images": ("datasets", "/", "/a/", "/a//b", "/a/../b", "/a/./b", "/a b", "/logs"),
    "spiffe": (
        *("spiffe://factory.example", "spiffe://factory.example/", "spiffe:///ns/a"),
        *("spiffe://factory.example/ns/**/x", "spiffe://factory.example/ns/l*"),
        *("spiffe://*/ns/a", "spiffe://*.example/ns/a", "spiffe://factory.example/***"),
        *("https://factory.example/ns/a", "factory.example/ns/a", "**", "*"),
        *("spiffe://Factory.example/a", "spiffe://factory.example/a/"),
        *("spiffe://factory.example/../a", "spiffe://factory.example/a%2Fb"),
        *("spiffe://factory.example/a?b", "spiffe://factory.example:1/a"),
        "spiffe://elsewhere.example/a",
        "spiffe://factory.example/" + "a" * 2048,
    ),
    "issuer": (
        "http://i.example",
        "i.example",
        "https://",
        "https://i?x",
        "https://i#x",
    ),
    "actions": ("infer", "*", "Inference", "inference*", "dataset"),
    "models": ("**", "*-a", "a*b", ".a", "-a", "a/b", "a b", "../a", "a:b", "x" * 256),
    "versions": ("0", "01", "-1", "1.0", "latest", "*", "1" * 19, " 1"),
    "adapters": ("*", "sql*", "a:b", "-a", ""),
    "from": ("24:00", "6:00", "06:60", "25:00", "06", "06:00:00", "06.00", "noon"),
    "to": ("24:01", "6:00", "06:60", "0600", "-1:00", "midnight"),
    "zone": ("Berlin", "Europe/Berln", "+01:00", "../UTC", "/etc/localtime", "CEST2"),
    "days": ("Mon", "monday", "1", "mo", "*", "mon-fri"),
    "since": ("2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "now"),
    "until": (
        *("2027-01-01", "2027-01-01 00:00:00Z", "2027-02-30T00:00:00Z", "never"),
        *("2025-12-31T23:59:59Z", "1735689600"),
    ),
    "namespaces": ("Line1", "line_1", "*", "line1/*"),
}


def bad_texts(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if not isinstance(spot.node, yaml.ScalarNode):
            continue
        key = [part for part in spot.path if isinstance(part, str)][-1]
        if key == "to" and "times" not in spot.path:
            continue
        for text in BAD_TEXTS.get(key, ()):
            if text == "factory.example" and "factory.example" not in base:
                continue
            if text == "/logs" and "logs: /logs" not in base:
                continue
            if text == "2025-12-31T23:59:59Z" and "since" not in base:
                continue
            # Another dataset's path is told of at the second of the two.
            lines = (*lines_of(spot), line_of(spot.node) + (text == "/logs"))
            yield Bad(
                f"{spot.name} is {text[:40]!r}",
                put(base, spot.node, f'"{text}"'),
                lines,
            )


def bad_names(base: str) -> Iterator[Bad]:
    for spot in spots(base):
        if spot.key is None or not spot.is_named_by_author:
            continue
        for new in ("A_b c", "-", "7", "on", "~", "[x]", "x" * 70, '""'):
            yield Bad(
                f"{spot.name} is named {new[:10]!r}",
                put(base, spot.key, new),
                (line_of(spot.key),),
            )


MUTATIONS = (
    other_values,
    misspelt_keys,
    missing_keys,
    doubled_keys,
    doubled_items,
    misspelt_references,
    bad_texts,
    bad_names,
)


def is_not_wider(text: str, base: str) -> bool:
    """Whether a changed file says just what it said, and so gives nobody more."""
    return (
        compile_policy(parse_policy(text, "p")).data
        == compile_policy(parse_policy(base, "p")).data
    )


def check(bad: Bad, base: str) -> str:
    """Return what is amiss with the refusal of `bad`; nothing, mostly."""
    try:
        parse_policy(bad.text, "p.yaml")
    except PolicyDocumentError as error:
        first = error.problems[0]
        if first.line in bad.lines:
            return ""
        return f"{bad.name}: at {bad.lines}, but told of {first}"
    return "" if is_not_wider(bad.text, base) else f"{bad.name}: accepted"


def is_refused(text: str) -> bool:
    try:
        parse_policy(text, "p.yaml")
    except PolicyDocumentError:
        return True
    return False


@pytest.mark.parametrize("base", BASES)
def test_the_good_ones_are_good(base: str) -> None:
    parse_policy(BASES[base], "p.yaml")


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("base", BASES)
def test_each_is_refused_where_the_fault_is(base: str, mutation: Any) -> None:
    found = list(mutation(BASES[base]))
    assert len(found) >= 15
    assert [said for bad in found if (said := check(bad, BASES[base]))] == []


def test_there_are_hundreds_of_them() -> None:
    # The shortest alone will do. What stays valid does not count.
    texts = {bad.text for mutation in MUTATIONS for bad in mutation(SHORT)}
    assert sum(map(is_refused, texts)) >= 1000


@pytest.mark.parametrize("number", range(LONG.count("\n")))
def test_a_line_that_is_moved_to_the_side_gives_nobody_more(number: int) -> None:
    lines = LONG.splitlines()
    line = lines[number]
    depth = len(line) - len(line.lstrip())
    for step in (-2, -1, 1, 2):
        if depth + step >= 0:
            moved = " " * (depth + step) + line.lstrip()
            text = "\n".join([*lines[:number], moved, *lines[number + 1 :], ""])
            assert is_refused(text) or is_not_wider(text, LONG)


# By hand. `§` is in front of the fault. One of syntax may be seen a line further on.

SYNTAX = [
    ("  name: plant-7", "  name: §plant-7: x"),
    ("  name: plant-7", "§\tname: plant-7"),
    ("        namespaces: [line2]\n", "        namespaces: [§'line2]\n"),
    ("  name: plant-7", "  name: §@plant"),
    ("  name: plant-7", "  name: §`plant`"),
    ("  name: plant-7", "  name: §%plant"),
    ("  name: plant-7", '  name: "plant§\\q7"'),
    ("  name: plant-7", '  name: §"a" b'),
    ("  name: plant-7", "  §- name: plant-7\n  name: x"),
    ("    - depot.example", "   §- depot.example"),
    ("    - depot.example", "    §depot.example:"),
    ("      kind: openai", "      §kind: openai\n     hosts: [x]"),
    ("      kind: openai", "      §kind openai"),
    ("      kind: openai", "      kind: §[openai]]"),
    ("      kind: openai", "      kind: openai§}"),
    ("      kind: openai", "      kind: §{openai"),
    ("        app: triton", "        app: §]"),
    ("        app: triton", "        ? §[app]\n        : triton"),
    ("      to: [everyone]", "      to: §[everyone"),
    ("      to: [everyone]", "      to: [everyone§ ]]"),
    ("      to: [everyone]", "      to: [everyone§ floor: x: y]"),
    ("      to: [everyone]", "      to: §!<x [everyone]"),
    ("      to: [everyone]", "      to: §&"),
    ("      to: [everyone]", "      to: §*"),
    ("  denials:", "§...\n  denials:"),
    ("  denials:", "§---\n  denials:"),
    ("  denials:", "§%YAML 1.2\n  denials:"),
    ("  denials:", "  denials:§ - {}"),
]

MEANING = [
    # Trust domains.
    ("    - depot.example", "    - §factory.example"),
    ("    - depot.example", "    - §supplier.example"),
    ("://supplier.example/", "://§suplier.example/"),
    # Upstreams.
    ("      kind: openai", "      kind: openai\n      podSelector: §{app: x}"),
    ("      kind: openai", "      kind: openai\n      serviceAccount: §x"),
    ("      kind: openai", "      kind: openai\n      datasets: §{x: /x}"),
    (
        "      kind: openai",
        "      kind: openai\n      port: 9000".replace("port", "§port"),
    ),
    ("      namespace: data", '      loraSeparator: §":"'),
    ("        - triton\n", '        - §"*.triton"\n'),
    ("images: /datasets/images", "images: /datasets/images\n        more: §/datasets"),
    (
        "images: /datasets/images",
        "images: /datasets/images\n        m: §/datasets/images/a",
    ),
    (
        "images: /datasets/images",
        "images: /datasets/images\n        m: §/datasets/images",
    ),
    # Groups.
    ("serviceAccount: camera", "serviceAccount: lens"),
    (
        "    guests:\n      spiffe:",
        (
            "    guests:\n      workloads: §[{namespace: x}]\n"
            "      groups: [floor]\n      users:"
        ),
    ),
    ("        - cameras\n", "        - §floor\n"),
    ("        - cameras\n", "        - cameras\n        - §camera\n"),
    ("        - cameras\n", "        - cameras\n        - §inspector\n"),
    ("          claim: groups", "          claim: groups\n          §subject: x"),
    # Roles.
    ("[health, metadata]", "[health, metadata, trace]"),
    ("[health, metadata]", "[health, metadata]\n        datasets: §[images]"),
    ("[health, metadata]", '[health, metadata]\n        versions: §["1"]'),
    ("[health, metadata]", "[health, metadata]\n        adapters: §[sql]"),
    ("[health, metadata]", "[health, metadata, dataset-read]"),
    (
        "        adapters: [sql, law]",
        '        adapters: §[sql, law]\n        versions: ["1"]',
    ),
    ('        models: ["*"]', '        models: §["line-*"]'),
    ('        models: ["*"]', '        models: §["*"]\n        versions: ["1"]'),
    ("        datasets: [images]", "        datasets: [images]\n        models: §[m]"),
    ("        datasets: [images]", "        datasets: §images"),
    ("[dataset-read, dataset-write]", "[dataset-read, §dataset-read]"),
    # Grants.
    ("      on: [store]", "      on: [store, §stores]"),
    ("      on: [store]", "      on: [store]\n      §if: {}"),
    ("        users: [engineers]", "        users: [§cameras]"),
    ("        users: [engineers]", "        users: [engineers, §guests]"),
    ("        users: [engineers]", "        users: [engineers, §engineers]"),
    (
        "        upstreams: [triton]\n        times",
        "        upstreams: [§chat]\n        times",
    ),
    ('until: "2027-01-01T00:00:00+01:00"', 'until: §"2026-01-01T01:00:00+01:00"'),
    ('from: "22:00"', "from: §22:00"),
    ("days: [mon, fri]", "days: [mon, §mon]"),
    ('until: "2027', '§untill: "2027'),
    # Things that change what the rest means.
    ("apiVersion:", "apiVersion: &v §authz.edge/v1\n#"),
    ("  denials:", "  §<<: {}\n  denials:"),
    ("  denials:", "  §? [a]\n  : b\n  denials:"),
    ("  denials:", "  §grants: []\n  denials:"),
    ("  denials:", "  §on: []\n  denials:"),
    ("  denials:", "  denials: §{}\n  deny:"),
    ("kind: AccessPolicy", "kind: §!!str AccessPolicy"),
    ("kind: AccessPolicy", "kind: AccessPolicy\n§status: {}"),
]

GIVES_NOTHING = [
    "{role: reader, to: [floor], on: [triton]}",
    "{role: inspector, to: [floor], on: [store]}",
    "{role: reader, to: [floor], on: [chat]}",
    "{role: talker, to: [floor], on: [triton]}",
    "{role: inspector, to: [floor], on: [triton, store]}",
]


def marked(old: str, new: str) -> tuple[str, int]:
    """Return the changed text and the line of the mark in it."""
    assert LONG.count(old) == 1, old
    before, _, after = LONG.replace(old, new).partition("§")
    return before + after, before.count("\n") + 1


def first_line(text: str) -> int:
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(text, "p.yaml")
    return caught.value.problems[0].line


@pytest.mark.parametrize(("old", "new"), SYNTAX)
def test_bad_syntax_is_refused(old: str, new: str) -> None:
    text, line = marked(old, new)
    assert first_line(text) in {line, line + 1}


@pytest.mark.parametrize(("old", "new"), [pair for pair in MEANING if "§" in pair[1]])
def test_what_means_nothing_is_refused(old: str, new: str) -> None:
    text, line = marked(old, new)
    assert first_line(text) == line


@pytest.mark.parametrize(
    ("old", "new"), [pair for pair in MEANING if "§" not in pair[1]]
)
def test_what_contradicts_is_told_of_where_it_begins(old: str, new: str) -> None:
    text = LONG.replace(old, new)
    line = LONG[: LONG.index(old)].count("\n") + 1
    # The workload, or the permission, that it is in.
    begin = max(
        number
        for number, content in enumerate(LONG.splitlines()[:line], 1)
        if content.lstrip().startswith("- ")
    )
    assert first_line(text) == begin


@pytest.mark.parametrize("key", ["grants", "denials"])
@pytest.mark.parametrize("item", GIVES_NOTHING)
def test_what_gives_nothing_is_refused(key: str, item: str) -> None:
    text, line = marked(f"  {key}:\n", f"  {key}:\n    - §{item}\n")
    assert first_line(text) == line


@pytest.mark.parametrize("length", [1, 2, 3, 40])
def test_a_circle_of_groups_is_refused(length: int) -> None:
    circle = "".join(
        f"    g{number}: {{groups: [g{(number + 1) % length}]}}\n"
        for number in range(length)
    )
    text, line = marked("    guests:\n", f"§{circle}    guests:\n")
    # It is told of where it closes.
    assert first_line(text) == line + length - 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n\n", "# nothing\n", "~\n", "[]\n", "x\n", "{}\n", "7\n", "---\n"),
        *("--- x\n", "{\n", "[{\n", "- a\n", "''\n", "!!map {}\n", "&a {}\n", "*a\n"),
        *("a: b: c\n", "\t\n{\n", "%TAG\n", "\x00", "\x07", "\ud800", "\ufffe"),
        *("[" * 17 + "]" * 17, "[" * 5000, "{a: " * 17 + "}" * 17, "- " * 4000),
        "#" * (MAX_DOCUMENT_BYTES + 1),
    ],
)
def test_what_is_no_policy_at_all_is_refused(text: str) -> None:
    assert first_line(text) in {1, 2, 3}


@pytest.mark.parametrize("depth", [12, 100, 5000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ("{a: ", "}")])
def test_deep_nesting_is_refused(left: str, right: str, depth: int) -> None:
    text, line = marked("  name: plant-7", f"  name: §{left * depth}{right * depth}")
    assert first_line(text) == line


@pytest.mark.parametrize("number", [1, 2, 30, 60, LONG.count("\n")])
@pytest.mark.parametrize(
    "wrong",
    [b"\xff", b"\xc3", b"\xe9", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"],
)
def test_what_is_not_utf8_is_refused(tmp_path: Path, number: int, wrong: bytes) -> None:
    lines = LONG.encode().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].rstrip(b"\n") + b" # " + wrong + b"\n"
    file = tmp_path / "p.yaml"
    file.write_bytes(b"".join(lines))
    with pytest.raises(PolicyDocumentError) as caught:
        load_policy(file)
    assert [problem.line for problem in caught.value.problems] == [number]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(LONG.encode(encoding))
    with pytest.raises(PolicyDocumentError):
        load_policy(file)


@pytest.mark.parametrize("seed", range(20))
def test_noise_raises_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    for base in BASES.values():
        for _ in range(25):
            at = rng.randrange(len(base))
            sign = rng.choice(
                ["", "", *"\n\t :-#[]{},&*!|>'\"%@`?\\\x00\x85\u2028\ufeff7"]
            )
            is_refused(base[:at] + sign + base[at + rng.randrange(4) :])


@pytest.mark.parametrize("base", BASES)
def test_what_does_not_matter_changes_nothing(base: str) -> None:
    text = BASES[base]
    for same in (
        "\ufeff" + text,
        text.replace("\n", "\r\n"),
        "---\n" + text + "...\n",
        "# \u00e9\n\n" + text,
        yaml.safe_dump(yaml.load(text, yaml.BaseLoader)),
    ):
        assert is_not_wider(same, text)
