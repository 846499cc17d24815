"""A small plant on loopback: Triton, authz-server, Envoy and the callers' SVIDs."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from authz_server.demo.calls import Edge, Protocol, client_module
from authz_server.demo.envoy import Envoy, Places, read_configuration, render
from authz_server.demo.issuance import Issue, by_development_cas
from authz_server.demo.process import free_ports
from authz_server.demo.server import AuthzServer
from authz_server.demo.triton import Triton

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from authz_server.demo.interrupts import Interrupts
    from authz_server.demo.pki import SvidFiles

CONFIGURATION = "edge-unix-socket"

Entered = TypeVar("Entered")


@dataclass(frozen=True, slots=True)
class Plant:
    """A running plant.

    Attributes:
        folder: all of its files; gone when it ends.
        edge: Envoy, the only way in.
        identities: the SVID of each caller that has one.
        audit: the audit log.
        pids: the process id of each part.
    """

    folder: Path
    edge: Edge
    identities: Mapping[str, SvidFiles]
    audit: Path
    pids: Mapping[str, int]


@contextlib.contextmanager
def running_plant(
    say: Callable[[str], None],
    interrupts: Interrupts,
    issue: Issue = by_development_cas,
) -> Iterator[Plant]:
    """Run everything until the block ends; then nothing is left of it.

    Args:
        say: gets a line for each step.
        interrupts: held while a part is taken charge of, closed before the parts end.
        issue: gives everybody an identity.

    Raises:
        SetupError: if something is missing on this machine, or does not start.
    """
    with contextlib.ExitStack() as stack:

        def enter(part: contextlib.AbstractContextManager[Entered]) -> Entered:
            with interrupts.hold():
                return stack.enter_context(part)

        try:
            # Mode 0700, as the keys in it need.
            prefix = "authz-server-demo-"
            folder = Path(enter(tempfile.TemporaryDirectory(prefix=prefix)))

            # First what takes longest; it loads its models while the rest is prepared.
            triton_folder = folder / "triton"
            triton_folder.mkdir()
            triton = enter(Triton(triton_folder))
            say("Triton is starting")
            issued = issue(folder, enter, say)

            server = enter(AuthzServer(folder, issued.settings))
            say("authz-server is starting with examples/plant-7.yaml")

            (port,) = free_ports(1)
            places = Places(
                tls=folder,
                check_socket=server.socket,
                listener_port=port,
                triton_http_port=triton.http_port,
                triton_grpc_port=triton.grpc_port,
            )
            configuration = render(read_configuration(CONFIGURATION), places)
            envoy = enter(Envoy(folder, issued.adapt(configuration), port))
            say(f"Envoy is starting with envoy/{CONFIGURATION}.yaml")
            for protocol in Protocol:
                client_module(protocol)

            server.wait()
            say("authz-server answers")
            envoy.wait()
            say(f"Envoy listens at https://localhost:{port}")
            triton.wait()
            say("Triton has loaded its models")
            yield Plant(
                folder=folder,
                edge=Edge(port, issued.bundle),
                identities=issued.identities,
                audit=server.audit,
                pids={
                    **issued.pids,
                    "Triton": triton.pid,
                    "authz-server": server.pid,
                    "Envoy": envoy.pid,
                },
            )
        finally:
            interrupts.close()
