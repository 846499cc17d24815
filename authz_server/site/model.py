"""A site as frozen values: built by `authz_server.site.document`, or of defaults."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from authz_server.identity.spiffe_id import SpiffeId, TrustDomain

SERVER: Final = "authz-server"
"""Name of the server's own objects, and of the tool in labels."""


class Mesh(enum.StrEnum):
    """Who terminates mTLS in front of an upstream."""

    NONE = "none"
    """An Envoy of the operator's, on a port of its own."""
    SIDECAR = "sidecar"
    """An Istio sidecar: on the wire, calls have the application's own port."""
    AMBIENT = "ambient"
    """An Envoy of the operator's, inside of Istio's tunnels between nodes."""


class Shape(enum.StrEnum):
    """Where the server runs in Kubernetes."""

    DEPLOYMENT = "deployment"
    """As a service that all proxies ask over the network."""
    DAEMONSET = "daemonset"
    """One on each node, asked over a unix socket on a volume of the host."""
    SIDECAR = "sidecar"
    """In each upstream's pod, beside its Envoy, asked over a unix socket."""


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods by namespace and labels; no labels for all of the namespace."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Ports:
    """Where upstreams listen.

    Attributes:
        triton_http, triton_grpc, triton_metrics: Triton's own.
        dataset, openai: of upstreams of these kinds.
        envoy: where Envoy listens in front of them, unless a sidecar does.
    """

    triton_http: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002
    dataset: int = 9000
    openai: int = 9000
    envoy: int = 8443


@dataclass(frozen=True, slots=True)
class Server:
    """The server in Kubernetes."""

    shape: Shape = Shape.DEPLOYMENT
    namespace: str = "authz-system"
    port: int = 9191
    image: str = "authz-server:0.1.0"
    replicas: int = 2


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Kubernetes cluster.

    Attributes:
        domain: of its Services.
        dns, dns_port: the resolver's pods, and their own port (OpenShift: 5353).
        dns_addresses: CIDRs at which nodes answer for it (NodeLocal DNS).
        nodes: CIDRs of the nodes, whose address pods on the host's network have.
        api_server: CIDRs at which pods reach the API server. Which of its Service's
            and its own address counts depends on the network plugin: name both.
    """

    domain: str = "cluster.local"
    dns: Pods = field(
        default_factory=lambda: Pods(
            "kube-system", MappingProxyType({"k8s-app": "kube-dns"})
        )
    )
    dns_port: int = 53
    dns_addresses: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    api_server: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Istio:
    """The mesh's control plane, and its name for the server as a provider."""

    istiod: Pods = field(
        default_factory=lambda: Pods(
            "istio-system", MappingProxyType({"app": "istiod"})
        )
    )
    provider: str = SERVER


@dataclass(frozen=True, slots=True)
class Spire:
    """SPIRE, where it issues the identities.

    Attributes:
        server: its server's pods, if it runs in this cluster.
        address: where agents outside the cluster reach it, ``HOST:PORT``.
        agent_socket: path of the Workload API's unix socket.
        cluster_name: the cluster's name in k8s_psat attestation.
        agent_namespace, agent_account: what its agents in the cluster run as.
        class_name: of the controller manager that is to act; empty for any.
        x509_ttl_s, jwt_ttl_s: lifetimes of SVIDs.
        azure_tenant: domain of the tenant that boxes in Azure belong to.
        gcp_projects: IDs of the projects that boxes in Google's cloud belong to.
    """

    server: Pods | None = None
    address: str = ""
    agent_socket: str = "/run/spire/agent/api.sock"
    cluster_name: str = ""
    agent_namespace: str = "spire-system"
    agent_account: str = "spire-agent"
    class_name: str = ""
    x509_ttl_s: int = 3600
    jwt_ttl_s: int = 300
    azure_tenant: str = ""
    gcp_projects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Federation:
    """Where the bundle of another trust domain comes from (SPIFFE Federation §5).

    Attributes:
        endpoint: an https URL.
        endpoint_id: the endpoint's own SPIFFE ID (profile https_spiffe); None where
            it shows a certificate of the Web PKI (https_web).
    """

    trust_domain: TrustDomain
    endpoint: str
    endpoint_id: SpiffeId | None = None


class Attestor(enum.StrEnum):
    """How a SPIRE agent proves to the server which node it runs on."""

    JOIN_TOKEN = "join_token"  # noqa: S105 - a plugin's name
    X509POP = "x509pop"
    TPM_DEVID = "tpm_devid"
    AWS_IID = "aws_iid"
    AZURE_IMDS = "azure_imds"
    GCP_IIT = "gcp_iit"


@dataclass(frozen=True, slots=True)
class BoxWorkload:
    """A process on a box, and the ID that it gets.

    Attributes:
        selectors: ``type:value``, as SPIRE's workload attestors find them; all of them
            must be true of the process.
    """

    spiffe_id: SpiffeId
    selectors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A machine without Kubernetes.

    Attributes:
        attestor: how its agent is attested.
        node_selectors: ``type:value`` that tell this node; none with a join token.
        serves: names of the upstreams behind its Envoy.
        uses_spire: whether Envoy and the server get certificates from SPIRE; else from
            files.
        workloads: its callers.
    """

    name: str
    attestor: Attestor
    node_selectors: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    uses_spire: bool = True
    workloads: tuple[BoxWorkload, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenZiti:
    """The OpenZiti network that callers without a common network meet in.

    Attributes:
        certificate_authority: PEM of the one certificate that SVIDs of the policy's
            trust domain lead to; empty if its controller has it already.
    """

    certificate_authority: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a policy is enforced.

    Attributes:
        monitoring: who scrapes the metrics of upstreams and server; None for nobody.
        spire: None where SPIRE issues nothing.
        federation: how bundles of trust domains that the policy federates with come.
        boxes: machines without Kubernetes.
    """

    mesh: Mesh = Mesh.NONE
    ports: Ports = Ports()
    server: Server = Server()
    cluster: Cluster = field(default_factory=Cluster)
    istio: Istio = field(default_factory=Istio)
    monitoring: Pods | None = None
    spire: Spire | None = None
    federation: tuple[Federation, ...] = ()
    boxes: tuple[Box, ...] = ()
    openziti: OpenZiti = OpenZiti()
