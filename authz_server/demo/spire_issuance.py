"""Identities from real SPIRE: two trust domains that federate, an agent for each."""

from __future__ import annotations

import contextlib
import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from authz_server.demo.envoy import envoy_binary
from authz_server.demo.issuance import Enter, Issued
from authz_server.demo.pki import SvidFiles
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import (
    CAMERA,
    CAMERA_ID,
    DEPLOYER,
    DEPLOYER_ID,
    EDGE_ID,
    FACTORY,
    FORECASTER,
    FORECASTER_ID,
    ROBOT_ID,
    ROGUE,
    SUPPLIER,
)
from authz_server.demo.spire import SpireAgent, SpireServer, Workload
from authz_server.errors import SetupError

AUTHZ_ID: Final = f"spiffe://{FACTORY}/ns/authz/sa/authz-server"

TTL_S: Final = 20
"""Of certificates that are to be seen rotating. SPIRE's own default is an hour."""

SEEN_S: Final = 20.0
"""An entry is with the agent a second or two after it was made."""


@dataclass(slots=True)
class Domain:
    """A trust domain: its server, its agent, and who is registered."""

    folder: Path
    server: SpireServer
    agent: SpireAgent
    entries: dict[str, str] = field(default_factory=dict)

    def register(
        self,
        spiffe_id: str,
        selector: str,
        *,
        ttl_s: int = 3600,
        partners: tuple[str, ...] = (),
        dns_names: tuple[str, ...] = (),
    ) -> None:
        """Register a workload by what tells it from others on this machine."""
        self.entries[spiffe_id] = self.server.create_entry(
            spiffe_id,
            _node_id(self.server.trust_domain),
            selector,
            x509_ttl_s=ttl_s,
            federates_with=partners,
            dns_names=dns_names,
        )

    def deregister(self, spiffe_id: str) -> None:
        """Take the workload's identity away: its SVID holds until it ends."""
        self.server.delete_entry(self.entries.pop(spiffe_id))


def _node_id(trust_domain: str) -> str:
    return f"spiffe://{trust_domain}/node"


@contextlib.contextmanager
def _both(folder: Path) -> Iterator[tuple[SpireServer, SpireServer]]:
    """Run both servers, each of which knows the other's bundle."""
    port, endpoint, other_port, other_endpoint = free_ports(4)
    folders = {name: folder / name[0] for name in (FACTORY, SUPPLIER)}
    for path in folders.values():
        path.mkdir()
    with (
        SpireServer(
            folders[FACTORY],
            FACTORY,
            port,
            endpoint_port=endpoint,
            partners={SUPPLIER: other_endpoint},
        ) as factory,
        SpireServer(
            folders[SUPPLIER],
            SUPPLIER,
            other_port,
            endpoint_port=other_endpoint,
            partners={FACTORY: endpoint},
        ) as supplier,
    ):
        for server in (factory, supplier):
            server.wait()
        factory.set_bundle(SUPPLIER, supplier.bundle())
        supplier.set_bundle(FACTORY, factory.bundle())
        yield factory, supplier


@contextlib.contextmanager
def running_spire(folder: Path) -> Iterator[tuple[Domain, Domain]]:
    """Run the factory's SPIRE and the supplier's, federated with each other.

    Args:
        folder: for their files, the caller's to remove. Its path has to be short.
    """
    with contextlib.ExitStack() as stack:
        domains = []
        for server in stack.enter_context(_both(folder)):
            place = server.folder
            token = server.join_token(_node_id(server.trust_domain))
            agent = stack.enter_context(SpireAgent(place, server, token))
            domains.append(Domain(place, server, agent))
        for domain in domains:
            domain.agent.wait()
        factory, supplier = domains
        yield factory, supplier


def register_parts(factory: Domain) -> None:
    """Register Envoy and authz-server, each by its program."""
    programs = {EDGE_ID: envoy_binary(), AUTHZ_ID: Path(sys.executable)}
    for spiffe_id, program in programs.items():
        factory.register(
            spiffe_id,
            f"unix:path:{program.resolve()}",
            ttl_s=TTL_S,
            partners=(SUPPLIER,),
            dns_names=("localhost",),
        )


def with_sds(configuration: dict[str, Any], agent_socket: Path) -> dict[str, Any]:
    """Return Envoy's configuration with certificate and bundles from SPIRE's agent.

    ``ALL`` is SPIRE's name for the bundles of all trust domains, which it sends for the
    SPIFFE validator: each trust domain is verified by its own.
    """
    changed = copy.deepcopy(configuration)
    chain = changed["static_resources"]["listeners"][0]["filter_chains"][0]
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    del context["tls_certificates"], context["validation_context"]
    source = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "spire_agent"}}],
        },
    }
    context["tls_certificate_sds_secret_configs"] = [
        {"name": EDGE_ID, "sds_config": source}
    ]
    context["validation_context_sds_secret_config"] = {
        "name": "ALL",
        "sds_config": source,
    }
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    changed["static_resources"]["clusters"].append(
        {
            "name": "spire_agent",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                options: {
                    "@type": f"type.googleapis.com/{options}",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            },
            "load_assignment": {
                "cluster_name": "spire_agent",
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "endpoint": {
                                    "address": {"pipe": {"path": str(agent_socket)}}
                                }
                            }
                        ]
                    }
                ],
            },
        }
    )
    return changed


class SpireIssuance:
    """An `Issue` by SPIRE, which keeps hold of it for what comes after the table.

    Attributes:
        factory, supplier: the running trust domains.
        camera: the camera's program, which can fetch a new SVID.
    """

    def __init__(self) -> None:
        self.factory: Domain
        self.supplier: Domain
        self.camera: Workload

    def __call__(
        self, folder: Path, enter: Enter, say: Callable[[str], None]
    ) -> Issued:
        """Return identities that SPIRE's agents handed out."""
        self.factory, self.supplier = enter(running_spire(folder))
        say("two SPIRE servers federate, and an agent of each has attested")
        register_parts(self.factory)
        callers: Mapping[str, tuple[Domain, str, int]] = {
            CAMERA: (self.factory, CAMERA_ID, TTL_S),
            FORECASTER: (self.factory, FORECASTER_ID, 3600),
            DEPLOYER: (self.factory, DEPLOYER_ID, 3600),
            ROGUE: (self.supplier, ROBOT_ID, 3600),
        }
        workloads = {}
        for who, (domain, spiffe_id, ttl_s) in callers.items():
            workloads[who] = Workload(domain.folder, domain.agent, who)
            domain.register(spiffe_id, workloads[who].selector, ttl_s=ttl_s)
        self.camera = workloads[CAMERA]
        identities = {who: fetch(workload) for who, workload in workloads.items()}
        say(f"{len(identities)} callers have fetched their SVIDs")
        bundle = folder / f"{FACTORY}.pem"
        bundle.write_text(self.factory.server.bundle("pem"), "utf-8")
        agent_socket = self.factory.agent.socket
        return Issued(
            identities=identities,
            bundle=bundle,
            settings={"workload_api": f"unix://{agent_socket}"},
            adapt=lambda configuration: with_sds(configuration, agent_socket),
            pids={
                part.command.name: part.pid
                for domain in (self.factory, self.supplier)
                for part in (domain.server, domain.agent)
            },
        )


def fetch(workload: Workload) -> SvidFiles:
    """Return the workload's SVID as soon as the agent knows of its entry.

    Raises:
        SetupError: if that takes too long.
    """
    end = time.monotonic() + SEEN_S
    while True:
        try:
            return workload.fetch_x509()
        except SetupError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
