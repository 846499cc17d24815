"""Reads what a site says of identities: SPIRE, federation, boxes, OpenZiti."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import Node, Scalar, suggest
from authz_server.site.model import (
    Attestor,
    Box,
    BoxWorkload,
    Federation,
    OpenZiti,
    Pods,
    Spire,
)
from authz_server.site.values import Values

_MAX_TTL_S: Final = 30 * 86400

_ADDRESS: Final = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:]+\]):([0-9]{1,5})", re.ASCII)
_URL: Final = re.compile(r"https://[a-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?", re.ASCII)
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)
# Google's own rule, with the domain that old IDs have in front.
_PROJECT: Final = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", re.ASCII)
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)


class IdentityReader:
    """Reads these sections of a site for `policy`."""

    def __init__(self, values: Values, policy: AccessPolicy) -> None:
        self._values = values
        self._policy = policy

    def spire(self, node: Node) -> Spire:
        """Return how SPIRE issues the identities."""
        fields = self._values.fields(
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
            self._values.problems.add(
                fields["podSelector"], "spire has pods in no namespace", "add namespace"
            )
        return Spire(
            server=self._values.pods(fields, Pods(""))
            if "namespace" in fields
            else None,
            address=self._values.matching(
                fields.get("address"), "address", _ADDRESS, "", "spire.example:8081"
            ),
            agent_socket=self._values.matching(
                fields.get("agentSocket"),
                "agentSocket",
                _PATH,
                default.agent_socket,
                default.agent_socket,
            ),
            cluster_name=self._values.name(
                fields.get("clusterName"), "clusterName", ""
            ),
            agent_namespace=self._values.name(
                fields.get("agentNamespace"), "agentNamespace", default.agent_namespace
            ),
            agent_account=self._values.name(
                fields.get("agentServiceAccount"),
                "agentServiceAccount",
                default.agent_account,
            ),
            class_name=self._values.name(fields.get("className"), "className", ""),
            x509_ttl_s=self._values.integer(
                fields.get("x509TTL"), "x509TTL", _MAX_TTL_S, default.x509_ttl_s
            ),
            jwt_ttl_s=self._values.integer(
                fields.get("jwtTTL"), "jwtTTL", _MAX_TTL_S, default.jwt_ttl_s
            ),
            azure_tenant=self._values.matching(
                fields.get("azureTenant"),
                "azureTenant",
                _DOMAIN,
                "",
                "factory.onmicrosoft.com",
            ),
            gcp_projects=self._projects(fields.get("gcpProjects")),
        )

    def _projects(self, node: Node | None) -> tuple[str, ...]:
        projects = self._values.problems.strings(node, "gcpProjects")
        for project in projects:
            if _PROJECT.fullmatch(project.text) is None:
                self._values.problems.add(
                    project,
                    f"{project.text!r} is no ID of a project",
                    "write e.g. factory-edge-7",
                )
        return tuple(sorted(project.text for project in projects))

    def federation(self, node: Node | None) -> tuple[Federation, ...]:
        """Return where bundles of other trust domains come from."""
        return tuple(
            self._federated(key, value)
            for key, value in self._values.problems.entries(node, "federation")
        )

    def _federated(self, key: Scalar, node: Node) -> Federation:
        known = {item.name: item for item in self._policy.federates_with}
        if key.text not in known:
            self._values.problems.add(
                key,
                f"the policy does not federate with {key.text!r}",
                suggest(key.text, known),
            )
        fields = self._values.problems.fields(
            node, f"federation of {key.text!r}", ("endpoint",), ("endpointID",)
        )
        return Federation(
            trust_domain=known.get(key.text, self._policy.trust_domain),
            endpoint=self._values.matching(
                fields.get("endpoint"),
                "endpoint",
                _URL,
                "",
                "https://spire.supplier.example:8443",
            ),
            endpoint_id=self._values.optional(
                fields.get("endpointID"),
                lambda value: self._values.spiffe_id(
                    value, "endpointID", known.get(key.text)
                ),
            ),
        )

    def box(self, name: str, node: Node) -> Box:
        """Return one box."""
        what = f"box {name!r}"
        fields = self._values.problems.fields(
            node,
            what,
            ("attestor",),
            ("nodeSelectors", "serves", "certificates", "workloads"),
        )
        attestor = self._values.choice(
            fields.get("attestor"), "attestor", Attestor, Attestor.JOIN_TOKEN
        )
        selectors = self._values.selectors(fields.get("nodeSelectors"), "nodeSelectors")
        if bool(selectors) is (attestor is Attestor.JOIN_TOKEN):
            self._values.problems.add(
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
                for item in self._values.problems.items(
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
                self._values.problems.add(
                    node,
                    f"{attestor} attests no node with {selector!r}",
                    f"write {attestor}:KEY:VALUE",
                )

    def _upstreams(self, node: Node | None, what: str) -> tuple[str, ...]:
        names = self._values.problems.strings(node, f"serves of {what}")
        for name in names:
            if name.text not in self._policy.upstreams:
                self._values.problems.add(
                    name,
                    f"upstream {name.text!r} is not in the policy",
                    suggest(name.text, self._policy.upstreams),
                )
        return tuple(name.text for name in names)

    def _certificates(self, node: Node | None) -> bool:
        text = self._values.text(node, "certificates", "spire")
        if node is not None and text not in {"spire", "files"}:
            self._values.problems.add(
                node, f"unknown source of certificates {text!r}", "write spire or files"
            )
        return text == "spire"

    def _workload(self, node: Node, what: str) -> BoxWorkload:
        fields = self._values.problems.fields(
            node, f"a workload of {what}", ("spiffe", "selectors"), ()
        )
        spiffe_id = self._values.optional(
            fields.get("spiffe"),
            lambda value: self._values.spiffe_id(
                value, "spiffe", self._policy.trust_domain
            ),
        )
        return BoxWorkload(
            spiffe_id or SpiffeId(self._policy.trust_domain, ("none",)),
            self._values.selectors(fields.get("selectors"), "selectors"),
        )

    def openziti(self, node: Node | None) -> OpenZiti:
        """Return what OpenZiti has to know."""
        fields = self._values.fields(node, "openziti", ("certificateAuthority",))
        scalar = self._values.problems.string(
            fields.get("certificateAuthority"), "certificateAuthority"
        )
        if scalar is None:
            return OpenZiti()
        try:
            found = x509.load_pem_x509_certificates(scalar.text.encode())
        except ValueError:
            found = []
        if len(found) != 1:
            self._values.problems.add(
                scalar,
                "certificateAuthority is not one certificate in PEM",
                "write |- and the root that SVIDs lead to, from BEGIN to END",
            )
            return OpenZiti()
        # Written anew, so that nothing goes along that stands beside it, such as a key.
        pem = found[0].public_bytes(Encoding.PEM)
        return OpenZiti(pem.decode("ascii"))
