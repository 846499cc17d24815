"""Runs what the target ``envoy`` emitted for a box, with the places of this machine.

Only paths, addresses and ports are put in place of others.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from authz_server.demo.envoy import Envoy, Places, render
from authz_server.demo.process import Process, free_ports
from authz_server.demo.server import AuthzServer
from authz_server.emit.box import CHECK_SOCKET, LOG_FOLDER, POLICY_FOLDER, TLS_FOLDER
from authz_server.emit.envoy import emit_envoy
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Attestor, Box, Site, Spire

SANDBOX = Path(__file__).parent / "unit_sandbox.py"
AGENT_SOCKET = Spire().agent_socket


def box_site(*serves: str, uses_spire: bool = False, **parts: Any) -> Site:
    """Return a site with one box."""
    box = Box("press-3", Attestor.JOIN_TOKEN, serves=serves, uses_spire=uses_spire)
    return Site(boxes=(box,), spire=Spire(), **parts)


@dataclass(frozen=True)
class Emitted:
    """The files of the one box, and where things are on this machine."""

    files: Mapping[str, str]
    folder: Path
    agent_socket: Path = Path(AGENT_SOCKET)

    @classmethod
    def of(
        cls,
        policy: AccessPolicy,
        site: Site,
        folder: Path,
        agent_socket: Path = Path(AGENT_SOCKET),
    ) -> Emitted:
        files = {
            manifest.name.removeprefix("press-3/"): manifest.text
            for manifest in emit_envoy(policy, site)
        }
        return cls(files, folder, agent_socket)

    def server(self, policy: Path) -> AuthzServer:
        """Return authz-server on the emitted configuration, and a copy of `policy`.

        It runs under its unit's filter of system calls.
        """
        parts = self.folder / "policy"
        parts.mkdir()
        shutil.copy(policy, parts)
        (metrics,) = free_ports(1)
        server = AuthzServer(self.folder, {}, policy)
        text = self.files["config.yaml"]
        for emitted, here in (
            (CHECK_SOCKET, server.socket),
            (f"{LOG_FOLDER}/audit.jsonl", server.audit),
            (POLICY_FOLDER, parts),
            (TLS_FOLDER, self.folder),
            (AGENT_SOCKET, self.agent_socket),
            ("127.0.0.1:9192", f"127.0.0.1:{metrics}"),
        ):
            text = text.replace(emitted, str(here))
        (self.folder / "authz-server.yaml").write_text(text)
        self._seal(server, "authz-server")
        return server

    def configuration(self, places: Places) -> dict[str, Any]:
        """Return Envoy's configuration with this machine's places."""
        text = self.files["envoy.yaml"].replace(AGENT_SOCKET, str(self.agent_socket))
        return render(yaml.safe_load(text), places)

    def envoy(
        self, configuration: Mapping[str, Any], port: int, *, name: str = "envoy"
    ) -> Envoy:
        """Return Envoy under its unit's filter of system calls."""
        envoy = Envoy(self.folder, configuration, port, name=name)
        self._seal(envoy, "envoy")
        return envoy

    def _seal(self, part: Process, unit: str) -> None:
        file = self.folder / f"{unit}.service"
        file.write_text(self.files[f"systemd/{unit}.service"])
        argv = [sys.executable, str(SANDBOX), str(file), *part.command.argv]
        part.command = replace(part.command, argv=argv)
