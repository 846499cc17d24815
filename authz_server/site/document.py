"""Reads a site from YAML, strictly, and reports every problem at once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.document import API_VERSION, read_constant, read_text
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import (
    Node,
    PolicyDocumentError,
    Problems,
    Scalar,
    suggest,
)
from authz_server.policy.sections import read_labels, read_name, read_named
from authz_server.policy.yaml_nodes import compose
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Cluster,
    Federation,
    Istio,
    Mesh,
    OpenZiti,
    Pods,
    Ports,
    Server,
    Shape,
    Site,
    Spire,
)

KIND: Final = "Site"

_MAX_PORT: Final = 65535
_MAX_TTL_S: Final = 30 * 86400
_MAX_REPLICAS: Final = 1000

# SPIRE joins a selector's type and value by the first colon.
_SELECTOR: Final = re.compile(r"[a-z0-9_]+:[!-~]+( [!-~]+)*", re.ASCII)
_ADDRESS: Final = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:]+\]):([0-9]{1,5})", re.ASCII)
_URL: Final = re.compile(r"https://[a-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?", re.ASCII)
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)
# Google's own rule, with the domain that old IDs have in front.
_PROJECT: Final = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", re.ASCII)
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", re.ASCII)

_Value = TypeVar("_Value")
_Choice = TypeVar("_Choice", Mesh, Shape, Attestor)


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
        self._problems = problems
        self._policy = policy

    def site(self, root: Node) -> Site | None:
        """Return what the document says; None, with a problem noted, if nothing."""
        top = self._problems.fields(
            root, "the site", ("apiVersion", "kind", "metadata", "spec"), ()
        )
        read_constant(self._problems, top.get("apiVersion"), "apiVersion", API_VERSION)
        read_constant(self._problems, top.get("kind"), "kind", KIND)
        if "metadata" in top:
            metadata = self._problems.fields(top["metadata"], "metadata", ("name",), ())
            self._name(metadata.get("name"), "metadata.name", "")
        if "spec" not in top:
            return None
        spec = self._problems.fields(
            top["spec"],
            "spec",
            (),
            (
                *("mesh", "ports", "server", "cluster", "istio", "monitoring"),
                *("spire", "federation", "boxes", "openziti"),
            ),
        )
        site = Site(
            mesh=self._choice(spec.get("mesh"), "mesh", Mesh, Mesh.NONE),
            ports=self._ports(spec.get("ports")),
            server=self._server(spec.get("server")),
            cluster=self._cluster(spec.get("cluster")),
            istio=self._istio(spec.get("istio")),
            monitoring=self._optional(spec.get("monitoring"), self._monitoring),
            spire=self._optional(spec.get("spire"), self._spire),
            federation=self._federation(spec.get("federation")),
            boxes=tuple(
                read_named(
                    self._problems, spec.get("boxes"), "boxes", self._box
                ).values()
            ),
            openziti=self._openziti(spec.get("openziti")),
        )
        if site.mesh is Mesh.SIDECAR and site.server.shape is not Shape.DEPLOYMENT:
            self._problems.add(
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
        for key, value in self._fields(node, "ports", keys).items():
            port = self._integer(value, key, _MAX_PORT)
            ports = replace(ports, **{keys[key]: port})
        return ports

    def _server(self, node: Node | None) -> Server:
        fields = self._fields(
            node, "server", ("shape", "namespace", "port", "image", "replicas")
        )
        default = Server()
        return Server(
            shape=self._choice(fields.get("shape"), "shape", Shape, default.shape),
            namespace=self._name(
                fields.get("namespace"), "namespace", default.namespace
            ),
            port=self._integer(fields.get("port"), "port", _MAX_PORT, default.port),
            image=self._matching(
                fields.get("image"),
                "image",
                _IMAGE,
                default.image,
                "authz-server:0.1.0",
            ),
            replicas=self._integer(
                fields.get("replicas"), "replicas", _MAX_REPLICAS, default.replicas
            ),
        )

    def _cluster(self, node: Node | None) -> Cluster:
        fields = self._fields(node, "cluster", ("domain", "dns", "nodes", "apiServer"))
        default = Cluster()
        dns = self._fields(
            fields.get("dns"),
            "dns",
            ("namespace", "podSelector", "port", "addresses"),
        )
        return Cluster(
            domain=self._text(fields.get("domain"), "domain", default.domain),
            dns=self._pods(dns, default.dns),
            dns_port=self._integer(
                dns.get("port"), "port", _MAX_PORT, default.dns_port
            ),
            dns_addresses=self._cidrs(dns.get("addresses"), "addresses"),
            nodes=self._cidrs(fields.get("nodes"), "nodes"),
            api_server=self._cidrs(fields.get("apiServer"), "apiServer"),
        )

    def _istio(self, node: Node | None) -> Istio:
        fields = self._fields(node, "istio", ("namespace", "podSelector", "provider"))
        default = Istio()
        return Istio(
            istiod=self._pods(fields, default.istiod),
            provider=self._name(fields.get("provider"), "provider", default.provider),
        )

    def _monitoring(self, node: Node) -> Pods:
        fields = self._problems.fields(
            node, "monitoring", ("namespace",), ("podSelector",)
        )
        return self._pods(fields, Pods(""))

    def _spire(self, node: Node) -> Spire:
        fields = self._fields(
            node,
            "spire",
            (
                *("namespace", "podSelector", "address", "agentSocket"),
                *("clusterName", "className", "x509TTL", "jwtTTL"),
                *("agentNamespace", "agentServiceAccount"),
                *("azureTenant", "gcpProjects"),
            ),
        )
        default = Spire()
        if "podSelector" in fields and "namespace" not in fields:
            self._problems.add(
                fields["podSelector"], "spire has pods in no namespace", "add namespace"
            )
        return Spire(
            server=self._pods(fields, Pods("")) if "namespace" in fields else None,
            address=self._matching(
                fields.get("address"), "address", _ADDRESS, "", "spire.example:8081"
            ),
            agent_socket=self._matching(
                fields.get("agentSocket"),
                "agentSocket",
                _PATH,
                default.agent_socket,
                default.agent_socket,
            ),
            cluster_name=self._name(fields.get("clusterName"), "clusterName", ""),
            agent_namespace=self._name(
                fields.get("agentNamespace"), "agentNamespace", default.agent_namespace
            ),
            agent_account=self._name(
                fields.get("agentServiceAccount"),
                "agentServiceAccount",
                default.agent_account,
            ),
            class_name=self._name(fields.get("className"), "className", ""),
            x509_ttl_s=self._integer(
                fields.get("x509TTL"), "x509TTL", _MAX_TTL_S, default.x509_ttl_s
            ),
            jwt_ttl_s=self._integer(
                fields.get("jwtTTL"), "jwtTTL", _MAX_TTL_S, default.jwt_ttl_s
            ),
            azure_tenant=self._matching(
                fields.get("azureTenant"),
                "azureTenant",
                _DOMAIN,
                "",
                "factory.onmicrosoft.com",
            ),
            gcp_projects=self._projects(fields.get("gcpProjects")),
        )

    def _projects(self, node: Node | None) -> tuple[str, ...]:
        projects = self._problems.strings(node, "gcpProjects")
        for project in projects:
            if _PROJECT.fullmatch(project.text) is None:
                self._problems.add(
                    project,
                    f"{project.text!r} is no ID of a project",
                    "write e.g. factory-edge-7",
                )
        return tuple(sorted(project.text for project in projects))

    def _federation(self, node: Node | None) -> tuple[Federation, ...]:
        return tuple(
            self._federated(key, value)
            for key, value in self._problems.entries(node, "federation")
        )

    def _federated(self, key: Scalar, node: Node) -> Federation:
        known = {item.name: item for item in self._policy.federates_with}
        if key.text not in known:
            self._problems.add(
                key,
                f"the policy does not federate with {key.text!r}",
                suggest(key.text, known),
            )
        fields = self._problems.fields(
            node, f"federation of {key.text!r}", ("endpoint",), ("endpointID",)
        )
        return Federation(
            trust_domain=known.get(key.text, self._policy.trust_domain),
            endpoint=self._matching(
                fields.get("endpoint"),
                "endpoint",
                _URL,
                "",
                "https://spire.supplier.example:8443",
            ),
            endpoint_id=self._optional(
                fields.get("endpointID"),
                lambda value: self._spiffe_id(value, "endpointID", known.get(key.text)),
            ),
        )

    def _box(self, name: str, node: Node) -> Box:
        what = f"box {name!r}"
        fields = self._problems.fields(
            node,
            what,
            ("attestor",),
            ("nodeSelectors", "serves", "certificates", "workloads"),
        )
        attestor = self._choice(
            fields.get("attestor"), "attestor", Attestor, Attestor.JOIN_TOKEN
        )
        selectors = self._selectors(fields.get("nodeSelectors"), "nodeSelectors")
        if bool(selectors) is (attestor is Attestor.JOIN_TOKEN):
            self._problems.add(
                fields.get("nodeSelectors", node),
                f"{what} is attested by {attestor}, which "
                + ("has no selectors" if selectors else "needs selectors of the node"),
                "take nodeSelectors out" if selectors else "add nodeSelectors",
            )
        else:
            self._check_types(fields.get("nodeSelectors"), selectors, attestor)
        return Box(
            name=name,
            attestor=attestor,
            node_selectors=selectors,
            serves=self._upstreams(fields.get("serves"), what),
            uses_spire=self._certificates(fields.get("certificates")),
            workloads=tuple(
                self._workload(item, what)
                for item in self._problems.items(
                    fields.get("workloads"), f"workloads of {what}"
                )
            ),
        )

    def _check_types(
        self, node: Node | None, selectors: Iterable[str], attestor: Attestor
    ) -> None:
        # An attestor's selectors begin with its name, so no other can ever be true.
        for selector in selectors:
            if not selector.startswith(f"{attestor}:") and node is not None:
                self._problems.add(
                    node,
                    f"{attestor} attests no node with {selector!r}",
                    f"write {attestor}:KEY:VALUE",
                )

    def _upstreams(self, node: Node | None, what: str) -> tuple[str, ...]:
        names = self._problems.strings(node, f"serves of {what}")
        for name in names:
            if name.text not in self._policy.upstreams:
                self._problems.add(
                    name,
                    f"upstream {name.text!r} is not in the policy",
                    suggest(name.text, self._policy.upstreams),
                )
        return tuple(name.text for name in names)

    def _certificates(self, node: Node | None) -> bool:
        text = self._text(node, "certificates", "spire")
        if node is not None and text not in {"spire", "files"}:
            self._problems.add(
                node, f"unknown source of certificates {text!r}", "write spire or files"
            )
        return text == "spire"

    def _workload(self, node: Node, what: str) -> BoxWorkload:
        fields = self._problems.fields(
            node, f"a workload of {what}", ("spiffe", "selectors"), ()
        )
        spiffe_id = self._optional(
            fields.get("spiffe"),
            lambda value: self._spiffe_id(value, "spiffe", self._policy.trust_domain),
        )
        return BoxWorkload(
            spiffe_id or SpiffeId(self._policy.trust_domain, ("none",)),
            self._selectors(fields.get("selectors"), "selectors"),
        )

    def _openziti(self, node: Node | None) -> OpenZiti:
        fields = self._fields(node, "openziti", ("certificateAuthority",))
        scalar = self._problems.string(
            fields.get("certificateAuthority"), "certificateAuthority"
        )
        if scalar is None:
            return OpenZiti()
        try:
            found = x509.load_pem_x509_certificates(scalar.text.encode())
        except ValueError:
            found = []
        if len(found) != 1:
            self._problems.add(
                scalar,
                "certificateAuthority is not one certificate in PEM",
                "write |- and the root that SVIDs lead to, from BEGIN to END",
            )
            return OpenZiti()
        # Written anew, so that nothing goes along that stands beside it, such as a key.
        pem = found[0].public_bytes(Encoding.PEM)
        return OpenZiti(pem.decode("ascii"))

    # Values.

    def _fields(
        self, node: Node | None, what: str, optional: Iterable[str]
    ) -> dict[str, Node]:
        if node is None:
            return {}
        return self._problems.fields(node, what, (), optional)

    def _optional(
        self, node: Node | None, read: Callable[[Node], _Value]
    ) -> _Value | None:
        return None if node is None else read(node)

    def _text(self, node: Node | None, what: str, default: str) -> str:
        scalar = self._problems.string(node, what)
        return default if scalar is None else scalar.text

    def _name(self, node: Node | None, what: str, default: str) -> str:
        scalar = self._problems.string(node, what)
        return read_name(self._problems, scalar, what) or default

    def _matching(
        self,
        node: Node | None,
        what: str,
        form: re.Pattern[str],
        default: str,
        example: str,
    ) -> str:
        scalar = self._problems.string(node, what)
        if scalar is None:
            return default
        if form.fullmatch(scalar.text) is None:
            self._problems.add(
                scalar, f"{scalar.text!r} is no {what}", f"write e.g. {example}"
            )
        return scalar.text

    def _integer(
        self, node: Node | None, what: str, most: int, default: int = 1
    ) -> int:
        if node is None:
            return default
        is_number = isinstance(node, Scalar) and node.kind == "integer"
        text = node.text if isinstance(node, Scalar) else ""
        if not is_number or not text.isdecimal() or not 1 <= int(text) <= most:
            self._problems.add(
                node,
                f"{what} must be a whole number from 1 to {most}",
                f"write e.g. {default}",
            )
            return default
        return int(text)

    def _choice(
        self, node: Node | None, what: str, kinds: type[_Choice], default: _Choice
    ) -> _Choice:
        scalar = self._problems.string(node, what)
        if scalar is None:
            return default
        try:
            return kinds(scalar.text)
        except ValueError:
            self._problems.add(
                scalar, f"unknown {what} {scalar.text!r}", suggest(scalar.text, kinds)
            )
            return default

    def _pods(self, fields: dict[str, Node], default: Pods) -> Pods:
        labels = default.labels
        if "podSelector" in fields:
            labels = read_labels(self._problems, fields["podSelector"])
        return Pods(
            self._name(fields.get("namespace"), "namespace", default.namespace), labels
        )

    def _cidrs(self, node: Node | None, what: str) -> tuple[str, ...]:
        cidrs = self._problems.strings(node, what)
        for cidr in cidrs:
            try:
                # Strict: bits behind the prefix are refused, as the API server does.
                is_whole = str(ipaddress.ip_network(cidr.text)) == cidr.text
            except ValueError:
                is_whole = False
            if not is_whole:
                self._problems.add(
                    cidr, f"{cidr.text!r} is no network", "write e.g. 10.20.0.0/24"
                )
        return tuple(sorted(cidr.text for cidr in cidrs))

    def _selectors(self, node: Node | None, what: str) -> tuple[str, ...]:
        selectors = self._problems.strings(node, what)
        for selector in selectors:
            if _SELECTOR.fullmatch(selector.text) is None:
                self._problems.add(
                    selector,
                    f"{selector.text!r} is no selector",
                    "write TYPE:VALUE, e.g. unix:uid:1001",
                )
        return tuple(sorted(selector.text for selector in selectors))

    def _spiffe_id(
        self, node: Node, what: str, trust_domain: TrustDomain | None
    ) -> SpiffeId | None:
        scalar = self._problems.string(node, what)
        if scalar is None:
            return None
        try:
            spiffe_id = SpiffeId.parse(scalar.text)
        except SpiffeIdError as error:
            self._problems.add(
                scalar, f"{what}: {error}", "write e.g. spiffe://factory.example/box/7"
            )
            return None
        if spiffe_id.trust_domain != trust_domain:
            self._problems.add(
                scalar,
                f"{what} {scalar.text} is not in trust domain {trust_domain}",
                "correct it",
            )
        return spiffe_id
