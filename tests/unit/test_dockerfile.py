"""What the image is made of, held against what it must be; no engine builds it here."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

from authz_server.emit.server_config import CONFIG_FILE
from authz_server.emit.server_pod import USER_ID

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def packages(stage: list[tuple[str, str]]) -> set[str]:
    return {
        word
        for name, rest in stage
        if name == "RUN"
        for install in re.findall(r"apt-get install ([^&]*)", rest)
        for word in install.split()
        if not word.startswith("--")
    }


def test_the_last_stage_keeps_no_compiler() -> None:
    build, last = stages()

    assert {"gcc", "libnghttp2-dev"} <= packages(build)
    assert packages(last) == {"libnghttp2-14"}


def test_the_last_stage_has_the_libraries_that_the_core_needs() -> None:
    core = importlib.util.find_spec("authz_server._native._core")
    assert core is not None
    assert core.origin is not None
    listing = subprocess.run(
        ["readelf", "--dynamic", core.origin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    needed = set(re.findall(r"NEEDED.*\[(.*)\]", listing))

    _, last = stages()
    # Debian names a library's package after it and its version.
    beyond_libc = {
        re.sub(r"\.so\.", "-", name) for name in needed if name != "libc.so.6"
    }
    assert beyond_libc == packages(last)


def test_it_runs_as_the_user_whom_the_manifests_name() -> None:
    _, last = stages()

    users = [rest for name, rest in last if name == "USER"]
    assert users == [f"{USER_ID}:{USER_ID}"]


def test_it_serves_the_configuration_that_the_manifests_mount() -> None:
    _, last = stages()

    assert ("ENTRYPOINT", '["authz-server"]') in last
    assert ("CMD", f'["serve", "--config", "{CONFIG_FILE}"]') in last


def test_what_is_copied_is_there_and_not_ignored() -> None:
    build, _ = stages()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    copied = {
        word for name, rest in build if name == "COPY" for word in rest.split()[:-1]
    }

    assert {"pyproject.toml", "authz_server"} <= copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
