"""NetworkPolicy's semantics, pitfall by pitfall, on objects made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from authz_server.verify.endpoints import Endpoint, Place
from authz_server.verify.fields import UnreadableError
from authz_server.verify.network_policies import Reader
from authz_server.verify.objects import ClusterObject
from authz_server.verify.packets import PacketFilter, PortSpace

NODES = "10.1.0.0/16"
API_SERVER = "10.1.0.5/32"


def pod(name: str, namespace: str, **labels: str) -> Endpoint:
    return Endpoint(name, Place.POD, namespace, labels, is_managed=True)


SERVER = pod("server", "a", app="server")
CLIENT = pod("client", "a", app="client")
FAR = pod("far", "b", app="client")
PLAIN = pod("plain", "b")
NODE = Endpoint("node", Place.NODE, networks=(NODES,))
MASTER = Endpoint("master", Place.API_SERVER, networks=(API_SERVER,))
WORLD = Endpoint("world", Place.ELSEWHERE)
EVERYBODY = (SERVER, CLIENT, FAR, PLAIN, NODE, MASTER, WORLD)
NOBODY: set[str] = set()
REST = {"client", "far", "plain", "node", "master", "world"}
TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}


def read(
    spec: dict[str, Any], reader: Reader | None = None, namespace: str = "a"
) -> Any:
    body = {"spec": spec}
    item = ClusterObject(
        "networking.k8s.io/v1", "NetworkPolicy", namespace, "p", body, "f:1"
    )
    return (reader or Reader({}, (NODES, API_SERVER))).read(item)


def senders(*specs: dict[str, Any], port: int = 80, protocol: str = "TCP") -> set[str]:
    """Who reaches SERVER at `port`."""
    policies = [read(spec) for spec in specs]
    ranges = [
        port
        for policy in policies
        for direction in (policy.ingress, policy.egress)
        for rule in direction.rules
        for port in rule.ports or ()
    ]
    space = PortSpace(ranges, [port])
    mask = space.ports(protocol, [port])
    edges = PacketFilter(policies, EVERYBODY, space).edges()
    return {
        EVERYBODY[source].name
        for (source, target), opened in edges.items()
        if EVERYBODY[target] is SERVER and opened & mask
    }


def ingress(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**TO_SERVER, "policyTypes": ["Ingress"], "ingress": list(rules), **more}


def peers(*items: dict[str, Any]) -> dict[str, Any]:
    return ingress({"from": list(items)})


def names(*values: str, operator: str = "In") -> dict[str, Any]:
    key = "kubernetes.io/metadata.name"
    return {
        "namespaceSelector": {
            "matchExpressions": [
                {"key": key, "operator": operator, "values": list(values)}
            ]
        }
    }


IN_B = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}
CLIENTS = {"podSelector": {"matchLabels": {"app": "client"}}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({**TO_SERVER}, NOBODY, id="no policyTypes is ingress"),
        pytest.param({"podSelector": {}}, NOBODY, id="an empty selector is everybody"),
        pytest.param({}, NOBODY, id="a missing selector is everybody"),
        pytest.param(
            {"podSelector": {"matchLabels": {"app": "x"}}}, REST, id="another's policy"
        ),
        pytest.param(ingress(), NOBODY, id="no rule lets nobody in"),
        pytest.param(ingress({}), REST, id="an empty rule lets everybody in"),
        pytest.param(ingress({"from": []}), REST, id="an empty from is anybody"),
        pytest.param(ingress({"from": None}), REST, id="a null from is anybody"),
        pytest.param(
            ingress({}, policyTypes=["Egress"]), REST, id="only egress is isolated"
        ),
        pytest.param(
            peers({**IN_B, **CLIENTS}), {"far"}, id="both selectors in one peer are AND"
        ),
        pytest.param(
            peers(IN_B, CLIENTS), {"far", "plain", "client"}, id="in two peers, OR"
        ),
        pytest.param(
            peers(CLIENTS), {"client"}, id="no namespaceSelector is the own namespace"
        ),
        pytest.param(
            peers({"namespaceSelector": {}}),
            {"client", "far", "plain"},
            id="an empty namespaceSelector is every pod, and no address",
        ),
        pytest.param(
            peers({"podSelector": {}}), {"client"}, id="all pods of the own namespace"
        ),
        pytest.param(peers(names("b")), {"far", "plain"}, id="In"),
        pytest.param(peers(names("b", operator="NotIn")), {"client"}, id="NotIn"),
        pytest.param(
            peers(
                {
                    "namespaceSelector": {},
                    "podSelector": {
                        "matchExpressions": [{"key": "app", "operator": "Exists"}]
                    },
                }
            ),
            {"client", "far"},
            id="Exists",
        ),
        pytest.param(
            peers(
                {
                    "namespaceSelector": {},
                    "podSelector": {
                        "matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]
                    },
                }
            ),
            {"plain"},
            id="DoesNotExist",
        ),
        pytest.param(
            peers({"ipBlock": {"cidr": "0.0.0.0/0"}}),
            {"node", "master", "world"},
            id="every address, and no pod",
        ),
        pytest.param(
            peers({"ipBlock": {"cidr": "0.0.0.0/0", "except": [NODES]}}),
            {"world"},
            id="every address but some",
        ),
        pytest.param(
            peers({"ipBlock": {"cidr": NODES}}),
            {"node", "master"},
            id="the nodes, one of which is the API server",
        ),
        pytest.param(
            peers({"ipBlock": {"cidr": API_SERVER}}), {"master"}, id="one node alone"
        ),
        pytest.param(
            peers({"ipBlock": {"cidr": "fd00::/8"}}), {"world"}, id="IPv6 is not IPv4"
        ),
        pytest.param(
            ingress({"ports": [{"port": 80}]}), REST, id="TCP is the default protocol"
        ),
        pytest.param(ingress({"ports": [{"port": 81}]}), NOBODY, id="another port"),
        pytest.param(
            ingress({"ports": [{"port": 79, "endPort": 81}]}), REST, id="in a range"
        ),
        pytest.param(
            ingress({"ports": [{"port": 81, "endPort": 90}]}),
            NOBODY,
            id="below a range",
        ),
        pytest.param(
            ingress({"ports": [{"protocol": "UDP", "port": 80}]}), NOBODY, id="only UDP"
        ),
        pytest.param(
            ingress({"ports": [{"protocol": "TCP"}]}),
            REST,
            id="a protocol's every port",
        ),
        pytest.param(ingress({"ports": []}), REST, id="no port is every port"),
    ],
)
def test_who_gets_in(spec: dict[str, Any], expected: set[str]) -> None:
    assert senders(spec) == expected


def test_policies_add_up() -> None:
    assert senders({"podSelector": {}}, peers(CLIENTS), peers(IN_B)) == {
        "client",
        "far",
        "plain",
    }


def test_both_ends_must_open() -> None:
    shut_out = {
        "podSelector": {"matchLabels": {"app": "client"}},
        "policyTypes": ["Egress"],
    }
    assert senders(ingress({}), shut_out) == REST - {"client"}
    let_out = {**shut_out, "egress": [{"to": [TO_SERVER], "ports": [{"port": 80}]}]}
    assert senders(ingress({}), let_out) == REST
    assert senders(ingress({}), let_out, port=443) == REST - {"client"}


def test_egress_rules_alone_isolate_both_directions() -> None:
    # policyTypes left out: Ingress always, and Egress since there are such rules.
    assert senders({"podSelector": {}, "egress": [{}]}) == NOBODY
    # Without any, whoever it selects may go out.
    assert senders({"podSelector": {"matchLabels": {"app": "client"}}}) == REST


def test_a_namespace_by_a_label_that_is_known() -> None:
    reader = Reader({"b": {"team": "ml"}}, ())
    spec = peers({"namespaceSelector": {"matchLabels": {"team": "ml"}}})
    [rule] = read(spec, reader).ingress.rules
    [peer] = rule.peers
    assert [item.name for item in EVERYBODY if peer.matches(item)] == ["far", "plain"]


def test_selectors_say_who_must_be_looked_at() -> None:
    reader = Reader({}, ())
    read(
        peers(
            {"podSelector": {"matchLabels": {"a": "b"}}},
            {
                **names("c", "d"),
                "podSelector": {
                    "matchExpressions": [{"key": "x", "operator": "Exists"}]
                },
            },
            {"namespaceSelector": {"matchLabels": {"team": "ML"}}},
            {"namespaceSelector": {}},
        ),
        reader,
    )
    assert reader.wanted == [
        ("a", {"app": "server"}),
        ("a", {"a": "b"}),
        ("c", {"x": "any"}),
        ("labelled-team-ml", {}),
        ("", {}),
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (peers({}), "a peer without a selector"),
        (peers({"ipBlock": {"cidr": "10.0.0.0/8"}, **CLIENTS}), "beside a selector"),
        (peers({"ipBlock": {"cidr": "ten"}}), "'ten' is no CIDR"),
        (ingress({"ports": [{"port": "http"}]}), "what a name means depends"),
        (ingress({"ports": [{"endPort": 90}]}), "what a name means depends"),
        (ingress({"ports": [{"port": 80, "protocol": "HTTP"}]}), "protocol 'HTTP'"),
        (ingress({"ports": [{"port": True}]}), "port is no whole number"),
        (ingress({"ports": {"port": 80}}), "ports is no list"),
        (ingress({"form": []}), "ingress[0].form is not known"),
        (ingress("x"), "ingress[0] is no mapping"),  # type: ignore[arg-type]
        (ingress(policyTypes=["ingress"]), "policyTypes has 'ingress'"),
        (
            peers({"podSelector": {"matchExpressions": [{"key": "a"}]}}),
            "no operator with 0 values",
        ),
        (
            peers(
                {
                    "podSelector": {
                        "matchExpressions": [
                            {"key": "a", "operator": "Exists", "values": ["b"]}
                        ]
                    }
                }
            ),
            "Exists with 1 values",
        ),
        ({"podSelector": {"matchLabels": {"a": 1}}}, "matchLabels is no string"),
        ({"podSelector": {"labels": {}}}, "podSelector.labels is not known"),
    ],
)
def test_what_is_not_understood_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(spec)
    assert words in str(caught.value)


def test_ports_in_words() -> None:
    space = PortSpace([], [80, 443])
    assert space.describe(space.all) == "every port"
    assert space.describe(space.ports("TCP", [443, 80])) == "TCP 80, 443"
    udp = space.mask(tuple(item for item in _whole("UDP")))
    assert space.describe(udp | space.ports("TCP", [80])) == "TCP 80; every UDP port"


def _whole(protocol: str) -> Any:
    from authz_server.verify.packets import PortRange

    yield PortRange(protocol, 1, 65535)


def test_who_opens_and_who_shuts_is_named() -> None:
    policies = [
        read({"podSelector": {}, "policyTypes": ["Ingress"]}),
        read(peers(IN_B)),
    ]
    space = PortSpace([], [80])
    found = PacketFilter(policies, EVERYBODY, space)
    server, client, far = 0, 1, 2
    assert found.openers(far, server, space.all) == (
        "nothing isolates the sender and ingress by NetworkPolicy a/p (f:1)"
    )
    assert found.closers(client, server, space.all) == (
        "no ingress rule of server opens it, which NetworkPolicy a/p (f:1) and 1 more "
        "isolate"
    )
    assert found.openers(4, server, space.all) == "ingress by "
