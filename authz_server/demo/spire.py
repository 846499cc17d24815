"""The real SPIRE: a server that issues identities, an agent that hands them out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz_server.demo.pki import SvidFiles, write_private
from authz_server.demo.process import Command, Process
from authz_server.errors import SetupError
from authz_server.folders import cache_folder

VERSION: Final = "1.15.3"
READY_S: Final = 30.0

_CALL_S: Final = 20.0
_ENTRY_ID: Final = re.compile(r"^Entry ID +: (\S+)$", re.MULTILINE)
_TOKEN: Final = re.compile(r"^Token: (\S+)$", re.MULTILINE)
_JWT: Final = re.compile(r'"svid": *"([^"]+)"')

# New entries and revoked ones are to be seen within a second or two, not five.
_SERVER: Final = """
server {{
  trust_domain = "{trust_domain}"
  bind_address = "127.0.0.1"
  bind_port = {port}
  socket_path = "{socket}"
  data_dir = "{folder}"
  log_level = "INFO"
  ca_ttl = "24h"
  default_x509_svid_ttl = "1h"
  default_jwt_svid_ttl = "5m"
  {federation}
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server.db" }}
  }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server-keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""
_FEDERATION: Final = """
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {port}
      profile "https_spiffe" {{}}
    }}
    {partners}
  }}
"""
_PARTNER: Final = """
    federates_with "{trust_domain}" {{
      bundle_endpoint_url = "https://127.0.0.1:{port}"
      bundle_endpoint_profile "https_spiffe" {{
        endpoint_spiffe_id = "{endpoint_id}"
      }}
    }}
"""
_AGENT: Final = """
agent {{
  trust_domain = "{trust_domain}"
  server_address = "127.0.0.1"
  server_port = {port}
  socket_path = "{socket}"
  data_dir = "{folder}/agent"
  trust_bundle_path = "{folder}/bootstrap.pem"
  {token}
  log_level = "INFO"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The two programs of `make spire`."""

    server: Path
    agent: Path


def find_binaries(environment: Mapping[str, str] = os.environ) -> Binaries:
    """Return SPIRE's programs.

    Raises:
        SetupError: if they were not built.
    """
    folder = cache_folder(environment) / f"spire-{VERSION}"
    found = Binaries(folder / "spire-server", folder / "spire-agent")
    if not (found.server.is_file() and found.agent.is_file()):
        raise SetupError(f"no SPIRE in {folder}: run `make spire`")
    return found


def endpoint_id(trust_domain: str) -> str:
    """Return the SPIFFE ID by which a server's bundle endpoint is known."""
    return f"spiffe://{trust_domain}/spire/server"


class SpireServer(Process):
    """A context manager: a SPIRE server runs, and answers once `wait` returned.

    Args:
        folder: for its files, the caller's to remove. The path has to be short, as it
            holds a unix socket.
        port: where its agents attest.
        endpoint_port: where it serves its bundle (``https_spiffe``).
        partners: trust domains that it federates with, to the ports of their endpoints.
    """

    def __init__(
        self,
        folder: Path,
        trust_domain: str,
        port: int,
        *,
        endpoint_port: int,
        partners: Mapping[str, int],
    ) -> None:
        self.folder = folder
        self.trust_domain = trust_domain
        self.port = port
        self.endpoint_port = endpoint_port
        self.binaries = find_binaries()
        self.socket = folder / "server.sock"
        federation = _FEDERATION.format(
            port=endpoint_port,
            partners="".join(
                _PARTNER.format(
                    trust_domain=name, port=partner, endpoint_id=endpoint_id(name)
                )
                for name, partner in partners.items()
            ),
        )
        configuration = folder / "server.conf"
        configuration.write_text(
            _SERVER.format(
                trust_domain=trust_domain,
                port=port,
                socket=self.socket,
                folder=folder,
                federation=federation,
            ),
            "utf-8",
        )
        super().__init__(
            Command(
                name=f"SPIRE server of {trust_domain}",
                argv=[str(self.binaries.server), "run", "-config", str(configuration)],
                log=folder / "server.log",
                env=os.environ,
                cwd=folder,
            )
        )

    def wait(self) -> None:
        """Return once it is healthy.

        Raises:
            SetupError: if it ends or takes too long.
        """
        self.wait_until(self.socket.exists, READY_S)
        self.wait_until(
            lambda: (
                _call(
                    self.binaries.server, ["healthcheck", *_at(self.socket)]
                ).returncode
                == 0
            ),
            READY_S,
        )

    def bundle(self, form: str = "spiffe") -> str:
        """Return its bundle, as a SPIFFE bundle or as ``pem``."""
        return self._order("bundle", "show", "-format", form)

    def set_bundle(self, trust_domain: str, bundle: str) -> None:
        """Give it the first bundle of a trust domain that it federates with."""
        name = f"spiffe://{trust_domain}"
        self._order("bundle", "set", "-format", "spiffe", "-id", name, text=bundle)

    def join_token(self, spiffe_id: str) -> str:
        """Return a token with which one agent can attest as `spiffe_id`."""
        return _only(_TOKEN, self._order("token", "generate", "-spiffeID", spiffe_id))

    def create_entry(
        self,
        spiffe_id: str,
        parent_id: str,
        selector: str,
        *,
        x509_ttl_s: int,
        federates_with: Sequence[str] = (),
        dns_names: Sequence[str] = (),
    ) -> str:
        """Register a workload; return the entry's ID."""
        arguments = [
            *("entry", "create", "-spiffeID", spiffe_id, "-parentID", parent_id),
            *("-selector", selector, "-x509SVIDTTL", str(x509_ttl_s)),
        ]
        for name in federates_with:
            arguments += ["-federatesWith", f"spiffe://{name}"]
        for name in dns_names:
            arguments += ["-dns", name]
        return _only(_ENTRY_ID, self._order(*arguments))

    def delete_entry(self, entry_id: str) -> None:
        """Deregister a workload."""
        self._order("entry", "delete", "-entryID", entry_id)

    def _order(self, noun: str, verb: str, *arguments: str, text: str = "") -> str:
        done = _call(
            self.binaries.server,
            [noun, verb, *_at(self.socket), *arguments],
            text,
        )
        if done.returncode != 0:
            said = done.stderr or done.stdout
            raise SetupError(f"spire-server {noun} {verb}: {said}")
        return done.stdout


class SpireAgent(Process):
    """A context manager: a SPIRE agent runs, and hands out identities after `wait`.

    A second agent on the folder of one that has ended goes on with its identity.

    Args:
        folder: for its files, the caller's to remove.
        server: that it attests to.
        token: with which it does so the first time.
    """

    def __init__(self, folder: Path, server: SpireServer, token: str = "") -> None:
        self.binaries = server.binaries
        self.socket = folder / "agent.sock"
        (folder / "agent").mkdir(exist_ok=True)
        (folder / "bootstrap.pem").write_text(server.bundle("pem"), "utf-8")
        configuration = folder / "agent.conf"
        token_file = folder / "join-token"
        if token:
            # In a file: everybody on the machine sees a process's arguments.
            write_private(token_file, token.encode())
        configuration.write_text(
            _AGENT.format(
                trust_domain=server.trust_domain,
                port=server.port,
                socket=self.socket,
                folder=folder,
                token=f'join_token_file = "{token_file}"' if token else "",
            ),
            "utf-8",
        )
        super().__init__(
            Command(
                name=f"SPIRE agent of {server.trust_domain}",
                argv=[str(self.binaries.agent), "run", "-config", str(configuration)],
                log=folder / "agent.log",
                env=os.environ,
                cwd=folder,
            )
        )

    def wait(self) -> None:
        """Return once it is healthy.

        Raises:
            SetupError: if it ends or takes too long.
        """
        self.wait_until(self.socket.exists, READY_S)
        self.wait_until(
            lambda: (
                _call(
                    self.binaries.agent, ["healthcheck", *_at(self.socket)]
                ).returncode
                == 0
            ),
            READY_S,
        )


class Workload:
    """A workload: a program of its own, which is how the agent knows it.

    It is the agent's own client under another path, since all processes here may belong
    to one user.

    Args:
        folder: for the program and what it fetches, the caller's to remove.
    """

    def __init__(self, folder: Path, agent: SpireAgent, name: str) -> None:
        self._socket = agent.socket
        self._folder = folder / name
        self._folder.mkdir()
        self._program = folder / f"{name}-workload"
        try:
            os.link(agent.binaries.agent, self._program)
        except OSError:  # another file system
            shutil.copy2(agent.binaries.agent, self._program)

    @property
    def selector(self) -> str:
        """What tells it from other workloads."""
        return f"unix:path:{self._program.resolve()}"

    def fetch_x509(self) -> SvidFiles:
        """Return its SVID, fetched just now.

        Raises:
            SetupError: if the agent gives it none.
        """
        self._fetch("x509", "-write", str(self._folder))
        return SvidFiles(self._folder / "svid.0.pem", self._folder / "svid.0.key")

    def fetch_jwt(self, audience: str) -> str:
        """Return a JWT-SVID for `audience`.

        Raises:
            SetupError: if the agent gives it none.
        """
        return _only(_JWT, self._fetch("jwt", "-audience", audience, "-output", "json"))

    def _fetch(self, kind: str, *arguments: str) -> str:
        done = _call(
            self._program,
            ["api", "fetch", kind, *_at(self._socket), "-timeout", "5s", *arguments],
        )
        if done.returncode != 0:
            said = f"{done.stderr}{done.stdout}"
            raise SetupError(f"no SVID for {self.selector}: {said}")
        return done.stdout


def _at(socket: Path) -> list[str]:
    return ["-socketPath", str(socket)]


def _call(
    program: Path, arguments: Sequence[str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(program), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{program.name} {arguments[0]} does not answer") from error


def _only(pattern: re.Pattern[str], output: str) -> str:
    found = pattern.findall(output)
    if len(found) != 1:
        raise SetupError(f"expected {pattern.pattern!r} once in what SPIRE printed")
    return str(found[0])
