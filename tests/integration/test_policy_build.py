"""Rego through the real OPA: the checked-in build, and policies of a team's own."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from checks import check_request
from parts import EXAMPLE

from authz_server.cli import main
from authz_server.cli import policy as command
from authz_server.errors import PolicyError, Reason
from authz_server.policy.building import (
    ENTRYPOINT,
    LIBRARY,
    REGO_DIR,
    SHIPPED_BUNDLE,
    SHIPPED_POLICY,
    build_bundle,
    check_rego,
    find_opa,
    read_wasm,
    shipped_wasm,
)
from authz_server.policy.engine import Engine

pytestmark = pytest.mark.go

DATA = json.dumps(
    {
        "access": {
            "exact": {"spiffe://a.example/w": ["g"]},
            "grants": {"g": {"t": {"inference": {"all": {"any": "r"}}}}},
        }
    }
).encode()


def question(workload: str = "w", **operation: str) -> bytes:
    return json.dumps(
        {
            "principal": {
                "id": f"spiffe://a.example/{workload}",
                "trust_domain": "a.example",
                "path": [workload],
            },
            "user": None,
            "operation": {
                "action": "inference",
                "scope": "model",
                "model": "m",
                "version": "",
                "adapter": "",
                "upstream": "t",
                "dataset": "",
                **operation,
            },
        }
    ).encode()


@pytest.fixture(scope="module")
def opa() -> Path:
    return find_opa()


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["policy", *argv])
    return int(args.run(args))


def build(folder: Path, opa: Path, rego: str, entrypoint: str = ENTRYPOINT) -> bytes:
    own = folder / "own"
    own.mkdir()
    (own / "own.rego").write_text(rego)
    build_bundle([LIBRARY, own], entrypoint, folder / "own.tar.gz", opa)
    return read_wasm(folder / "own.tar.gz")


def manifest(bundle: Path) -> object:
    with tarfile.open(bundle) as archive:
        for member in archive:
            if member.name.lstrip("/") == ".manifest":
                content = archive.extractfile(member)
                assert content is not None
                return json.load(content)
    raise AssertionError("no manifest")


def test_the_checked_in_build_is_what_the_sources_give(
    tmp_path: Path, opa: Path
) -> None:
    # Elsewhere on the disk, too: paths must not get into the Wasm.
    for source in (LIBRARY, SHIPPED_POLICY):
        shutil.copyfile(source, tmp_path / source.name)
    out = tmp_path / "bundle.tar.gz"
    sources = [tmp_path / LIBRARY.name, tmp_path / SHIPPED_POLICY.name]
    build_bundle(sources, ENTRYPOINT, out, opa)
    assert read_wasm(out) == shipped_wasm()
    assert manifest(out) == manifest(SHIPPED_BUNDLE)


def test_the_shipped_rego_passes_its_tests_with_full_coverage(opa: Path) -> None:
    passed, report = check_rego(sorted(REGO_DIR.glob("*.rego")), opa, 100.0)
    assert passed, report
    assert "coverage is at least 100 %" in report


def test_the_shipped_rego_is_formatted_and_strict(opa: Path) -> None:
    files = [str(path) for path in sorted(REGO_DIR.glob("*.rego"))]
    formatted = subprocess.run(
        [opa, "fmt", "--list", *files], capture_output=True, text=True, check=True
    )
    assert formatted.stdout == ""
    subprocess.run([opa, "check", "--strict", *files], check=True)


def test_a_policy_of_ones_own_builds_on_the_library(tmp_path: Path, opa: Path) -> None:
    wasm = build(
        tmp_path,
        opa,
        """package authz
import data.authz.access
decision := object.union(access.decision, {"ttl_seconds": 5})
""",
    )
    engine = Engine(wasm, DATA, timeout_s=5.0, instances=1)
    try:
        verdict = engine.evaluate(question())
        assert (verdict.allow, verdict.role, verdict.ttl_s) == (True, "r", 5.0)
        assert engine.evaluate(question("x")).reason is Reason.PRINCIPAL_UNKNOWN
    finally:
        engine.close()


def test_another_single_entrypoint_is_taken(tmp_path: Path, opa: Path) -> None:
    rego = 'package plant\nallow if input.operation.model == "m"\n'
    wasm = build(tmp_path, opa, rego, "plant/allow")
    engine = Engine(wasm, DATA, timeout_s=5.0, instances=1)
    try:
        assert engine.evaluate(question()).allow
        with pytest.raises(PolicyError) as caught:
            engine.evaluate(question(model="k"))
        assert caught.value.reason is Reason.POLICY_UNDEFINED
    finally:
        engine.close()


def test_a_policy_that_runs_away_is_cut_off(tmp_path: Path, opa: Path) -> None:
    wasm = build(
        tmp_path,
        opa,
        """package authz
default decision := false
decision if {
	input.operation.model == "endless"
	xs := numbers.range(1, 3000)
	some a in xs
	some b in xs
	some c in xs
	((a * b) * c) == -1
}
""",
    )
    engine = Engine(wasm, DATA, timeout_s=0.2, instances=1)
    try:
        started = time.monotonic()
        with pytest.raises(PolicyError) as caught:
            engine.evaluate(question(model="endless"))
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 20
        assert engine.evaluate(question()).allow is False
    finally:
        engine.close()


def test_a_policy_that_eats_memory_is_an_error(
    tmp_path: Path, opa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.policy.engine.MAX_MEMORY_PAGES", 64)
    wasm = build(
        tmp_path,
        opa,
        """package authz
default decision := false
decision if {
	input.operation.model == "hungry"
	count([a | some a in numbers.range(1, 10000000)]) == 0
}
""",
    )
    engine = Engine(wasm, DATA, timeout_s=20.0, instances=1)
    try:
        with pytest.raises(PolicyError) as caught:
            engine.evaluate(question(model="hungry"))
        assert caught.value.reason is Reason.POLICY_ERROR
        assert engine.evaluate(question()).allow is False
    finally:
        engine.close()


def test_contradicting_rules_are_an_error_not_an_answer(
    tmp_path: Path, opa: Path
) -> None:
    wasm = build(
        tmp_path,
        opa,
        """package authz
decision := true if input.operation.model == "m"
decision := false if input.operation.action == "inference"
""",
    )
    engine = Engine(wasm, DATA, timeout_s=5.0, instances=1)
    try:
        with pytest.raises(PolicyError) as caught:
            engine.evaluate(question())
        assert caught.value.reason is Reason.POLICY_ERROR
    finally:
        engine.close()


def test_a_built_in_function_that_is_not_there_is_named(
    tmp_path: Path, opa: Path
) -> None:
    rego = 'package authz\ndecision := true if rand.intn("x", 2) > 0\n'
    wasm = build(tmp_path, opa, rego)
    with pytest.raises(PolicyError, match=r"not offer here: rand\.intn"):
        Engine(wasm, DATA, timeout_s=5.0, instances=1)


def test_a_policy_that_fails_for_everyone_is_not_loaded(
    tmp_path: Path, opa: Path
) -> None:
    wasm = build(tmp_path, opa, 'package authz\ndecision := "yes"\n')
    with pytest.raises(PolicyError) as caught:
        Engine(wasm, DATA, timeout_s=5.0, instances=1)
    assert caught.value.reason is Reason.POLICY_RESULT_INVALID


def test_of_several_entrypoints_none_is_guessed(tmp_path: Path, opa: Path) -> None:
    (tmp_path / "own.rego").write_text("package plant\na := true\nb := true\n")
    subprocess.run(
        [
            *(opa, "build", "-t", "wasm", "-e", "plant/a", "-e", "plant/b"),
            *("-o", tmp_path / "own.tar.gz", tmp_path / "own.rego"),
        ],
        check=True,
    )
    with pytest.raises(PolicyError, match=r"entrypoints plant/a, plant/b: build"):
        Engine(read_wasm(tmp_path / "own.tar.gz"), DATA, timeout_s=5.0, instances=1)


def test_rego_that_opa_refuses_is_reported_as_opa_says_it(
    tmp_path: Path, opa: Path
) -> None:
    with pytest.raises(PolicyError, match="rego_parse_error"):
        build(tmp_path, opa, "package authz\ndecision := \n")


def test_the_command_builds_what_is_checked_in(tmp_path: Path) -> None:
    out = tmp_path / "out.tar.gz"
    assert run("build", "-o", str(out)) == 0
    assert read_wasm(out) == shipped_wasm()


def test_the_command_does_not_deliver_what_the_server_would_refuse(
    tmp_path: Path,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.rego").write_text('package authz\ndecision := rand.intn("x", 2)\n')
    out = tmp_path / "out.tar.gz"
    with pytest.raises(PolicyError, match=r"rand\.intn"):
        run("build", "--policy-dir", str(own), "-o", str(out))
    assert not out.exists()


def test_the_command_runs_the_shipped_tests(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("test") == 0
    assert "coverage is at least 100 %" in capsys.readouterr().out


def test_the_command_runs_the_tests_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.rego").write_text(
        "package authz\nimport data.authz.access\ndecision := access.decision\n"
    )
    test = tmp_path / "own_test.rego"
    test.write_text(
        "package own_test\nimport data.authz\ntest_denies if not authz.decision.allow\n"
    )
    assert run("test", str(tmp_path)) == 0
    assert run("test", "--threshold", "100", str(tmp_path)) == 1
    test.write_text("package own_test\ntest_fails if false\n")
    capsys.readouterr()
    assert run("test", str(tmp_path)) == 1
    assert "FAIL: 1/1" in capsys.readouterr().err


def test_the_server_decides_by_a_bundle_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.rego").write_text(
        "package authz\n\nimport data.authz.access\n\n"
        "# Nobody infers outside the hosts of the plant.\n"
        'default decision := {"allow": false}\n\n'
        "decision := access.decision if {\n"
        '\tinput.http.host == "triton.factory.example"\n}\n'
    )
    bundle = tmp_path / "own.tar.gz"
    build = ["policy", "build", "--policy-dir", str(tmp_path), "-o", str(bundle)]
    assert main(build) == 0
    requests = tmp_path / "requests.jsonl"
    options = ["--policy-file", str(EXAMPLE), "--policy-bundle", str(bundle)]
    options += ["--identity-require-certificate", "false"]
    options += ["--identity-chain", "proxy"]
    for host, code in (("triton.factory.example", 0), ("elsewhere.example", 1)):
        requests.write_text(check_request(host=host).to_json())
        assert main(["decide", str(requests), *options]) == code
