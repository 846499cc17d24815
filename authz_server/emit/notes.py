"""What stands at the top of emitted files: above all, what a target can't enforce.

Paragraphs for `yaml_text.comment`, which wraps them. ``docs/emit.md`` lists the same.
"""

from __future__ import annotations

from typing import Final

GENERATED: Final = """
Written by authz-server emit. Change the access policy and emit again; a change made
here is lost.
"""

SERVER_BEHIND_SIDECAR: Final = (
    """
The server listens in plain text on loopback; the pod's Istio sidecar terminates mTLS
in front of it. The Istio target's objects belong to this file: without its Sidecar
object nothing reaches the loopback listener, without its AuthorizationPolicy any
workload of the mesh may ask.
""",
    """
The namespace demands restricted pods, so Istio must set up traffic by its CNI plugin:
its init container needs capabilities that are refused.
""",
)

SERVER_WITH_TLS: Final = """
Needs a Secret {secret} in {namespace} with tls.crt, tls.key and ca.crt: the server's
certificate and key, and the CA of the proxies' SVIDs. Only the proxies listed in
config.yaml may ask.
"""

SERVER_ON_NODES: Final = (
    """
One server a node, asked over a unix socket in a folder of the node. The node must make
that folder, for the server's group and nobody else, for example by tmpfiles.d:
"d /run/authz-server 2750 65532 65532 -". Making it from a pod would take root.
""",
    """
A folder of the node is a hostPath volume, which only the standard "privileged" lets
into a namespace; the pods themselves ask for no more than the restricted one. An
upstream's pod needs the same volume, and group 65532 among its supplementalGroups.
""",
)

SERVER_IN_PODS: Final = (
    """
The server runs in the upstreams' own pods: this is its configuration, and sidecar/ the
Kustomize component that adds it to them.
""",
)

SIDECAR_COMPONENT: Final = (
    """
Name this folder under "components" of the kustomization of your upstreams. It adds the
server to every workload of an upstream's namespace whose own labels are those of its
podSelector. Envoy in the same pod asks at /run/authz-server/check.sock.
""",
    """
It sets supplementalGroups of the pod: if yours has some, list them here beside 65532.
Pods read the configuration when they start; restart them after it changes.
""",
)

CHART_VALUES: Final = (
    """
Values of the chart, as policy and site gave them. Written by authz-server emit: give
values of your own in another file (helm --values). Packet filters and the mesh's
objects are not in the chart: they belong to the upstreams' and callers' namespaces.
""",
    """
Label the namespace that you install into with the standard that the server's pods
keep, pod-security.kubernetes.io/enforce=restricted; on nodes, privileged.
""",
)

CRD: Final = """
AccessPolicy as a kind of Kubernetes, by the published schema. Files that kubectl reads
must quote the key "on" of grants and denials: YAML 1.1, which it reads, takes the bare
word for true.
"""

CONTROLLER: Final = (
    """
Keeps the cluster as the AccessPolicy objects in this namespace say. Of the two pods one
acts. May write what it emits and no more: the server's own kinds only where the server
runs, no Secret, no RBAC, and no namespace is ever deleted.
""",
    """
It reads the site file here; another site is another ConfigMap, and new pods. Deleting
an AccessPolicy takes no fence down: what it gave stays until it is deleted by its label
app.kubernetes.io/part-of.
""",
)

NAMESPACES: Final = "These namespaces must exist already: {names}."

PORTS_BEHIND_SIDECAR: Final = """
Ports are the applications' own: with an Istio sidecar a call keeps them on the wire.
A pod without its sidecar would answer there in the clear; the Istio target's STRICT
mode belongs to these rules.
"""

PORTS_BEHIND_ENVOY: Final = """
Callers reach Envoy's port {port} alone. The upstream itself must listen on loopback,
behind that Envoy.
"""

PACKET_FILTER: Final = (
    """
A packet filter knows pods and ports. Action, model, version, dataset and user stay
with the server, with conditions and denials, and so does the service account: whoever
may label pods in a namespace may pass for a workload here, but has no SVID of it.
""",
    """
default-deny covers every pod of its namespace, those the policy doesn't name too. What
the site doesn't name is not opened: monitoring, SPIRE, NodeLocal DNS; nor are hosts
outside the cluster. Apply before the workloads start: connections that are already
open may survive.
""",
)

ISTIO_SERVER: Final = """
The sidecar of the server's pod terminates mTLS, lets the upstreams' proxies in and
nobody else, and hands over on loopback, where alone the server listens.
"""

STRICT: Final = """
Under PERMISSIVE, Istio's default, plain text would reach the server without a
principal, and SPIFFE clients outside the mesh would fail. Of two such objects in a
namespace the older one wins, so this takes the usual name.
"""

AUTHORIZATION: Final = (
    """
CUSTOM sends every call on every port to the server. ALLOW behind it mirrors the policy
by caller and port; action, model, version, dataset, user, conditions and denials stay
with the server. Istio runs both, and either denies.
""",
    """
ALLOW covers an upstream's every port: metrics scraping from elsewhere needs an ALLOW of
its own. Service ports must be named grpc-* and http-*; on a port whose protocol Istio
has to guess, a plain SPIFFE client lands on a chain without these rules. A selector
that matches no pod protects nothing, and Istio does not say so.
""",
)

AMBIENT_SERVER: Final = """
ztunnel lets the upstreams' proxies in and nobody else. Inside of its tunnel they speak
the mTLS of the server's own configuration.
"""

AMBIENT_AUTHORIZATION: Final = (
    """
Ambient mode: ztunnel enforces this, by caller and port, and nothing finer. There is no
CUSTOM, since ztunnel ignores it and a waypoint sends no principal along: the server is
asked by an Envoy of yours beside each upstream, on the port below, where mTLS between
caller and Envoy runs inside of the tunnel.
""",
    """
Whoever may open the tunnel's own port reaches every port behind it as far as packet
filters go, so these rules belong to the NetworkPolicies. No L7 field is used: ztunnel
would deny what has one. A selector that matches no pod protects nothing, and Istio
does not say so.
""",
)

ENVOY_FILTERS: Final = (
    """
Completes the check that istiod generates: the caller's certificate, raw headers, and
for Triton the body, which is where a gRPC call names its model. A body above {limit}
bytes is answered with 413 and never checked; a gRPC client sees UNKNOWN. The server
must accept messages larger than that.
""",
    """
Without body: {stream}, since a check that waits for the stream's end would hang it. Its
messages pass the gate instead (ext_proc), where the server judges each by itself; the
gate also takes out of lists of models what a caller may not see. Filter and routes
belong together: a route without the filter would leave a stream's later messages
unjudged. Also without body: HTTP inference, whose model is in the path, so its size is
not limited here. All other HTTP calls are held back until complete, loading a model
with files too, and the limit holds for them.
""",
)

MESH_CONFIG: Final = """
Not a Kubernetes object: merge it into the mesh configuration (the istio ConfigMap, or
meshConfig of the Helm chart). istiod ignores a misspelt field, and turns an unknown
provider into a denial of everything.
"""

ALIASES: Final = """
trustDomainAliases lets callers of federated trust domains through TLS, but widens every
ALLOW: a principal then matches under each of these trust domains. The server still
tells them apart.
"""

NO_ALIASES: Final = """
No grant reaches a caller of {names}, so no trustDomainAliases: such callers fail at
TLS.
"""
