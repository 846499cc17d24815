"""``authz-server verify``, as it is called."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, Self

import pytest
from verification import emitted, write

from authz_server.cli.verify import add_parser
from authz_server.cluster import client
from authz_server.errors import SetupError
from authz_server.policy.document import load_policy
from authz_server.site.document import load_site

EXAMPLES = Path(__file__).parents[3] / "examples"
EMPTY = "apiVersion: authz.edge/v1\nkind: Site\nmetadata: {name: plant-7}\nspec: {}\n"
POLICY, SITE = EXAMPLES / "plant-7.yaml", EXAMPLES / "plant-7-site.yaml"


def verify(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(
        ["verify", "--policy", str(POLICY), "--site", str(SITE), *map(str, words)]
    )
    return int(args.run(args))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = load_policy(POLICY)
    found = tmp_path_factory.mktemp("manifests")
    for layer, manifests in emitted(policy, load_site(SITE, policy)).items():
        write(manifests, found / layer)
    return found


def test_what_is_emitted_agrees(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("--manifests", folder) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("known limit coarse (kubernetes, cilium, istio, ope")
    assert captured.err.startswith("no differences beside known limits (")
    assert captured.err.endswith(": kubernetes, cilium, istio, spire, openziti\n")


def test_each_limit_is_listed_on_request(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("istio", "--manifests", folder, "--limits") == 0
    out = capsys.readouterr().out
    assert "extra in istio, known limit coarse: upstream triton, operations it" in out
    assert "  for     spiffe://factory.example/ns/line1/sa/camera, " in out
    assert " more\n  policy  denies " in out


def test_an_edited_file_is_found_with_both_witnesses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "kubernetes").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("port: 8001", "port: 8002")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    assert verify("kubernetes", "--manifests", tmp_path) == 1
    captured = capsys.readouterr()
    assert " differences beside known limits" in captured.err
    lines = captured.out.splitlines()
    first = lines.index("missing in kubernetes: upstream triton, TCP 8001")
    assert lines[first + 1] == "  for     line1/app=camera"
    assert lines[first + 2] == (
        "  policy  spiffe://factory.example/ns/line1/sa/camera: allows health on "
        "server at triton: grant inspector to factory-floor on triton"
    )
    assert re.fullmatch(
        r"  kubernetes  keeps it shut: no egress rule of line1/app=camera opens it, "
        r"which NetworkPolicy line1/[a-z-]+ \(network-policies\.yaml:\d+\) and \d+ "
        r"more isolate and no ingress rule of upstream triton opens it, which "
        r"NetworkPolicy inference/[a-z-]+ \(network-policies\.yaml:\d+\) and \d+ "
        r"more isolate",
        lines[first + 3],
    )


def test_json_has_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("openziti", "--manifests", folder, "--output", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layers"] == ["openziti"]
    assert {item["limit"] for item in document["differences"]} == {
        "coarse",
        "no-identity",
        "users",
    }
    assert set(document["differences"][0]) == {
        *("layer", "kind", "limit", "target", "what", "who", "policy", "enforced")
    }


def test_an_unclear_object_has_neither_callers_nor_a_policy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "openziti").iterdir():
        text = path.read_text(encoding="utf-8").replace(
            "semantic: AnyOf", "semantic: X"
        )
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    assert verify("openziti", "--manifests", tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("1 difference beside known limits (0)")
    head, reason = captured.out.splitlines()
    assert re.fullmatch(r"unclear in openziti: import\.yaml:\d+, services", head)
    assert "service policy plant-7.training-data.bind: type 'Bind' and sema" in reason


def test_wrong_use_ends_with_2(folder: Path) -> None:
    for words in (
        (),
        ("--manifests", folder, "--live"),
        ("helm", "--manifests", folder),
    ):
        with pytest.raises(SystemExit) as caught:
            verify(*words)
        assert caught.value.code == 2


def test_what_the_site_has_none_of_is_not_compared_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(EMPTY, encoding="utf-8")
    # Without a mesh, calls come in by Envoy's port.
    assert verify("--site", site, "--manifests", folder) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[:2] == [
        "not compared, as the site has none: istio",
        "not compared, as the site has none: spire",
    ]
    for layer, words in (("istio", "spec.mesh of"), ("spire", "spec.spire of")):
        with pytest.raises(SetupError, match=words):
            verify(layer, "--site", site, "--manifests", folder)
    with pytest.raises(SetupError, match="not in a cluster"):
        verify("openziti", "--live")


def test_a_plant_without_any_layer_is_an_error(tmp_path: Path) -> None:
    policy, site = tmp_path / "policy.yaml", tmp_path / "site.yaml"
    policy.write_text(
        """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: plant-7}
spec:
  trustDomain: factory.example
  upstreams: {triton: {kind: triton}}
  groups: {all: {spiffe: ["spiffe://factory.example/box/*"]}}
  roles: {any: [{actions: [health], models: ["*"]}]}
  grants: [{role: any, to: [all], on: [triton]}]
""",
        encoding="utf-8",
    )
    site.write_text(EMPTY, encoding="utf-8")
    (tmp_path / "none").mkdir()
    with pytest.raises(SetupError, match="nothing to compare"):
        verify("--policy", policy, "--site", site, "--manifests", tmp_path / "none")


def test_a_cluster_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class Empty:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def objects(self, *words: object) -> Any:
            asked.append(words)
            return iter(())

        def find(self, key: object) -> None:
            asked.append(key)

    monkeypatch.setattr(
        client, "connect", lambda *words: asked.append(words) or Empty()
    )
    kubeconfig = Path("k")
    code = verify("--live", "--context", "c", "--kubeconfig", kubeconfig)
    assert code == 1
    assert asked[0] == ("c", kubeconfig)
    assert (("networking.k8s.io/v1", "NetworkPolicy"), "") in asked
    # Nothing is there, so everybody reaches everybody, and nobody has an ID.
    err = capsys.readouterr().err
    assert err.endswith("between the policy and: kubernetes, istio, spire\n")
