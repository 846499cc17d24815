"""Each way to break what was emitted is found, by the layer that it breaks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from verification import Edit, compared

from authz_server.errors import SetupError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site
from authz_server.verify.difference import Kind, Layer
from authz_server.verify.objects import Found

Change = Callable[[Edit], object]

NP, AP, PA = "NetworkPolicy", "AuthorizationPolicy", "PeerAuthentication"
CNP, CR, STATIC = "CiliumNetworkPolicy", "ClusterSPIFFEID", "ClusterStaticEntry"
CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
MESH, ZITI, ENTRIES = "mesh-config.yaml", "import.yaml", "entries.json"


def and_becomes_or(edit: Edit) -> None:
    for name, side in (("triton-from-release", "ingress"),):
        [rule] = edit.spec(NP, name)[side]
        [peer] = rule["from"]
        rule["from"] = [{key: value} for key, value in peer.items()]
    # While the other half holds, nothing is open: senders are shut in by it.
    for name in ("default-deny", "allow-dns", "allow-istiod"):
        edit.drop(NP, name, "release")


def from_of(edit: Edit, name: str, value: Any, kind: str = NP) -> None:
    [rule] = edit.spec(kind, name)["ingress"]
    rule["from"] = value
    if value is None:
        del rule["from"]


def port_of(edit: Edit, name: str, **fields: Any) -> None:
    edit.spec(NP, name)["ingress"][0]["ports"][0] |= fields


def unfenced(edit: Edit) -> None:
    for name in ("default-deny", "allow-dns", "allow-istiod"):
        edit.drop(NP, name, "data")


def only_ingress(edit: Edit) -> None:
    # Without policyTypes, a policy without egress rules leaves egress alone.
    for body in edit.objects:
        if body["kind"] == NP and body["metadata"]["namespace"] == "line2":
            del body["spec"]["policyTypes"]
            body["spec"].pop("egress", None)


def foreign(edit: Edit, **spec: Any) -> None:
    edit.add("networking.k8s.io/v1", NP, "foreign", "data", spec)


def without_names(edit: Edit, protocol: str) -> None:
    [first, *_] = edit.spec(NP, "allow-dns", "line1")["egress"]
    first["ports"] = [it for it in first["ports"] if it["protocol"] != protocol]


def everywhere(edit: Edit) -> None:
    [rule] = edit.spec(NP, "authz-server-from-proxies")["ingress"]
    rule["from"].append({"namespaceSelector": {}})


def by_expression(edit: Edit) -> None:
    [rule] = edit.spec(NP, "triton-from-release")["ingress"]
    rule["from"] = [
        {
            "namespaceSelector": {
                "matchExpressions": [
                    {
                        "key": "kubernetes.io/metadata.name",
                        "operator": "NotIn",
                        "values": ["line1", "line2", "planning", "data"],
                    }
                ]
            }
        }
    ]


KUBERNETES: dict[str, tuple[Change, Kind, str]] = {
    "and becomes or": (and_becomes_or, Kind.EXTRA, "release/any other pod"),
    "from is empty": (
        lambda e: from_of(e, "triton-from-release", []),
        Kind.EXTRA,
        "an address that the site doesn't name",
    ),
    "from is missing": (
        lambda e: from_of(e, "triton-from-release", None),
        Kind.EXTRA,
        "elsewhere/any other pod",
    ),
    "from is an empty peer": (
        lambda e: from_of(e, "triton-from-release", [{}]),
        Kind.UNCLEAR,
        "a peer without a selector",
    ),
    "a peer without a namespace": (
        lambda e: from_of(
            e, "triton-from-release", [{"podSelector": {"matchLabels": {"app": "d"}}}]
        ),
        Kind.MISSING,
        "release/app=deployer",
    ),
    "ports are missing": (
        lambda e: e.spec(NP, "triton-from-monitoring")["ingress"][0].pop("ports"),
        Kind.EXTRA,
        "monitoring",
    ),
    "another port": (
        lambda e: port_of(e, "training-data-from-planning", port=9001),
        Kind.MISSING,
        "TCP 9000",
    ),
    "a range of ports": (
        lambda e: port_of(e, "triton-from-monitoring", endPort=16000),
        Kind.EXTRA,
        "15021",
    ),
    "another protocol": (
        lambda e: port_of(e, "training-data-from-planning", protocol="UDP"),
        Kind.MISSING,
        "planning/app=forecaster",
    ),
    "a named port": (
        lambda e: port_of(e, "training-data-from-planning", port="http"),
        Kind.UNCLEAR,
        "what a name means depends on each pod",
    ),
    "the caller's half is gone": (
        lambda e: e.drop(NP, "release-to-triton"),
        Kind.MISSING,
        "no egress rule of release/app=deployer",
    ),
    "the upstream's half is gone": (
        lambda e: e.drop(NP, "triton-from-release"),
        Kind.MISSING,
        "no ingress rule of upstream triton",
    ),
    "a namespace without a fence": (unfenced, Kind.EXTRA, "data/any other pod"),
    "policyTypes are gone": (only_ingress, Kind.EXTRA, "line2/any other pod"),
    "a foreign policy for a label": (
        lambda e: foreign(
            e,
            podSelector={},
            ingress=[
                {
                    "from": [
                        {
                            "namespaceSelector": {},
                            "podSelector": {"matchLabels": {"role": "backup"}},
                        }
                    ]
                }
            ],
        ),
        Kind.EXTRA,
        "elsewhere/role=backup",
    ),
    "a foreign policy for a team's namespaces": (
        lambda e: foreign(
            e,
            podSelector={"matchLabels": {"app": "minio"}},
            ingress=[
                {"from": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}}]}
            ],
        ),
        Kind.EXTRA,
        "labelled-team-ops/any other pod",
    ),
    "a peer in a namespace that there can't be": (
        lambda e: from_of(
            e,
            "triton-from-release",
            [
                {
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": "no name"}
                    }
                }
            ],
        ),
        Kind.MISSING,
        "release/app=deployer",
    ),
    "a foreign policy for addresses": (
        lambda e: foreign(
            e,
            podSelector={},
            ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
        ),
        Kind.EXTRA,
        "an address that the site doesn't name",
    ),
    "names over UDP alone": (
        lambda e: without_names(e, "TCP"),
        Kind.MISSING,
        "the plant needs it",
    ),
    "anybody may ask the server": (everywhere, Kind.EXTRA, "authz-server"),
    "any namespace but some": (by_expression, Kind.EXTRA, "elsewhere/any other pod"),
    "a namespace's labels that are none": (
        lambda e: e._one("Namespace", "authz-system", "")["metadata"].update(labels=1),
        Kind.UNCLEAR,
        "metadata.labels is no mapping",
    ),
    "an unknown field": (
        lambda e: e.spec(NP, "triton-from-release").update(ingres=[]),
        Kind.UNCLEAR,
        "spec.ingres is not known",
    ),
}


def allow(edit: Edit, **source: Any) -> dict[str, Any]:
    rule = edit.spec(AP, "triton-callers")["rules"][0]
    if source:
        rule["from"] = [{"source": source}]
    return rule


def with_path(edit: Edit) -> None:
    operation = allow(edit)["to"][0]["operation"]
    operation["paths"] = ["/v2/*"]


def deny(edit: Edit) -> None:
    edit.add(
        "security.istio.io/v1",
        AP,
        "foreign",
        "inference",
        {
            "action": "DENY",
            "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
        },
    )


def custom(edit: Edit, **fields: Any) -> None:
    edit.spec(AP, "triton-authz-server").update(fields)


def provider(edit: Edit, **fields: Any) -> None:
    edit.files[MESH]["extensionProviders"][0]["envoyExtAuthzGrpc"] |= fields


def port_level(edit: Edit) -> None:
    edit.add(
        "security.istio.io/v1",
        PA,
        "triton",
        "inference",
        {
            "selector": {"matchLabels": {"app": "triton"}},
            "portLevelMtls": {8001: {"mode": "PERMISSIVE"}},
        },
    )


ISTIO: dict[str, tuple[Change, Kind, str]] = {
    "no CUSTOM": (
        lambda e: e.drop(AP, "triton-authz-server"),
        Kind.EXTRA,
        "the server is never asked",
    ),
    "CUSTOM with principals": (
        lambda e: custom(e, rules=[{"from": [{"source": {"principals": ["*"]}}]}]),
        Kind.UNCLEAR,
        "Istio refuses CUSTOM with sources",
    ),
    "CUSTOM without rules": (
        lambda e: custom(e, rules=[]),
        Kind.EXTRA,
        "the server is never asked",
    ),
    "CUSTOM of an unknown provider": (
        lambda e: custom(e, provider={"name": "authz"}),
        Kind.MISSING,
        "asks provider 'authz'",
    ),
    "CUSTOM for other pods": (
        lambda e: custom(e, selector={"matchLabels": {"app": "tritn"}}),
        Kind.EXTRA,
        "the server is never asked",
    ),
    "CUSTOM on one port": (
        lambda e: custom(e, rules=[{"to": [{"operation": {"ports": ["8000"]}}]}]),
        Kind.EXTRA,
        "at 8001",
    ),
    "CUSTOM without a provider": (
        lambda e: e.spec(AP, "triton-authz-server").pop("provider"),
        Kind.UNCLEAR,
        "a provider goes with the action CUSTOM",
    ),
    "a principal with a scheme": (
        lambda e: allow(e, principals=[CAMERA]),
        Kind.MISSING,
        CAMERA,
    ),
    "a principal of another trust domain": (
        lambda e: allow(e, principals=["prod.example/ns/line1/sa/camera"]),
        Kind.MISSING,
        CAMERA,
    ),
    "a principal more": (
        lambda e: allow(e)["from"][0]["source"]["principals"].append(
            "factory.example/ns/data/sa/minio"
        ),
        Kind.EXTRA,
        "spiffe://factory.example/ns/data/sa/minio",
    ),
    "any principal": (
        lambda e: allow(e, principals=["*"]),
        Kind.EXTRA,
        "spiffe://factory.example/other",
    ),
    "any principal of a namespace": (
        lambda e: allow(e, namespaces=["line1", "line2"]),
        Kind.EXTRA,
        "spiffe://factory.example/ns/line1/sa/stranger",
    ),
    "any caller": (
        lambda e: allow(e).pop("from"),
        Kind.EXTRA,
        "lets GET /v2",
    ),
    "a path": (with_path, Kind.MISSING, "/inference.GRPCInferenceService/"),
    "a condition": (
        lambda e: allow(e).update(when=[{"key": "source.ip", "values": ["10.0.0.1"]}]),
        Kind.UNCLEAR,
        "rules[0].when is not known",
    ),
    "no ALLOW": (
        lambda e: e.drop(AP, "triton-callers"),
        Kind.EXTRA,
        "no ALLOW selects these pods",
    ),
    "a foreign DENY": (deny, Kind.MISSING, "denies GET"),
    "PERMISSIVE": (
        lambda e: e.spec(PA, "default", "inference").update(
            mtls={"mode": "PERMISSIVE"}
        ),
        Kind.EXTRA,
        "anybody in plain text",
    ),
    "no PeerAuthentication": (
        lambda e: e.drop(PA, "default", "inference"),
        Kind.EXTRA,
        "by Istio's default",
    ),
    "PERMISSIVE on a port": (port_level, Kind.EXTRA, "port 8001"),
    "a provider of another name": (
        lambda e: e.files[MESH]["extensionProviders"][0].update(name="Authz-Server"),
        Kind.MISSING,
        "is not in it",
    ),
    "a provider elsewhere": (
        lambda e: provider(e, port=9192),
        Kind.EXTRA,
        "not authz-server.authz-system.svc.cluster.local:9191",
    ),
    "a provider that fails open": (
        lambda e: provider(e, failOpen=True),
        Kind.EXTRA,
        "fails open",
    ),
    "a provider that is none": (
        lambda e: e.files[MESH]["extensionProviders"][0].update(envoyExtAuthzGrpc="x"),
        Kind.UNCLEAR,
        "envoyExtAuthzGrpc is no mapping",
    ),
    "a provider that can't be read": (
        lambda e: provider(e, failOpen="no"),
        Kind.UNCLEAR,
        "failOpen is no true or false",
    ),
    "another trust domain of the mesh": (
        lambda e: e.files[MESH].update(trustDomain="cluster.local"),
        Kind.MISSING,
        "TLS refuses factory.example",
    ),
    "a trust domain that is none": (
        lambda e: e.files[MESH].update(trustDomain="*"),
        Kind.UNCLEAR,
        "trust domain '*' may hold only",
    ),
    "no mesh configuration": (
        lambda e: e.files.pop(MESH),
        Kind.UNCLEAR,
        "the mesh's configuration is not among the objects",
    ),
    "a mesh configuration that can't be read": (
        lambda e: e.files[MESH].update(trustDomainAliases="supplier.example"),
        Kind.UNCLEAR,
        "trustDomainAliases is no list",
    ),
    "anybody may ask the server": (
        lambda e: e.drop(AP, "authz-server", "authz-system"),
        Kind.EXTRA,
        "only the upstreams' proxies may ask",
    ),
    "no proxy may ask the server": (
        lambda e: e.spec(AP, "authz-server", "authz-system").pop("rules"),
        Kind.MISSING,
        "asking for decisions",
    ),
}


def literal(edit: Edit) -> None:
    edit.spec(CR, "plant-7.release")["spiffeIDTemplate"] = CAMERA


def borrowed(edit: Edit) -> None:
    spec = edit.spec(CR, "plant-7.line1")
    spec["spiffeIDTemplate"] = CAMERA
    spec["workloadSelectorTemplates"] = ["k8s:ns:line1"]


def twice(edit: Edit) -> None:
    spec = edit.spec(CR, "plant-7.line1")
    edit.add("spire.spiffe.io/v1alpha1", CR, "second", "", dict(spec))


SPIRE: dict[str, tuple[Change, Kind, str]] = {
    "no ClusterSPIFFEID": (
        lambda e: e.drop(CR, "plant-7.line1"),
        Kind.MISSING,
        "no ClusterSPIFFEID gives them an ID",
    ),
    "another's ID": (literal, Kind.EXTRA, CAMERA),
    "an ID for a label alone": (borrowed, Kind.EXTRA, "as stranger"),
    "two for one pod": (twice, Kind.UNCLEAR, "2 objects give them one"),
    "another trust domain": (
        lambda e: e.spec(CR, "plant-7.line1").update(
            spiffeIDTemplate="spiffe://other.example/x"
        ),
        Kind.MISSING,
        "gives them spiffe://other.example/x",
    ),
    "an unknown word": (
        lambda e: e.spec(CR, "plant-7.line1").update(
            spiffeIDTemplate="spiffe://{{ .TrustDomain }}/{{ .PodMeta.Name }}"
        ),
        Kind.UNCLEAR,
        "{{ .PodMeta.Name }} is not known",
    ),
    "no template": (
        lambda e: e.spec(CR, "plant-7.line1").update(
            spiffeIDTemplate='spiffe://{{ index .PodMeta.Labels "x" }}/y'
        ),
        Kind.UNCLEAR,
        "the template",
    ),
    "an ID that is none": (
        lambda e: e.spec(CR, "plant-7.line1").update(spiffeIDTemplate="camera"),
        Kind.UNCLEAR,
        "gives line1/app=camera as camera camera",
    ),
    "an unknown selector": (
        lambda e: e.spec(CR, "plant-7.line1")["workloadSelectorTemplates"].append(
            "k8s:container-image:camera"
        ),
        Kind.UNCLEAR,
        "k8s:container-image",
    ),
    "a label that they lack": (
        lambda e: e.spec(CR, "plant-7.line1")["workloadSelectorTemplates"].append(
            "k8s:pod-label:app:lens"
        ),
        Kind.MISSING,
        "line1/app=camera as camera",
    ),
    "another class": (
        lambda e: e.spec(CR, "plant-7.line1").update(className="other"),
        Kind.MISSING,
        "line1/app=camera as camera",
    ),
    "a fallback": (
        lambda e: e.spec(CR, "plant-7.line1").update(fallback=True),
        Kind.UNCLEAR,
        "spec.fallback",
    ),
    "power over SPIRE": (
        lambda e: e.spec(CR, "plant-7.line1").update(admin=True),
        Kind.EXTRA,
        "sets admin or downstream",
    ),
    "a box's workload without its entry": (
        lambda e: e.drop(STATIC, "plant-7.gate-1.camera"),
        Kind.MISSING,
        "a process with unix:user:camera on gate-1",
    ),
    "an entry for anybody on a box": (
        lambda e: e.spec(STATIC, "plant-7.gate-1.camera").update(
            selectors=["unix:gid:1"]
        ),
        Kind.EXTRA,
        "a process with unix:gid:1 on gate-1",
    ),
    "an entry for any box": (
        lambda e: e.spec(STATIC, "plant-7.gate-1.camera").update(
            parentID="spiffe://factory.example/spire/agent/k8s"
        ),
        Kind.EXTRA,
        "the site has no such box",
    ),
    "an alias for more nodes": (
        lambda e: e.files[ENTRIES]["entries"][0].update(
            selectors=[{"type": "x509pop", "value": "ca:fingerprint:00"}]
        ),
        Kind.EXTRA,
        "a node with x509pop:ca:fingerprint:00",
    ),
    "an unknown key of an entry": (
        lambda e: e.files[ENTRIES]["entries"][0].update(ttl=3600),
        Kind.UNCLEAR,
        "entries[0].ttl is not known",
    ),
    "an entry with power": (
        lambda e: e.files[ENTRIES]["entries"][1].update(downstream=True),
        Kind.EXTRA,
        "sets admin or downstream",
    ),
    "an entry without selectors": (
        lambda e: e.spec(STATIC, "plant-7.gate-1.camera").update(selectors=[]),
        Kind.UNCLEAR,
        "without selectors",
    ),
    "an entry for no ID": (
        lambda e: e.files[ENTRIES]["entries"][0].update(spiffe_id="camera"),
        Kind.UNCLEAR,
        "'camera'",
    ),
    "an unknown field of an entry": (
        lambda e: e.spec(STATIC, "plant-7.gate-1.camera").update(selector=["x:y"]),
        Kind.UNCLEAR,
        "spec.selector is not known",
    ),
    "a serving box whose parts have no entries": (
        lambda e: e.drop(STATIC, "plant-7.press-3.envoy"),
        Kind.MISSING,
        "envoy on press-3",
    ),
}


def dial(edit: Edit, **fields: Any) -> None:
    name = "plant-7.triton.dial.release"
    edit.named(ZITI, "servicePolicies", name).update(fields)


def identity(edit: Edit, **fields: Any) -> None:
    edit.named(ZITI, "identities", CAMERA).update(fields)


def authority(edit: Edit, **fields: Any) -> None:
    edit.files[ZITI]["certificateAuthorities"] = [{"name": "ca", **fields}]


OPENZITI: dict[str, tuple[Change, Kind, str]] = {
    "everybody dials": (
        lambda e: dial(e, identityRoles=["#all"]),
        Kind.EXTRA,
        "dials it by plant-7.triton.dial.release",
    ),
    "everything is dialled": (
        lambda e: dial(e, serviceRoles=["#all"]),
        Kind.EXTRA,
        "upstream training-data",
    ),
    "one is dialled by name": (
        lambda e: dial(e, serviceRoles=["@plant-7.training-data"]),
        Kind.EXTRA,
        "upstream training-data",
    ),
    "all attributes must be there": (
        lambda e: dial(
            e,
            semantic="AllOf",
            identityRoles=["#plant-7.group.release", "#plant-7.group.planning"],
        ),
        Kind.MISSING,
        "spiffe://factory.example/ns/release/sa/deployer",
    ),
    "no semantic": (lambda e: dial(e, semantic=""), Kind.UNCLEAR, "semantic ''"),
    "an identity without attributes": (
        lambda e: identity(e, roleAttributes=[]),
        Kind.MISSING,
        CAMERA,
    ),
    "an identity without an ID": (
        lambda e: identity(e, externalId=""),
        Kind.EXTRA,
        "knows it by no SPIFFE ID",
    ),
    "an administrator": (
        lambda e: identity(e, isAdmin=True),
        Kind.EXTRA,
        "no caller administers it",
    ),
    "a host more": (
        lambda e: identity(e, roleAttributes=["plant-7.host.triton"]),
        Kind.EXTRA,
        "hosting it",
    ),
    "a service of another name": (
        lambda e: e.named(ZITI, "services", "plant-7.triton").update(name="triton"),
        Kind.UNCLEAR,
        "no service is called plant-7.triton",
    ),
    "whoever has an SVID enrols": (
        lambda e: authority(e, isAutoCaEnrollmentEnabled=True),
        Kind.EXTRA,
        "becoming an identity",
    ),
    "an ID that is only a part": (
        lambda e: authority(e, externalIdClaim={"location": "COMMON_NAME"}),
        Kind.UNCLEAR,
        "externalIdClaim",
    ),
    "no file": (
        lambda e: e.files.pop(ZITI) and e.files.pop("rest.json"),
        Kind.UNCLEAR,
        "there is no file",
    ),
}


def cilium_rule(edit: Edit, **fields: Any) -> None:
    edit.spec(CNP, "triton-from-release")["ingress"][0].update(fields)


def without_namespace(edit: Edit) -> None:
    [rule] = edit.spec(CNP, "triton-from-release")["ingress"]
    del rule["fromEndpoints"][0]["matchLabels"]["k8s:io.kubernetes.pod.namespace"]


def fenceless(edit: Edit) -> None:
    for body in edit.objects:
        if body["metadata"].get("namespace") == "data":
            body["spec"]["enableDefaultDeny"]["ingress"] = False


CILIUM: dict[str, tuple[Change, Kind, str]] = {
    "a peer without a namespace": (
        without_namespace,
        Kind.MISSING,
        "release/app=deployer",
    ),
    "nothing denied": (fenceless, Kind.EXTRA, "elsewhere/any other pod"),
    "every port": (
        lambda e: e.spec(CNP, "triton-from-monitoring")["ingress"][0].pop("toPorts"),
        Kind.EXTRA,
        "every UDP port",
    ),
    "anybody on a port": (
        lambda e: e.spec(CNP, "triton-from-release")["ingress"][0].pop("fromEndpoints"),
        Kind.EXTRA,
        "an address that the site doesn't name",
    ),
    "the world": (
        lambda e: e.spec(CNP, "triton-from-release")["ingress"].append(
            {"fromEntities": ["world"]}
        ),
        Kind.EXTRA,
        "an address that the site doesn't name",
    ),
    "addresses": (
        lambda e: e.spec(CNP, "triton-from-release")["ingress"].append(
            {"fromCIDRSet": [{"cidr": "192.0.2.0/24"}]}
        ),
        Kind.EXTRA,
        "an address that the site doesn't name",
    ),
    "an unknown entity": (
        lambda e: cilium_rule(e, fromEntities=["unmanaged"]),
        Kind.UNCLEAR,
        "the entity 'unmanaged'",
    ),
    "a rule of L7": (
        lambda e: cilium_rule(e, authentication={"mode": "required"}),
        Kind.UNCLEAR,
        "authentication is not known",
    ),
    "a port by name": (
        lambda e: cilium_rule(e, toPorts=[{"ports": [{"port": "grpc"}]}]),
        Kind.UNCLEAR,
        "port 'grpc'",
    ),
    "an unknown protocol": (
        lambda e: cilium_rule(
            e, toPorts=[{"ports": [{"port": "8000", "protocol": "ICMP"}]}]
        ),
        Kind.UNCLEAR,
        "protocol 'ICMP'",
    ),
    "no endpointSelector": (
        lambda e: e.spec(CNP, "triton-from-release").pop("endpointSelector"),
        Kind.UNCLEAR,
        "endpointSelector is missing",
    ),
    "what holds for the cluster": (
        lambda e: e.add(
            "cilium.io/v2", "CiliumClusterwideNetworkPolicy", "all", "", {}
        ),
        Kind.UNCLEAR,
        "the whole cluster",
    ),
}

ALL = {
    Layer.KUBERNETES: KUBERNETES,
    Layer.ISTIO: ISTIO,
    Layer.SPIRE: SPIRE,
    Layer.OPENZITI: OPENZITI,
    Layer.CILIUM: CILIUM,
}


@pytest.mark.parametrize("layer", Layer)
def test_what_is_emitted_for_the_example_differs_by_known_limits_alone(
    layer: Layer, plant: tuple[AccessPolicy, Site], found: dict[Layer, Found]
) -> None:
    differences, known = compared(*plant, found[layer], [layer])
    assert differences == []
    assert bool(known) is (layer is not Layer.SPIRE)


@pytest.mark.parametrize(
    ("layer", "change", "kind", "words"),
    [
        pytest.param(layer, *case, id=f"{layer}: {name}")
        for layer, cases in ALL.items()
        for name, case in cases.items()
    ],
)
def test_a_change_is_found(
    layer: Layer,
    change: Change,
    kind: Kind,
    words: str,
    plant: tuple[AccessPolicy, Site],
    found: dict[Layer, Found],
) -> None:
    edit = Edit(found[layer])
    change(edit)
    differences, _ = compared(*plant, edit.found(), [layer])
    texts = [
        f"{item.who} {item.target} {item.what} {item.policy} {item.enforced}"
        for item in differences
        if item.kind is kind
    ]
    assert any(words in text for text in texts), differences


def test_a_fence_that_another_object_still_is_is_not_missed(
    plant: tuple[AccessPolicy, Site], found: dict[Layer, Found]
) -> None:
    edit = Edit(found[Layer.KUBERNETES])
    # allow-dns selects every pod and isolates it in both directions, too.
    edit.drop(NP, "default-deny", "data")
    assert compared(*plant, edit.found(), [Layer.KUBERNETES])[0] == []


WRONG = (None, "", 0, -1, True, [], {}, "x y", [None], [{}], {"a": None}, "*", 1.5)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Whatever can be replaced inside of `value`, as a container and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        if key not in {"apiVersion", "kind"}:
            yield value, key
        if isinstance(item, dict | list):
            yield from leaves(item)


@pytest.mark.parametrize("layer", Layer)
def test_whatever_is_written_the_answer_is_differences_or_a_clear_error(
    layer: Layer, plant: tuple[AccessPolicy, Site], found: dict[Layer, Found]
) -> None:
    rng = random.Random(layer.value)
    for _ in range(12):
        edit = Edit(found[layer])
        bodies = [*edit.objects, *edit.files.values()]
        container, key = rng.choice(list(leaves(rng.choice(bodies))))
        container[key] = rng.choice(WRONG)
        with contextlib.suppress(SetupError):
            compared(*plant, edit.found(), [layer])
