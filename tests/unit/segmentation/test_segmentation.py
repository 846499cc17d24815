from __future__ import annotations

import random
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from random_policies import make_policy

from authz_server.cli import main
from authz_server.operations.operation import Operation
from authz_server.policy.document import load_policy, parse_policy
from authz_server.policy.matching import gives_not, takes_not
from authz_server.policy.standing import Standing, Standings
from authz_server.policy.vocabulary import Vocabulary
from authz_server.segmentation.drawing import svg
from authz_server.segmentation.page import page
from authz_server.segmentation.segments import STRANGER, Caller, segmentation
from authz_server.site.document import load_site
from authz_server.site.model import Mesh, Site

EXAMPLES = Path(__file__).parents[3] / "examples"
EXAMPLE = EXAMPLES / "plant-7.yaml"
POLICY = load_policy(EXAMPLE)
SITE = load_site(EXAMPLES / "plant-7-site.yaml", POLICY)
SVG = "{http://www.w3.org/2000/svg}"


def callers(site: Site = SITE) -> dict[str, Caller]:
    return {item.name: item for item in segmentation(POLICY, site).callers}


def test_every_kind_of_caller_is_there_the_stranger_last() -> None:
    assert [item.name for item in segmentation(POLICY, SITE).callers] == [
        "factory-floor",
        "planning",
        "release",
        STRANGER,
    ]


def test_a_segment_says_what_each_layer_lets_through() -> None:
    triton, data = callers()["planning"].segments

    assert triton.ports == (8000, 8001)
    assert triton.is_listed is True
    assert triton.words == (
        "health on server, demand-forecast",
        "inference on demand-forecast",
        "metadata on server, demand-forecast",
    )
    assert data.ports == (9000,)
    # ml-engineers are users, whom Istio can't tell.
    assert data.is_listed is None
    assert (data.allowed, data.for_users, data.possible) == (1, 0, 2)


def test_a_stranger_touches_only_what_some_user_may() -> None:
    triton, data = callers()[STRANGER].segments

    assert not triton.is_open
    assert triton.ports == ()
    assert triton.is_listed is False
    assert (data.allowed, data.for_users) == (0, 1)


def test_without_a_mesh_nothing_is_listed() -> None:
    for caller in callers(Site()).values():
        assert {segment.is_listed for segment in caller.segments} == {None}


def test_outside_of_kubernetes_there_is_no_packet_filter() -> None:
    text = EXAMPLE.read_text().replace(
        "      namespace: inference\n      podSelector: {app: triton}\n"
        "      serviceAccount: triton\n",
        "",
    )
    policy = parse_policy(text, "p.yaml")

    for caller in segmentation(policy, SITE).callers:
        assert caller.segments[0].ports is None


def allows(standing: Standing, operation: Operation) -> bool:
    upstream = standing.upstream
    return any(
        not gives_not(item, operation, upstream) for item in standing.given
    ) and all(takes_not(item, operation, upstream) for item in standing.taken)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_counted_is_what_the_policy_allows(seed: int) -> None:
    policy = make_policy(random.Random(seed))
    vocabulary, standings = Vocabulary((policy,)), Standings(policy)

    for caller in segmentation(policy, Site(mesh=Mesh.SIDECAR)).callers:
        for segment in caller.segments:
            operations = vocabulary.operations(segment.upstream)
            alone, for_users = set(), set()
            for asker in vocabulary.askers():
                if asker.spiffe_id == caller.witness:
                    standing = standings.of(asker)[segment.upstream]
                    (for_users if asker.claims else alone).update(
                        item for item in operations if allows(standing, item)
                    )
            assert segment.allowed == len(alone)
            assert segment.for_users == len(for_users - alone)
            assert segment.possible == len(operations)
            assert bool(segment.words) == segment.is_open


def test_the_picture_has_a_line_for_each_open_segment() -> None:
    found = segmentation(POLICY, SITE)

    root = ET.fromstring(svg(found))

    classes = [item.get("class") for item in root.iter(f"{SVG}path")]
    open_ones = [s for c in found.callers for s in c.segments if s.is_open]
    assert len(classes) == len(open_ones) == 7
    # Three kinds may read the data set for a user, and have no pods to do it from.
    assert classes.count("edge shut filtered") == 3
    names = {item.text for item in root.iter(f"{SVG}text")}
    assert {"factory-floor", "planning", "release", STRANGER, "triton"} <= names


def test_who_reaches_nothing_is_drawn_as_that() -> None:
    text = EXAMPLE.read_text().replace("to: [planning, ml-engineers]", "to: [planning]")
    policy = parse_policy(text, "p.yaml")

    picture = svg(segmentation(policy, SITE))

    assert picture.count("reaches nothing") == 1
    assert picture.count('class="box shut"') == 1


def test_names_cannot_break_out_of_the_picture() -> None:
    text = EXAMPLE.read_text().replace("defect-detection", "a_b.c")
    found = segmentation(parse_policy(text, "p.yaml"), SITE)

    assert ET.fromstring(svg(found)) is not None
    assert "<script" not in page(found)


def test_the_page_says_before_and_after_for_each_caller() -> None:
    found = segmentation(POLICY, SITE)

    text = page(found)

    for caller in found.callers:
        assert str(caller.witness) in text
        assert f"{caller.allowed} ({100 * caller.allowed / caller.possible:.1f} %)" in (
            text
        )
    assert "packet filter: shut; Istio: no ALLOW" in text


def test_the_same_policy_gives_the_same_bytes() -> None:
    assert page(segmentation(POLICY, SITE)) == page(segmentation(POLICY, SITE))


@pytest.mark.parametrize("name", ["map.svg", "map.html"])
def test_the_command_writes_the_picture(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name

    assert main(["map", "--policy", str(EXAMPLE), "--out", str(out)]) == 0

    assert "<svg" in out.read_text()
    assert "4 kinds of caller" in capsys.readouterr().err


def test_the_command_names_what_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "missing" / "map.svg"

    assert main(["map", "--policy", str(EXAMPLE), "--out", str(out)]) == 1

    assert "map.svg: cannot be written" in capsys.readouterr().err


def test_another_ending_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["map", "--policy", str(EXAMPLE), "--out", str(tmp_path / "map.png")])

    assert "name it NAME.svg or NAME.html" in capsys.readouterr().err
