"""The emitted units, judged by systemd's own tools and by the kernel's filters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from emitted_box import SANDBOX, box_site
from unit_sandbox import values

from authz_server.emit.box import (
    CHECK_SOCKET,
    CONFIG_FILE,
    ENVOY_FILE,
    LOG_FOLDER,
    serving_boxes,
)
from authz_server.emit.spire_entries import box_entries
from authz_server.emit.systemd import units
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Ports, Site

UNITS = ("authz-server", "envoy")

# Tenths: what systemd calls OK ends at 4.9, and its own daemons have 2 and more.
EXPOSURE = 16

JIT = """
import wasmtime
engine = wasmtime.Engine()
module = wasmtime.Module(
    engine, '(module (func (export "seven") (result i32) i32.const 7))'
)
store = wasmtime.Store(engine)
instance = wasmtime.Instance(store, module, [])
print(instance.exports(store)["seven"](store))
"""


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def emitted(policy: AccessPolicy, site: Site) -> dict[str, str]:
    [serving] = serving_boxes(policy, site)
    return {item.name: item.text for item in units(serving, site.ports)}


@pytest.fixture
def files(policy: AccessPolicy) -> dict[str, str]:
    return emitted(policy, box_site("triton"))


def unit_of(files: Mapping[str, str], name: str) -> str:
    return files[f"systemd/{name}.service"]


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(
    files: Mapping[str, str], name: str, tmp_path: Path
) -> None:
    # The programs are not where a box has them.
    unit = unit_of(files, name)
    here = unit.replace(f"={name} ", f"={sys.executable} ")
    assert here.count(sys.executable) == len(commands(unit))
    for text, said in ((here, ""), (here + "\n[Service]\nProtectHme=yes\n", "Hme")):
        file = written(tmp_path, f"{name}.service", text)
        result = run("systemd-analyze", "verify", "--man=no", file)
        assert result.stderr.count("\n") == bool(said)
        assert said in result.stderr


def commands(unit: str) -> list[str]:
    return values(unit, "ExecStartPre") + values(unit, "ExecStart")


def exposure(file: Path, threshold: int) -> int:
    return run(
        *("systemd-analyze", "security", "--no-pager", "--offline=true"),
        *(f"--threshold={threshold}", file),
    ).returncode


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_hardened(
    files: Mapping[str, str], name: str, tmp_path: Path
) -> None:
    unit = unit_of(files, name)
    assert exposure(written(tmp_path, f"{name}.service", unit), EXPOSURE) == 0
    weaker = unit.replace("SystemCallFilter=@system-service\n", "")
    weaker = weaker.replace("SystemCallFilter=~@privileged @resources\n", "")
    assert weaker != unit
    assert exposure(written(tmp_path, "weaker.service", weaker), EXPOSURE) != 0


SAID = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectControlGroups": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "UMask": "0077",
    "Restart": "on-failure",
    "StartLimitIntervalSec": "0",
}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_says_once_what_it_must(files: Mapping[str, str], name: str) -> None:
    unit = unit_of(files, name)
    assert {key: values(unit, key) for key in SAID} == {
        key: [value] for key, value in SAID.items()
    }


def under(folder: Path, unit: str, *command: object) -> str:
    file = written(folder, "sandbox.service", unit)
    result = run(sys.executable, SANDBOX, file, *command)
    return result.stdout or f"exit {result.returncode}"


def test_the_server_may_compile_the_policy_and_envoys_unit_forbids_it(
    files: Mapping[str, str], tmp_path: Path
) -> None:
    server, envoy = (unit_of(files, name) for name in UNITS)
    compile_wasm = (sys.executable, "-c", JIT)
    assert under(tmp_path, server, *compile_wasm) == "7\n"
    assert under(tmp_path, envoy, *compile_wasm) != "7\n"
    assert values(server, "MemoryDenyWriteExecute") == []
    assert values(envoy, "MemoryDenyWriteExecute") == ["yes"]


OPENED = """
import errno, socket, sys
for family in sys.argv[1:]:
    try: socket.socket(getattr(socket, family), socket.SOCK_DGRAM).close()
    except OSError as error: print(errno.errorcode[error.errno])
    else: print("open")
"""


def test_only_the_sockets_that_are_needed_open(
    files: Mapping[str, str], tmp_path: Path
) -> None:
    families = ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET")
    refused = "EAFNOSUPPORT"
    for name, last in (("authz-server", refused), ("envoy", "open")):
        said = under(
            tmp_path, unit_of(files, name), sys.executable, "-c", OPENED, *families
        )
        assert said.split() == ["open", "open", last, refused, refused]


def test_the_units_name_the_files_that_are_emitted(files: Mapping[str, str]) -> None:
    server, envoy = (unit_of(files, name) for name in UNITS)
    assert all(f" {CONFIG_FILE}" in line for line in commands(server))
    assert all(f" {ENVOY_FILE}" in line for line in commands(envoy))
    assert "--mode validate" in values(envoy, "ExecStartPre")[0]
    assert CHECK_SOCKET.startswith(f"/run/{values(server, 'RuntimeDirectory')[0]}/")
    assert f"/var/log/{values(server, 'LogsDirectory')[0]}" == LOG_FOLDER


def test_envoy_starts_behind_the_server_and_both_behind_the_agent(
    policy: AccessPolicy,
) -> None:
    for uses_spire, first in ((True, ["spire-agent.service"]), (False, [])):
        files = emitted(policy, box_site("triton", uses_spire=uses_spire))
        server, envoy = (unit_of(files, name) for name in UNITS)
        assert values(server, "After") == first
        assert values(envoy, "After") == [" ".join(["authz-server.service", *first])]


@pytest.mark.parametrize(
    ("port", "capability"), [(443, "CAP_NET_BIND_SERVICE"), (1024, "")]
)
def test_envoy_may_bind_a_low_port_only_where_it_has_one(
    policy: AccessPolicy, port: int, capability: str
) -> None:
    site = replace(box_site("triton"), ports=Ports(envoy=port))
    envoy = unit_of(emitted(policy, site), "envoy")
    assert values(envoy, "CapabilityBoundingSet") == [capability]
    assert values(envoy, "AmbientCapabilities") == [capability]


def test_spire_tells_each_by_the_user_that_its_unit_gives_it(
    policy: AccessPolicy,
) -> None:
    site = box_site("triton", uses_spire=True)
    assert site.spire is not None
    files = emitted(policy, site)
    assert {
        entry.spiffe_id.path[-1]: entry.selectors
        for entry in box_entries(policy, site, site.spire)
    } == {
        name: (f"unix:user:{values(unit_of(files, name), 'User')[0]}",)
        for name in UNITS
    }


@pytest.fixture
def root(files: Mapping[str, str], tmp_path: Path) -> Path:
    """A box's file system after systemd made its users and folders."""
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / "etc" / f"{kind}.d"
        folder.mkdir(parents=True)
        (folder / "a.conf").write_text(files[f"{kind}.d/authz-server.conf"])
    tls = tmp_path / "etc" / "authz-server" / "tls"
    tls.mkdir(parents=True)
    (tls / "server.key").write_text("key")
    (tls / "server.key").chmod(0o644)
    result = run("systemd-sysusers", f"--root={tmp_path}", "a.conf")
    assert result.returncode == 0, result.stderr
    return tmp_path


def entries(root: Path, name: str) -> dict[str, Sequence[str]]:
    lines = (root / "etc" / name).read_text().splitlines()
    return {line.split(":")[0]: line.split(":") for line in lines}


def test_envoy_and_nobody_else_shares_the_sockets_group(
    files: Mapping[str, str], root: Path
) -> None:
    users, groups = entries(root, "passwd"), entries(root, "group")
    server, envoy = (unit_of(files, name) for name in UNITS)
    assert {"authz-server", "envoy"} <= set(users)
    assert {users[name][-1] for name in ("authz-server", "envoy")} == {
        "/usr/sbin/nologin"
    }
    [shared] = values(server, "Group")
    assert set(groups[shared][-1].split(",")) == {"authz-server", "envoy"}
    assert values(envoy, "SupplementaryGroups") == [shared]
    assert values(server, "User") == ["authz-server"]
    assert values(envoy, "User") == values(envoy, "Group") == ["envoy"]
    assert values(server, "RuntimeDirectoryMode") == ["0750"]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
def test_folders_and_the_key_are_open_to_those_who_read_them(
    files: Mapping[str, str], root: Path
) -> None:
    result = run("systemd-tmpfiles", "--create", f"--root={root}", "a.conf")
    assert result.returncode == 0, result.stderr
    groups = entries(root, "group")
    key = root / "etc" / "authz-server" / "tls" / "server.key"
    assert (mode(key), key.stat().st_gid) == (0o640, int(groups["envoy"][2]))
    policy = root / "etc" / "authz-server" / "policy"
    [shared] = values(unit_of(files, "authz-server"), "Group")
    assert (mode(policy), policy.stat().st_gid) == (0o750, int(groups[shared][2]))
    assert mode(root / "etc" / "envoy") == 0o755


def test_with_spire_no_key_lies_in_a_file(policy: AccessPolicy) -> None:
    for uses_spire in (True, False):
        files = emitted(policy, box_site("triton", uses_spire=uses_spire))
        text = files["tmpfiles.d/authz-server.conf"]
        assert ("server.key" not in text) is uses_spire
