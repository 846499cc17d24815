"""What istiod generates for a sidecar, looked into, and run in a plain Envoy."""

from __future__ import annotations

import copy
import functools
import random
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from judges import Object

from authz_server.demo.envoy import READY_S, Envoy

EXT_AUTHZ, EXT_PROC, RBAC, ROUTER, MANAGER = (
    "envoy.filters.http.ext_authz",
    "envoy.filters.http.ext_proc",
    "envoy.filters.http.rbac",
    "envoy.filters.http.router",
    "envoy.filters.network.http_connection_manager",
)

# Filters that are in Istio's own build of Envoy alone, and the one that asks the kernel
# where iptables took a connection from.
ISTIO_ONLY = {
    "istio.metadata_exchange",
    "istio.alpn",
    "envoy.filters.listener.original_dst",
}
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"

Address = tuple[str, int]


def inbound(config: Mapping[str, list[Object]]) -> Object:
    """Return the listener that gets all that comes to the pod."""
    (listener,) = (
        item for item in config["listeners"] if item["name"] == "virtualInbound"
    )
    return listener


def chains(config: Mapping[str, list[Object]], port: int) -> list[Object]:
    """Return the filter chains that are for this port alone."""
    return [
        chain
        for chain in inbound(config)["filter_chains"]
        if chain["filter_chain_match"].get("destination_port") == port
    ]


def manager(config: Mapping[str, list[Object]], port: int) -> Object:
    """Return the HTTP connection manager of a port that has but one filter chain."""
    (chain,) = chains(config, port)
    (found,) = (item for item in chain["filters"] if item["name"] == MANAGER)
    typed: Object = found["typed_config"]
    return typed


def http_filters(config: Mapping[str, list[Object]], port: int, name: str) -> list[Any]:
    """Return the configurations of a port's filters of this name, in order."""
    return [
        item["typed_config"]
        for item in manager(config, port)["http_filters"]
        if item["name"] == name
    ]


def routes(config: Mapping[str, list[Object]], port: int) -> dict[str, Object]:
    """Return a port's routes by name."""
    (host,) = manager(config, port)["route_config"]["virtual_hosts"]
    return {item["name"]: item for item in host["routes"]}


def cluster_named(config: Mapping[str, list[Object]], name: str) -> Object:
    (found,) = (item for item in config["clusters"] if item["name"] == name)
    return found


def free_address(*ports: int) -> str:
    """Return an address of the loopback where none of `ports` is taken.

    Ports are matched by Istio's rules, so they must stay as they are.
    """
    for _ in range(100):
        address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.9"
        with ExitStack() as stack:
            try:
                for port in ports:
                    sock = stack.enter_context(socket.socket())
                    sock.bind((address, port))
            except OSError:
                continue
            return address
    raise AssertionError(f"{ports} are taken on all of the loopback's addresses")


def write_secrets(folder: Path, certificate: Path, key: Path, roots: Path) -> None:
    """Write what Istio's agent would serve by SDS, for `plain_envoy` on that folder."""
    secrets = {
        "default": {
            "tls_certificate": {
                "certificate_chain": {"filename": str(certificate)},
                "private_key": {"filename": str(key)},
            }
        },
        "ROOTCA": {"validation_context": {"trusted_ca": {"filename": str(roots)}}},
    }
    for name, secret in secrets.items():
        resource = {"@type": f"{TLS}.Secret", "name": name, **secret}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"resources": [resource]}))


def plain_envoy(
    config: Mapping[str, list[Object]],
    secrets: Path,
    listens: str,
    places: Mapping[str, Address],
) -> Object:
    """Return a bootstrap for an Envoy that is not Istio's, as close as can be.

    The inbound listener is there once for each port, whole, with all of its chains;
    certificates come from files, by the same references; of the clusters only those of
    `places` are kept, each with the one endpoint given there. How that one is spoken to
    (mTLS or not) stays as EDS has it.

    Args:
        config: as `judges.istiod_config` returns it.
        secrets: the folder of `write_secrets`.
        listens: the address, in the pod IP's place.
        places: where the clusters are on this machine, by name.
    """
    template = _for_plain_envoy(inbound(config), secrets)
    ports = sorted(
        {
            chain["filter_chain_match"].get("destination_port", 0)
            for chain in template["filter_chains"]
        }
        - {0, template["address"]["socket_address"]["port_value"]}
    )
    listeners = [
        {**copy.deepcopy(template), "name": f"inbound-{port}", "address": place}
        for port in ports
        for place in [_socket_address((listens, port))]
    ]
    clusters = [
        _static(_for_plain_envoy(cluster_named(config, name), secrets), place, config)
        for name, place in places.items()
    ]
    return {
        "node": {"id": "sidecar", "cluster": "sidecar"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _for_plain_envoy(node: Any, secrets: Path) -> Any:
    if isinstance(node, list):
        return [
            _for_plain_envoy(item, secrets)
            for item in node
            if not (isinstance(item, dict) and item.get("name") in ISTIO_ONLY)
        ]
    if not isinstance(node, dict):
        return node
    changed = {key: _for_plain_envoy(value, secrets) for key, value in node.items()}
    if "sds_config" in node:
        changed["sds_config"] = {
            "path_config_source": {"path": str(secrets / f"{node['name']}.yaml")},
            "resource_api_version": "V3",
        }
    return changed


def _socket_address(place: Address) -> Object:
    return {"socket_address": {"address": place[0], "port_value": place[1]}}


def _static(
    cluster: Object, place: Address, config: Mapping[str, list[Object]]
) -> Object:
    name = cluster["name"]
    for key in (
        *("eds_cluster_config", "cleanup_interval", "upstream_bind_config"),
        *("lb_policy", "load_assignment"),
    ):
        cluster.pop(key, None)
    endpoint: Object = {"endpoint": {"address": _socket_address(place)}}
    for assignment in config["endpoints"]:
        if assignment["cluster_name"] == name:
            (locality,) = assignment["endpoints"]
            endpoint["metadata"] = locality["lb_endpoints"][0]["metadata"]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {**cluster, "type": "STATIC", "load_assignment": assignment}


class Sidecar(Envoy):
    """A context manager: a plain Envoy on what `plain_envoy` returned."""

    def wait(self) -> None:
        """Return once it accepts connections at each of its ports."""
        text = yaml.safe_load(self.file.read_text("utf-8"))
        for listener in text["static_resources"]["listeners"]:
            place = listener["address"]["socket_address"]
            at = (place["address"], place["port_value"])
            self.wait_until(functools.partial(accepts_at, at), READY_S)


def accepts_at(place: Address) -> bool:
    """Return whether something accepts connections there."""
    try:
        with socket.create_connection(place, timeout=1):
            return True
    except OSError:
        return False
