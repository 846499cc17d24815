"""A policy read again: what has not changed costs next to nothing, and says the same.

Times are compared with each other only, in this process's own CPU time.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from authz_server.policy import document
from authz_server.policy.document import (
    PolicyDocumentError,
    PolicyReader,
    load_policy,
    no_collection,
)
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import Node, Problems

HEAD = "apiVersion: authz.edge/v1\nkind: AccessPolicy\nmetadata: {name: plant}\nspec:\n"
COMMON = """\
  trustDomain: a.example
  federatesWith: [b.example]
  upstreams:
    triton: {kind: triton, namespace: n, serviceAccount: s}
  roles:
    use: [{actions: [inference], models: [m]}]
"""
PARTS = 100


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(HEAD + text)


def line(number: int, subjects: int = 5) -> str:
    ids = "".join(
        f"        - spiffe://a.example/ns/l{number}/sa/cam-{index}\n"
        for index in range(subjects)
    )
    return (
        f"  groups:\n    line-{number}:\n      spiffe:\n{ids}"
        f"  grants:\n    - {{role: use, to: [line-{number}], on: [triton]}}\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "common", COMMON)
    for number in range(3):
        write(tmp_path, f"line-{number}", line(number))
    return tmp_path


def outcome(load: Callable[[Path], AccessPolicy], folder: Path) -> object:
    try:
        return load(folder)
    except PolicyDocumentError as error:
        return str(error)


def test_only_a_changed_part_is_parsed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    compose = document.compose

    def seen(text: str, source: str, problems: Problems) -> Node | None:
        parsed.append(Path(source).stem)
        return compose(text, source, problems)

    monkeypatch.setattr(document, "compose", seen)
    reader = PolicyReader()
    old = reader.load(folder)
    assert parsed == ["common", "line-0", "line-1", "line-2"]
    write(folder, "line-1", line(1, subjects=9))
    new = reader.load(folder)
    assert parsed[4:] == ["line-1"]
    assert len(new.groups["line-1"].spiffe) == 9
    assert new.groups["line-0"] is old.groups["line-0"]
    assert new.grants[0] is old.grants[0]
    write(folder, "line-2", "  groups: [\n")
    assert "not YAML" in str(outcome(reader.load, folder))
    write(folder, "line-2", line(2))
    assert reader.load(folder) == new
    assert parsed[5:] == ["line-2", "line-2"]


def test_a_change_of_the_same_size_at_the_same_time_is_seen(folder: Path) -> None:
    reader = PolicyReader()
    reader.load(folder)
    file = folder / "line-1.yaml"
    file.write_text(file.read_text().replace("cam-0", "cam-9"))
    assert str(reader.load(folder).groups["line-1"].spiffe[0]).endswith("cam-9")


def test_parts_that_are_gone_are_gone(folder: Path) -> None:
    reader = PolicyReader()
    reader.load(folder)
    (folder / "line-0.yaml").unlink()
    (folder / "line-1.yaml").rename(folder / "line-9.yaml")
    write(folder, "line-2", "  groups: {}\n")
    policy = reader.load(folder)
    assert list(policy.groups) == ["line-1"]
    assert policy == load_policy(folder)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "new",
            line(1),
            (
                "new.yaml:6:5: key 'line-1' is twice in groups, also at "
                "FOLDER/line-1.yaml:6:5; take one out"
            ),
        ),
        (
            "common",
            COMMON.replace("    use:", "    uze:"),
            "line-0.yaml:14:14: role 'use' is not defined; did you mean 'uze'?",
        ),
        (
            "common",
            COMMON.replace("triton:", "server:"),
            "line-2.yaml:14:38: upstream 'triton' is not defined; use one of: server",
        ),
        (
            "common",
            COMMON.replace("a.example", "c.example"),
            "line-0.yaml:8:11: trust domain a.example is neither trustDomain nor in",
        ),
        (
            "common",
            COMMON.replace("kind: triton,", "kind: dataset, datasets: {d: /d},"),
            "line-1.yaml:14:7: role 'use' gives nothing on upstream 'triton'",
        ),
        (
            "line-2",
            "  groups: {}\n  grants:\n    - {role: use, to: [line-2], on: [triton]}\n",
            "line-2.yaml:7:24: group 'line-2' is not defined; did you mean",
        ),
    ],
)
def test_a_part_may_be_wrong_because_another_one_changed(
    folder: Path, name: str, text: str, said: str
) -> None:
    reader = PolicyReader()
    old = reader.load(folder)
    file = folder / f"{name}.yaml"
    before = file.read_text() if file.exists() else None
    write(folder, name, text)
    found = outcome(reader.load, folder)
    assert f"{folder}/{said}".replace("FOLDER", str(folder)) in str(found)
    assert found == outcome(load_policy, folder)
    if before is None:
        file.unlink()
    else:
        file.write_text(before)
    assert reader.load(folder) == old


@pytest.mark.parametrize(
    "text",
    [
        "  groups: {g: {spiffe: [spiffe://a.example/x, spiffe://a.example]}}\n",
        "  groups: {g: {}}\n",
        "  groups: {g: {spiffe: &x [spiffe://a.example/x]}}\n",
        "  grants: [{role: use, to: [], on: [triton]}]\n",
        "  grants: [{role: use, to: [line-1], on: [triton], when: {}}]\n",
        "  denials: [{role: use, to: [line-1], on: [triton], why: because}]\n",
    ],
)
def test_what_is_wrong_stays_wrong(folder: Path, text: str) -> None:
    reader = PolicyReader()
    write(folder, "new", text)
    found = outcome(reader.load, folder)
    assert "new.yaml:5:" in str(found)
    assert outcome(reader.load, folder) == found
    write(folder, "line-0", line(0, subjects=8))
    assert outcome(reader.load, folder) == found


def test_a_condition_that_does_not_hold_any_more_is_a_problem(folder: Path) -> None:
    write(
        folder,
        "users",
        "  groups:\n    people:\n"
        "      spiffe: [spiffe://b.example/x]\n"
        "      users: [{issuer: https://i.example, claim: c, value: v}]\n",
    )
    write(
        folder,
        "when",
        "  grants:\n"
        "    - {role: use, to: [line-0], on: [triton], when: {users: [people]}}\n"
        "    - {role: use, to: [line-1], on: [triton], when: {upstreams: [triton]}}\n",
    )
    reader = PolicyReader()
    reader.load(folder)
    write(folder, "users", "  groups: {people: {spiffe: [spiffe://b.example/x]}}\n")
    write(folder, "common", COMMON.replace(", serviceAccount: s", ""))
    found = outcome(reader.load, folder)
    assert "group 'people' has no users" in str(found)
    assert "upstream 'triton' has no SPIFFE ID to call with" in str(found)
    assert found == outcome(load_policy, folder)


def test_whatever_is_edited_the_policy_is_that_of_the_files(tmp_path: Path) -> None:
    """Edits that come and go, each of which may break the policy or mend it."""
    rng = random.Random(20261126)
    common = [COMMON] * 8 + [COMMON.replace("[b.example]", "[c.example]")]
    common += [COMMON.replace("a.example", "b.example"), COMMON + "x: 1\n"]
    until = "when: {until: '2030-01-01T00:00:00Z'}"
    user = "{issuer: https://i.example, claim: c, value: v}"
    fine = [
        "  groups: {g: {groups: [line-0, line-1], spiffe: [spiffe://b.example/x]}}\n",
        f"  grants: [{{role: use, to: [line-2], on: [triton], {until}}}]\n",
        "  denials: [{role: use, to: [line-2], on: [triton], when: {users: [u]}}]\n",
        f"  groups: {{u: {{users: [{user}]}}}}\n",
        "  groups: {u: {spiffe: [spiffe://a.example/x]}}\n",
        "  groups: {}\n",
    ]
    others = [*fine * 3, "  groups: &a {}\n", "  groups: [\n", "  roles: {use: []}\n"]
    reader = PolicyReader()
    results = []
    for _ in range(300):
        name = rng.choice(("common", "line-0", "line-1", "line-2", "x", "y", "z"))
        if name == "common":
            write(tmp_path, name, rng.choice(common))
        elif rng.random() < 0.25:
            (tmp_path / f"{name}.yaml").unlink(missing_ok=True)
        elif name.startswith("line"):
            write(
                tmp_path,
                name,
                line(int(name[-1]) if rng.random() < 0.9 else 3, rng.randint(1, 6)),
            )
        else:
            write(tmp_path, name, rng.choice(others))
        results.append(outcome(reader.load, tmp_path))
        assert results[-1] == outcome(load_policy, tmp_path)
    good = sum(isinstance(result, AccessPolicy) for result in results)
    assert 30 < good < 270


def large(folder: Path, subjects: int) -> Path:
    folder.mkdir()
    write(folder, "common", COMMON)
    for number in range(PARTS):
        write(folder, f"line-{number}", line(number, subjects // PARTS))
    return folder


def cost(run: Callable[[], object]) -> float:
    with no_collection():
        start = time.process_time()
        run()
        return time.process_time() - start


def test_one_changed_part_of_many_costs_a_fraction_of_all(tmp_path: Path) -> None:
    folder = large(tmp_path / "large", 40_000)
    reader = PolicyReader()
    reader.load(folder)
    whole, changed = [], []
    for number in range(5):
        whole.append(cost(lambda: load_policy(folder)))
        write(folder, "line-7", line(7, 400 + number))
        changed.append(cost(lambda: reader.load(folder)))
    assert min(changed) < min(whole) / 5


def test_reading_a_policy_costs_in_proportion_to_its_subjects(tmp_path: Path) -> None:
    small = large(tmp_path / "small", 10_000)
    big = large(tmp_path / "big", 80_000)
    costs = [
        (cost(lambda: load_policy(small)), cost(lambda: load_policy(big)))
        for _ in range(5)
    ]
    assert min(cost for _, cost in costs) < 12 * min(cost for cost, _ in costs)


def test_what_is_kept_of_a_subject_is_little_more_than_its_text(
    tmp_path: Path,
) -> None:
    folder = large(tmp_path / "large", 40_000)
    text = len("spiffe://a.example/ns/l99/sa/cam-399")
    tracemalloc.start()
    try:
        reader = PolicyReader()
        policy = reader.load(folder)
        kept, most = tracemalloc.get_traced_memory()
        del reader
        alone = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(policy.groups) == PARTS
    assert kept < 40_000 * (text + 160)
    assert most < 1.5 * kept
    # Its nodes have the same texts, and not a node for each.
    assert kept - alone < 40_000 * 40
