"""One Envoy with a listener a rival, and calls through it that are checked.

The configuration is that of envoy/edge-unix-socket.yaml without its access log: mutual
TLS in front, and behind it Triton, or Envoy answering in its place. Each listener asks
its own ext_authz server; all share one worker, of which one listener at a time is under
load.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_triton,
)
from authz_server.demo.pki import DevelopmentCa, SvidFiles, write_bundle, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import EDGE_ID, FACTORY, SUPPLIER

Json = dict[str, Any]  # Envoy's configuration is not typed.

CLUSTER: Final = "authz_server"
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a listener asks.

    Attributes:
        socket: unix socket of the ext_authz server; None for a TCP port.
        port: its port on 127.0.0.1, if not at a socket; 0 for nobody at all.
        may_change_headers: whether it may add headers of its own to the request, which
            the configuration forbids.
    """

    socket: Path | None = None
    port: int = 0
    may_change_headers: bool = False

    @property
    def is_nobody(self) -> bool:
        """Whether Envoy is alone."""
        return self.socket is None and not self.port


NOBODY: Final = Peer()


@dataclass(frozen=True, slots=True)
class Identities:
    """Certificates of everybody, in one folder."""

    folder: Path
    factory: DevelopmentCa
    bundles: Mapping[str, str]

    @property
    def ca(self) -> Path:
        """The factory's CA, from which Envoy's own certificate is."""
        return Path(self.bundles[FACTORY])

    def issue(self, name: str, spiffe_id: str) -> SvidFiles:
        """Return the files of a new certificate."""
        return write_svid(self.folder, name, self.factory.issue(spiffe_id))


def issue_identities(folder: Path) -> Identities:
    """Write Envoy's certificate and the trust bundles into `folder`."""
    factory = DevelopmentCa(FACTORY)
    write_svid(folder, "server", factory.issue(EDGE_ID, ["localhost"]))
    bundles = {
        ca.trust_domain: str(write_bundle(folder, ca))
        for ca in (factory, DevelopmentCa(SUPPLIER))
    }
    return Identities(folder, factory, bundles)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Triton's ports on 127.0.0.1."""

    http_port: int
    grpc_port: int


@contextlib.contextmanager
def running_envoy(
    folder: Path, peers: Sequence[Peer], upstream: Upstream | None = None
) -> Iterator[tuple[Envoy, list[int]]]:
    """Yield an Envoy and the ports of its listeners, one for each of `peers`.

    Args:
        folder: with the files of `issue_identities`.
        upstream: what is behind it; None for Envoy itself.
    """
    ports = free_ports(len(peers))
    parts = [
        _part(folder, number, peer, port, upstream)
        for number, (peer, port) in enumerate(zip(peers, ports, strict=True))
    ]
    configuration = parts[0]
    resources = configuration["static_resources"]
    for part in parts[1:]:
        more = part["static_resources"]
        resources["listeners"] += more["listeners"]
        # Triton's clusters are the same in all, and are there already.
        known = {cluster["name"] for cluster in resources["clusters"]}
        resources["clusters"] += [
            cluster for cluster in more["clusters"] if cluster["name"] not in known
        ]
    with Envoy(folder, configuration, ports[-1], workers=1) as envoy:
        envoy.wait()
        yield envoy, ports


def _part(
    folder: Path, number: int, peer: Peer, port: int, upstream: Upstream | None
) -> Json:
    """Return a configuration of one listener and its cluster, with names of its own."""
    places = Places(
        tls=folder,
        check_socket=peer.socket or folder / "nobody",
        listener_port=port,
        triton_http_port=upstream.http_port if upstream else 1,
        triton_grpc_port=upstream.grpc_port if upstream else 1,
    )
    whole: Json = render(read_configuration("edge-unix-socket"), places)
    if upstream is None:
        whole = without_triton(whole, with_check=not peer.is_nobody)
    else:
        _keep_triton(whole, with_check=not peer.is_nobody)
    resources = whole["static_resources"]
    (listener,) = resources["listeners"]
    listener["name"] += f"-{number}"
    (cluster,) = (it for it in resources["clusters"] if it["name"] == CLUSTER)
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = f"authz-{number}"
    if peer.socket is None and peer.port:
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"][0]["endpoint"]["address"] = {
            "socket_address": {"address": "127.0.0.1", "port_value": peer.port}
        }
    (chain,) = listener["filter_chains"]
    for http_filter in chain["filters"][0]["typed_config"]["http_filters"]:
        settings = http_filter["typed_config"]
        if "grpc_service" in settings:
            settings["grpc_service"]["envoy_grpc"]["cluster_name"] = cluster["name"]
        if peer.may_change_headers:
            settings.pop("decoder_header_mutation_rules", None)
    return whole


def _keep_triton(configuration: Json, *, with_check: bool) -> None:
    """Do to `configuration` what `without_triton` does, but for Triton itself."""
    (listener,) = configuration["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["access_log"]
    if not with_check:
        manager["http_filters"] = manager["http_filters"][-1:]  # the router
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                del route["typed_per_filter_config"]


def status_of(
    identities: Identities,
    caller: SvidFiles,
    port: int,
    path: str,
) -> int:
    """Return the status of one POST by `caller`."""
    tls = ssl.create_default_context(cafile=identities.ca)
    tls.load_cert_chain(caller.certificate, caller.key)
    connection = http.client.HTTPSConnection(
        "localhost", port, context=tls, timeout=TIMEOUT_S
    )
    with contextlib.closing(connection):
        connection.request("POST", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
