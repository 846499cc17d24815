"""Istio's semantics, pitfall by pitfall, on objects made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from verification import Edit, compared, emitted, found_in

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Mesh, Site
from authz_server.verify.authorization import (
    AuthorizationPolicy,
    MeshDomains,
    read_authorization,
)
from authz_server.verify.calls import WireCall
from authz_server.verify.difference import Layer
from authz_server.verify.fields import UnreadableError
from authz_server.verify.limits import Limit
from authz_server.verify.mirror import Mirror
from authz_server.verify.objects import ClusterObject
from authz_server.verify.peer_authentication import (
    peer_mode,
    read_peer_authentication,
)

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
DOMAINS = MeshDomains(("factory.example", "supplier.example"))
CALL = WireCall(8000, "POST", "/v2/models/m/infer", "triton.factory.example")


def item(kind: str, spec: Any, namespace: str = "inference") -> ClusterObject:
    return ClusterObject(
        "security.istio.io/v1", kind, namespace, "p", {"spec": spec}, "f:1"
    )


def policy(spec: dict[str, Any]) -> AuthorizationPolicy:
    found = read_authorization(item("AuthorizationPolicy", spec))
    assert found is not None
    return found


def passes(
    *specs: dict[str, Any],
    caller: str = CAMERA,
    call: WireCall = CALL,
    domains: MeshDomains = DOMAINS,
    is_l4: bool = False,
) -> bool:
    policies = [policy(spec) for spec in specs]
    mirror = Mirror(
        domains,
        [one for one in policies if one.action == "DENY"],
        [one for one in policies if one.action == "ALLOW"],
        is_l4=is_l4,
    )
    return mirror.of(SpiffeId.parse(caller))(call)


def source(**fields: list[str]) -> dict[str, Any]:
    return {"rules": [{"from": [{"source": fields}]}]}


def operation(**fields: list[str]) -> dict[str, Any]:
    return {"rules": [{"to": [{"operation": fields}]}]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, False),
        ({"rules": []}, False),
        ({"rules": [{}]}, True),
        ({"rules": [{"from": []}]}, True),
        (source(), True),
        (source(principals=["factory.example/ns/line1/sa/camera"]), True),
        (source(principals=["spiffe://factory.example/ns/line1/sa/camera"]), False),
        (source(principals=["factory.example/ns/line1/sa/cam"]), False),
        (source(principals=["factory.example/ns/line1/sa/*"]), True),
        (source(principals=["factory.example/ns/line1/sa/cam*"]), True),
        (source(principals=["factory.example/ns/*"]), True),
        (source(principals=["*/sa/camera"]), True),
        (source(principals=["*/ns/line1/sa/camera"]), True),
        (source(principals=["*"]), True),
        (source(principals=["cluster.local/ns/line1/sa/camera"]), True),
        (source(principals=["cluster.local/ns/line1/*"]), False),
        (source(principals=["supplier.example/ns/line1/sa/camera"]), True),
        (source(principals=["prod.example/ns/line1/sa/camera"]), False),
        (source(notPrincipals=["factory.example/ns/line1/sa/camera"]), False),
        (source(notPrincipals=["factory.example/ns/line2/sa/x"]), True),
        (source(namespaces=["line1"]), True),
        (source(namespaces=["line"]), False),
        (source(namespaces=["line*"]), True),
        (source(notNamespaces=["line1"]), False),
        (source(serviceAccounts=["line1/camera"]), True),
        (source(serviceAccounts=["camera"]), False),
        (source(namespaces=["line1"], principals=["*/sa/other"]), False),
        (operation(ports=["8000"]), True),
        (operation(ports=["8001"]), False),
        (operation(notPorts=["8000"]), False),
        (operation(methods=["POST"]), True),
        (operation(methods=["P*"]), True),
        (operation(methods=["GET"]), False),
        (operation(paths=["/v2/models/m/infer"]), True),
        (operation(paths=["/v2/*"]), True),
        (operation(paths=["*/infer"]), True),
        (operation(paths=["/v2/models/{*}/infer"]), True),
        (operation(paths=["/v2/{*}/infer"]), False),
        (operation(paths=["/v2/{**}"]), True),
        (operation(notPaths=["/v2/models/m/*"]), False),
        (operation(hosts=["Triton.Factory.example"]), True),
        (operation(hosts=["*.factory.example"]), True),
        (operation(notHosts=["triton.factory.example"]), False),
        (operation(ports=["8000"], methods=["GET"]), False),
    ],
)
def test_what_an_allow_lets_through(spec: dict[str, Any], expected: bool) -> None:
    assert passes(spec) is expected


def test_without_an_allow_all_pass_whom_no_deny_is_about() -> None:
    deny = {"action": "DENY", **source(namespaces=["line1"])}
    assert passes() is True
    assert passes(deny) is False
    assert passes(deny, {"rules": [{}]}) is False
    assert passes({"action": "DENY"}) is True


def test_allows_add_up_and_their_from_and_to_both_hold() -> None:
    other = source(namespaces=["line2"])
    both = {
        "rules": [
            {
                "from": [{"source": {"namespaces": ["line1"]}}],
                "to": [{"operation": {"ports": ["8001"]}}],
            }
        ]
    }
    assert passes(other, source(namespaces=["line1"])) is True
    assert passes(other, both) is False


def test_an_alias_makes_a_principal_hold_in_each_domain() -> None:
    spec = source(principals=["factory.example/ns/line1/sa/camera"])
    twin = "spiffe://supplier.example/ns/line1/sa/camera"
    assert passes(spec, caller=twin) is True
    # Four parts are no principal of Istio's form.
    four = source(principals=["factory.example/line1/sa/camera"])
    assert passes(four, caller="spiffe://supplier.example/line1/sa/camera") is False


def test_tls_refuses_who_is_of_no_domain_of_the_mesh() -> None:
    alone = MeshDomains(("factory.example",))
    twin = "spiffe://supplier.example/ns/line1/sa/camera"
    assert passes({"rules": [{}]}, caller=twin, domains=alone) is False


def test_ztunnel_lets_nothing_through_by_a_rule_of_http() -> None:
    assert passes(operation(methods=["POST"]), is_l4=True) is False
    assert passes(operation(ports=["8000"]), is_l4=True) is True
    deny = {"action": "DENY", **operation(methods=["POST"])}
    assert passes(deny, is_l4=True) is True


def test_who_has_no_certificate_is_no_principal() -> None:
    [rule] = policy(source(principals=["*"])).rules
    assert rule.has_source("", DOMAINS) is False


def test_an_audit_says_nothing() -> None:
    spec = {"action": "AUDIT", "rules": [{}]}
    assert read_authorization(item("AuthorizationPolicy", spec)) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"action": "allow"}, "spec.action 'allow' is not known"),
        ({"targetRefs": [{"kind": "Service"}]}, "spec.targetRefs is not known"),
        ({"provider": {"name": "x"}}, "a provider goes with the action CUSTOM"),
        (source(requestPrincipals=["*"]), "requestPrincipals is not known"),
        (source(ipBlocks=["10.0.0.0/8"]), "ipBlocks is not known"),
        ({"selector": {"matchExpressions": []}, "rules": "x"}, "spec.rules is no list"),
        ({"selector": {"labels": {}}}, "spec.selector.labels is not known"),
    ],
)
def test_what_is_not_understood_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_authorization(item("AuthorizationPolicy", spec))
    assert words in str(caught.value)


def mode(*found: tuple[str, dict[str, Any]], port: int = 8000) -> str:
    read = [
        read_peer_authentication(item("PeerAuthentication", spec, namespace))
        for namespace, spec in found
    ]
    return peer_mode(read, "inference", {"app": "triton"}, port, "istio-system")[0]


STRICT = {"mtls": {"mode": "STRICT"}}
OPEN = {"mtls": {"mode": "PERMISSIVE"}}
CHOSEN = {"selector": {"matchLabels": {"app": "triton"}}}


def test_the_narrowest_says_whether_plain_text_gets_in() -> None:
    assert mode() == "PERMISSIVE"
    assert mode(("istio-system", STRICT)) == "STRICT"
    assert mode(("other", STRICT)) == "PERMISSIVE"
    assert mode(("istio-system", {**STRICT, **CHOSEN})) == "PERMISSIVE"
    assert mode(("istio-system", OPEN), ("inference", STRICT)) == "STRICT"
    assert (
        mode(("inference", STRICT), ("inference", {**OPEN, **CHOSEN})) == "PERMISSIVE"
    )
    other = {**OPEN, "selector": {"matchLabels": {"app": "x"}}}
    assert mode(("inference", STRICT), ("inference", other)) == "STRICT"
    assert mode(("inference", STRICT), ("inference", {"mtls": {}})) == "STRICT"
    by_port = {**CHOSEN, "portLevelMtls": {"8001": {"mode": "DISABLE"}}}
    assert mode(("inference", STRICT), ("inference", by_port)) == "STRICT"
    assert mode(("inference", STRICT), ("inference", by_port), port=8001) == "DISABLE"
    # Which of two is the older can't be told from a file.
    assert mode(("inference", STRICT), ("inference", OPEN)) == "PERMISSIVE"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"mtls": {"mode": "strict"}}, "the mode 'strict' is not known"),
        ({"portLevelMtls": {8000: {}}}, "Istio ignores portLevelMtls"),
        ({**CHOSEN, "portLevelMtls": {"http": {}}}, "portLevelMtls has 'http'"),
        ({"mTLS": {}}, "spec.mTLS is not known"),
    ],
)
def test_a_peer_authentication_that_is_not_understood_is_refused(
    spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_peer_authentication(item("PeerAuthentication", spec))
    assert words in str(caught.value)


def test_in_ambient_mode_a_path_denies_everybody(
    plant: tuple[AccessPolicy, Site],
) -> None:
    access, site = plant[0], replace(plant[1], mesh=Mesh.AMBIENT)
    found = found_in(emitted(access, site)[Layer.ISTIO])
    assert compared(access, site, found, [Layer.ISTIO])[0] == []
    edit = Edit(found)
    [rule, *_] = edit.spec("AuthorizationPolicy", "triton-callers")["rules"]
    rule["to"][0]["operation"]["paths"] = ["/*"]
    differences, _ = compared(access, site, edit.found(), [Layer.ISTIO])
    assert [one.who[0] for one in differences if one.kind == "missing"] == [CAMERA]


def test_the_mesh_is_read_from_istiods_own_config_map(
    plant: tuple[AccessPolicy, Site], found: dict[Layer, Any]
) -> None:
    edit = Edit(found[Layer.ISTIO])
    mesh = edit.files.pop("mesh-config.yaml")
    edit.objects.append(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": repr(mesh)},
        }
    )
    assert compared(*plant, edit.found(), [Layer.ISTIO])[0] == []
    edit.objects[-1]["data"]["mesh"] = "trustDomain: [\n"
    [first, *_], _ = compared(*plant, edit.found(), [Layer.ISTIO])
    assert (first.kind, first.target) == ("unclear", "mesh")


def test_a_federated_twin_is_a_known_limit_of_aliases(
    plant: tuple[AccessPolicy, Site], found: dict[Layer, Any]
) -> None:
    edit = Edit(found[Layer.ISTIO])
    edit.files["mesh-config.yaml"]["trustDomainAliases"] = ["supplier.example"]
    differences, known = compared(*plant, edit.found(), [Layer.ISTIO])
    assert differences == []
    aliases = [one for one in known if one.limit is Limit.ALIASES]
    assert {one.target for one in aliases} == {"upstream triton", "authz-server"}
