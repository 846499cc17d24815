from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from authz_server.cli import emit
from authz_server.errors import PolicyError, SetupError
from authz_server.policy import document
from authz_server.policy.model import AccessPolicy

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"


def run(*argv: str | Path) -> int:
    parser = argparse.ArgumentParser()
    emit.add_parser(parser.add_subparsers())
    args = parser.parse_args(["emit", *map(str, argv)])
    return int(args.run(args))


def test_without_a_folder_it_prints_what_kubectl_can_apply(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("kubernetes", "istio", "--policy", EXAMPLE) == 0

    objects = [
        item for item in yaml.safe_load_all(capsys.readouterr().out) if item is not None
    ]
    assert {"Deployment", "NetworkPolicy", "EnvoyFilter"} <= {
        item["kind"] for item in objects
    }
    assert "Kustomization" not in {item["kind"] for item in objects}


def test_what_is_no_kubernetes_object_is_printed_as_a_comment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("istio", "--policy", EXAMPLE)

    assert "#   extensionProviders:\n" in capsys.readouterr().out


def test_kubernetes_alone_means_no_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    run("kubernetes", "--policy", EXAMPLE)

    printed = capsys.readouterr().out
    assert "port: 8443" in printed
    assert "port: 8000" not in printed
    assert "istio" not in printed


def test_both_targets_mean_application_ports(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("istio", "kubernetes", "--policy", EXAMPLE)

    printed = capsys.readouterr().out
    assert "port: 8000" in printed
    assert "port: 8443" not in printed


def test_the_site_says_what_the_policy_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "{apiVersion: authz.edge/v1, kind: Site, metadata: {name: s},"
        ' spec: {server: {image: "authz:9"}}}'
    )

    run("kubernetes", "--policy", EXAMPLE, "--site", site)

    assert 'image: "authz:9"' in capsys.readouterr().out


def test_a_policy_in_parts_becomes_one_config_map_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, tail = EXAMPLE.read_text().split("  grants:\n")
    (tmp_path / "10-base.yaml").write_text(head)
    top = head.split("  trustDomain:")[0]
    (tmp_path / "20-grants.yaml").write_text(f"{top}  grants:\n{tail}")

    run("kubernetes", "--policy", tmp_path)

    printed = capsys.readouterr().out
    assert "  10-base.yaml: |" in printed.replace('"', "")
    assert "  20-grants.yaml: |" in printed.replace('"', "")


def test_a_part_that_no_config_map_could_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a b.yaml").write_text(EXAMPLE.read_text())

    with pytest.raises(PolicyError, match=r"a b\.yaml: a ConfigMap can't have"):
        run("kubernetes", "--policy", tmp_path)


def test_files_just_written_pass_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("kubernetes", "istio", "--policy", EXAMPLE, "--out", tmp_path) == 0
    assert "wrote 9 files" in capsys.readouterr().err

    assert run("kubernetes", "istio", "--policy", EXAMPLE, "--check", tmp_path) == 0
    assert not capsys.readouterr().out


def test_the_check_names_each_file_that_is_not_as_emitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("istio", "--policy", EXAMPLE, "--out", tmp_path)
    folder = tmp_path / "istio"
    (folder / "authz-server.yaml").write_text("# by hand\n")
    (folder / "envoy-filters.yaml").unlink()
    (folder / "old.yaml").touch()

    assert run("istio", "--policy", EXAMPLE, "--check", tmp_path) == 1

    assert capsys.readouterr().out.splitlines() == [
        f"differs: {folder / 'authz-server.yaml'}",
        f"missing: {folder / 'envoy-filters.yaml'}",
        f"left over: {folder / 'old.yaml'}",
    ]


def test_files_that_are_no_longer_emitted_are_named_but_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "istio" / "old.yaml"
    old.parent.mkdir()
    old.touch()

    assert run("istio", "--policy", EXAMPLE, "--out", tmp_path) == 0

    assert f"left over, no longer emitted: {old}" in capsys.readouterr().err
    assert old.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()

    with pytest.raises(SetupError, match="file/istio: cannot be written"):
        run("istio", "--policy", EXAMPLE, "--out", target)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "istio" / "authz-server.yaml").mkdir(parents=True)

    with pytest.raises(SetupError, match=r"authz-server\.yaml: cannot be read"):
        run("istio", "--policy", EXAMPLE, "--check", tmp_path)


def test_a_policy_file_that_vanishes_while_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(EXAMPLE.read_text())
    load = document.load_policy

    def load_and_remove(policy_file: Path) -> AccessPolicy:
        policy = load(policy_file)
        policy_file.unlink()
        return policy

    monkeypatch.setattr(document, "load_policy", load_and_remove)

    with pytest.raises(PolicyError, match=r"policy\.yaml:1:1: cannot read"):
        run("istio", "--policy", path)


@pytest.mark.parametrize(
    "argv",
    [
        ["cilium-typo", "--policy", "p"],
        ["istio"],
        ["istio", "--policy", "p", "--out", "a", "--check", "b"],
    ],
)
def test_wrong_use_ends_with_code_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*argv)

    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
