"""Reads a site from YAML, strictly, and reports every problem at once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from authz_server.policy.document import API_VERSION, read_constant, read_text
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import (
    Node,
    PolicyDocumentError,
    Problems,
)
from authz_server.policy.sections import read_named
from authz_server.policy.yaml_nodes import compose
from authz_server.site.identities import IdentityReader
from authz_server.site.model import (
    Cluster,
    Istio,
    Mesh,
    Pods,
    Ports,
    Server,
    Shape,
    Site,
)
from authz_server.site.values import Values

KIND: Final = "Site"

_MAX_PORT: Final = 65535
_MAX_REPLICAS: Final = 1000

_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", re.ASCII)


def load_site(path: Path, policy: AccessPolicy) -> Site:
    """Return the site in the file at `path`, which is one for `policy`.

    Raises:
        PolicyDocumentError: if the file can't be read, holds anything but a valid
            site, or names what is not in `policy`.
    """
    return parse_site(read_text(path), str(path), policy)


def parse_site(text: str, source: str, policy: AccessPolicy) -> Site:
    """Return the site that `text` spells; `source` names it in problems.

    Raises:
        PolicyDocumentError: as `load_site`.
    """
    problems = Problems()
    root = compose(text, source, problems)
    site = None if root is None else _Reader(problems, policy).site(root)
    if site is None or problems.found:
        raise PolicyDocumentError(problems.found)
    return site


class _Reader:
    """Notes every problem, and returns what could be read.

    What is returned beside a problem is not used, so it needs no care.
    """

    def __init__(self, problems: Problems, policy: AccessPolicy) -> None:
        self._values = Values(problems)
        self._identities = IdentityReader(self._values, policy)

    def site(self, root: Node) -> Site | None:
        """Return what the document says; None, with a problem noted, if nothing."""
        top = self._values.problems.fields(
            root, "the site", ("apiVersion", "kind", "metadata", "spec"), ()
        )
        read_constant(
            self._values.problems, top.get("apiVersion"), "apiVersion", API_VERSION
        )
        read_constant(self._values.problems, top.get("kind"), "kind", KIND)
        if "metadata" in top:
            metadata = self._values.problems.fields(
                top["metadata"], "metadata", ("name",), ()
            )
            self._values.name(metadata.get("name"), "metadata.name", "")
        if "spec" not in top:
            return None
        spec = self._values.problems.fields(
            top["spec"],
            "spec",
            (),
            (
                *("mesh", "ports", "server", "cluster", "istio", "monitoring"),
                *("spire", "federation", "boxes", "openziti"),
            ),
        )
        site = Site(
            mesh=self._values.choice(spec.get("mesh"), "mesh", Mesh, Mesh.NONE),
            ports=self._ports(spec.get("ports")),
            server=self._server(spec.get("server")),
            cluster=self._cluster(spec.get("cluster")),
            istio=self._istio(spec.get("istio")),
            monitoring=self._values.optional(spec.get("monitoring"), self._monitoring),
            spire=self._values.optional(spec.get("spire"), self._identities.spire),
            federation=self._identities.federation(spec.get("federation")),
            boxes=tuple(
                read_named(
                    self._values.problems,
                    spec.get("boxes"),
                    "boxes",
                    self._identities.box,
                ).values()
            ),
            openziti=self._identities.openziti(spec.get("openziti")),
        )
        if site.mesh is Mesh.SIDECAR and site.server.shape is not Shape.DEPLOYMENT:
            self._values.problems.add(
                spec["server"],
                f"shape {site.server.shape} has a unix socket, which no provider of "
                "Istio can name",
                "write deployment, or another mesh",
            )
        return site

    # Sections.

    def _ports(self, node: Node | None) -> Ports:
        keys = {
            "tritonHttp": "triton_http",
            "tritonGrpc": "triton_grpc",
            "tritonMetrics": "triton_metrics",
            "dataset": "dataset",
            "openai": "openai",
            "envoy": "envoy",
        }
        ports = Ports()
        for key, value in self._values.fields(node, "ports", keys).items():
            port = self._values.integer(value, key, _MAX_PORT)
            ports = replace(ports, **{keys[key]: port})
        return ports

    def _server(self, node: Node | None) -> Server:
        fields = self._values.fields(
            node, "server", ("shape", "namespace", "port", "image", "replicas")
        )
        default = Server()
        return Server(
            shape=self._values.choice(
                fields.get("shape"), "shape", Shape, default.shape
            ),
            namespace=self._values.name(
                fields.get("namespace"), "namespace", default.namespace
            ),
            port=self._values.integer(
                fields.get("port"), "port", _MAX_PORT, default.port
            ),
            image=self._values.matching(
                fields.get("image"),
                "image",
                _IMAGE,
                default.image,
                "authz-server:0.1.0",
            ),
            replicas=self._values.integer(
                fields.get("replicas"), "replicas", _MAX_REPLICAS, default.replicas
            ),
        )

    def _cluster(self, node: Node | None) -> Cluster:
        fields = self._values.fields(
            node, "cluster", ("domain", "dns", "nodes", "apiServer")
        )
        default = Cluster()
        dns = self._values.fields(
            fields.get("dns"),
            "dns",
            ("namespace", "podSelector", "port", "addresses"),
        )
        return Cluster(
            domain=self._values.text(fields.get("domain"), "domain", default.domain),
            dns=self._values.pods(dns, default.dns),
            dns_port=self._values.integer(
                dns.get("port"), "port", _MAX_PORT, default.dns_port
            ),
            dns_addresses=self._values.cidrs(dns.get("addresses"), "addresses"),
            nodes=self._values.cidrs(fields.get("nodes"), "nodes"),
            api_server=self._values.cidrs(fields.get("apiServer"), "apiServer"),
        )

    def _istio(self, node: Node | None) -> Istio:
        fields = self._values.fields(
            node, "istio", ("namespace", "podSelector", "provider")
        )
        default = Istio()
        return Istio(
            istiod=self._values.pods(fields, default.istiod),
            provider=self._values.name(
                fields.get("provider"), "provider", default.provider
            ),
        )

    def _monitoring(self, node: Node) -> Pods:
        fields = self._values.problems.fields(
            node, "monitoring", ("namespace",), ("podSelector",)
        )
        return self._values.pods(fields, Pods(""))
